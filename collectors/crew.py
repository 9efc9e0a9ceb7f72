"""Threads that read collectors on time: one for all that are quick, another for each that was caught hanging.

Ticks are multiples of the interval on the wall clock: they never drift, and the last sample of a window is
the one at its end. Collectors of the same short interval take turns on one thread, because waking a thread
costs more than most reads (2.8 ms a second with a thread each, 1.7 ms with one). When a read does not return,
a new thread takes over the others and the late one keeps its own: nobody waits longer than PATIENCE, once,
and there is never more than one stuck call a collector.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from wellfed.collectors.registry import Roots
from wellfed.collectors.slot import Slot

__all__ = ["PATIENCE", "SHARED_INTERVAL", "Crews", "next_tick"]

#: Seconds after which a read has kept the others waiting for long enough.
PATIENCE = 0.5
#: Collectors read less often than this mostly ask other programs over the network: each has its own thread.
SHARED_INTERVAL = 1.0


def next_tick(now: float, interval: float, last: float) -> float:
    """The next multiple of interval after now, never `last` again (a wait may end a hair early)."""
    tick = (now // interval + 1) * interval
    return tick + interval if tick in (last, now) else tick


class _Crew:
    """Collectors that take turns on one thread."""

    def __init__(
        self, slots: Sequence[Slot], roots: Roots, stop: threading.Event, turned: Callable[[], None]
    ) -> None:
        self.slots = tuple(slots)
        self._roots = roots
        self._stop = stop
        self._turned = turned
        name = self.slots[0].collector.name if len(self.slots) == 1 else "collectors"
        self.thread = threading.Thread(target=self._run, name=f"wellfed-{name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        # The first read is at once, so that /metrics is never empty; a second one soon after gives
        # integrals their start.
        self._turn(time.time())
        interval, last = self.slots[0].collector.interval, 0.0
        while True:
            now = time.time()
            tick = next_tick(now, interval, last)
            if self._stop.wait(tick - now):
                return
            last = tick
            self._turn(tick)
            self._turned()

    def _turn(self, now: float) -> None:
        mine = self.slots
        for slot in mine:
            slot.tick(self._roots, now, time.monotonic())
            if self.slots is not mine or self._stop.is_set():
                # Another thread took over the others while this read hung.
                return

    def split(self, monotonic: float) -> Sequence[Slot]:
        """The slots that wait behind a read which does not return; they are no longer this crew's."""
        if len(self.slots) == 1:
            return ()
        for slot in self.slots:
            since = slot.busy_since
            if since is not None and monotonic - since > PATIENCE:
                rest = tuple(other for other in self.slots if other is not slot)
                self.slots = (slot,)
                return rest
        return ()


class Crews:
    """All threads of a sampler. Call `watch` about once a second. turned: called by a thread that has read
    all that it reads.
    """

    def __init__(
        self, slots: Sequence[Slot], roots: Roots, stop: threading.Event, turned: Callable[[], None]
    ) -> None:
        self._roots = roots
        self._stop = stop
        self._turned = turned
        intervals: dict[float, list[Slot]] = {}
        alone = []
        for slot in slots:
            if slot.collector.interval <= SHARED_INTERVAL:
                intervals.setdefault(slot.collector.interval, []).append(slot)
            else:
                alone.append([slot])
        self._crews = [_Crew(group, roots, stop, turned) for group in [*intervals.values(), *alone]]

    def watch(self) -> None:
        """Gives those who wait behind a hanging read a thread of their own."""
        now = time.monotonic()
        for crew in list(self._crews):
            rest = crew.split(now)
            if rest:
                self._crews.append(_Crew(rest, self._roots, self._stop, self._turned))

    def join(self, timeout: float) -> None:
        """Waits for the threads; one that hangs in the kernel is left behind (it is a daemon)."""
        deadline = time.monotonic() + timeout
        for crew in self._crews:
            crew.thread.join(max(0.0, deadline - time.monotonic()))
