"""kill -9 of an agent at random moments, its receiver up or away: what it had on disk arrives, whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from attempts import Note, scale
from nodes import NODE, Receiver, agent, metric
from programs import ROOT, Programs, free_port, until

from wellfed.collectors.spool import Record, Spool

LIVES = scale(100, 3)


def spooled(folder: Path) -> list[Record | None]:
    """The records on disk; None for one that is not whole."""
    spool = Spool(str(folder), 10**9, 1e12)
    return [spool._read(path.name) for path in sorted(folder.glob("*.rec"))]


def flags(receiver: Receiver, folder: Path) -> list[str]:
    return [f"--otlp-endpoint=http://127.0.0.1:{receiver.server_port}", f"--spool={folder}"]


@pytest.mark.parametrize("seed", range(2))
def test_an_agent_killed_anywhere_loses_no_window_that_was_on_disk(
    tmp_path: Path, programs: Programs, note: Note, seed: int
) -> None:
    draw, pause, folder = random.Random(seed), threading.Event(), tmp_path / "spool"
    folder.mkdir()
    environ = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    receiver, waited = Receiver(), set()
    node = [f"--procfs={NODE / 'proc'}", f"--sysfs={NODE / 'sys'}", "--collectors=cpu,memory,disk"]
    for life in range(LIVES):
        (receiver.up.set if life and draw.random() < 0.5 else receiver.up.clear)()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "wellfed", "agent", f"--metrics-address=127.0.0.1:{free_port()}"),
                *(*node, *flags(receiver, folder)),
            ],
            env={**os.environ, **environ, "PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
        )
        if not life:
            until(lambda: list(folder.glob("*.rec")), what="a window waits")
        # Most of the time from its first window on, which comes a second after the start.
        pause.wait(draw.uniform(0.2, 2.4))
        process.kill()
        process.wait()
        records = spooled(folder)
        assert None not in records
        waited |= {round(record.ts) for record in records if record}
    receiver.up.set()
    port = free_port()
    agent(programs, port, *flags(receiver, folder), **environ)
    until(lambda: metric(port, "wellfed_export_spool_records") == 0, 60, "the spool is drained")
    assert waited
    assert waited <= {t // 10**9 for t in receiver.times}
    assert metric(port, "wellfed_export_dropped_total") == 0
    note("kill -9 of an agent with a spool", LIVES, 0)
    receiver.shutdown()
    receiver.server_close()
