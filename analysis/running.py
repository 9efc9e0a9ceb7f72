"""What is remembered of each thing from window to window: quantiles so far, fading means, maxima, events.

A `Track` holds one slot a key (say host, gpu, job) and a few operators on it. Rows go in in any order and
come back with one more column an operator; every value depends on this key's windows up to its own and on
nothing else, so that a range gives the same numbers in one piece or cut anywhere. Memory is constant a key: a
fixed histogram, a sum or a stamp. A key that comes back after RETAIN starts anew, and is forgotten by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["RETAIN", "Event", "Mean", "Operator", "Quantile", "Slots", "Store", "Top", "Track"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Milliseconds after which a key that was not seen is another thing of the same name.
RETAIN = 6 * 3_600_000


class Store:
    """Arrays by slot, zero at first."""

    def __init__(self, **arrays: NDArray[np.generic]) -> None:
        self.arrays: dict[str, NDArray[Any]] = arrays

    def grow(self, slots: int) -> None:
        """Makes room for this many slots."""
        self.arrays = {
            n: np.concatenate([a, np.zeros((slots - len(a), *a.shape[1:]), a.dtype)])
            for n, a in self.arrays.items()
        }

    def reset(self, slots: Ints) -> None:
        """Forgets these slots."""
        for array in self.arrays.values():
            array[slots] = 0

    def keep(self, slots: Ints) -> None:
        """Keeps only these slots, in this order."""
        self.arrays = {n: a[slots] for n, a in self.arrays.items()}


class Operator(Store):
    """A state machine a slot."""

    def advance(self, slots: Ints, values: Floats, stamp: float) -> Floats:
        """One window: values (n,) of distinct slots (n,), NaN where not measured; the answer for each."""
        raise NotImplementedError


class Quantile(Operator):
    """The q-quantile of all values so far, from a histogram of equal or (log) geometric bins.

    low, high: of the histogram; what is outside counts in the last bins. least: values before it answers.
    The answer is the middle of its bin, so its error is half a bin.
    """

    def __init__(
        self, q: float, low: float, high: float, bins: int = 100, log: bool = False, least: int = 1
    ) -> None:
        self.q, self.bins, self.log, self.least = q, bins, log, least
        self.low: float = np.log(low) if log else low
        self.high: float = np.log(high) if log else high
        super().__init__(
            counts=np.zeros((0, bins), np.uint32),
            total=np.zeros(0, np.int64),
            below=np.zeros(0, np.int64),
            at=np.zeros(0, np.int64),
        )

    def advance(self, slots: Ints, values: Floats, stamp: float) -> Floats:
        counts, total, below, at = (self.arrays[n] for n in ("counts", "total", "below", "at"))
        known = ~np.isnan(values)
        here, seen = slots[known], values[known]
        scaled = np.log(np.maximum(seen, np.exp(self.low))) if self.log else seen
        placed = (scaled - self.low) / (self.high - self.low) * self.bins
        bins = np.clip(placed, 0, self.bins - 1).astype(np.int64)
        first = total[here] == 0
        at[here[first]] = bins[first]
        counts[here, bins] += 1
        total[here] += 1
        below[here] += bins < at[here]
        self._settle(here, counts, total, below, at)
        middle = self.low + (at[slots] + 0.5) / self.bins * (self.high - self.low)
        return np.where(total[slots] >= self.least, np.exp(middle) if self.log else middle, np.nan)

    def _settle(self, here: Ints, counts: Ints, total: Ints, below: Ints, at: Ints) -> None:
        """Moves each pointer to the bin in which the target falls."""
        want = np.maximum(1, np.ceil(self.q * total[here] - 1e-9)).astype(np.int64)
        moving, target = here, want
        while len(moving):
            short = below[moving] + counts[moving, at[moving]] < target
            moving, target = moving[short], target[short]
            below[moving] += counts[moving, at[moving]]
            at[moving] += 1
        moving, target = here, want
        while len(moving):
            over = below[moving] >= target
            moving, target = moving[over], target[over]
            at[moving] -= 1
            below[moving] -= counts[moving, at[moving]]


class Mean(Operator):
    """A mean that fades: each window weighs `weight`, the first ones as much as they are few."""

    def __init__(self, weight: float, least: int = 1) -> None:
        self.weight, self.least = weight, least
        super().__init__(mean=np.zeros(0), count=np.zeros(0, np.int64))

    def advance(self, slots: Ints, values: Floats, stamp: float) -> Floats:
        mean, count = self.arrays["mean"], self.arrays["count"]
        known = ~np.isnan(values)
        here = slots[known]
        count[here] += 1
        weight = np.maximum(self.weight, 1.0 / count[here].astype(np.float64))
        mean[here] += weight * (values[known] - mean[here])
        return np.where(count[slots] >= self.least, mean[slots], np.nan)


class Top(Operator):
    """The largest value so far."""

    def __init__(self) -> None:
        super().__init__(top=np.zeros(0), count=np.zeros(0, np.int64))

    def advance(self, slots: Ints, values: Floats, stamp: float) -> Floats:
        top, count = self.arrays["top"], self.arrays["count"]
        known = ~np.isnan(values)
        here = slots[known]
        top[here] = np.where(count[here] > 0, np.maximum(top[here], values[known]), values[known])
        count[here] += 1
        return np.where(count[slots] > 0, top[slots], np.nan)


class Event(Operator):
    """The stamp, in milliseconds, of the last window with a value above zero."""

    def __init__(self) -> None:
        super().__init__(last=np.zeros(0))

    def advance(self, slots: Ints, values: Floats, stamp: float) -> Floats:
        last = self.arrays["last"]
        last[slots[values > 0]] = stamp
        return np.where(last[slots] > 0, last[slots], np.nan)


class Slots:
    """Gives each key a slot in the stores, and walks through a segment window by window.

    retain: milliseconds after which a key that was not seen is another thing of the same name.
    """

    def __init__(self, keys: Sequence[str], stores: Sequence[Store], retain: int = RETAIN) -> None:
        self.keys, self.stores, self.retain = list(keys), list(stores), retain
        self._known: pl.DataFrame | None = None
        self._seen: Ints = np.zeros(0, np.int64)

    def walk(self, rows: pl.DataFrame) -> tuple[Ints, list[tuple[float, Ints, Ints]]]:
        """The slot of each row; and by window: its stamp, its rows, the slots that start anew in it.

        rows: at most one a key and `ts`, any order, not empty. The caller resets what starts anew.
        """
        slots = self._slots(rows)
        stamps = rows["ts"].dt.epoch("ms").to_numpy()
        order = np.argsort(stamps, kind="stable")
        found = []
        for window in np.split(order, np.flatnonzero(np.diff(stamps[order])) + 1):
            here, now = slots[window], int(stamps[window[0]])
            before = self._seen[here]
            found.append((float(now), window, here[(before >= 0) & (now - before > self.retain)]))
            self._seen[here] = now
        return slots, found

    def _slots(self, rows: pl.DataFrame) -> Ints:
        mine = rows.select(self.keys)
        here = mine.unique(maintain_order=True)
        known = here.clear() if self._known is None else self._known
        fresh = here.join(known, on=self.keys, how="anti", nulls_equal=True)
        self._known = pl.concat([known, fresh])
        count = self._known.height
        if count > len(self._seen):
            self._seen = np.concatenate([self._seen, np.full(count - len(self._seen), -1)])
            for store in self.stores:
                store.grow(count)
        numbered = self._known.with_row_index("_slot")
        found = mine.join(numbered, on=self.keys, how="left", nulls_equal=True, maintain_order="left")
        return found["_slot"].to_numpy().astype(np.int64)

    def forget(self) -> None:
        """Drops what has not been seen for long, once that is worth a copy."""
        if self._known is None or not len(self._seen):
            return
        alive = np.flatnonzero(self._seen.max() - self._seen <= self.retain)
        if len(alive) > 0.75 * len(self._seen):
            return
        self._known, self._seen = self._known[alive], self._seen[alive]
        for store in self.stores:
            store.keep(alive)


class Track:
    """Operators on the things that `keys` tell apart.

    inputs: answer -> (column or earlier answer that it reads, operator), in order.
    """

    def __init__(self, keys: Sequence[str], inputs: Mapping[str, tuple[str, Operator]]) -> None:
        self.inputs = dict(inputs)
        self.slots = Slots(keys, [operator for _, operator in self.inputs.values()])
        self._learned: set[str] = set()

    def run(self, rows: pl.DataFrame) -> pl.DataFrame:
        """rows with a column an answer. At most one row a key and `ts`; any order."""
        if rows.is_empty():
            return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in self.inputs)
        slots, windows = self.slots.walk(rows)
        values: dict[str, Floats] = {}
        for name, (source, operator) in self.inputs.items():
            given = values[source] if source in values else rows[source].cast(pl.Float64).to_numpy()
            out = np.full(len(slots), np.nan)
            if name not in self._learned and np.isnan(given).all():
                values[name] = out
                continue
            self._learned.add(name)
            for now, window, anew in windows:
                if len(anew):
                    operator.reset(anew)
                out[window] = operator.advance(slots[window], given[window], now)
            values[name] = out
        self.slots.forget()
        return rows.with_columns(pl.Series(name, out, nan_to_null=True) for name, out in values.items())
