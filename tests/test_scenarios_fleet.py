"""The demonstration fleet, its endless stream, and flawed telemetry."""

from __future__ import annotations

from itertools import islice

import polars as pl
import pytest

from wellfed.analysis.scenarios import Artefacts, FleetStream, fleet, simulate
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError


def test_stream_goes_on_where_its_history_ended() -> None:
    stream = FleetStream(seed=2, gpus=80)
    past = list(stream.history(120.0))
    live = list(islice(stream, 8))
    assert all(set(window) == set(TABLES) for window in live)
    assert all(window["gpu"].height == 80 and window["gpu"]["ts"].n_unique() == 1 for window in live)
    gpu = pl.concat([part["gpu"] for part in [*past, *live]]).sort("gpu", "ts")
    assert gpu["ts"].n_unique() == 20
    steps = gpu.select(pl.col("ts").diff().over("gpu").dt.total_seconds()).to_series().drop_nulls()
    assert steps.unique().to_list() == [10]
    growth = gpu.select(pl.col("sm_active_seconds").diff().over("gpu")).to_series().drop_nulls()
    assert growth.min() >= 0.0  # type: ignore[operator]
    assert growth.max() <= 10.0  # type: ignore[operator]


def test_stream_is_the_same_for_the_same_seed() -> None:
    first, second = (next(iter(FleetStream(seed=7, gpus=80))) for _ in range(2))
    assert all(first[name].equals(second[name]) for name in TABLES)


def test_fleet_holds_many_causes_many_owners_and_healthy_jobs() -> None:
    simulation = fleet(seed=1, gpus=80, duration=900.0)
    for name, table in simulation.tables.items():
        assert table.schema == schema(TABLES[name])
    assert simulation.truth["cause"].n_unique() >= 5
    assert simulation.tables["job"]["user"].n_unique() >= 6
    sick = simulation.truth.filter(pl.col("lost_seconds") > 1.0)["job"].unique()
    assert set(simulation.tables["job"]["job"]) - set(sick)
    assert simulation.tables["gpu"]["host"].unique().sort()[0] == "r01-n01"


def test_a_fleet_too_small_for_its_jobs_is_refused() -> None:
    with pytest.raises(UserError, match="80"):
        fleet(gpus=32)


def test_missing_sensors_are_null_and_reported_never_zero() -> None:
    artefacts = Artefacts(no_gpm=True, no_pressure=True, no_step=True)
    tables = simulate("healthy-llm", gpus=8, duration=100.0, artefacts=artefacts).tables
    assert tables["gpu"]["sm_active_seconds"].null_count() == tables["gpu"].height
    assert tables["gpu"]["active_seconds"].null_count() == 0
    assert tables["host"]["psi_io_some_seconds"].null_count() == tables["host"].height
    assert tables["step"].is_empty()
    failed = tables["collector"].filter(pl.col("success") == 0.0)["collector"].unique().sort()
    assert failed.to_list() == ["gpm", "pressure"]


def test_a_reboot_resets_counters_exactly_where_the_boot_time_changes() -> None:
    host = simulate("healthy-llm", gpus=16, duration=600.0, artefacts=Artefacts(reboots=1)).tables["host"]
    steps = host.sort("host", "ts").select(
        fell=(pl.col("cpu_busy_seconds").diff() < 0).over("host"),
        booted=(pl.col("boot_seconds").diff() != 0).over("host"),
    ).drop_nulls()  # fmt: skip
    assert steps["fell"].sum() == 1
    assert steps["fell"].equals(steps["booted"])


def test_an_agents_restart_resets_its_integrals_but_not_the_devices_counters() -> None:
    gpu = simulate("healthy-llm", gpus=8, duration=600.0, artefacts=Artefacts(restarts=1)).tables["gpu"]
    fell = gpu.sort("gpu", "ts").select(
        (pl.col("active_seconds").diff() < 0).over("gpu").alias("agent"),
        (pl.col("energy_joules").diff() < 0).over("gpu").alias("device"),
    )
    assert fell["agent"].sum() == 8
    assert fell["device"].sum() == 0


def test_late_skewed_and_lost_windows_keep_counters_growing() -> None:
    artefacts = Artefacts(dropped=0.1, jitter_seconds=0.8, skew_seconds=3.0)
    tables = simulate("nfs-recurring", gpus=16, duration=900.0, artefacts=artefacts).tables
    gpu = tables["gpu"].sort("gpu", "ts")
    assert 0.82 * 90 * 16 < gpu.height < 0.97 * 90 * 16
    growth = gpu.select(pl.col("sm_active_seconds").diff().over("gpu")).to_series().drop_nulls()
    assert growth.min() >= -1e-6  # type: ignore[operator]


def test_a_coarse_scrape_keeps_every_sixth_window_with_exact_counters() -> None:
    fine = simulate("healthy-llm", gpus=8, duration=600.0).tables["gpu"]
    coarse = simulate("healthy-llm", gpus=8, duration=600.0, artefacts=Artefacts(every=6)).tables["gpu"]
    assert coarse["ts"].n_unique() == 10
    assert coarse.join(fine, on=["ts", "gpu", "active_seconds"], how="anti").is_empty()
