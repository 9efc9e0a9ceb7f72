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

__all__ = ["STEP", "amounts", "boots", "carried", "finite", "native_step", "on_grid", "step_of"]

#: Seconds of a window.
STEP = 10.0
#: A pause of more windows than this is a gap.
GAP = 3


def native_step(tables: Mapping[str, pl.LazyFrame]) -> float:
    """Seconds of a window: those between rows, at least STEP."""
    return step_of(tables) or STEP


def step_of(tables: Mapping[str, pl.LazyFrame]) -> float | None:
    """Seconds between rows of the first table that has two of a thing: at least STEP, whole; None without."""
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
    return None


def finite() -> pl.Expr:
    """All numbers of a table; what is not finite was not measured."""
    numbers = pl.selectors.float()
    return pl.when(numbers.is_finite()).then(numbers)


def on_grid(step: float) -> pl.Expr:
    """The window a row's `ts` belongs to, by its end: the nearest multiple of step (early and late alike)."""
    milliseconds = round(step * 1000)
    ticks = (pl.col("ts").dt.epoch("ms") + milliseconds // 2) // milliseconds * milliseconds
    return ticks.cast(pl.Datetime("ms", "UTC"))


def amounts(
    rows: pl.LazyFrame,
    table: Table,
    step: float,
    boots: pl.LazyFrame | None = None,
    carry: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """The table with `ts` on the grid, counters as amounts since the row before, and `dt` in seconds.

    Gauges and texts stay as they are. boots: host, ts (on the grid) and boot_seconds of the `host` table.
    carry: what `carried` kept of the windows before. The first row of a thing has null amounts.
    """
    by = [key for key in keys(table) if key != "ts"]
    counters = _counters(rows, table)
    placed = _placed(rows, by, step, boots, carry)
    rebooted = (pl.col("_boot").diff().abs() > 2).fill_null(False)
    # Rows of a thing stand together: comparing keys with the row before costs a tenth of a window per key.
    same = pl.all_horizontal(pl.col(key).eq_missing(pl.col(key).shift()) for key in by)
    gap = pl.col("_at").dt.epoch("ms").diff() / 1000
    good = same & (gap > 0) & (gap <= (GAP + 0.5) * step) & ~rebooted
    placed = placed.with_columns(pl.when(good).then(gap).alias("dt"))
    fresh = placed.with_columns(
        pl.when(pl.col("dt").is_not_null() & (pl.col(c).diff() >= 0)).then(pl.col(c).diff()).alias(c)
        for c in counters
    )
    return fresh.filter(~pl.col("_old")).drop("_at", "_old", "_boot")


def carried(
    rows: pl.LazyFrame,
    table: Table,
    step: float,
    boots: pl.LazyFrame | None = None,
    carry: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """The last row of each thing, as the next `amounts` wants it, unless it is older than a gap."""
    by = [key for key in keys(table) if key != "ts"]
    last = _placed(rows, by, step, boots, carry).unique(by, keep="last", maintain_order=True)
    recent = pl.col("_at") > pl.col("_at").max() - pl.duration(milliseconds=round((GAP + 1) * step * 1000))
    return last.filter(recent).drop("_old")


def _counters(rows: pl.LazyFrame, table: Table) -> list[str]:
    have = rows.collect_schema()
    return [c.name for c in table.columns if c.kind == "counter" and c.name in have]


def _placed(
    rows: pl.LazyFrame, by: list[str], step: float, boots: pl.LazyFrame | None, carry: pl.LazyFrame | None
) -> pl.LazyFrame:
    """Rows on the grid, one a thing and window, after those carried (`_old`), with the host's `_boot`."""
    placed = rows.with_columns(finite(), pl.col("ts").alias("_at"), on_grid(step).alias("ts"))
    if boots is None:
        placed = placed.with_columns(pl.lit(None, pl.Float64).alias("_boot"))
    else:
        placed = placed.join(boots, on=["host", "ts"], how="left")
    placed = placed.with_columns(pl.lit(False).alias("_old"))
    if carry is not None:
        placed = pl.concat([carry.with_columns(pl.lit(True).alias("_old")), placed], how="diagonal")
    return (
        placed.sort(*by, "_at")
        .unique([*by, "ts"], keep="last", maintain_order=True)
        .with_columns(pl.col("_boot").forward_fill().over(by))
    )


def boots(host: pl.LazyFrame, step: float) -> pl.LazyFrame:
    """host, ts on the grid and `_boot`: when each host booted, as its rows say."""
    return (
        host.select("host", on_grid(step).alias("ts"), pl.col("boot_seconds").alias("_boot"))
        .drop_nulls()
        .unique(["host", "ts"], keep="last")
    )
