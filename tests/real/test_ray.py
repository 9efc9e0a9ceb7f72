"""A lake on a real Ray with two CPUs: the numbers of one process, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from programs import until

from wellfed.analysis import history
from wellfed.analysis.cluster import run
from wellfed.analysis.history import combine, map_segment, plan
from wellfed.analysis.history_partial import Segment
from wellfed.analysis.scenarios import simulate
from wellfed.analysis.store import Store

pytestmark = pytest.mark.real


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[list[Segment]]:
    simulation = simulate("cpu-augmentation", seed=3, gpus=8, duration=4 * 3600.0)
    with Store(tmp_path / "store") as store:
        store.append(simulation.tables)
        store.seal(simulation.end + timedelta(hours=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "ROWS", 1)
        yield plan(str(tmp_path / "store"))


def working() -> list[psutil.Process]:
    """Workers of this test's Ray that run a segment now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::map_segment"]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_killed_worker_changes_no_number(segments: list[Segment]) -> None:
    alone = combine(map(map_segment, segments))
    partials = run(segments, "local")
    first = next(partials)
    victim = until(working, 60, "a worker runs a segment")[0]
    os.kill(victim.pid, signal.SIGKILL)
    together = combine([first, *partials])
    assert not victim.is_running()
    assert json.dumps(together) == json.dumps(alone)
