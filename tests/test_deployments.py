"""What real deployments lack: labels, tables, columns. The answer gets weaker, never wrong."""

from __future__ import annotations

from functools import cache

import polars as pl
import pytest

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.scenarios import Simulation, simulate
from wellfed.analysis.score import tables


@cache
def simulated(name: str) -> Simulation:
    return simulate(name, seed=31, gpus=16, duration=1200)


def causes(frames: dict[str, pl.DataFrame], least: float = 0.05) -> set[str]:
    """Causes that take at least this share of the loss."""
    totals = diagnose(tables(frames)).document["totals"]
    return {c for c, seconds in totals["by_cause"].items() if seconds >= least * totals["lost_seconds"]}


def without(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    return frame.with_columns(pl.lit(None, frame.schema[c]).alias(c) for c in columns)


def test_loops_that_do_not_say_their_gpu_count_for_the_gpu_of_their_rank() -> None:
    frames = dict(simulated("nfs-contended").tables)
    frames["step"] = without(frames["step"], "gpu")
    document = diagnose(tables(frames)).document
    assert len(document["gpus"]) == 16
    frames["gpu"] = without(frames["gpu"], "rank")
    assert len(diagnose(tables(frames)).document["gpus"]) == 16


def test_ranks_alone_are_diagnosed_from_their_own_times() -> None:
    made = simulated("nfs-contended").tables
    document = diagnose(tables({"step": made["step"], "mount": made["mount"]})).document
    assert {g["gpu"] for g in document["gpus"]} == {f"rank:{n}" for n in range(16)}
    assert document["totals"]["by_cause"]["storage.remote"] >= 0.8 * document["totals"]["lost_seconds"]


@pytest.mark.parametrize("name", ["nfs-contended", "lustre-slow"])
def test_storage_is_named_without_job_rows_pressure_or_a_loop(name: str) -> None:
    made = simulated(name).tables
    host = without(made["host"], *(c for c in made["host"].columns if c.startswith("psi_")))
    assert "storage.remote" in causes({"gpu": made["gpu"], "host": host, "mount": made["mount"]})


def test_a_mount_that_times_nothing_is_named_by_io_pressure() -> None:
    frames = dict(simulated("nfs-contended").tables)
    frames["mount"] = without(
        frames["mount"], *(c for c in frames["mount"].columns if c.endswith("_seconds"))
    )
    assert "storage.remote" in causes(frames)


def test_gpus_that_nobody_labels_are_held_by_whoever_keeps_them_busy() -> None:
    gpu = simulated("nfs-contended").tables["gpu"]
    bare = without(gpu, "job", "rank", "allocated", "processes", "memory_used_bytes")
    totals = diagnose(tables({"gpu": bare})).document["totals"]
    assert totals["lost_seconds"] > 0
    assert set(totals["by_cause"]) <= {"insufficient", "idle.held"}


def test_a_host_that_is_late_for_a_reason_points_to_it() -> None:
    made = simulate("straggler-host-storage", seed=31, gpus=16, duration=1200)
    found = diagnose(tables(made.tables)).document["findings"]
    (late,) = [f for f in found if f["cause"] == "straggler"]
    (slow,) = [f for f in found if f["cause"] == "storage.remote"]
    guilty = set(made.culprits["gpu"].drop_nulls())
    assert set(late["culprits"]["gpus"]) == guilty == set(slow["scope"]["gpus"])
    assert slow["id"] in late["next_steps"][0]
    assert not guilty & set(late["scope"]["gpus"])


def test_one_slow_filer_is_one_finding_that_says_where_reads_wait() -> None:
    found = diagnose(tables(simulate("shared-filer", seed=1, duration=2400).tables)).document["findings"]
    (slow,) = [f for f in found if f["cause"] == "storage.remote"]
    assert slow["scope"]["job"] is None
    assert len(slow["scope"]["hosts"]) >= 3
    assert slow["blame"] == "array"
    assert slow["scope"]["resource"] == "/mnt/datasets"
