"""Judges sealed hours whose verdicts a live hub missed or made too early: it was away, or senders came late.

An hour is judged as a whole, after the hours that teach what is normal. Its verdicts replace any there were.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from wellfed.analysis.history import WARM
from wellfed.analysis.judged import frames, kept, looked_at, seen_rows
from wellfed.analysis.segment import State, joined, map_segments
from wellfed.analysis.segments import hour_name, hour_start
from wellfed.analysis.store import Store
from wellfed.analysis.windows import native_step
from wellfed.collectors.catalog import TABLES

__all__ = ["Latecomers", "judge_hour"]

#: Hours that ended longer ago are diagnosed when they are asked for.
REACH = timedelta(hours=24)
_HOUR, _TICK = timedelta(hours=1), timedelta(milliseconds=1)


class Latecomers:
    """Looks after the sealed hours of a store that this process writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked: dict[str, int] = {}

    def judge(self, now: datetime) -> str | None:
        """Judges the newest sealed hour without its verdicts, if there is one; returns its name.

        Raises OSError when the disk fails.
        """
        sealed = {**self._store.sealed("step"), **self._store.sealed("gpu")}
        self._looked = {hour: stamp for hour, stamp in self._looked.items() if hour in sealed}
        for hour in sorted(sealed, reverse=True):
            if hour < hour_name(now - REACH) or self._looked.get(hour) == sealed[hour]:
                continue
            self._looked[hour] = sealed[hour]
            begin = hour_start(hour) - _TICK
            if kept(self._store.scan, begin, begin + _HOUR) is None:
                judge_hour(self._store, hour)
                return hour
        return None


def judge_hour(store: Store, hour: str) -> None:
    """Judges a sealed hour and keeps its verdicts in place of those there were. Raises OSError."""
    begin = hour_start(hour) - _TICK
    end = begin + _HOUR
    tables = {name: store.scan(name, begin - WARM * _HOUR, end) for name in TABLES}
    step = native_step(tables)
    partials = map_segments(tables, State(step))
    inside = (pl.col("ts") > begin) & (pl.col("ts") <= end)
    windows = looked_at(tables, step).filter(inside).sort("ts", "host").collect(engine="streaming")
    partial = joined(partials, step).each(lambda rows: rows.filter(inside))
    store.replace(hour, frames(partial, seen_rows(windows, partial)))
