"""The loop: reads every collector on time, integrates levels, and cuts the result into windows.

Each collector has its own thread, so a hung source delays nobody and has at most one stuck call. Ticks are
multiples of the interval on the wall clock: they never drift, and the last sample of a window is the one at
its end. This is the only place that catches what a collector raises.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wellfed.collectors.catalog import TABLES
from wellfed.collectors.registry import Collector, Roots, Row

__all__ = ["Sampler", "Slot", "Window", "next_tick"]

log = logging.getLogger("wellfed.sampler")

#: A gap longer than this many intervals was not observed: levels are not carried across it.
MAX_GAP_INTERVALS = 3
#: Seconds after the end of a window at which it is cut: late enough for the sample at its end.
GRACE = 0.25

_OBSERVED = frozenset(t.name for t in TABLES.values() if any(c.name == "observed_seconds" for c in t.columns))


@dataclass(frozen=True, slots=True)
class Window:
    """Everything known at the end of a window. ts: seconds since the epoch. rows: one per thing."""

    ts: float
    rows: Sequence[Row]


def next_tick(now: float, interval: float, last: float) -> float:
    """The next multiple of interval after now, never `last` again (a wait may end a hair early)."""
    tick = (now // interval + 1) * interval
    return tick + interval if tick in (last, now) else tick


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
    _previous: float | None = None
    _integrals: dict[tuple[str, tuple[str, ...], str], float] = field(default_factory=dict)

    def tick(self, roots: Roots, now: float, monotonic: float) -> None:
        """One read at wall clock `now`. Never raises: a failure clears the rows and is counted."""
        self.busy_since = monotonic
        try:
            rows = tuple(self.collector.read(roots, now))
        except Exception as error:
            self._fail(error)
        else:
            self.rows = self._integrate(rows, monotonic)
            self.reason = self.collector.reason
            # A reason beside measured rows is a part that is missing, not a failure.
            self.success = not self.reason or any(row.values or row.levels for row in rows)
            if self.success:
                self.last_success = now
            holders = getattr(self.collector, "holders", None)
            if holders is not None:
                roots.board.hold(self.collector.name, holders())
        finally:
            self.read_at = now
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


class Sampler:
    """Runs collectors and answers with windows.

    collectors: the sources. window: seconds of one window, aligned to the epoch. on_window: called with
    every finished window on the sampler's own thread; what it raises is logged, never passed on.
    """

    def __init__(
        self,
        collectors: Iterable[Collector],
        roots: Roots,
        window: float = 10.0,
        on_window: Callable[[Window], None] | None = None,
    ) -> None:
        self.slots = [Slot(c) for c in collectors]
        self.roots = roots
        self.window = window
        self._on_window = on_window
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts one thread a collector, and the one that cuts windows."""
        for slot in self.slots:
            self._spawn(self._run, slot, name=f"wellfed-{slot.collector.name}")
        if self._on_window is not None:
            self._spawn(self._cut, self._on_window, name="wellfed-windows")

    def stop(self, timeout: float = 2.0) -> None:
        """Ends the threads; one that hangs in the kernel is left behind (it is a daemon)."""
        self._stop.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for slot in self.slots:
            close = getattr(slot.collector, "close", None)
            if close is not None:
                close()

    def read_once(self) -> Window:
        """One read of every collector, each bounded by its deadline; for `wellfed agent --once`."""
        now, monotonic = time.time(), time.monotonic()
        threads = []
        for slot in self.slots:
            thread = threading.Thread(target=slot.tick, args=(self.roots, now, monotonic), daemon=True)
            thread.start()
            threads.append((thread, slot.collector.deadline))
        for thread, deadline in threads:
            thread.join(max(0.0, monotonic + deadline * 1.05 - time.monotonic()))
        return self.snapshot(now)

    def snapshot(self, now: float) -> Window:
        """What is known at `now`: rows of several collectors about one thing merged, stale ones left out."""
        merged: dict[tuple[str, tuple[str, ...]], Row] = {}
        for slot in self.slots:
            if now - slot.read_at > max(self.window, MAX_GAP_INTERVALS * slot.collector.interval):
                continue
            for row in slot.rows:
                _merge(merged, row)
        monotonic = time.monotonic()
        for slot in self.slots:
            _merge(merged, slot.status(monotonic))
        return Window(now, tuple(merged.values()))

    def _spawn(self, target: Callable[..., None], argument: object, name: str) -> None:
        thread = threading.Thread(target=target, args=(argument,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, slot: Slot) -> None:
        # The first read is at once, so that /metrics is never empty; a second one soon after gives
        # integrals their start.
        slot.tick(self.roots, time.time(), time.monotonic())
        last = 0.0
        while True:
            now = time.time()
            tick = next_tick(now, slot.collector.interval, last)
            if self._stop.wait(tick - now):
                return
            last = tick
            slot.tick(self.roots, tick, time.monotonic())

    def _cut(self, on_window: Callable[[Window], None]) -> None:
        # The first cut comes at the next whole second: with it the first full window is a rate already.
        length = min(1.0, self.window)
        last = 0.0
        while True:
            now = time.time()
            end = next_tick(now - GRACE, length, last)
            if self._stop.wait(end + GRACE - now):
                return
            last, length = end, self.window
            try:
                on_window(self.snapshot(end))
            except Exception:
                log.exception("a window was not published")


def _merge(merged: dict[tuple[str, tuple[str, ...]], Row], row: Row) -> None:
    known = merged.get((row.table, row.key))
    if known is None:
        merged[row.table, row.key] = Row(row.table, row.key, dict(row.values), dict(row.info))
    else:
        known.values.update(row.values)
        known.info.update(row.info)


def by_table(rows: Iterable[Row]) -> Mapping[str, list[Row]]:
    """Rows of each table, tables in catalog order."""
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    for row in rows:
        tables[row.table].append(row)
    return {name: found for name, found in tables.items() if found}
