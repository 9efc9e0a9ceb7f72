"""Slurm is asked once a job, whatever its version prints; what hangs or fails is said and asked again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import until

from wellfed.collectors import slurm
from wellfed.collectors.cgroup import Cgroup
from wellfed.collectors.registry import Roots
from wellfed.collectors.slurm import Slurm, jobs_of, minors_of

WHOLE = {
    "job_id": 42,
    "name": "llama-ft",
    "user_name": "alice",
    "account": "nlp",
    "partition": "h100",
    "job_state": "RUNNING",
}
COLUMNS = {"name": "llama-ft", "user": "alice", "namespace": "nlp", "queue": "h100"}


@pytest.mark.parametrize(
    ("job", "columns"),
    [
        (WHOLE, COLUMNS),
        # 23.02 and later: lists of states, numbers with flags.
        (
            WHOLE | {"job_id": {"set": True, "infinite": False, "number": 42}, "job_state": ["RUNNING"]},
            COLUMNS,
        ),
        # The controller does not know the user, the cluster has no accounts.
        (
            {"job_id": 42, "name": "x", "user_name": "", "account": None, "partition": "p"},
            {"name": "x", "queue": "p"},
        ),
    ],
)
def test_the_json_of_every_version(job: dict[str, object], columns: dict[str, str]) -> None:
    document = {"meta": {"slurm": {"release": "x"}}, "jobs": [job], "errors": [], "warnings": []}
    assert jobs_of(json.dumps(document).encode()) == {"42": columns}


@pytest.mark.parametrize("text", ["", "[]", '{"jobs": 3}', '{"jobs": [{}]}', '{"jobs": [{"job_id": true}]}'])
def test_other_json_is_one_clear_error(text: str) -> None:
    with pytest.raises(ValueError):
        jobs_of(text.encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_jobs_or_a_value_error(data: bytes) -> None:
    try:
        assert isinstance(jobs_of(data), dict)
    except ValueError:
        return


class Node:
    """Programs that say what they were asked, on a PATH of their own, and control groups of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"
        self.roots = Roots(str(folder / "proc"), str(folder / "sys"))
        (folder / "bin").mkdir()
        (folder / "sys/fs/cgroup").mkdir(parents=True)
        (folder / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
        self.collector = Slurm(str(folder / "bin"), timeout=1.0)

    def program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(
            f"#!{sys.executable} -IS\nimport os, sys, time\n"
            f"open({str(self.asked)!r}, 'a').write(' '.join([{name!r}, *sys.argv[1:]]) + '\\n')\n{body}\n"
        )
        path.chmod(0o755)

    def answers(self, name: str, *jobs: dict[str, object]) -> None:
        self.program(name, f"print({json.dumps({'jobs': jobs})!r})")

    def job(self, number: int) -> Path:
        folder = self.folder / f"sys/fs/cgroup/system.slice/slurmstepd.scope/job_{number}"
        folder.mkdir(parents=True)
        (folder / "cpu.stat").write_text("usage_usec 1000000\n")
        return folder

    def read(self) -> dict[str, dict[str, str]]:
        """The names of jobs as their own rows tell."""
        cgroup = Cgroup()
        list(cgroup.read(self.roots, 0.0))
        self.collector.read(self.roots, 0.0)
        return {row.key[0]: row.info for row in cgroup.read(self.roots, 0.0)}

    def calls(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_job_is_asked_for_once_and_again_when_it_starts_again(node: Node) -> None:
    node.answers("squeue", WHOLE)
    assert node.read() == {}
    assert node.calls() == []
    folder = node.job(42)
    for _ in range(3):
        assert node.read() == {"slurm:42": {"kind": "slurm", **COLUMNS}}
    assert node.calls() == ["squeue --json --jobs=42"]
    # Requeued under its old number and with another name.
    folder.rename(folder.with_name("old"))
    node.answers("squeue", WHOLE | {"name": "again"})
    node.job(42)
    assert node.read()["slurm:42"]["name"] == "again"
    assert len(node.calls()) == 2


def test_several_new_jobs_are_one_call(node: Node) -> None:
    node.answers("squeue", WHOLE, WHOLE | {"job_id": 43, "name": "b"})
    node.job(42)
    node.job(43)
    assert {info["name"] for info in node.read().values()} == {"llama-ft", "b"}
    assert node.calls() == ["squeue --json --jobs=42,43"]


def test_scontrol_answers_where_squeue_cannot(node: Node) -> None:
    node.program("squeue", "sys.exit(\"squeue: unrecognized option '--json'\")")
    node.answers("scontrol", WHOLE)
    node.job(42)
    assert node.read()["slurm:42"]["name"] == "llama-ft"
    assert node.calls()[1] == "scontrol show job 42 --json"


def test_a_hanging_controller_is_killed_with_all_it_started_and_not_asked_every_time(node: Node) -> None:
    child = node.folder / "child"
    node.program(
        "squeue",
        f"if os.fork():\n    time.sleep(60)\nopen({str(child)!r}, 'w').write(str(os.getpid())); time.sleep(60)",
    )
    node.job(42)
    began = time.monotonic()
    assert node.read()["slurm:42"] == {"kind": "slurm", "name": "42"}
    assert time.monotonic() - began < 8
    assert node.collector.reason == "squeue: no answer in 1 s"
    until(lambda: not running(int(child.read_text())), what="what it started is gone")
    node.read()
    assert len(node.calls()) == 1
    assert node.collector.reason == "squeue: no answer in 1 s"


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_an_error_is_told_with_the_command_and_asked_for_again_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("squeue", "scontrol"):
        node.program(name, "sys.exit('slurm_load_jobs error: Unable to contact slurm controller')")
    node.job(42)
    node.read()
    assert node.collector.reason == "scontrol: slurm_load_jobs error: Unable to contact slurm controller"
    assert "scontrol show job" in node.collector.remedy
    node.answers("squeue", WHOLE)
    assert node.read()["slurm:42"]["name"] == "42"
    monkeypatch.setattr(slurm, "_AGAIN", 0.0)
    assert node.read()["slurm:42"]["name"] == "llama-ft"
    assert node.collector.reason == ""


def test_without_slurms_commands_there_is_a_remedy(node: Node) -> None:
    node.job(42)
    node.read()
    assert node.collector.reason == "scontrol is not found"
    assert "munge" in node.collector.remedy


def test_elsewhere_nothing_runs(node: Node) -> None:
    assert node.read() == {}
    assert node.collector.reason == "no Slurm job on this node"


UUID = "GPU-11111111-2222-3333-4444-55555555555"


def test_device_groups_tell_the_gpus_of_a_job_by_minor_number_not_by_index(node: Node) -> None:
    for place, minor in enumerate((2, 0, 5)):
        folder = node.folder / f"proc/driver/nvidia/gpus/0000:{place}1:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"GPU UUID: \t {UUID}{minor}\nDevice Minor: \t {minor}\n")
    job = node.folder / "sys/fs/cgroup/devices/slurm/uid_1000/job_42"
    job.mkdir(parents=True)
    (job / "devices.list").write_text("c 1:3 rwm\nc 195:255 rwm\nc 195:5 rwm\nb 8:0 rw\n")
    free = job.with_name("job_43")
    free.mkdir()
    (free / "devices.list").write_text("a *:* rwm\n")
    rows = node.collector.read(node.roots, 0.0)
    assert {row.key[0]: row.values["allocated"] for row in rows} == {
        f"{UUID}5": 1.0,
        f"{UUID}2": 0.0,
        f"{UUID}0": 0.0,
    }
    assert node.roots.board.granted["slurm"][f"{UUID}5"] == ("slurm:42",)


def test_a_job_that_may_use_everything_is_given_nothing() -> None:
    assert minors_of(b"a *:* rwm\n") is None
    assert minors_of(b"c 195:* rw\n") is None
    assert minors_of(b"c 195:254 rw\nc 195:1 rw\n") == {1}
    assert minors_of(b"") == set()
