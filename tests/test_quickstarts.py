"""The shell blocks of the README and of the quick starts do what they say, on loopback.

Commands are taken as they stand, but for addresses: ports are free ones, and hosts of the examples are this one.
What serves is started and waited for, everything else has to end well.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from programs import ROOT, Programs, fetch, free_port, until

PAGES = ("README.md", "docs/quickstart.md")
PORTS = ("8050", "9812", "9813", "4318", "4317")
SERVES = re.compile(r"^wellfed (up|demo|hub|agent)\b(?!.*--once)")
#: Where it is to be seen that it serves.
SEEN = {
    "up": ("8050", "/"),
    "demo": ("8050", "/"),
    "hub": ("8050", "/"),
    "agent": ("9812", "/-/ready"),
}
SHIM = """#!/bin/sh
export WELLFED_ADDRESS=127.0.0.1:{8050} WELLFED_METRICS_ADDRESS=127.0.0.1:{9812}
export WELLFED_OTLP_ADDRESS=127.0.0.1:{4318} WELLFED_OTLP_GRPC_ADDRESS=127.0.0.1:{4317}
[ "$1" = hub ] && export WELLFED_METRICS_ADDRESS=127.0.0.1:{9813}
exec {python} -m wellfed "$@"
"""


def sections(page: str) -> dict[str, list[str]]:
    """Heading -> its blocks of shell commands."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", (ROOT / page).read_text(), flags=re.MULTILINE):
        blocks = re.findall(r"^```sh\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            found[f"{page}: {part.splitlines()[0]}"] = blocks
    return found


ALL = {heading: blocks for page in PAGES for heading, blocks in sections(page).items()}


def commands(blocks: Sequence[str]) -> Iterator[str]:
    """One by one, without comments; a command goes on after a backslash."""
    for block in blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if command := re.sub(r"(^|\s)#.*", "", line).strip():
                yield command


class Reader:
    """Somebody who types the commands of a section into one folder."""

    def __init__(self, folder: Path, prometheus: str) -> None:
        ports = {port: str(free_port()) for port in PORTS}
        shim = folder / "bin" / "wellfed"
        shim.parent.mkdir()
        text = SHIM.replace("{python}", sys.executable)
        for port, free in ports.items():
            text = text.replace(f"{{{port}}}", free)
        shim.write_text(text)
        shim.chmod(0o755)
        (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / "examples").symlink_to(ROOT / "examples")
        self._folder = folder
        self._ports = ports
        self._changes = {
            **{f":{port}": f":{free}" for port, free in ports.items()},
            "0.0.0.0": "127.0.0.1",
            "http://hub:": "http://127.0.0.1:",
            "http://prometheus:9090": prometheus,
            # As long as it takes to say hello.
            "--seconds 90": "--seconds 2",
        }
        path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
        self._environ = {
            **os.environ,
            "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": path,
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "USER": "ann",
            "WELLFED_SOCKET": str(folder / "s.sock"),
        }
        self._serving: dict[str, subprocess.Popen[bytes]] = {}

    def type(self, command: str) -> None:
        """Runs one command to its end, or until it serves."""
        for old, new in self._changes.items():
            command = command.replace(old, new)
        if export := re.fullmatch(r'export (\w+)="(.*)"', command):
            shown = subprocess.run(
                ["bash", "-c", f'printf %s "{export[2]}"'], cwd=self._folder, capture_output=True, check=True
            )
            self._environ[export[1]] = shown.stdout.decode()
        elif server := SERVES.match(command):
            self._serve(server[1], command)
        elif command.startswith("make "):
            # What make would do is another test's; that it would do something is this one's.
            self._run(command.replace("make ", f"make -C {ROOT} -n "))
        else:
            self._run(command)

    def _run(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", command],
            cwd=self._folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def _serve(self, name: str, command: str) -> None:
        if name != "agent":
            # Ctrl-C, and the next one.
            for other in [one for one in self._serving if one != "agent"]:
                self._end(other)
        log = (self._folder / f"{name}.log").open("wb")
        with log:
            self._serving[name] = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._folder,
                env=self._environ,
                stdout=log,
                stderr=log,
            )
        port, page = SEEN[name]
        process, url = self._serving[name], f"http://127.0.0.1:{self._ports[port]}{page}"
        until(lambda: process.poll() is not None or fetch(url), 60, command)
        assert process.poll() is None, f"{command}\n{(self._folder / f'{name}.log').read_text()}"

    def _end(self, name: str) -> None:
        process = self._serving.pop(name)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 0, (self._folder / f"{name}.log").read_text()
        finally:
            process.kill()
            process.wait()

    def leave(self) -> None:
        for name in list(self._serving):
            self._end(name)


@pytest.mark.real
@pytest.mark.parametrize("heading", sorted(ALL))
def test_the_commands_of_a_section_work_one_after_the_other(
    heading: str, tmp_path: Path, programs: Programs, prometheus: Callable[[Sequence[int]], str]
) -> None:
    server = "http://127.0.0.1:1"
    if any("http://prometheus" in block for block in ALL[heading]):
        port = free_port()
        programs.wellfed("agent", f"--metrics-address=127.0.0.1:{port}", "--collectors=cpu,memory,disk")
        server = prometheus([port])
        query = f"{server}/api/v1/query?query=count_over_time(wellfed_host_load1[1m])>10"
        until(lambda: b'"metric"' in fetch(query), 60, "some samples")
    folder = tmp_path / "reader"
    folder.mkdir()
    reader = Reader(folder, server)
    try:
        for command in commands(ALL[heading]):
            reader.type(command)
    finally:
        reader.leave()


def test_every_situation_has_its_commands() -> None:
    titles = re.findall(r"^## (.*)$", (ROOT / "docs/quickstart.md").read_text(), re.MULTILINE)
    assert len(titles) == 5
    for title in titles:
        assert f"docs/quickstart.md: {title}" in ALL or title == "Kubernetes"
