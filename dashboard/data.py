"""What the pages show: a range of the store and its diagnosis, computed once a window and kept."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import polars as pl

from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.store import Store
from wellfed.collectors.catalog import TABLES
from wellfed.prices import Prices

__all__ = ["RANGES", "Answer", "Range", "Source", "StoreSource", "parse_range"]

#: Ranges offered in the head of every page.
RANGES = ("15m", "1h", "6h", "24h", "7d", "30d")
DEFAULT = "1h"
#: Answers kept at once.
_KEEP = 8


@dataclass(frozen=True, slots=True)
class Range:
    """A range of time. text: as the URL says it; relative ranges end now and stay relative."""

    text: str
    start: datetime
    end: datetime
    live: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A range with its tables and diagnosis. last: end of the newest window, None without data."""

    range: Range
    tables: Mapping[str, pl.LazyFrame]
    diagnosis: Diagnosis
    last: datetime | None
    now: datetime


class Source(Protocol):
    """Where pages get their answers."""

    price: Prices | None
    simulated: bool

    def answer(self, wanted: Range) -> Answer:
        """The answer for a range; may take long, so never on the event loop."""
        ...


def parse_range(start: str | None, end: str | None, now: datetime) -> Range:
    """The range of a URL: `from=6h`, or `from=` and `to=` as ISO 8601. Anything else is the default."""
    match = re.fullmatch(r"(\d{1,4})([mhd])", start or DEFAULT)
    if match and not end:
        unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
        return Range(match[0], now - timedelta(**{unit: int(match[1])}), now, live=True)
    try:
        begin, finish = (datetime.fromisoformat(text or "") for text in (start, end))
    except ValueError:
        return parse_range(None, None, now)
    begin, finish = (t if t.tzinfo else t.replace(tzinfo=UTC) for t in (begin, finish))
    if not begin < finish:
        return parse_range(None, None, now)
    return Range(f"{begin:%Y-%m-%d %H:%M} – {finish:%Y-%m-%d %H:%M}", begin, finish, live=False)


class StoreSource:
    """Answers from a store. An answer is computed once per window and range, by one thread at a time."""

    def __init__(self, store: Store, price: Prices | None = None, simulated: bool = False) -> None:
        self.price = price
        self.simulated = simulated
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, int], Answer] = {}

    def answer(self, wanted: Range) -> Answer:
        """The answer for a range."""
        key = (wanted.text, self._store.version if wanted.live else 0)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                kept = self._compute(wanted)
                self._kept[key] = kept
                while len(self._kept) > _KEEP:
                    del self._kept[next(iter(self._kept))]
            return kept

    def _compute(self, wanted: Range) -> Answer:
        tables = {
            name: self._store.scan(name, wanted.start, wanted.end).collect(engine="streaming").lazy()
            for name in TABLES
        }
        diagnosis = diagnose(tables, start=wanted.start, end=wanted.end, price=self.price)
        lasts = [frame.select(pl.col("ts").max()).collect().item() for frame in tables.values()]
        last = max((ts for ts in lasts if ts is not None), default=None)
        return Answer(wanted, tables, diagnosis, last, datetime.now(UTC))
