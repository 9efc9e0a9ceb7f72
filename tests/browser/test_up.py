"""`wellfed up` on this very machine, in a real browser."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
from programs import Programs, fetch, free_port, until

from wellfed.analysis.store import Store

pytestmark = pytest.mark.browser


def test_this_machines_signals_move_within_twenty_seconds_and_stop_within_five(
    programs: Programs,
    visit,  # type: ignore[no-untyped-def]
    tmp_path: Path,
) -> None:
    address, metrics = free_port(), free_port()
    began = time.monotonic()
    up = programs.wellfed(
        "up",
        f"--data={tmp_path / 'store'}",
        f"--address=127.0.0.1:{address}",
        f"--metrics-address=127.0.0.1:{metrics}",
        WELLFED_SOCKET=str(tmp_path / "steps.sock"),
    )
    until(lambda: fetch(f"http://127.0.0.1:{address}/healthz"), what="the dashboard answers")
    page = visit.open(f"http://127.0.0.1:{address}/")
    # Two windows make a rate; the page polls every five seconds.
    page.wait_for_selector("text=no GPU", timeout=40_000)
    until(lambda: page.locator("#signals path.point").count() > 5, what="the first rates")
    assert time.monotonic() - began < 60
    for word in ("CPU", "Pressure", "Memory", "Disks", "Network"):
        assert page.locator("#signals").get_by_text(word, exact=True).count() >= 1
    first = page.locator("#signals").inner_text()
    until(lambda: page.locator("#signals").inner_text() != first, what="the signals move")
    assert "SIMULATED" not in page.inner_text("body")
    visit.clean()

    # A second one says what is in the way.
    again = programs.wellfed("up", f"--data={tmp_path / 'store'}", f"--address=127.0.0.1:{free_port()}")
    assert again.wait(30) == 2
    assert re.search(rf"in use by .*pid {up.pid}", again.log.read_text())  # type: ignore[attr-defined]
    port = programs.wellfed("up", f"--data={tmp_path / 'other'}", f"--address=127.0.0.1:{address}")
    assert port.wait(30) == 2
    assert re.search(rf"127.0.0.1:{address} is taken by .*pid {up.pid}", port.log.read_text())  # type: ignore[attr-defined]

    up.send_signal(signal.SIGINT)
    assert up.wait(5) == 0
    assert "Traceback" not in up.log.read_text()  # type: ignore[attr-defined]
    with Store(str(tmp_path / "store")) as store:
        assert store.check() == []
        assert store.scan("host").collect().height >= 2
