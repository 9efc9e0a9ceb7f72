"""What is wrong with real telemetry: missing sensors, lost windows, reboots, wrong clocks, coarse scrapes.

Applied to finished tables. A skewed or late agent reads its counters at another moment than a punctual one:
counters are interpolated to that moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from wellfed.analysis.schema import TS
from wellfed.collectors.catalog import TABLES

__all__ = ["Artefacts", "apply"]

_GPM = (
    "sm_active_seconds",
    "sm_occupancy_seconds",
    "tensor_active_seconds",
    "dram_active_seconds",
    "spin_seconds",
)
_PRESSURE = (
    "psi_cpu_some_seconds", "psi_io_some_seconds", "psi_io_full_seconds", "psi_memory_some_seconds",
    "psi_memory_full_seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Artefacts:
    """Which defects to add.

    no_gpm: no SM, tensor or DRAM activity. no_activity: not even that a kernel runs. no_gpu: no GPU rows.
    no_pressure: no pressure stall information. no_step: training
    loops don't report. no_port: no fabric counters. dropped: share of each host's windows that never arrive.
    jitter_seconds: how late a scrape can be. skew_seconds: how wrong a host's clock can be. reboots: hosts
    that restart once, their counters at zero. restarts: hosts whose agent restarts once,
    its integrals at zero. every: keep only every n-th window.
    """

    no_gpm: bool = False
    no_activity: bool = False
    no_gpu: bool = False
    no_pressure: bool = False
    no_step: bool = False
    no_port: bool = False
    dropped: float = 0.0
    jitter_seconds: float = 0.0
    skew_seconds: float = 0.0
    reboots: int = 0
    restarts: int = 0
    every: int = 1


def apply(tables: Mapping[str, pl.DataFrame], artefacts: Artefacts, seed: int) -> dict[str, pl.DataFrame]:
    """The tables as a flawed deployment would have delivered them; same seed, same flaws."""
    found = dict(tables)
    if artefacts.no_gpm:
        found["gpu"] = _blank(found["gpu"], _GPM)
    if artefacts.no_activity:
        found["gpu"] = _blank(found["gpu"], (*_GPM, "active_seconds", "idle_seconds"))
    if artefacts.no_gpm or artefacts.no_activity:
        found["collector"] = _failed(found["collector"], "gpm", "this GPU or driver has no GPM")
    if artefacts.no_pressure:
        found["collector"] = _failed(found["collector"], "pressure", "the kernel has no PSI")
        found["host"] = _blank(found["host"], _PRESSURE)
        found["job"] = _blank(found["job"], _PRESSURE)
    left_out = (("step", artefacts.no_step), ("port", artefacts.no_port), ("gpu", artefacts.no_gpu))
    for name, gone in left_out:
        if gone:
            found[name] = found[name].clear()
    rng = np.random.default_rng([seed, 201])
    hosts = found["host"]["host"].unique().sort()
    if artefacts.reboots:
        marks = _marks(found["host"], hosts, artefacts.reboots, rng)
        found = {name: _reset(name, table, marks, _counters(name), 120) for name, table in found.items()}
    if artefacts.restarts:
        marks = _marks(found["host"], hosts, artefacts.restarts, rng)
        integrals = [name for name in _counters("gpu") if name.endswith("_seconds")]
        found["gpu"] = _reset("gpu", found["gpu"], marks, integrals, 10)
    if artefacts.skew_seconds or artefacts.jitter_seconds:
        found = _shift(found, hosts, artefacts, rng)
    if artefacts.every > 1:
        found = {name: _thin(table, artefacts.every) for name, table in found.items()}
    if artefacts.dropped:
        found = _drop(found, artefacts.dropped, rng)
    return found


def _blank(table: pl.DataFrame, columns: tuple[str, ...]) -> pl.DataFrame:
    return table.with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in columns if name in table.columns
    )


def _counters(name: str) -> list[str]:
    return [c.name for c in TABLES[name].columns if c.kind == "counter"]


def _things(name: str) -> list[str]:
    return list(TABLES[name].keys)


def _ticks(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    return tables["host"].select("host", "ts").unique(maintain_order=True).sort("host", "ts")


def _failed(table: pl.DataFrame, collector: str, reason: str) -> pl.DataFrame:
    here = pl.col("collector") == collector
    return table.with_columns(
        pl.when(here).then(0.0).otherwise("success").alias("success"),
        pl.when(here).then(pl.lit(reason)).otherwise("reason").alias("reason"),
    )


def _marks(table: pl.DataFrame, hosts: pl.Series, count: int, rng: np.random.Generator) -> pl.DataFrame:
    """When `count` of the hosts start again: host, _at on a window's edge around the middle."""
    chosen = rng.choice(len(hosts), min(count, len(hosts)), replace=False)
    span = table["ts"].dt.epoch("ms").to_numpy()
    low, high = float(span.min()), float(span.max())
    at = low + (high - low) * rng.uniform(0.35, 0.65, len(chosen))
    aligned = (at // 10_000 * 10_000).astype(np.int64)
    return pl.DataFrame({"host": hosts.gather(chosen), "_at": pl.Series(aligned).cast(TS)})


def _reset(
    name: str, table: pl.DataFrame, marks: pl.DataFrame, counters: list[str], gone_seconds: int
) -> pl.DataFrame:
    """Counters at zero after the mark, and no rows for a while."""
    if "host" not in TABLES[name].keys or table.is_empty():
        return table
    joined = table.join(marks, on="host", how="left", maintain_order="left")
    after = (pl.col("ts") > pl.col("_at")).fill_null(False)
    keys = _things(name)
    changes = [
        pl.when(after)
        .then(pl.col(column) - pl.col(column).filter(~after).last().over(keys).fill_null(0.0))
        .otherwise(pl.col(column))
        .alias(column)
        for column in counters
    ]
    if name == "host":
        booted = pl.col("_at").dt.epoch("ms").cast(pl.Float64) / 1e3
        changes.append(pl.when(after).then(booted).otherwise("boot_seconds").alias("boot_seconds"))
    since = (pl.col("ts") - pl.col("_at")).dt.total_seconds()
    gone = (after & (since <= gone_seconds)).fill_null(False)
    return joined.with_columns(changes).filter(~gone).drop("_at")


def _shift(
    tables: dict[str, pl.DataFrame], hosts: pl.Series, artefacts: Artefacts, rng: np.random.Generator
) -> dict[str, pl.DataFrame]:
    skews = pl.DataFrame(
        {"host": hosts, "_skew": rng.uniform(-artefacts.skew_seconds, artefacts.skew_seconds, len(hosts))}
    )
    ticks = _ticks(tables).join(skews, on="host", how="left")
    late = rng.uniform(0.0, artefacts.jitter_seconds, len(ticks))
    ticks = ticks.with_columns(pl.Series("_late", late))
    found = {}
    for name, table in tables.items():
        if "host" not in TABLES[name].keys or table.is_empty():
            found[name] = table
            continue
        joined = table.join(ticks, on=["host", "ts"], how="left", maintain_order="left")
        keys = _things(name)
        ahead = pl.col("_late").fill_null(0.0) - pl.col("_skew").fill_null(0.0)
        changes = []
        for column in _counters(name):
            back = pl.col(column) - pl.col(column).shift(1).over(keys)
            forth = pl.col(column).shift(-1).over(keys) - pl.col(column)
            slope = pl.when(ahead < 0).then(back).otherwise(forth)
            slope = pl.when(slope < 0).then(0.0).otherwise(slope).fill_null(0.0)
            changes.append((pl.col(column) + slope * ahead / 10.0).alias(column))
        late_by = (pl.col("_late").fill_null(0.0) * 1e3).cast(pl.Int64).cast(pl.Duration("ms"))
        changes.append((pl.col("ts") + late_by).alias("ts"))
        found[name] = joined.with_columns(changes).drop("_late", "_skew")
    return found


def _thin(table: pl.DataFrame, every: int) -> pl.DataFrame:
    turn = pl.col("ts").dt.epoch("ms") // 10_000
    return table.filter(turn % every == 0)


def _drop(tables: dict[str, pl.DataFrame], share: float, rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    ticks = _ticks(tables)
    lost = ticks.filter(pl.Series(rng.random(len(ticks)) < share))
    return {
        name: table.join(lost, on=["host", "ts"], how="anti", maintain_order="left")
        if "host" in TABLES[name].keys
        else table
        for name, table in tables.items()
    }
