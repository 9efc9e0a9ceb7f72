"""The diagnosis window by window, as a hub sees it: constant state a GPU, every window judged once.

The same code as over history, so the sum over all windows is what `diagnose` says of them. A start replays
the last part of the store, to know what is normal and what is open. A host whose windows come late is judged
when they come, against itself: the windows of its peers are over by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl

from wellfed.analysis.cost import priced
from wellfed.analysis.findings import Ledger
from wellfed.analysis.judged import looked_at
from wellfed.analysis.live import Verdict
from wellfed.analysis.roots import own_causes, root_view
from wellfed.analysis.schema import TS
from wellfed.analysis.segment import READ, State, cut, joined, map_segment
from wellfed.analysis.store import Store
from wellfed.analysis.windows import STEP, on_grid, step_of
from wellfed.prices import Prices

__all__ = ["LOOK_BACK", "ROWS", "Stream", "Streaming"]

#: How much of the store a start replays: so long, and so many windows of GPUs, at most; at least SHORTEST.
#: What comes later than LOOK_BACK is stored and not judged.
LOOK_BACK = timedelta(hours=2)
SHORTEST = timedelta(minutes=3)
ROWS = 500_000
#: Windows up to this many are judged in one piece.
LONG = 60

_MARKS = pl.Schema({"host": pl.String(), "_mark": TS})
_SEEN = pl.Schema({"ts": TS, "host": pl.String()})
_MODELS = pl.Schema({"host": pl.String(), "gpu": pl.String(), "model": pl.String()})


class Stream:
    """What is remembered between windows. step: seconds of a window; price: of GPU time, or None."""

    def __init__(self, step: float = STEP, price: float | Prices | None = None) -> None:
        self.state = State(step)
        self.ledger = Ledger.empty(step)
        self._prices = Prices(price) if isinstance(price, float | int) else price
        self._models = pl.DataFrame(schema=_MODELS)
        self._own: dict[str, dict[str, float]] = {}

    def update(self, tables: Mapping[str, pl.LazyFrame], until: datetime) -> Verdict:
        """The next windows' rows of the catalog's tables, up to `until`; a missing table has no rows."""
        partial = map_segment(tables, self.state)
        if partial is None:
            partial = joined([], self.state.step)
        else:
            self.ledger.add(partial.pieces)
            if self._prices is not None:
                named = pl.concat([self._models, partial.windows.select(list(_MODELS))]).drop_nulls("model")
                self._models = named.unique(["host", "gpu"], keep="last", maintain_order=True)
        self.ledger.forget(until)
        findings = priced(self.ledger.findings(until), self._prices, self._models)
        self._own = own_causes(partial.shares, findings, self._own)
        rooted = root_view(partial.shares, findings, self._own)
        newest = partial.windows["ts"].max()
        assert newest is None or isinstance(newest, datetime)
        return Verdict(partial, rooted, self._looked_at(tables), findings, newest)

    def _looked_at(self, tables: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
        if not tables:
            return pl.DataFrame(schema=_SEEN)
        return looked_at(tables, self.state.step).sort("ts", "host").collect()


class Streaming:
    """Judges the windows of a store as they come. Source: a Store that this process appends to."""

    def __init__(self, store: Store, price: float | Prices | None = None) -> None:
        self._store = store
        self._price = price
        self._stream: Stream | None = None
        self._until = datetime.min.replace(tzinfo=UTC)
        self._marks = pl.DataFrame(schema=_MARKS)

    @property
    def state(self) -> State | None:
        """What is remembered, None before the first windows."""
        return self._stream.state if self._stream else None

    def update(self, until: datetime, since: datetime | None) -> Verdict | None:
        """See Judge. Raises OSError when the store cannot be read."""
        arrived = self._store.arrived()
        # What fails half way leaves nothing behind: the next update starts over from the store.
        stream, self._stream = self._stream, None
        if stream is None:
            return self._begin(until, since)
        step = timedelta(seconds=stream.state.step)
        end = _floor(until, step)
        begin = max(until - LOOK_BACK, min(self._until, arrived - step if arrived else self._until))
        tables = self._rows(begin, end, stream.state.step)
        verdict = self._judge(stream, tables, end, until, long=end - begin > LONG * step)
        self._stream = stream
        return verdict

    def _begin(self, until: datetime, since: datetime | None) -> Verdict | None:
        back = timedelta(seconds=STEP * ROWS / max(1, self._gpus(until)))
        start = until - min(LOOK_BACK, max(SHORTEST, back))
        if since is not None:
            start = min(start, max(since, until - LOOK_BACK))
        recent = {name: self._store.scan(name, start, until) for name in READ}
        step = step_of(recent)
        stream = Stream(step or STEP, self._price)
        self._marks = self._marks.clear()
        end = _floor(until, timedelta(seconds=stream.state.step))
        verdict = self._judge(stream, self._rows(start, end, stream.state.step), end, until, long=True)
        # Until two rows of a thing tell their distance, each update starts over with the little there is.
        self._stream = stream if step else None
        return verdict

    def _rows(self, begin: datetime, end: datetime, step: float) -> dict[str, pl.LazyFrame]:
        """Rows of the windows in (begin, end] that were not judged yet, by host."""
        half = timedelta(seconds=step / 2)
        grid = on_grid(step)
        late = begin < self._until
        found = {}
        for name in READ:
            rows = self._store.scan(name, begin - half, end + half)
            rows = rows.filter((grid <= end) & (grid > begin))
            if late:
                rows = rows.join(self._marks.lazy(), on="host", how="left").filter(
                    pl.col("_mark").is_null() | (grid > pl.col("_mark"))
                )
                rows = rows.drop("_mark")
            found[name] = rows.collect(engine="streaming").lazy()
        return found

    def _judge(
        self, stream: Stream, tables: dict[str, pl.LazyFrame], end: datetime, until: datetime, *, long: bool
    ) -> Verdict:
        step = stream.state.step
        seen = [rows.select("host", on_grid(step).cast(TS).alias("_mark")) for rows in tables.values()]
        marks = pl.concat([self._marks.lazy(), *seen]).group_by("host").agg(pl.col("_mark").max()).collect()
        parts = cut(tables, step) if long else iter([tables])
        verdicts = [stream.update(part, until) for part in parts] or [stream.update({}, until)]
        self._marks, self._until = marks, max(self._until, end)
        last = verdicts[-1]
        newest = marks["_mark"].max()
        assert newest is None or isinstance(newest, datetime)
        if len(verdicts) == 1:
            return replace(last, newest=newest)
        partial = joined([v.partial for v in verdicts], step)
        every = pl.concat([v.seen for v in verdicts])
        rooted = root_view(partial.shares, last.findings)
        return Verdict(partial, rooted, every, last.findings, newest)

    def _gpus(self, until: datetime) -> int:
        """GPUs that reported in the last minutes."""
        who = pl.struct("host", "gpu")
        recent = self._store.scan("gpu", until - SHORTEST, until).select(who.n_unique())
        return int(recent.collect(engine="streaming").item())


def _floor(moment: datetime, step: timedelta) -> datetime:
    """The end of the last whole window."""
    start = datetime.fromtimestamp(0, UTC)
    return start + (moment - start) // step * step
