"""Counters of one thing as rates over time, at most 1,500 points a line: what the panes draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["MAX_POINTS", "Array", "Signals", "aligned", "gather"]

MAX_POINTS = 1500

Array = npt.NDArray[np.float64]


class Signals:
    """Columns of one thing on a common grid. stamps: milliseconds since the epoch; a gap is NaN."""

    def __init__(self, stamps: Array, columns: Mapping[str, Array]) -> None:
        self.stamps = stamps
        self._columns = columns

    @property
    def names(self) -> list[str]:
        """Columns that were measured."""
        return list(self._columns)

    def __getitem__(self, name: str) -> Array:
        """Values of a column, all NaN where it was not measured."""
        found = self._columns.get(name)
        return found if found is not None else np.full(self.stamps.shape, np.nan)


def gather(
    rows: pl.LazyFrame, counters: Sequence[str], gauges: Sequence[str], step: float, points: int = MAX_POINTS
) -> Signals:
    """Rates of counters and values of gauges; several rows of a window (disks, ports) are summed.

    rows: a table filtered to one thing or one host, any order. step: seconds of a window. A fall, a repeated
    window or a pause longer than three windows is a gap, never a rate.
    """
    have = rows.collect_schema()
    keys = [name for name in have if name not in ("ts",) and have[name] == pl.String and _is_key(name)]
    counters = [name for name in counters if name in have]
    gauges = [name for name in gauges if name in have]
    seconds = pl.col("ts").diff().over(keys).dt.total_milliseconds() / 1000
    rates = (
        rows.unique([*keys, "ts"], keep="last")
        .sort(*keys, "ts")
        .with_columns(_dt=seconds)
        .select(
            "ts",
            *(
                pl.when(
                    (pl.col("_dt") > 0) & (pl.col("_dt") <= 3.5 * step) & (pl.col(c).diff().over(keys) >= 0)
                )
                .then(pl.col(c).diff().over(keys) / pl.col("_dt"))
                .alias(c)
                for c in counters
            ),
            *gauges,
        )
        .group_by("ts")
        .agg(pl.when(pl.all().count() > 0).then(pl.all().sum()))
        .sort("ts")
        .collect()
    )
    return _grid(rates, step, points)


def _is_key(name: str) -> bool:
    return name in ("host", "gpu", "device", "mount", "port", "job", "rank", "server", "collector")


def _grid(frame: pl.DataFrame, step: float, points: int) -> Signals:
    if frame.is_empty():
        return Signals(np.array([], dtype=np.float64), {})
    first, last = frame["ts"].min(), frame["ts"].max()
    span = (last - first).total_seconds()  # type: ignore[operator,union-attr]
    every = step * max(1, int(np.ceil(span / step / points)))
    milliseconds = max(1, round(every * 1000))
    bucket = (pl.col("ts").dt.epoch("ms") // milliseconds * milliseconds).alias("at")
    grouped = frame.group_by(bucket).agg(pl.all().exclude("ts").mean()).sort("at")
    at = grouped["at"]
    grid = pl.DataFrame({"at": pl.int_range(int(at[0]), int(at[-1]) + 1, milliseconds, eager=True)})
    whole = grid.join(grouped, on="at", how="left")
    columns = {
        name: whole[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for name in whole.columns
        if name != "at"
    }
    return Signals(whole["at"].cast(pl.Float64).to_numpy(), columns)


def aligned(base: Signals, other: Signals) -> Signals:
    """Other's columns on the base's grid."""
    if not other.stamps.size or not base.stamps.size:
        return Signals(base.stamps, {})
    where = np.searchsorted(other.stamps, base.stamps)
    inside = np.clip(where, 0, other.stamps.size - 1)
    match = other.stamps[inside] == base.stamps
    return Signals(base.stamps, {n: np.where(match, other[n][inside], np.nan) for n in other.names})
