"""What the pages show: a range of the store and its diagnosis, computed once per range and revision.

A live page is never kept waiting for a new diagnosis: it gets the last one while the next is made on a thread
of its own, together with whatever the pages derived from the last.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

import polars as pl

from wellfed.analysis.condensed import condense
from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.judged import Kept, kept
from wellfed.analysis.store import Store
from wellfed.collectors.catalog import TABLES
from wellfed.dashboard.ranges import Range
from wellfed.dashboard.room import MOST, require
from wellfed.dashboard.topology import Topology
from wellfed.errors import UserError
from wellfed.prices import Prices

__all__ = ["Answer", "Source", "StoreSource"]

log = logging.getLogger("wellfed.dashboard")

#: Answers kept at once.
_KEEP = 8
#: GPU windows of all kept answers together, above which only the newest answer stays: about 2 GB.
_KEEP_ROWS = 4_000_000
#: Things derived from one answer that are kept.
_DERIVED = 64
#: Seconds for which an outdated answer is shown while the next one is made; beyond that one waits for it.
_LINGER = 120.0
#: At most one part in this many of a core goes into refreshing one range.
_SHARE = 3

_T = TypeVar("_T")
_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A range with its tables and diagnosis. last: end of the newest window, None without data.

    revision: of the store, as it was read; now: when; prices: of GPU time; refused: points that the hub did
    not take since it started, by reason, empty where nobody sends; topology: None where no file tells.
    """

    range: Range
    tables: Mapping[str, pl.LazyFrame]
    diagnosis: Diagnosis
    last: datetime | None
    now: datetime
    revision: int = 0
    prices: Prices | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    topology: Topology | None = None
    _derived: dict[tuple[object, ...], object] = field(default_factory=dict)
    _asked: dict[tuple[object, ...], Callable[[Answer], object]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def once(self, derive: Callable[Concatenate[Answer, _P], _T], *args: _P.args, **no: _P.kwargs) -> _T:
        """derive(answer, *args), computed once. args: hashable."""
        key = (derive, *args)
        with self._lock:
            if key not in self._derived:
                self._derived[key] = derive(self, *args, **no)
            self._asked[key] = lambda answer: answer.once(derive, *args, **no)
            found = cast("_T", self._derived[key])
            for kept in (self._derived, self._asked):
                while len(kept) > _DERIVED:
                    del kept[next(iter(kept))]
            return found

    def prepare(self, earlier: Answer) -> None:
        """Derives what pages asked of an earlier answer."""
        for ask in list(earlier._asked.values()):
            try:
                ask(self)
            except Exception as error:
                # A finding that was there may be gone.
                log.debug("not derived again: %r", error)
        self._asked.clear()


#: What tells one kept answer from another.
_Key = tuple[object, ...]


def _key(wanted: Range) -> _Key:
    return (wanted.text,) if wanted.live else (wanted.start, wanted.end)


class Source(Protocol):
    """Where pages get their answers."""

    @property
    def simulated(self) -> bool:
        """The data was made up, and every page says so."""
        ...

    def answer(self, wanted: Range) -> Answer:
        """The answer for a range; may take long, so never on the event loop.

        Raises UserError where it does not fit into memory.
        """
        ...


class StoreSource:
    """Answers from a store, computed once per range and revision, each by one thread at a time.

    version: grows when there is something new to show; by default the store's own, which grows with every
    append. refused, topology: as in Answer, now.
    """

    def __init__(
        self,
        store: Store,
        price: Prices | None = None,
        simulated: bool = False,
        version: Callable[[], int] | None = None,
        refused: Callable[[], Mapping[str, int]] = dict,
        topology: Callable[[], Topology | None] = lambda: None,
    ) -> None:
        self._refused, self._topology = refused, topology
        self.price = price
        self.simulated = simulated
        self._store = store
        self._version = version or (lambda: store.version)
        self._lock = threading.Lock()
        self._kept: dict[_Key, Answer] = {}
        self._making: dict[_Key, Future[Answer]] = {}
        self._pause: dict[_Key, float] = {}

    def answer(self, wanted: Range) -> Answer:
        """The answer for a range. Raises what reading the store raised, when there is none to show yet."""
        key = _key(wanted)
        with self._lock:
            kept = self._kept.get(key)
            fresh = kept is not None and (not wanted.live or kept.revision == self._version())
            if kept is not None and (fresh or self._rests(key)):
                return kept
            making = self._making.get(key)
            if making is None:
                making = self._making[key] = Future()
                work = threading.Thread(target=self._make, args=(wanted, kept, making), daemon=True)
                work.start()
        if kept is not None and (datetime.now(UTC) - kept.now).total_seconds() < _LINGER:
            return kept
        return making.result()

    def _rows(self) -> int:
        return sum(answer.diagnosis.windows.height for answer in self._kept.values())

    def _windows(self, wanted: Range) -> int:
        counts = [
            self._store.scan(table, wanted.start, wanted.end).select(pl.len()) for table in ("gpu", "step")
        ]
        return max(int(count.item()) for count in pl.collect_all(counts, engine="streaming"))

    def _rests(self, key: _Key) -> bool:
        return time.monotonic() < self._pause.get(key, 0.0)

    def _make(self, wanted: Range, earlier: Answer | None, made: Future[Answer]) -> None:
        try:
            answer = self._compute(wanted, earlier)
        except UserError as error:
            log.warning("%s", error)
            made.set_exception(error)
        except Exception as error:
            log.exception("the diagnosis of %s failed", wanted.text)
            made.set_exception(error)
        else:
            made.set_result(answer)
        finally:
            with self._lock:
                del self._making[_key(wanted)]

    def _compute(self, wanted: Range, earlier: Answer | None) -> Answer:
        began = time.monotonic()
        revision = self._version()
        scan, windows = self._store.scan, self._windows(wanted)
        condensed = condense(scan, wanted.start, wanted.end, MOST) if windows > MOST else None
        if condensed is None:
            require(windows, wanted.text, self._store.path)
        known = condensed or kept(scan, wanted.start, wanted.end)
        until = known.until or wanted.end if known else wanted.end
        rows = {name: scan(name, wanted.start, until) for name in TABLES}
        rows = condensed.thinned(rows) if condensed else rows
        tables = {name: frame.collect(engine="streaming").lazy() for name, frame in rows.items()}
        judged = known.partial if isinstance(known, Kept) else known
        diagnosis = diagnose(tables, start=wanted.start, end=wanted.end, price=self.price, judged=judged)
        lasts = [frame.select(pl.col("ts").max()).collect().item() for frame in tables.values()]
        last = max((ts for ts in lasts if ts is not None), default=None)
        now, told = datetime.now(UTC), (self._refused(), self._topology())
        made = Answer(wanted, tables, diagnosis, last, now, revision, self.price, *told)
        if earlier is not None:
            made.prepare(earlier)
        with self._lock:
            key = _key(wanted)
            self._kept.pop(key, None)
            self._kept[key] = made
            self._pause[key] = time.monotonic() + (_SHARE - 1) * (time.monotonic() - began)
            while len(self._kept) > 1 and (len(self._kept) > _KEEP or self._rows() > _KEEP_ROWS):
                oldest = next(iter(self._kept))
                del self._kept[oldest]
                self._pause.pop(oldest, None)
        return made
