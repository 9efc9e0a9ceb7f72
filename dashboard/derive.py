"""Counters of many things as amounts per bin of time: what heat maps and tables over the fleet draw."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from wellfed.collectors.catalog import TABLES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import step_for

__all__ = ["binned", "grid_of", "per_second", "sum_by"]

#: A pause of more windows than this is a gap.
_GAP = 3.5


def binned(
    answer: Answer,
    table: str,
    counters: Sequence[str],
    gauges: Sequence[str] = (),
    texts: Sequence[str] = (),
    hosts: Collection[str] | None = None,
    points: int = 96,
) -> pl.DataFrame:
    """A row for each thing and bin: `at` (milliseconds), keys, texts, counters as amounts in the bin, gauges
    as means, `seconds` that the amounts cover. A fall, a repeated window or a gap adds nothing.

    hosts: only these; None for all.
    """
    keys = [key for key in TABLES[table].keys if key != "ts"]
    window = float(answer.diagnosis.document["window_seconds"])
    bin_ = round(1000 * step_for(answer, points))
    rows = answer.tables[table]
    if hosts is not None:
        rows = rows.filter(pl.col("host").is_in(list(hosts)))
    ms = pl.col("ts").dt.epoch("ms")
    same = pl.col("_key") == pl.col("_key").shift()
    seconds = ms.diff() / 1000
    good = same & (seconds > 0) & (seconds <= _GAP * window)
    return (
        rows.select(*keys, "ts", *counters, *gauges, *texts)
        # Sorting by a hash is several times as fast as by several strings.
        .with_columns(pl.struct(keys).hash().alias("_key"))
        .sort("_key", "ts")
        .with_columns(
            ((ms - 1) // bin_ * bin_).alias("at"),
            pl.when(good).then(seconds).alias("seconds"),
            *(pl.when(good & (pl.col(c).diff() >= 0)).then(pl.col(c).diff()).alias(c) for c in counters),
        )
        .group_by(*keys, "at")
        .agg(
            pl.col("seconds").sum(),
            *(pl.when(pl.col(c).count() > 0).then(pl.col(c).sum()).alias(c) for c in counters),
            pl.col(gauges).mean() if gauges else pl.len().alias("_n"),
            *(pl.col(t).drop_nulls().last() for t in texts),
        )
        .filter(pl.col("seconds") > 0)
        .sort("at", *keys)
        .collect(engine="streaming")
    )


def per_second(column: str) -> pl.Expr:
    """An amount of `binned` as a rate."""
    return pl.col(column) / pl.col("seconds")


def sum_by(rows: pl.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Sums of amounts by something, with the longest time that they cover."""
    return rows.group_by(by).agg(pl.col(columns).sum(), pl.col("seconds").sum()).sort(by)


def grid_of(
    rows: pl.DataFrame, name: str, value: str, names: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(stamps, values by (name, stamp)) of a long frame with `at`; NaN where there is no row."""
    if rows.is_empty():
        return np.array([], dtype=np.float64), np.zeros((len(names), 0))
    stamps = np.unique(rows["at"].to_numpy())
    where = {known: n for n, known in enumerate(names)}
    out = np.full((len(names), stamps.size), np.nan)
    chosen = rows.filter(pl.col(name).is_in(list(names)))
    y = np.array([where[known] for known in chosen[name].to_list()], dtype=np.int64)
    x = np.searchsorted(stamps, chosen["at"].to_numpy())
    out[y, x] = chosen[value].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return stamps.astype(np.float64), out
