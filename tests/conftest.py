"""Fixtures that several test files need."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from faulty import Faults
from programs import Programs, fetch, free_port, until


@pytest.fixture(scope="session")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest, turns: Path) -> Iterator[None]:
    """A test marked `alone` waits for the tests of other workers, and they for it."""
    with open(turns / "gate", "w") as gate, open(turns / "room", "w") as room:
        # Who wants the room for itself holds the gate meanwhile, or the others would never leave it empty.
        fcntl.flock(gate, fcntl.LOCK_EX)
        if request.node.get_closest_marker("alone"):
            fcntl.flock(room, fcntl.LOCK_EX)
        else:
            fcntl.flock(room, fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    running = Programs(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def prometheus(programs: Programs, tmp_path: Path) -> Callable[[Sequence[int]], str]:
    """Starts a real Prometheus that scrapes the given ports every second; answers with its address."""

    def start(ports: Sequence[int]) -> str:
        targets = ", ".join(f"'127.0.0.1:{port}'" for port in ports)
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: wellfed, static_configs: [{{targets: [{targets}]}}]}}]\n"
        )
        port = free_port()
        programs.start(
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="Prometheus is ready")
        return f"http://127.0.0.1:{port}"

    return start


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a program's disk and clock fail on demand."""
    out = tmp_path_factory.mktemp("faults") / "faults.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    source = Path(__file__).parent / "faults.c"
    subprocess.run(["gcc", *flags, "-o", str(out), str(source), "-ldl"], check=True)
    return out


@pytest.fixture
def faults(library: Path, tmp_path: Path) -> Faults:
    folder = tmp_path / "faulty"
    folder.mkdir()
    return Faults(library, tmp_path / "faults", folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One table of what tests/chaos tried and what it cost."""
    totals: dict[str, list[int]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for kind, value in getattr(report, "user_properties", ()):
            if kind == "chaos" and report.when == "call":
                what, tried, lost = value
                row = totals.setdefault(what, [0, 0])
                row[0] += tried
                row[1] += lost
    if totals and (out := os.environ.get("WELLFED_CHAOS_NOTES")):
        Path(out).write_text(json.dumps(totals))
    if totals:
        terminalreporter.section("what was tried and what it cost")
        for what, (tried, lost) in sorted(totals.items()):
            terminalreporter.write_line(f"{what:<60} {tried:>10,} tried {lost:>6,} lost")
