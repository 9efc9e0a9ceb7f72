"""GPUs find their job by the processes that hold them, by a scheduler's word or by the loop's own; never by
ordinal. Ended processes hold nothing.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.board import Rank
from wellfed.collectors.cgroup import Cgroup
from wellfed.collectors.holders import RUN, Holders
from wellfed.collectors.processes import Busiest, Usage, environment, launcher, parse_stat
from wellfed.collectors.registry import Roots, Row
from wellfed.collectors.slot import Slot

HERTZ = os.sysconf("SC_CLK_TCK")
POD = "2f1c3a44-9d0b-4b7e-8a57-0c6f2f3f9a01"


def line(name: str, parent: int, cpu: float, started: int) -> str:
    fields = ["S", str(parent), *["0"] * 9, str(int(cpu * HERTZ)), *["0"] * 7, str(started), "0", "100", "0"]
    return f"1 ({name}) {' '.join(fields)}\n"


class Proc:
    """A /proc that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots = Roots(str(folder / "proc"), str(folder / "sys"))
        (folder / "proc").mkdir()

    def add(
        self,
        pid: int,
        name: str = "trainer",
        parent: int = 1,
        cpu: float = 0.0,
        threads: dict[int, float] | None = None,
        cgroup: str = "/",
        io: tuple[int, int] | None = None,
        children: tuple[int, ...] = (),
        started: int = 100,
    ) -> None:
        base = self.folder / "proc" / str(pid)
        for thread, seconds in (threads or {pid: cpu}).items():
            task = base / "task" / str(thread)
            task.mkdir(parents=True, exist_ok=True)
            (task / "stat").write_text(line(name, parent, seconds, started))
            (task / "children").write_text(" ".join(map(str, children)) if thread == pid else "")
        (base / "stat").write_text(line(name, parent, cpu, started))
        (base / "cgroup").write_text(f"0::{cgroup}\n")
        if io is not None:
            (base / "io").write_text(f"rchar: 1\nread_bytes: {io[0]}\nwrite_bytes: {io[1]}\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self.folder / "proc" / str(pid))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def rows(collector: Holders, roots: Roots) -> dict[tuple[str, str], Row]:
    return {(row.table, row.key[0]): row for row in collector.read(roots, 0.0)}


def test_a_gpu_belongs_to_the_cgroup_of_the_process_that_holds_it(proc: Proc) -> None:
    proc.add(70, cgroup="/system.slice/slurmstepd.scope/job_9/step_0/user/task_0")
    proc.roots.board.hold("nvml", {"GPU-a": [70], "GPU-b": []})
    found = rows(Holders(), proc.roots)
    assert found["gpu", "GPU-a"].info == {"job": "slurm:9"}
    assert found["gpu", "GPU-a"].values == {"allocated": 1.0}
    assert ("gpu", "GPU-b") not in found
    assert found["job", "slurm:9"].values["gpus"] == 1.0


def test_an_ended_process_and_a_reused_pid_hold_nothing(proc: Proc) -> None:
    collector = Holders()
    proc.add(70)
    proc.roots.board.hold("nvml", {"GPU-a": [70]})
    assert ("job", "process:70") in rows(collector, proc.roots)
    proc.end(70)
    assert rows(collector, proc.roots) == {}
    assert proc.roots.board.jobs == frozenset()
    proc.add(70, started=900, cgroup="/system.slice/slurmstepd.scope/job_5/step_0")
    assert rows(collector, proc.roots)["gpu", "GPU-a"].info == {"job": "slurm:5"}


def test_ranks_of_one_launcher_are_one_job_with_the_sums_of_its_workers(proc: Proc) -> None:
    proc.add(60, "torchrun", parent=50, children=(70, 71))
    proc.add(50, "bash", children=(60,))
    proc.add(70, "python3", parent=60, cpu=3.0, children=(80,), io=(1000, 10))
    proc.add(71, "python3", parent=60, cpu=4.0, io=(500, 0))
    proc.add(80, "pt_data_worker", parent=70, cpu=20.0, io=(7000, 0))
    (proc.folder / "proc/uptime").write_text("600.00 1000.00\n")
    proc.roots.board.hold("nvml", {"GPU-a": [70], "GPU-b": [71]})
    collector = Holders()
    found = rows(collector, proc.roots)
    assert found["gpu", "GPU-a"].info["job"] == found["gpu", "GPU-b"].info["job"] == "process:60"
    job = found["job", "process:60"]
    assert job.info["kind"] == "process"
    assert job.values["gpus"] == 2.0
    assert job.values["cpu_usage_seconds"] == pytest.approx(27.0)
    assert job.values["io_read_bytes"] == 8500.0
    assert job.values["processes"] == 3.0
    # A machine up for ten minutes, a process that started after one second of them.
    assert time.time() - (job.values["started_seconds"] or 0.0) == pytest.approx(599, abs=3)
    proc.end(80)
    proc.add(70, "python3", parent=60, cpu=3.5, io=(1500, 10))
    after = rows(collector, proc.roots)["job", "process:60"].values
    assert after["cpu_usage_seconds"] == pytest.approx(27.5)
    assert after["io_read_bytes"] == 9000.0
    assert after["processes"] == 2.0


def test_a_schedulers_word_comes_first_and_gives_the_job_its_name(proc: Proc) -> None:
    path = f"/kubepods/burstable/pod{POD}/box"
    proc.add(70, cgroup=path)
    folder = proc.folder / "sys/fs/cgroup" / path.lstrip("/")
    folder.mkdir(parents=True)
    (proc.folder / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    (folder.parent / "cpu.stat").write_text("usage_usec 5000000\n")
    board = proc.roots.board
    board.hold("nvml", {"GPU-a": [70], "GPU-b": [], "GPU-c": []})
    board.grant(
        "kubelet", {"GPU-a": ["kubernetes:ml/train-0"], "GPU-b": ["kubernetes:ml/idle-0"], "GPU-c": []}
    )
    found = rows(Holders(), proc.roots)
    assert found["gpu", "GPU-a"].info["job"] == "kubernetes:ml/train-0"
    assert found["gpu", "GPU-b"].info["job"] == "kubernetes:ml/idle-0"
    assert found["gpu", "GPU-b"].values["allocated"] == 1.0
    assert found["gpu", "GPU-c"].values["allocated"] == 0.0
    (cgroup,) = Cgroup().read(proc.roots, 0.0)
    assert cgroup.key == ("kubernetes:ml/train-0",)
    assert cgroup.values["cpu_usage_seconds"] == 5.0


def test_a_loops_own_name_joins_its_hosts_and_its_rank_reaches_the_gpu(proc: Proc) -> None:
    proc.add(70, cgroup=f"/kubepods/burstable/pod{POD}/box")
    proc.roots.board.hold("nvml", {"GPU-a": [70]})
    proc.roots.board.ranks = (Rank("llama", "13", "", 70, f"kubernetes:{POD}"),)
    found = rows(Holders(), proc.roots)
    assert found["gpu", "GPU-a"].info == {"job": "llama", "rank": "13"}
    assert found["job", "llama"].values["gpus"] == 1.0
    assert "kind" not in found["job", "llama"].info
    assert proc.roots.board.names == {f"kubernetes:{POD}": "llama"}


def test_a_loop_without_a_gpu_is_a_job_too(proc: Proc) -> None:
    proc.add(70, "python3", cpu=2.0)
    proc.roots.board.ranks = (Rank("process:70", "0", "", 70, "process:70"),)
    job = rows(Holders(), proc.roots)["job", "process:70"]
    assert job.values["gpus"] == 0.0
    assert job.values["cpu_usage_seconds"] == pytest.approx(2.0)
    assert job.info["name"] == "python3"


def test_processes_out_of_sight_are_said_with_the_remedy(proc: Proc) -> None:
    proc.roots.board.hold("nvml", {"GPU-a": [4242]})
    collector = Holders()
    assert rows(collector, proc.roots) == {}
    assert collector.reason.startswith("1 GPUs are held by processes that are not in")
    assert "hostPID" in collector.remedy


def test_the_busiest_thread_counts_whichever_it_is(proc: Proc) -> None:
    busiest = Busiest()
    # Seven idle threads were busy once; the one that is busy now must be the one followed.
    threads = {70 + i: 50.0 for i in range(8)}
    proc.add(70, threads=threads)
    busiest.update(proc.roots.proc, [70])
    assert busiest.seconds == 0.0
    for second in range(1, 21):
        threads[75] = 50.0 + second
        proc.add(70, threads=threads)
        busiest.update(proc.roots.proc, [70])
    # It was found at the second full look, after ten seconds.
    assert 10.0 <= busiest.seconds <= 20.0


def test_several_processes_do_not_add_up_to_a_busy_thread(proc: Proc) -> None:
    busiest = Busiest()
    for second in range(5):
        for pid in (70, 71, 72):
            proc.add(pid, cpu=0.4 * second)
        busiest.update(proc.roots.proc, [70, 71, 72])
    assert busiest.seconds == pytest.approx(1.6)


def test_this_process_has_a_busy_thread_and_a_launcher() -> None:
    busiest, usage = Busiest(), Usage()
    busiest.update("/proc", [os.getpid()])
    stop = threading.Event()
    spinner = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    spinner.start()
    before = sum(os.times()[:2])
    while sum(os.times()[:2]) - before < 0.3:
        pass
    stop.set()
    spinner.join()
    busiest.update("/proc", [os.getpid()])
    usage.update("/proc", [os.getpid()])
    assert busiest.seconds > 0.05
    assert usage.cpu_seconds > 0.3
    assert usage.processes >= 1
    assert launcher("/proc", os.getpid()) >= 1


@given(st.binary(max_size=300))
def test_any_bytes_are_a_stat_or_a_value_error(text: bytes) -> None:
    try:
        found = parse_stat(text)
    except ValueError:
        return
    assert found.cpu_seconds == found.cpu_seconds


def test_a_name_with_parentheses_and_spaces() -> None:
    assert parse_stat(line("a) R (b", 7, 1.0, 5).encode()).name == "a) R (b"


def test_run_and_rank_come_from_the_holders_variables_and_nothing_else_of_them_is_kept(proc: Proc) -> None:
    proc.add(70, cgroup="/slurm/uid_0/job_9/step_0")
    environ = {"AWS_SECRET": "s3cret", "WANDB_RUN_ID": "wb-1", "MLFLOW_RUN_ID": "ml-7", "SLURM_PROCID": "5"}
    text = "\0".join(f"{name}={value}" for name, value in environ.items()) + "\0"
    (proc.folder / "proc/70/environ").write_text(text)
    proc.roots.board.hold("nvml", {"GPU-a": [70]})
    collector = Holders()
    found = rows(collector, proc.roots)
    assert found["gpu", "GPU-a"].info == {"job": "slurm:9", "rank": "5"}
    assert found["job", "slurm:9"].info["run"] == "ml-7"
    assert "s3cret" not in repr(vars(collector))
    # What the loop itself says comes first.
    proc.roots.board.ranks = (Rank("slurm:9", "6", "", 70, "slurm:9", "own-run"),)
    found = rows(collector, proc.roots)
    assert found["gpu", "GPU-a"].info["rank"] == "6"
    assert found["job", "slurm:9"].info["run"] == "own-run"


def test_variables_of_a_process_that_may_not_be_looked_into_are_none(proc: Proc) -> None:
    assert environment("/proc", os.getpid(), ["PATH"]) == {"PATH": os.environ["PATH"][:200]}
    proc.add(70)
    assert environment(proc.roots.proc, 70, RUN) == {}


def test_a_loops_own_name_keeps_what_the_scheduler_tells(proc: Proc) -> None:
    proc.add(70, cgroup=f"/kubepods/burstable/pod{POD}/box")
    board = proc.roots.board
    board.describe("kubernetes", {f"kubernetes:{POD}": {"name": "train-0", "namespace": "ml"}})
    board.hold("nvml", {"GPU-a": [70]})
    board.ranks = (Rank("llama", "0", "", 70, f"kubernetes:{POD}"),)
    assert rows(Holders(), proc.roots)["job", "llama"].info == {"name": "llama", "namespace": "ml"}


class Partial:
    """A collector that measures most of what it could, and knows who holds its GPU."""

    name = "partial"
    interval = 1.0
    deadline = 1.0
    tables = ("gpu",)
    reason = "no GPM on this GPU"
    remedy = ""
    stuck = False

    def read(self, roots: Roots, now: float) -> list[Row]:
        return [Row("gpu", ("GPU-a",), {} if self.stuck else {"power_watts": 1.0})]

    def holders(self) -> dict[str, list[int]]:
        return {"GPU-a": [7]}


def test_a_partial_measurement_is_a_success_and_a_hang_behind_it_shows_as_stuck() -> None:
    slot, roots = Slot(Partial()), Roots()
    slot.tick(roots, 10.0, 10.0)
    assert roots.board.held == {"partial": {"GPU-a": (7,)}}
    status = slot.status(10.0)
    assert (status.values["success"], status.values["stuck"]) == (1.0, 0.0)
    assert status.info["reason"] == "no GPM on this GPU"
    slot.collector.stuck = True  # type: ignore[attr-defined]
    slot.tick(roots, 11.0, 11.0)
    status = slot.status(11.0)
    assert (status.values["success"], status.values["stuck"]) == (0.0, 1.0)
    assert status.values["last_success_seconds"] == 10.0
