"""The loop: reads every collector on time and cuts what is known into windows.

Threads are crew.py's, isolation and integration slot.py's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wellfed.collectors.catalog import TABLES
from wellfed.collectors.crew import PATIENCE, SHARED_INTERVAL, Crews, next_tick
from wellfed.collectors.registry import Collector, Roots, Row
from wellfed.collectors.slot import MAX_GAP_INTERVALS, Slot

__all__ = ["Sampler", "Window", "by_table"]

log = logging.getLogger("wellfed.sampler")

#: Seconds after its end at which a window is cut though somebody has not been read yet.
GRACE = PATIENCE + 0.1
#: Seconds that a single read waits for what is starting: GPUs without persistence mode take some each.
LONGEST_START = 15.0


@dataclass(frozen=True, slots=True)
class Window:
    """Everything known at the end of a window. ts: seconds since the epoch. rows: one per thing."""

    ts: float
    rows: Sequence[Row]


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
        self._turned = threading.Event()
        self._due = 0.0
        self._crews: Crews | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts reading, and cutting windows where somebody wants them."""
        self._crews = Crews(self.slots, self.roots, self._stop, self._turned.set)
        self._spawn(self._attend, self._crews, name="wellfed-windows")

    def stop(self, timeout: float = 2.0) -> None:
        """Ends the threads; one that hangs in the kernel is left behind (it is a daemon)."""
        self._stop.set()
        self._turned.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._crews is not None:
            self._crews.join(deadline - time.monotonic())
        for slot in self.slots:
            close = getattr(slot.collector, "close", None)
            if close is not None:
                close()

    def read_once(self) -> Window:
        """One read of every collector, each bounded by its deadline; for `wellfed agent --once`.

        What has to be started first (the worker that opens the GPUs) is waited for, and who depends on it is
        read after it.
        """
        first = [slot for slot in self.slots if hasattr(slot.collector, "starting")]
        self._read_all(first)
        until = time.monotonic() + LONGEST_START
        while waited := [slot for slot in first if slot.collector.starting and not slot.busy_since]:  # type: ignore[attr-defined]
            if time.monotonic() > until or self._stop.wait(0.1):
                break
            self._read_all(waited)
        self._read_all([slot for slot in self.slots if slot not in first])
        return self.snapshot(time.time())

    def _read_all(self, slots: Iterable[Slot]) -> None:
        now, monotonic = time.time(), time.monotonic()
        threads = []
        for slot in slots:
            thread = threading.Thread(target=slot.tick, args=(self.roots, now, monotonic), daemon=True)
            thread.start()
            threads.append((thread, slot.collector.deadline))
        for thread, deadline in threads:
            thread.join(max(0.0, monotonic + deadline * 1.05 - time.monotonic()))

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

    def _attend(self, crews: Crews) -> None:
        """Cuts windows when everybody has been read, which is when a crew has had its turn; looks after reads
        that hang when none has. Both on one thread, because it wakes up once a second for either.
        """
        # The first cut comes at the next whole second: with it the first full window is a rate already.
        self._due = next_tick(time.time(), min(1.0, self.window), 0.0)
        while not self._stop.is_set():
            left = self._due + (0.0 if self._settled(self._due) else GRACE) - time.time()
            self._turned.wait(min(max(left, 0.0), SHARED_INTERVAL + GRACE))
            self._turned.clear()
            crews.watch()
            now = time.time()
            if self._on_window is None:
                self._due = now + LONGEST_START
            elif now >= self._due and (self._settled(self._due) or now >= self._due + GRACE):
                self._cut(self._on_window, now)
            elif self._due > now + self.window + 1.0:
                self._due = next_tick(now, self.window, 0.0)

    def _settled(self, end: float) -> bool:
        """Whether nobody who is read in this moment can still tell something about the time until then."""
        late = time.monotonic() - PATIENCE
        return all(
            slot.read_at > end - slot.collector.interval or (slot.busy_since or late) < late
            for slot in self.slots
            if slot.collector.interval <= SHARED_INTERVAL
        )

    def _cut(self, on_window: Callable[[Window], None], now: float) -> None:
        end, self._due = self._due, next_tick(now, self.window, self._due)
        if self._stop.is_set():
            return
        try:
            on_window(self.snapshot(end))
        except Exception:
            log.exception("a window was not published")


def _merge(merged: dict[tuple[str, tuple[str, ...]], Row], row: Row) -> None:
    name = (row.table, row.key)
    known = merged.get(name)
    # Rows belong to who made them: two become a third, one is passed on as it is.
    merged[name] = row if known is None else Row(*name, known.values | row.values, known.info | row.info)


def by_table(rows: Iterable[Row]) -> Mapping[str, list[Row]]:
    """Rows of each table, tables in catalog order."""
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    for row in rows:
        tables[row.table].append(row)
    return {name: found for name, found in tables.items() if found}
