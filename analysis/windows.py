"""Counters to windows: one row per key and window, counters as what they grew by, never negative.

A window is `seconds` long and aligned to the epoch; index `w` is the window that ends at `w * seconds`.
Rows may come unordered and twice, faster or slower than the window, late by a constant clock offset, with
resets, gaps and reboots:

* a counter that fell, a reboot or a gap longer than three periods yields null for that row, never a
  negative or interpolated rate;
* a row that covers several windows (one scrape was lost, or the table is coarser than the window) is spread
  evenly over them: that is its exact mean, not an interpolation;
* hosts whose clocks differ keep their own phase, so that "the same window" means the same scrape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from wellfed.collectors.catalog import HOST, Table

__all__ = ["WINDOW_SECONDS", "boots", "period_seconds", "rates", "window_seconds"]

WINDOW_SECONDS = 10
#: A row further than this many periods from the one before starts a new segment.
GAP_PERIODS = 3
#: Boot times that differ by less are clock corrections, not reboots.
BOOT_SLACK_SECONDS = 5.0


def _keys(table: Table) -> list[str]:
    return list(dict.fromkeys((HOST, *table.keys)))


def _same(keys: Sequence[str]) -> pl.Expr:
    return pl.all_horizontal([pl.col(k).eq_missing(pl.col(k).shift(1)) for k in keys])


def period_seconds(frame: pl.LazyFrame, table: Table) -> float | None:
    """Median distance in seconds of consecutive rows of one key; None when no key has two rows."""
    keys = _keys(table)
    gap = pl.col("ts").diff().dt.total_milliseconds() / 1e3
    value: object = (
        (frame.select(*keys, "ts").unique().sort(*keys, "ts").select(gap.filter(_same(keys)).median()))
        .collect(engine="streaming")
        .item()
    )
    return float(value) if isinstance(value, (int, float)) else None


def window_seconds(periods: Sequence[float | None]) -> int:
    """The window for data of these periods, the most detailed first: 10 s, or the first known, coarser one."""
    known = [p for p in periods if p is not None]
    return max(WINDOW_SECONDS, round(known[0])) if known else WINDOW_SECONDS


def boots(host: pl.LazyFrame) -> pl.LazyFrame:
    """When hosts rebooted: `host`, `ts` of the first row that shows a new boot time; empty for most data."""
    moved = pl.col("boot_seconds").diff().abs() > BOOT_SLACK_SECONDS
    return (
        host.select(HOST, "ts", "boot_seconds")
        .drop_nulls()
        .sort(HOST, "ts")
        .filter(moved & (pl.col(HOST) == pl.col(HOST).shift(1)))
        .select(HOST, "ts")
    )


def rates(
    frame: pl.LazyFrame, table: Table, seconds: int, *, reboots: pl.DataFrame | None = None
) -> pl.LazyFrame:
    """One row per key and window: `w`, keys, `dt`, then the frame's own columns of the table.

    frame: rows of the table (any subset of its columns besides keys and `ts`, any order). dt: seconds the row
    covers, null where nothing precedes it. Counters: growth over those seconds, null where unknown. Gauges:
    mean over the window. Info: the last text. reboots: as `boots` returns them.
    """
    keys = _keys(table)
    have = frame.collect_schema().names()
    counters = [c.name for c in table.columns if c.kind == "counter" and c.name in have]
    gauges = [c.name for c in table.columns if c.kind == "gauge" and c.name in have]
    infos = [c.name for c in table.columns if c.kind == "info" and c.name in have]
    rows = _ordered(frame.select("ts", *keys, *counters, *gauges, *infos), keys)
    period = period_seconds(rows.lazy(), table) or float(seconds)
    rows = rows.with_columns(w=_window(period, seconds).over(HOST))
    dt = (pl.col("ts").diff().dt.total_milliseconds() / 1e3).alias("dt")
    follows = _same(keys) & (dt <= GAP_PERIODS * max(period, seconds) * 1.05)
    if reboots is not None and reboots.height:
        follows &= ~_rebooted(rows, reboots)
    grown = pl.col(counters).diff() if counters else None
    spread = pl.when(pl.col("dt").is_null()).then(1).otherwise(pl.col("w") - pl.col("w").shift(1))
    lazy = rows.lazy().with_columns(pl.when(follows).then(dt).alias("dt"))
    if grown is not None:
        lazy = lazy.with_columns(pl.when(pl.col("dt").is_not_null() & (grown >= 0)).then(grown))
    lazy = lazy.with_columns(_span=spread.cast(pl.Int64))
    out = lazy.select("w", *keys, "dt", *counters, *gauges, *infos, "_span").collect()
    return _even(out, keys, counters, gauges, infos).lazy()


def _ordered(frame: pl.LazyFrame, keys: Sequence[str]) -> pl.DataFrame:
    rows = frame.filter(pl.col("ts").is_not_null()).collect(engine="streaming").sort(*keys, "ts")
    twice = _same([*keys, "ts"])
    if rows.height and rows.select(twice.any()).item():
        rest = [c for c in rows.columns if c not in (*keys, "ts")]
        rows = rows.group_by(*keys, "ts").agg(pl.col(rest).max()).sort(*keys, "ts").select(rows.columns)
    return rows


def _window(period: float, seconds: int) -> pl.Expr:
    """Window index of a row. Rows as rare as windows are rounded by their host's own phase (clock offset)."""
    ms = pl.col("ts").dt.epoch("ms")
    width = seconds * 1000
    if period < 0.7 * seconds:
        return -((-ms) // width)
    angle = (ms % width) * (2 * math.pi / width)
    east, north = angle.cos().mean(), angle.sin().mean()
    phase = pl.arctan2(north, east) * (width / (2 * math.pi))
    steady = (east.pow(2) + north.pow(2)) > 0.25
    return ((ms - pl.when(steady).then(phase).otherwise(0.0)) / width).round().cast(pl.Int64)


def _rebooted(rows: pl.DataFrame, reboots: pl.DataFrame) -> pl.Series:
    """True for rows whose predecessor lies before a reboot and they themselves at or after it."""
    last = (
        rows.lazy()
        .select(HOST, "ts")
        .with_row_index("_row")
        .sort("ts")
        .join_asof(
            reboots.lazy().sort("ts").with_columns(boot=pl.col("ts")),
            on="ts",
            by=HOST,
            check_sortedness=False,
        )
        .sort("_row")
        .select(rebooted=pl.col("boot").ne_missing(pl.col("boot").shift(1)))
    )
    return last.collect()["rebooted"].fill_null(False)


def _even(
    rows: pl.DataFrame,
    keys: Sequence[str],
    counters: Sequence[str],
    gauges: Sequence[str],
    infos: Sequence[str],
) -> pl.DataFrame:
    """Exactly one row per window: long rows are spread, rows within one window are put together."""
    amounts = ["dt", *counters]
    long = rows.filter(pl.col("_span") > 1)
    if long.height:
        back = pl.int_ranges(pl.col("_span"))
        pieces = (
            long.with_columns(pl.col(amounts) / pl.col("_span"), _back=back)
            .explode("_back")
            .with_columns(pl.col("w") - pl.col("_back"))
            .drop("_back")
        )
        rows = pl.concat([rows.filter(pl.col("_span") <= 1), pieces])
    if rows.filter(pl.col("_span") < 1).height:
        known = [pl.when(pl.col(c).count() > 0).then(pl.col(c).sum()).alias(c) for c in amounts]
        rows = rows.group_by(*keys, "w", maintain_order=True).agg(
            *known, *[pl.col(g).mean() for g in gauges], *[pl.col(i).drop_nulls().last() for i in infos]
        )
    return rows.select("w", *keys, *amounts, *gauges, *infos).sort(*keys, "w")
