"""wellfed.watch times what a loop waits for, tells the agent, and never disturbs the loop."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wellfed
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.registry import Roots, Row
from wellfed.collectors.steps import EXPIRY, Steps, parse

module = importlib.import_module("wellfed.watch")


class Clock:
    """A clock that moves only when the loop spends time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    recorder = module._Recorder()  # type: ignore[attr-defined]
    monkeypatch.setattr(recorder, "start", lambda: None)
    monkeypatch.setattr(module, "_recorder", recorder)
    monkeypatch.setattr(module.time, "perf_counter", ticking)  # type: ignore[attr-defined]
    return ticking


def totals() -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = module.totals()  # type: ignore[attr-defined]
    return found


def loader(clock: Clock, waits: list[float]) -> Iterator[int]:
    for index, wait in enumerate(waits):
        clock.now += wait
        yield index


def test_waits_and_work_are_told_apart_without_a_step(clock: Clock) -> None:
    for _ in wellfed.watch(loader(clock, [0.5, 0.25])):
        clock.now += 1.0
    found = totals()
    assert found["steps"] == found["samples"] == 2
    assert found["data_wait_seconds"] == pytest.approx(0.75)
    assert found["compute_seconds"] == pytest.approx(2.0)
    assert found["step_seconds"] == pytest.approx(2.75)


def test_phases_inside_a_step_are_not_compute(clock: Clock) -> None:
    for _ in wellfed.watch(loader(clock, [0.5])):
        with wellfed.step(samples=32, tokens=4096):
            with wellfed.phase("h2d"):
                clock.now += 0.1
            clock.now += 1.0
            with wellfed.phase("checkpoint"):
                clock.now += 0.2
    found = totals()
    assert (found["samples"], found["tokens"], found["steps"]) == (32, 4096, 1)
    assert found["h2d_seconds"] == pytest.approx(0.1)
    assert found["checkpoint_seconds"] == pytest.approx(0.2)
    assert found["compute_seconds"] == pytest.approx(1.0)
    assert found["step_seconds"] == pytest.approx(1.8)


def test_a_loop_that_hangs_on_its_loader_is_seen_while_it_hangs(clock: Clock) -> None:
    seen: list[float | int | None] = []

    def slow() -> Iterator[int]:
        clock.now += 30
        seen.append(totals()["data_wait_seconds"])
        yield 1

    for _ in wellfed.watch(slow()):
        pass
    assert seen == [30.0]
    assert totals()["data_wait_seconds"] == 30.0


def test_an_unknown_phase_and_an_error_in_the_loop(clock: Clock) -> None:
    with wellfed.phase("coffee"):
        clock.now += 1

    def fail() -> None:
        with wellfed.step(), wellfed.phase("eval"):
            clock.now += 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert totals()["eval_seconds"] == 2


def test_a_watched_loader_is_still_the_loader() -> None:
    class Loader(list[int]):
        batch_size = 7

    watched = wellfed.watch(Loader([1, 2, 3]))
    assert (len(watched), watched.batch_size, list(watched), list(watched)) == (3, 7, [1, 2, 3], [1, 2, 3])


def test_totals_are_columns_of_the_step_table(clock: Clock) -> None:
    assert set(totals()) <= {c.name for c in TABLES["step"].signals}


class Event:
    """A CUDA event whose stream finishes when told."""

    done = False
    synchronized = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.recorded = False

    def record(self) -> None:
        self.recorded = True

    def query(self) -> bool:
        return Event.done

    def elapsed_time(self, end: Event) -> float:
        assert Event.done
        return 5.0

    def synchronize(self) -> None:
        Event.synchronized += 1


def test_gpu_phases_are_polled_pooled_and_never_synchronised(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Cuda:
        is_available = staticmethod(lambda: True)
        is_initialized = staticmethod(lambda: True)

        @staticmethod
        def Event(enable_timing: bool) -> Event:
            made.append(enable_timing)
            return Event()

    class Torch:
        cuda = Cuda

    monkeypatch.setitem(sys.modules, "torch", Torch)  # type: ignore[arg-type]
    monkeypatch.setattr(Event, "done", False)
    for _ in range(3):
        with wellfed.phase("h2d"):
            pass
    assert totals()["h2d_seconds"] == 0
    monkeypatch.setattr(Event, "done", True)
    with wellfed.phase("h2d"):
        pass
    assert totals()["h2d_seconds"] == pytest.approx(4 * 0.005)
    before = len(made)
    for _ in range(20):
        with wellfed.phase("h2d"):
            pass
    assert len(made) == before
    assert all(made)
    assert Event.synchronized == 0


def read(collector: Steps, now: float = 0.0) -> list[Row]:
    return list(collector.read(Roots(), now))


def test_another_process_reports_and_is_forgotten(tmp_path: Path) -> None:
    path = str(tmp_path / "steps.sock")
    collector = Steps(path)
    assert read(collector) == []
    assert "no training loop" in collector.reason
    code = "import wellfed, sys\nfor _ in wellfed.watch([1, 2, 3]):\n    with wellfed.step(samples=8): pass\n"
    environ = {
        **os.environ,
        "WELLFED_SOCKET": path,
        "RANK": "3",
        "WELLFED_RUN": "run-1",
        "WELLFED_JOB": "job-1",
    }
    environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=30)
    (row,) = read(collector, 10.0)
    assert row.key == ("job-1", "3")
    assert row.info == {"run": "run-1"}
    assert (row.values["steps"], row.values["samples"]) == (3, 24)
    assert read(collector, 10.0 + EXPIRY) != []
    assert read(collector, 10.1 + EXPIRY) == []
    collector.close()
    assert not Path(path).exists()


def test_a_job_is_told_by_the_kernel_when_the_loop_does_not(tmp_path: Path) -> None:
    path = str(tmp_path / "steps.sock")
    (tmp_path / "proc" / str(os.getpid())).mkdir(parents=True)
    (tmp_path / "proc" / str(os.getpid()) / "cgroup").write_text(
        "0::/system.slice/slurmstepd.scope/job_8/step_0\n"
    )
    collector = Steps(path)
    roots = Roots(str(tmp_path / "proc"))
    list(collector.read(roots, 0.0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(json.dumps({"version": 1, "steps": 1, "pid": 1}).encode(), path)
        sender.sendto(b"\xff not json", path)
        sender.sendto(b"x" * 5000, path)
    (row,) = collector.read(roots, 0.0)
    assert row.key == ("slurm:8", "0")
    assert collector.refused == 1
    collector.close()


def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "steps.sock")
    first = Steps(path)
    read(first)
    second = Steps(path)
    read(second)
    assert "cannot listen" in second.reason
    assert first._socket is not None
    # The first agent dies without removing its socket.
    first._socket.close()
    third = Steps(path)
    read(third)
    assert "no training loop" in third.reason
    third.close()


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_hostile_datagrams_are_refused(datagram: bytes) -> None:
    try:
        parse(datagram)
    except ValueError:
        return


@pytest.mark.parametrize(
    "said",
    [
        "[1]",
        '{"version": 2}',
        '{"version": 1, "steps": true}',
        '{"version": 1, "steps": -1}',
        '{"version": 1, "steps": "9"}',
        '{"version": 1, "steps": NaN}',
        "[" * 4000,
    ],
)
def test_wrong_datagrams_are_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|version 1|not a number"):
        parse(said.encode())


def test_no_agent_is_no_trouble(tmp_path: Path) -> None:
    code = "import wellfed\nfor _ in wellfed.watch(range(1000)): pass\nprint('done')"
    environ = {**os.environ, "WELLFED_SOCKET": str(tmp_path / "none.sock")}
    environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_threads_of_the_watch_are_daemons() -> None:
    assert all(t.daemon for t in threading.enumerate() if t.name == "wellfed-watch")
