"""OTLP requests into the store: decoded, bounded, and on disk before they are acknowledged.

Any number of threads decode; one writes what came together as one append, so that a thousand senders cost a
few files a window, not a few thousand. A row with the key and `ts` of an earlier one replaces it, in whatever
order they come. Layouts of known senders are kept (wellfed.analysis.receiver_known).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from wellfed.analysis.receiver_known import Known
from wellfed.analysis.receiver_layout import Integrals, Layout, Part
from wellfed.analysis.schema import TS, schema
from wellfed.analysis.store import Store
from wellfed.collectors.catalog import HOST, TABLES

__all__ = ["Decoded", "Limits", "Receiver"]

#: Seconds between two commits, and from a request to the next commit, so that many share their files.
PAUSE = 1.0
GATHER = 0.25
#: Why points, or whole requests before they are decoded, are not taken.
REASONS = (
    *("busy", "delta", "future", "malformed", "no_host", "no_time", "not_written"),
    *("senders", "series", "size", "too_old", "unauthorized", "unknown"),
)
#: Requests that are written without waiting for more.
FULL = 64
#: Seconds after which a silent host is forgotten.
FORGET = 86_400.0
#: Seconds without a window after which a host is stale.
STALE = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What senders may cost.

    hosts: machines at a time. things: rows of one machine within an hour that differ in their key. layouts:
    bytes of the layouts that are kept. late, early: seconds before and after now.
    """

    hosts: int = 16_384
    things: int = 5_000
    layouts: int = 512 << 20
    late: float = 48 * 3600.0
    early: float = 600.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of one request. points: in the request. rejected: how many of them were not taken, by reason;
    `unknown` are points for which there is no column, which is no fault of the sender.
    """

    parts: Sequence[Part]
    points: int
    rejected: Mapping[str, int]
    hosts: Mapping[str, float] = field(default_factory=dict)


class Receiver:
    """Takes requests for a store until closed. points, rejected: counted since the start.

    decode() and commit() may be called from any thread.
    """

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self.points = 0
        self.rejected = dict.fromkeys(REASONS, 0)
        self._store = store
        self._limits = limits or Limits()
        self._known = Known(self._limits.layouts)
        self._integrals = Integrals()
        self._hosts: dict[str, float] = {}
        self._things: dict[str, tuple[int, npt.NDArray[np.int64]]] = {}
        self._lock = threading.Lock()
        self._waiting: list[tuple[Decoded, Future[Decoded]]] = []
        self._come = threading.Condition(self._lock)
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="wellfed-receiver", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Writes what is decoded and ends."""
        with self._come:
            self._closed = True
            self._come.notify_all()
        self._writer.join()

    def remember(self, hosts: Mapping[str, float]) -> None:
        """Hosts known from elsewhere, with the epoch of their last window."""
        with self._lock:
            for host, last in hosts.items():
                self._hosts[host] = max(last, self._hosts.get(host, 0.0))

    def hosts(self, now: float) -> dict[str, int]:
        """How many hosts sent a window in the last half minute, and how many only earlier, within a day."""
        with self._lock:
            ages = [now - last for last in self._hosts.values()]
        fresh = sum(age <= STALE for age in ages)
        return {"fresh": fresh, "stale": sum(age <= FORGET for age in ages) - fresh}

    def decode(self, data: bytes, now: float | None = None) -> Decoded:
        """The rows of a serialized ExportMetricsServiceRequest. Raises ValueError when it is none."""
        now = time.time() if now is None else now
        layout = self._known.find(data)
        refused = self._admit(layout, now)
        parts = layout.read(data, self._integrals)
        if parts is None:
            layout = self._known.learn(data)
            parts = layout.read(data, self._integrals) or []
        rejected = dict(layout.kind.rejected)
        taken = [
            part for whole in parts if (part := self._bounded(whole, refused, now, rejected)) is not None
        ]
        hosts = dict.fromkeys(layout.things.keys() - refused.keys(), _latest(taken))
        return Decoded(taken, layout.kind.points, rejected, hosts)

    def commit(self, decoded: Decoded) -> Future[Decoded]:
        """Done when the rows are on disk; raises OSError when they cannot be written."""
        future: Future[Decoded] = Future()
        with self._come:
            if self._closed:
                future.set_exception(OSError("the hub is stopping"))
                return future
            self._waiting.append((decoded, future))
            self._come.notify_all()
        return future

    def reject(self, reason: str, points: int = 1) -> None:
        """Counts points that were turned away before they were decoded."""
        with self._lock:
            self.rejected[reason] = self.rejected.get(reason, 0) + points

    def _admit(self, layout: Layout, now: float) -> dict[str, str]:
        """Hosts of the request whose rows are not taken, with the reason."""
        refused = {}
        hour = int(now // 3600)
        with self._lock:
            for host, things in layout.things.items():
                if host not in self._hosts and len(self._hosts) >= self._limits.hosts:
                    self._hosts = {h: t for h, t in self._hosts.items() if now - t <= FORGET}
                    self._things = {h: known for h, known in self._things.items() if h in self._hosts}
                    if len(self._hosts) >= self._limits.hosts:
                        refused[host] = "senders"
                        continue
                since, known = self._things.get(host, (hour, things))
                if since != hour or np.array_equal(known, things):
                    known = things
                else:
                    known = np.union1d(known, things)
                if len(known) > self._limits.things:
                    refused[host] = "series"
                    continue
                self._things[host] = (hour, known)
                self._hosts.setdefault(host, 0.0)
        return refused

    def _bounded(
        self, part: Part, refused: Mapping[str, str], now: float, rejected: dict[str, int]
    ) -> Part | None:
        """The part without rows that are refused, too old or of the future; None when nothing is left."""
        good = np.ones(len(part.ts), np.bool_)
        old = part.ts < (now - self._limits.late) * 1000
        future = part.ts > (now + self._limits.early) * 1000
        masks = {"too_old": old, "future": future}
        for host, reason in refused.items():
            masks[reason] = masks.get(reason, ~good) | (part.fixed[HOST] == host).fill_null(False).to_numpy()
        for reason, mask in masks.items():
            if mask.any():
                lost = int(part.points[mask & good].sum())
                rejected[reason] = rejected.get(reason, 0) + lost
                good &= ~mask
        if good.all():
            return part
        if not good.any():
            return None
        kept = part.fixed.filter(pl.Series(good))
        return Part(part.table, kept, part.values[good], part.ts[good], part.points[good])

    def _write(self) -> None:
        last = 0.0
        while True:
            with self._come:
                while not self._waiting and not self._closed:
                    self._come.wait()
                due = max(last + PAUSE, time.monotonic() + GATHER)
                while len(self._waiting) < FULL and not self._closed and (wait := due - time.monotonic()) > 0:
                    self._come.wait(wait)
                batch, self._waiting = self._waiting, []
                if not batch and self._closed:
                    return
            last = time.monotonic()
            self._append(batch)

    def _append(self, batch: Sequence[tuple[Decoded, Future[Decoded]]]) -> None:
        try:
            self._store.append(frames([part for decoded, _ in batch for part in decoded.parts]))
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        with self._lock:
            for decoded, _ in batch:
                self.points += decoded.points - sum(decoded.rejected.values())
                for reason, points in decoded.rejected.items():
                    self.rejected[reason] = self.rejected.get(reason, 0) + points
                for host, last in decoded.hosts.items():
                    self._hosts[host] = max(last, self._hosts.get(host, 0.0))
        for decoded, future in batch:
            future.set_result(decoded)


def frames(parts: Sequence[Part]) -> dict[str, pl.DataFrame]:
    """Parts as one frame a table, in the catalog's schema."""
    by_table: dict[str, list[Part]] = {}
    for part in parts:
        by_table.setdefault(part.table, []).append(part)
    out = {}
    for name, found in by_table.items():
        table = TABLES[name]
        fixed = pl.concat([part.fixed for part in found], rechunk=True)
        values = np.concatenate([part.values for part in found])
        numbers = [
            pl.Series(column.name, np.ascontiguousarray(values[:, at])).fill_nan(None)
            for at, column in enumerate(table.signals)
        ]
        ts = pl.Series("ts", np.concatenate([part.ts for part in found])).cast(TS)
        out[name] = fixed.with_columns(ts, *numbers).select(list(schema(table)))
    return out


def _latest(parts: Sequence[Part]) -> float:
    return max((float(part.ts.max()) / 1000 for part in parts), default=0.0)
