"""A stretch of time through the diagnosis: `map_segment(tables, state) -> partial`, and `combine(partials)`.

The same code serves one window of a live hub and a month of files: all that later windows need is in `State`,
a fixed amount a GPU, disk, mount, port and job, and every value depends on earlier windows alone. So the
answer is the same wherever a range is cut. Segments of one job go in the order of time; different jobs can go
to different machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from wellfed.analysis.around import surrounded
from wellfed.analysis.episodes import EPISODES, VOTES, Debounce, Episodes, inside, pieces
from wellfed.analysis.features import Baselines, on_hosts
from wellfed.analysis.findings import Ledger
from wellfed.analysis.lost import draws, gpu_windows, levels, with_gaps, with_loss, with_reference, with_spin
from wellfed.analysis.ranks import with_ranks
from wellfed.analysis.running import Track
from wellfed.analysis.schema import TS, schema
from wellfed.analysis.split import SHARES, scored, shares
from wellfed.analysis.split import amounts as by_cause
from wellfed.analysis.windows import amounts, boots, carried, on_grid
from wellfed.collectors.catalog import TABLES

__all__ = ["READ", "WINDOWS", "Partial", "State", "combine", "cut", "joined", "map_segment", "map_segments"]

#: Tables that the diagnosis reads.
READ = tuple(name for name in TABLES if name not in ("array", "collector"))
#: Windows of a segment when a range is cut: an hour at ten seconds, fewer where that is more rows of `gpu`.
SEGMENT, ROWS = 360, 50_000
_NUMBERS = (
    "dt", "covered_seconds", "lost_seconds", "useful", "reference", "energy_joules", "observed_seconds",
    "sm_clock_hertz", "sm_clock_max_hertz", "act", "sm", "tensor", "dram", "idle", "spin",
)  # fmt: skip
#: A judged window of a GPU.
WINDOWS = pl.Schema(
    {
        "ts": TS, "host": pl.String(), "gpu": pl.String(), "index": pl.String(), "job": pl.String(),
        "model": pl.String(), **{name: pl.Float64() for name in _NUMBERS},
    }
)  # fmt: skip


@dataclass(slots=True)
class State:
    """What one segment leaves to the next; advanced in place. step: seconds of a window.

    stretch: multiplies all thresholds of the evidence (sensitivity tests).
    """

    step: float
    stretch: float = 1.0
    carry: dict[str, pl.LazyFrame] = field(default_factory=dict)
    seen: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema={"host": pl.String, "gpu": pl.String, "_first": TS})
    )
    draws: Track = field(default_factory=draws)
    levels: Track = field(default_factory=levels)
    baselines: Baselines = field(default_factory=Baselines)
    debounce: Debounce = field(init=False)

    def __post_init__(self) -> None:
        self.debounce = Debounce(self.step)


@dataclass(frozen=True, slots=True)
class Partial:
    """A segment's answer. windows: WINDOWS, a row a GPU and window. shares: lost seconds by cause, long.

    episodes: the windows inside of them. step: seconds of a window.
    """

    windows: pl.DataFrame
    shares: pl.DataFrame
    episodes: Episodes
    step: float

    @property
    def pieces(self) -> Sequence[Mapping[str, Any]]:
        """The episodes summed up, see `episodes.pieces`."""
        return pieces(self.episodes, self.step)

    def each(self, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Partial:
        """The same with every frame changed."""
        return _partial(map(change, _frames(self)), self.step)


def joined(partials: Sequence[Partial], step: float) -> Partial:
    """Consecutive segments as one."""
    none = tuple(pl.DataFrame(schema=kind) for kind in (WINDOWS, SHARES, EPISODES, VOTES))
    return _partial(map(pl.concat, zip(none, *map(_frames, partials), strict=True)), step)


def _frames(partial: Partial) -> tuple[pl.DataFrame, ...]:
    return partial.windows, partial.shares, partial.episodes.rows, partial.episodes.votes


def _partial(frames: Iterable[pl.DataFrame], step: float) -> Partial:
    windows, shares, episodes, votes = frames
    return Partial(windows, shares, Episodes(episodes, votes), step)


def cut(
    tables: Mapping[str, pl.LazyFrame], step: float, windows: int | None = None
) -> Iterator[dict[str, pl.LazyFrame]]:
    """The tables in stretches of so many whole windows, in the order of time; None: what fits in memory."""
    bounds = {
        name: rows.select(pl.col("ts").min().alias("a"), pl.col("ts").max().alias("b"), pl.len())
        .collect(engine="streaming")
        .row(0)
        for name, rows in tables.items()
        if name in READ
    }
    known = [row for row in bounds.values() if row[0] is not None]
    if not known:
        return
    grid = round(1000 * step)
    if windows is None:
        since, until, count = bounds["gpu"] if bounds["gpu"][2] else known[0]
        each = count * step / max(step, (until - since).total_seconds())
        windows = min(SEGMENT, max(1, int(ROWS / each)))
    span = grid * windows
    first = (round(min(row[0] for row in known).timestamp() * 1000) - grid) // span * span
    last = round(max(row[1] for row in known).timestamp() * 1000) + grid
    inside = on_grid(step).dt.epoch("ms")
    for begin in range(first, last, span):
        here = (inside > begin) & (inside <= begin + span)
        # The plain bound lets files and row groups be skipped; the other one is exact.
        near = pl.col("ts").is_between(_at(begin - grid), _at(begin + span + grid))
        yield {name: tables[name].filter(near).filter(here) for name in READ}


def _at(milliseconds: int) -> pl.Expr:
    return pl.lit(milliseconds).cast(TS)


def map_segment(tables: Mapping[str, pl.LazyFrame], state: State) -> Partial | None:
    """The answer of a stretch of whole windows, after those that the state has seen; None without a GPU.

    tables: of the catalog, by name, any may be missing. state: advanced to the segment's end.
    """
    given = {
        name: tables[name].collect(engine="streaming").lazy()
        if name in tables
        else pl.LazyFrame(schema=schema(TABLES[name]))
        for name in READ
    }
    started = boots(given["host"], state.step)
    found, carry = {}, {}
    for name in READ:
        before = state.carry.get(name)
        asked = (given[name], TABLES[name], state.step, started, before)
        # Together, so that rows are placed once for both.
        found[name], kept = pl.collect_all([amounts(*asked), carried(*asked)])
        carry[name] = kept.lazy()
    state.carry = carry
    gpu, found["step"], state.seen = with_ranks(found["gpu"], found["step"], state.seen)
    gpu = gpu.filter(pl.col("dt").is_not_null())
    around = on_hosts(found, state.baselines)
    if gpu.is_empty():
        return None
    held = with_gaps(gpu_windows(gpu), found["host"])
    base = with_loss(
        with_reference(with_spin(held, around["server"], state.draws), state.levels), around["server"]
    )
    rows = scored(surrounded(base, around, state.baselines), state.stretch)
    lost = by_cause(rows)
    episodes = inside(state.debounce.held(rows, lost), rows)
    return Partial(rows.select(list(WINDOWS)), shares(rows, lost), episodes, state.step)


def map_segments(tables: Mapping[str, pl.LazyFrame], state: State) -> list[Partial]:
    """The answers of a range, in stretches that fit in memory. state: advanced to its end."""
    partials = (map_segment(stretch, state) for stretch in cut(tables, state.step))
    return [partial for partial in partials if partial is not None]


def combine(
    partials: Sequence[Partial], step: float
) -> tuple[pl.DataFrame, pl.DataFrame, list[dict[str, Any]]]:
    """Windows, shares and findings of consecutive segments."""
    ledger = Ledger.empty(step)
    for partial in partials:
        ledger.add(partial.pieces)
    windows = pl.concat([p.windows for p in partials])
    last = windows["ts"].max()
    assert isinstance(last, datetime)
    return windows, pl.concat([p.shares for p in partials]), ledger.findings(last)
