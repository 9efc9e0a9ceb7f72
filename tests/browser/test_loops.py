"""The example loops beside `wellfed up`: the page names what starves them.

It takes 40 to 60 seconds; a machine that others disturb meanwhile breaks the three windows that a finding needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ROOT, Programs, fetch, free_port, until

pytestmark = [pytest.mark.browser, pytest.mark.alone]

#: What a loop starves on, by its loader, and what the page calls it.
TITLES = {
    "storage.read": "Local disk saturated by reads",
    "cpu.preprocess": "Preprocessing saturates the CPU",
}


def cpu_seconds() -> float:
    """CPU time of all CPUs since boot, as a share of which a machine is busy."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
    busy = sum(map(int, fields)) - int(fields[3]) - int(fields[4])
    return busy / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def up(programs: Programs, tmp_path: Path) -> str:
    address = f"127.0.0.1:{free_port()}"
    programs.wellfed(
        "up",
        f"--data={tmp_path / 'store'}",
        f"--address={address}",
        f"--metrics-address=127.0.0.1:{free_port()}",
        WELLFED_SOCKET=str(tmp_path / "steps.sock"),
    )
    until(lambda: fetch(f"http://{address}/healthz"), what="the dashboard answers")
    return f"http://{address}"


def start(programs: Programs, tmp_path: Path, loader: str) -> subprocess.Popen[bytes]:
    return programs.start(
        sys.executable,
        str(ROOT / "examples/cpu_loop.py"),
        loader,
        "--seconds=200",
        PYTHONPATH=os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]),
        WELLFED_SOCKET=str(tmp_path / "steps.sock"),
        WELLFED_JOB=f"{loader}-loop",
    )


@pytest.mark.parametrize(("loader", "cause"), [("slow", "storage.read"), ("cpu", "cpu.preprocess")])
def test_the_page_names_what_starves_a_loop(
    up: str,
    programs: Programs,
    visit,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    loader: str,
    cause: str,
) -> None:
    began, used = time.monotonic(), cpu_seconds()
    loop = start(programs, tmp_path, loader)
    page = visit.open(f"{up}/findings?from=15m")
    wanted = [TITLES[cause]]

    def named() -> bool:
        assert loop.poll() is None, loop.log.read_text()  # type: ignore[attr-defined]
        text = page.inner_text("main")
        # Where other programs keep all CPUs busy, the CPU is what this loop lacks too.
        busy = (cpu_seconds() - used) / (time.monotonic() - began) / (os.cpu_count() or 1)
        accepted = [*wanted, TITLES["cpu.preprocess"]] if busy > 0.7 else wanted
        return f"{loader}-loop" in text and any(title in text for title in accepted)

    try:
        until(named, seconds=180, what=f"the page names {cause}")
    except pytest.fail.Exception as failure:
        pytest.fail(f"{failure}; it says: {page.inner_text('main')}")
    visit.clean()
