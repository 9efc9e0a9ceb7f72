"""A long range of kept verdicts in longer steps: what a page shows of a day has a few hundred points.

Stretch by stretch, so that no more than one is in memory at full detail. Sums stay what they are, findings
and energy come from the full detail; only what is drawn over time is coarser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from wellfed.analysis.cost import SUMMED, USAGE, fed, usage
from wellfed.analysis.findings import Ledger
from wellfed.analysis.judged import Scan, kept, looked_at
from wellfed.analysis.schema import TS
from wellfed.analysis.segment import WINDOWS
from wellfed.analysis.split import SHARES
from wellfed.analysis.windows import on_grid

__all__ = ["Condensed", "condense", "step_for"]

#: Seconds of a step.
_STEPS = (30, 60, 120, 300, 600, 900, 1800, 3600)
#: Windows of GPUs that are in memory at once, at full detail.
_STRETCH = 400_000
_WHO = ("host", "gpu", "index", "job", "model")
_ADDED = ("dt", "covered_seconds", "lost_seconds", "energy_joules", "observed_seconds")


@dataclass(frozen=True, slots=True)
class Condensed:
    """windows: WINDOWS, shares: SHARES, both a row a step of `step` seconds. findings: as in the document.

    usage: USAGE. until: as in judged.Kept. fine: seconds of a window as it was judged.
    """

    windows: pl.DataFrame
    shares: pl.DataFrame
    findings: list[dict[str, Any]]
    usage: pl.DataFrame
    step: float
    until: datetime | None
    fine: float

    def thinned(self, tables: Mapping[str, pl.LazyFrame]) -> dict[str, pl.LazyFrame]:
        """Of each step its last window's rows: counters lose nothing by that."""
        at = on_grid(self.fine).dt.epoch("ms") % round(1000 * self.step)
        return {name: rows.filter(at == 0) for name, rows in tables.items()}


def step_for(windows: int, step: float, most: int) -> float:
    """Seconds of a step in which so many windows of `step` seconds become at most `most`; an hour at most."""
    wanted = windows * step / most
    return float(next((each for each in _STEPS if each >= wanted and each % step == 0), _STEPS[-1]))


def condense(scan: Scan, start: datetime, end: datetime, most: int) -> Condensed | None:
    """The verdicts of (start, end] in at most `most` rows, None where they do not cover its GPUs."""
    told = scan("verdict_seen", start, end)
    steps, count = (
        told.select("step").unique().collect().to_series(),
        int(scan("verdict", start, end).select(pl.len()).collect(engine="streaming").item()),
    )
    if steps.len() != 1 or not count:
        return None
    fine = float(steps[0])
    step = step_for(count, fine, most)
    if step % fine:
        return None
    watts = fed(scan("verdict", start, end)).collect(engine="streaming").lazy()
    ledger = Ledger.empty(fine)
    windows, shares, used = [pl.DataFrame(schema=WINDOWS)], [pl.DataFrame(schema=SHARES)], [USAGE.to_frame()]
    last, until = start, None
    for since, to in _stretches(start, end, step, count):
        known = kept(scan, since, to)
        if known is None:
            rows = {name: scan(name, since, to) for name in ("gpu", "step")}
            if looked_at(rows, fine).collect(engine="streaming").height:
                return None
            continue
        partial, until = known.partial, known.until
        ledger.add(partial.pieces)
        windows.append(_windows(partial.windows, step))
        shares.append(_shares(partial.shares, step))
        used.append(usage(partial.windows.lazy(), watts).collect())
        newest = partial.windows["ts"].max()
        assert isinstance(newest, datetime)
        last = newest
    return Condensed(
        pl.concat(windows).sort("ts", "host", "gpu"),
        pl.concat(shares).sort("ts", "host", "gpu"),
        ledger.findings(last),
        _used(pl.concat(used)),
        step,
        until,
        fine,
    )


def _stretches(
    start: datetime, end: datetime, step: float, count: int
) -> Iterator[tuple[datetime, datetime]]:
    """(start, end] in parts that end on whole steps."""
    seconds = (end - start).total_seconds() * min(1.0, _STRETCH / count)
    length = timedelta(seconds=max(step, seconds // step * step))
    begin = start
    while begin < end:
        whole = (begin + length).timestamp() // step * step
        until = min(end, datetime.fromtimestamp(whole, start.tzinfo))
        yield begin, until
        begin = until


def _at(step: float) -> pl.Expr:
    """The end of the step that a window lies in."""
    grid = round(1000 * step)
    return (-(-pl.col("ts").dt.epoch("ms") // grid) * grid).cast(TS).alias("ts")


def _sum(column: str) -> pl.Expr:
    return pl.when(pl.col(column).count() > 0).then(pl.col(column).sum()).alias(column)


def _mean(column: str, weight: str) -> pl.Expr:
    """By time; null where it is null throughout."""
    known = pl.col(column).is_not_null()
    weights = pl.col(weight).fill_null(0.0).filter(known)
    by_time = (pl.col(column).filter(known) * weights).sum() / weights.sum()
    return pl.when(weights.sum() > 0).then(by_time).otherwise(pl.col(column).mean()).alias(column)


def _windows(rows: pl.DataFrame, step: float) -> pl.DataFrame:
    added = [_sum(column) for column in _ADDED]
    named = [column for column in WINDOWS if column not in ("ts", *_WHO, *_ADDED)]
    means = [
        _mean(column, "covered_seconds" if column in ("useful", "reference") else "dt") for column in named
    ]
    return rows.group_by(_at(step), *_WHO).agg(*added, *means).select(list(WINDOWS))


def _shares(rows: pl.DataFrame, step: float) -> pl.DataFrame:
    who = ("host", "gpu", "job", "cause")
    return rows.group_by(_at(step), *who).agg(pl.col("lost_seconds").sum()).select(list(SHARES))


def _used(parts: pl.DataFrame) -> pl.DataFrame:
    who = ["host", "gpu", "job"]
    sums = [_sum(column) for column in SUMMED]
    return parts.group_by(who).agg(pl.col("model").drop_nulls().last(), *sums).select(USAGE.names()).sort(who)
