"""Arrays (windows, things) to frames of the catalog's schema; counters go on from where they stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wellfed.analysis.scenarios.usage import Columns
from wellfed.analysis.schema import TS, schema
from wellfed.collectors.catalog import TABLES

__all__ = ["Counters", "Texts", "frame", "stamps"]

F = NDArray[np.float64]
Texts = Mapping[str, Sequence[str | None]]


def stamps(edges: F, epoch: float) -> NDArray[np.int64]:
    """Ends of the windows as milliseconds since 1970; edges in seconds after `epoch`."""
    return np.round((edges[1:] + epoch) * 1e3).astype(np.int64)


def frame(table: str, ts: NDArray[np.int64], texts: Texts, columns: Columns) -> pl.DataFrame:
    """One row per window and thing, window by window.

    ts: (windows,). texts: info and key columns of the things. columns: (windows, things), NaN where nothing
    was measured.
    """
    want = schema(TABLES[table])
    things = len(next(iter(texts.values())))
    rows = len(ts) * things
    index = pl.Series(np.tile(np.arange(things, dtype=np.uint32), len(ts)))
    series = []
    for name, dtype in want.items():
        if name == "ts":
            series.append(pl.Series(name, np.repeat(ts, things)).cast(TS))
        elif name in texts:
            series.append(pl.Series(name, texts[name], dtype=pl.String()).gather(index))
        elif name in columns:
            series.append(
                pl.Series(name, np.ascontiguousarray(columns[name]).ravel(), dtype=pl.Float64()).fill_nan(
                    None
                )
            )
        else:
            series.append(
                pl.Series(name, [None], dtype=dtype).extend_constant(None, rows - 1)
                if rows
                else pl.Series(name, [], dtype=dtype)
            )
    return pl.DataFrame(series)


class Counters:
    """Where every counter of a group of things stands.

    scale: counters begin at a random value up to this many windows' worth of what they count first, 0 for a
    fresh cgroup.
    """

    def __init__(self, table: str, things: int, rng: np.random.Generator, scale: float) -> None:
        self._names = {c.name for c in TABLES[table].columns if c.kind == "counter"}
        self._things, self._rng, self._scale = things, rng, scale
        self._at: dict[str, F] = {}

    def add(self, columns: Columns) -> Columns:
        """The columns with counters replaced by their running value; gauges pass as they are."""
        found: Columns = {}
        for name, values in columns.items():
            if name not in self._names:
                found[name] = values
                continue
            if name not in self._at:
                start = self._scale * self._rng.random(self._things)
                self._at[name] = np.floor(start * (float(values.mean()) if values.size else 0.0))
            running = self._at[name] + np.cumsum(values, axis=0)
            if len(running):
                self._at[name] = running[-1]
            found[name] = running
        return found
