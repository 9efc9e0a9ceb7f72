"""Slurm is asked for waiting jobs where the user said so, and counts those that ask for GPUs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.endpoints import Endpoints
from wellfed.collectors.registry import Roots
from wellfed.collectors.slurm_queue import SlurmQueue, waiting

LINES = b"""\
cpu=8,mem=64G,node=1,billing=8,gres/gpu=4
cpu=8,mem=64G,node=1,billing=8,gres/gpu=4,gres/gpu:h100=4
cpu=1,mem=1G,node=1,billing=1
cpu=16,node=2,gres/gpu:a100=16
N/A
"""


def test_jobs_that_ask_for_gpus_count_each_once() -> None:
    assert waiting(LINES) == 3
    assert waiting(b"") == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_a_count_or_a_value_error(data: bytes) -> None:
    try:
        assert waiting(data) >= 0
    except ValueError:
        return


def test_what_is_no_list_of_resources_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="squeue: expected `cpu=8,node=1"):
        waiting(b"JOBID PARTITION NAME\n")


def squeue(folder: Path, body: str) -> SlurmQueue:
    path = folder / "squeue"
    path.write_text(f"#!{sys.executable} -IS\nimport sys, time\n{body}\n")
    path.chmod(0o755)
    return SlurmQueue(str(folder), timeout=2.0)


def test_it_is_asked_only_where_the_user_said_so(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    body = f"open({str(asked)!r}, 'a').write(' '.join(sys.argv[1:]))\nprint({LINES.decode()!r}, end='')"
    collector = squeue(tmp_path, body)
    assert list(collector.read(Roots(), 0.0)) == []
    assert "not told" in collector.reason
    assert not asked.exists()
    (row,) = collector.read(Roots(endpoints=Endpoints(slurm_pending=True)), 0.0)
    assert (row.table, row.key, row.values) == ("host", (), {"jobs_pending": 3.0})
    assert "--states=PENDING --array" in asked.read_text()
    assert collector.reason == ""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('slurm_load_jobs error: Unable to contact slurm controller')", "Unable to contact"),
        ("time.sleep(60)", "no answer in 2 s"),
    ],
)
def test_a_controller_that_does_not_answer_is_said_and_not_zero(
    tmp_path: Path, body: str, reason: str
) -> None:
    collector = squeue(tmp_path, body)
    assert list(collector.read(Roots(endpoints=Endpoints(slurm_pending=True)), 0.0)) == []
    assert reason in collector.reason
    assert collector.remedy


def test_without_squeue_it_says_so(tmp_path: Path) -> None:
    collector = SlurmQueue(str(tmp_path))
    assert list(collector.read(Roots(endpoints=Endpoints(slurm_pending=True)), 0.0)) == []
    assert collector.reason == "squeue is not found"
