"""A lake on a real Dask with two workers: the numbers of one process, also when a worker is killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
from programs import ROOT, Programs, free_port, until

from wellfed.analysis import history
from wellfed.analysis.cluster import run
from wellfed.analysis.history import combine, map_segment, plan
from wellfed.analysis.history_partial import Segment
from wellfed.analysis.scenarios import simulate
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.errors import UserError

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = str(tmp_path_factory.mktemp("lake") / "store")
    simulation = simulate("cpu-augmentation", seed=3, gpus=8, duration=2 * 3600.0)
    with Store(folder) as store:
        store.append(simulation.tables)
        store.seal(simulation.end + timedelta(hours=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "ROWS", 1)
        yield folder


@pytest.fixture
def segments(lake: str) -> list[Segment]:
    return plan(lake)


def scheduler(programs: Programs) -> str:
    """Its address."""
    started = programs.start(
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host=127.0.0.1",
        "--port=0",
        "--no-dashboard",
    )
    found = until(
        lambda: re.search(r"Scheduler at: +(tcp://127\.0\.0\.1:\d+)", started.log.read_text()),  # type: ignore[attr-defined]
        what="the scheduler listens",
    )
    return found[1]


@pytest.fixture
def workers(programs: Programs) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ended at once: on SIGTERM they would look for their scheduler first."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()


def worker(programs: Programs, address: str) -> subprocess.Popen[bytes]:
    return programs.start(
        sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads=1", "--no-nanny",
        "--no-dashboard", "--host=127.0.0.1", POLARS_MAX_THREADS="1", PYTHONPATH=str(ROOT),
    )  # fmt: skip


def test_a_killed_worker_changes_no_number(
    segments: list[Segment], programs: Programs, workers: list[subprocess.Popen[bytes]]
) -> None:
    alone = combine(map(map_segment, segments))
    address = scheduler(programs)
    workers += [worker(programs, address) for _ in range(2)]
    partials = run(segments, address)
    first = next(partials)
    workers[0].kill()
    together = combine([first, *partials])
    assert workers[0].wait() == -signal.SIGKILL
    assert json.dumps(together) == json.dumps(alone)


def test_the_command_runs_there(lake: str, programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    address = scheduler(programs)
    worker(programs, address)
    said = []
    for cluster in ([], [f"--cluster={address}"]):
        assert main(["diagnose", "--json", f"--lake={lake}", *cluster]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["totals"]["lost_seconds"] > 0
    assert said[0] == said[1]


def test_no_scheduler_is_one_clear_error(segments: list[Segment]) -> None:
    with pytest.raises(UserError, match="no Dask scheduler at"):
        next(run(segments, f"tcp://127.0.0.1:{free_port()}"))
