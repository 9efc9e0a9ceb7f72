"""Counters to amounts per window, on one grid for every table.

A window is ten seconds, or the data's own step when that is coarser. A fall, a new boot of the host or a gap
longer than three windows is null for that window: never a negative or an interpolated rate. Jitter is rounded
to the grid, the rate keeps the true interval (`dt`).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from wellfed.analysis.schema import keys
from wellfed.collectors.catalog import TABLES, Table

__all__ = ["STEP", "amounts", "native_step", "on_grid"]

#: Seconds of a window.
STEP = 10.0
#: A pause of more windows than this is a gap.
GAP = 3


def native_step(tables: Mapping[str, pl.LazyFrame]) -> float:
    """Seconds between rows of the first table that has some: at least STEP, rounded to whole seconds."""
    for name in ("gpu", "step", "host"):
        by = [key for key in keys(TABLES[name]) if key != "ts"]
        gaps = (
            tables[name].select(*by, "ts").unique().sort(*by, "ts")
            .select(pl.col("ts").diff().over(by).dt.total_milliseconds().alias("gap"))
            .filter(pl.col("gap") > 0)
            .select(pl.col("gap").median())
            .collect(engine="streaming").item()
        )  # fmt: skip
        if gaps is not None:
            return max(STEP, float(round(gaps / 1000)))
    return STEP


def on_grid(step: float) -> pl.Expr:
    """The window a row's `ts` belongs to, by its end: the nearest multiple of step (early and late alike)."""
    milliseconds = round(step * 1000)
    ticks = (pl.col("ts").dt.epoch("ms") + milliseconds // 2) // milliseconds * milliseconds
    return ticks.cast(pl.Datetime("ms", "UTC"))


def amounts(rows: pl.LazyFrame, table: Table, step: float, boots: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """The table with `ts` on the grid, counters as amounts since the row before, and `dt` in seconds.

    Gauges and texts stay as they are. boots: host, ts (on the grid) and boot_seconds of the `host` table.
    The first row of a thing has null amounts.
    """
    by = [key for key in keys(table) if key != "ts"]
    exact = pl.col("_at").dt.epoch("ms") / 1000
    have = rows.collect_schema()
    counters = [c.name for c in table.columns if c.kind == "counter" and c.name in have]
    placed = (
        rows.with_columns(pl.col("ts").alias("_at"), on_grid(step).alias("ts"))
        .sort(*by, "_at")
        .unique([*by, "ts"], keep="last", maintain_order=True)
    )
    if boots is not None:
        placed = placed.join(boots, on=["host", "ts"], how="left", maintain_order="left")
        placed = placed.with_columns(pl.col("_boot").forward_fill().over(by))
        rebooted = (pl.col("_boot").diff().abs() > 2).fill_null(False)
    else:
        rebooted = pl.lit(False)
    # Rows of a thing stand together: comparing keys with the row before costs a tenth of a window per key.
    same = pl.all_horizontal(pl.col(key).eq_missing(pl.col(key).shift()) for key in by)
    gap = exact.diff()
    good = same & (gap > 0) & (gap <= (GAP + 0.5) * step) & ~rebooted
    placed = placed.with_columns(pl.when(good).then(gap).alias("dt"))
    return placed.with_columns(
        pl.when(pl.col("dt").is_not_null() & (pl.col(c).diff() >= 0)).then(pl.col(c).diff()).alias(c)
        for c in counters
    ).drop("_at", *(["_boot"] if boots is not None else []))


def boots(host: pl.LazyFrame, step: float) -> pl.LazyFrame:
    """host, ts on the grid and `_boot`: when each host booted, as its rows say."""
    return (
        host.select("host", on_grid(step).alias("ts"), pl.col("boot_seconds").alias("_boot"))
        .drop_nulls()
        .unique(["host", "ts"], keep="last")
    )
