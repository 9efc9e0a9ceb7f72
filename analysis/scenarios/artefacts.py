"""What is wrong with real telemetry: missing sensors, lost windows, reboots, wrong clocks, coarse scrapes.

Applied to finished tables. A skewed or late agent reads its counters at another moment than a punctual one:
counters are interpolated to that moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

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

    no_gpm: no SM, tensor or DRAM activity. no_pressure: no pressure stall information. no_step: training
    loops don't report. no_port: no fabric counters. dropped: share of each host's windows that never arrive.
    jitter_seconds: how late a scrape can be. skew_seconds: how wrong a host's clock can be. reboots: hosts
    that restart once, their counters at zero. every: keep only every n-th window.
    """

    no_gpm: bool = False
    no_pressure: bool = False
    no_step: bool = False
    no_port: bool = False
    dropped: float = 0.0
    jitter_seconds: float = 0.0
    skew_seconds: float = 0.0
    reboots: int = 0
    every: int = 1


def apply(tables: Mapping[str, pl.DataFrame], artefacts: Artefacts, seed: int) -> dict[str, pl.DataFrame]:
    """The tables as a flawed deployment would have delivered them; same seed, same flaws."""
    found = dict(tables)
    if artefacts.no_gpm:
        found["gpu"] = _blank(found["gpu"], _GPM)
    if artefacts.no_pressure:
        found["host"] = _blank(found["host"], _PRESSURE)
        found["job"] = _blank(found["job"], _PRESSURE)
    for name, gone in (("step", artefacts.no_step), ("port", artefacts.no_port)):
        if gone:
            found[name] = found[name].clear()
    rng = np.random.default_rng([seed, 201])
    hosts = found["host"]["host"].unique().sort()
    if artefacts.reboots:
        found = _reboot(found, hosts, min(artefacts.reboots, len(hosts)), rng)
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


def _reboot(
    tables: dict[str, pl.DataFrame], hosts: pl.Series, count: int, rng: np.random.Generator
) -> dict[str, pl.DataFrame]:
    chosen = rng.choice(len(hosts), count, replace=False)
    span = tables["host"].select(first=pl.col("ts").min(), last=pl.col("ts").max()).row(0)
    seconds = (span[1] - span[0]).total_seconds()
    marks = pl.DataFrame(
        {
            "host": hosts.gather(chosen),
            "_at": [
                int(span[0].timestamp() * 1e3 + 1e3 * seconds * part) // 10_000 * 10_000
                for part in rng.uniform(0.35, 0.65, count)
            ],
        }
    ).with_columns(pl.col("_at").cast(pl.Int64).cast(tables["host"].schema["ts"]))
    found = {}
    for name, table in tables.items():
        if "host" not in TABLES[name].keys or table.is_empty():
            found[name] = table
            continue
        joined = table.join(marks, on="host", how="left", maintain_order="left")
        after = (pl.col("ts") > pl.col("_at")).fill_null(False)
        keys = _things(name)
        changes = [
            pl.when(after)
            .then(pl.col(column) - pl.col(column).filter(~after).last().over(keys).fill_null(0.0))
            .otherwise(pl.col(column))
            .alias(column)
            for column in _counters(name)
        ]
        if name == "host":
            booted = pl.col("_at").dt.epoch("s").cast(pl.Float64)
            changes.append(pl.when(after).then(booted).otherwise("boot_seconds").alias("boot_seconds"))
        joined = joined.with_columns(changes)
        minutes = (pl.col("ts") - pl.col("_at")).dt.total_seconds()
        gone = (after & (minutes <= 120)).fill_null(False)
        found[name] = joined.filter(~gone).drop("_at")
    return found


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
