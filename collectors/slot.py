"""One collector with what it said last and how it fared: isolation, integration of levels, cost.

This is the only place that catches what a collector raises.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from wellfed.collectors.catalog import TABLES
from wellfed.collectors.registry import Collector, Roots, Row

__all__ = ["MAX_GAP_INTERVALS", "Slot"]

log = logging.getLogger("wellfed.sampler")

#: A gap longer than this many intervals was not observed: levels are not carried across it.
MAX_GAP_INTERVALS = 3

_OBSERVED = frozenset(t.name for t in TABLES.values() if any(c.name == "observed_seconds" for c in t.columns))


@dataclass(slots=True)
class Slot:
    """One collector with what it said last and how it fared.

    Only its own thread writes; readers see one finished read because `rows` is replaced as a whole.
    """

    collector: Collector
    rows: tuple[Row, ...] = ()
    read_at: float = 0.0
    busy_since: float | None = None
    duration: float = 0.0
    success: bool = False
    last_success: float | None = None
    errors: int = 0
    reason: str = ""
    reads: int = 0
    cpu_seconds: float = 0.0
    _previous: float | None = None
    _integrals: dict[tuple[str, tuple[str, ...], str], float] = field(default_factory=dict)

    def tick(self, roots: Roots, now: float, monotonic: float) -> None:
        """One read at wall clock `now`. Never raises: a failure clears the rows and is counted."""
        self.busy_since = monotonic
        begin = time.thread_time()
        try:
            rows = tuple(self.collector.read(roots, now))
        except Exception as error:
            self._fail(error)
        else:
            self.rows = self._integrate(rows, monotonic)
            self.reason = self.collector.reason
            # A reason beside measured rows is a part that is missing, not a failure.
            measured = any(row.values or row.levels for row in rows)
            self.success = not self.reason or measured or bool(getattr(self.collector, "delivers", False))
            if self.success:
                self.last_success = now
            holders = getattr(self.collector, "holders", None)
            if holders is not None:
                roots.board.hold(self.collector.name, holders())
        finally:
            self.read_at = now
            self.reads += 1
            self.cpu_seconds += time.thread_time() - begin
            self.duration = time.monotonic() - monotonic
            self.busy_since = None

    def _fail(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if reason != self.reason:
            log.warning("%s: %s", self.collector.name, reason)
        self.rows = ()
        self.success = False
        self.errors += 1
        self.reason = reason
        self._previous = None

    def _integrate(self, rows: tuple[Row, ...], monotonic: float) -> tuple[Row, ...]:
        elapsed = 0.0 if self._previous is None else monotonic - self._previous
        if elapsed > MAX_GAP_INTERVALS * self.collector.interval:
            elapsed = 0.0
        self._previous = monotonic
        alive = set()
        for row in rows:
            if not row.levels:
                continue
            parts = dict.fromkeys(["observed_seconds"], 1.0) if row.table in _OBSERVED else {}
            for column, level in {**parts, **row.levels}.items():
                key = (row.table, row.key, column)
                alive.add(key)
                self._integrals[key] = total = self._integrals.get(key, 0.0) + level * elapsed
                row.values[column] = total
        for gone in self._integrals.keys() - alive:
            del self._integrals[gone]
        return rows

    def status(self, monotonic: float) -> Row:
        """The collector's own row of the `collector` table."""
        busy = self.busy_since
        running = 0.0 if busy is None else monotonic - busy
        late = running > self.collector.deadline
        stuck = late or bool(getattr(self.collector, "stuck", False))
        reason = f"read has not returned for {running:.0f} s" if late else self.reason
        return Row(
            "collector",
            (self.collector.name,),
            {
                "success": float(self.success and not stuck),
                "duration_seconds": running if late else self.duration,
                "last_success_seconds": self.last_success,
                "stuck": float(stuck),
                "errors": float(self.errors),
            },
            {"reason": reason},
        )
