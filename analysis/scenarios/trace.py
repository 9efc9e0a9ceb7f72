"""The log of a training job as arrays: (events, ranks), (events, hosts), (batches, ranks)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.loader import Batch
from wellfed.analysis.scenarios.timeline import Timeline, ramps
from wellfed.analysis.scenarios.training import Log

__all__ = ["Trace", "forget"]

F = NDArray[np.float64]


class Trace:
    """A log cut into windows at `edges` (seconds)."""

    def __init__(self, log: Log, hosts: int, gpus: int, edges: F) -> None:
        self.log, self.hosts, self.gpus, self.edges = log, hosts, gpus, edges
        self.events = len(log.start)
        phases = np.stack(log.phases).reshape(self.events, -1, hosts * gpus)
        self.line = Timeline(np.array(log.start), phases, edges)
        self.phases: F = phases
        self.tag = np.array(log.tag)
        self.kernel: F = np.stack(log.kernel).reshape(self.events, -1)
        self._tick = np.array(log.tick)

    @property
    def window_seconds(self) -> F:
        """Length of each window, shape (windows, 1)."""
        return np.diff(self.edges)[:, None]

    def rank(self, name: str) -> F:
        """A slow value at every event, per rank."""
        values = np.stack([tick.values[name] for tick in self.log.ticks])
        whole = np.broadcast_to(values, (len(values), self.hosts, self.gpus))
        return np.asarray(whole.reshape(len(values), -1)[self._tick])

    def host(self, name: str) -> F:
        """A slow value at every event, per host (that of its first rank)."""
        return np.asarray(np.stack([tick.values[name][:, 0] for tick in self.log.ticks])[self._tick])

    def last(self, values: F) -> F:
        """Value at the end of each window of something known at every event."""
        at = np.searchsorted(self.line.start, self.edges[1:], side="right") - 1
        return np.asarray(values[np.clip(at, 0, self.events - 1)])

    def mean(self, values: F) -> F:
        """Mean over each window of something known at every event."""
        return self.line.span(values) / self.window_seconds

    def host_sum(self, values: list[F]) -> F:
        """Logged per-rank arrays (hosts, gpus) summed per host: (events, hosts)."""
        return np.asarray(np.stack(values).sum(axis=2))

    def batches(self, amount: Callable[[Batch], F], until: Callable[[Batch], F]) -> F:
        """Amounts of the batches spread from their start to `until`, summed per host: (windows, hosts)."""
        log = self.log.batches
        if not log:
            return np.zeros((len(self.edges) - 1, self.hosts))
        start = np.stack([batch.start for batch in log]).reshape(len(log), -1)
        end = np.stack([until(batch) for batch in log]).reshape(len(log), -1)
        size = np.stack([amount(batch) for batch in log]).reshape(len(log), -1)
        spread = ramps(start, end, size, self.edges)
        return np.asarray(spread.reshape(len(spread), self.hosts, self.gpus).sum(axis=2))

    def writes(self, amount: Callable[[F, F], F]) -> F:
        """Checkpoint writes, amount(seconds, bytes) spread over their duration: (windows, hosts)."""
        log = self.log.writes
        if not log:
            return np.zeros((len(self.edges) - 1, self.hosts))
        start = np.stack([np.full(self.hosts, begun) for begun, _, _ in log])
        end = start + np.stack([seconds for _, seconds, _ in log])
        return ramps(start, end, np.stack([amount(s, b) for _, s, b in log]), self.edges)


def forget(log: Log, until: float) -> None:
    """Drops from the log what lies wholly before `until`."""
    keep = max(0, int(np.searchsorted(np.array(log.start), until, side="right")) - 1)
    first = log.tick[keep]
    for values in (log.start, log.phases, log.kernel, log.lengths, log.tag, log.busy):
        del values[:keep]
    for values in (log.computing, log.reading, log.slow, log.ready):
        del values[:keep]
    log.tick[:] = [tick - first for tick in log.tick[keep:]]
    del log.ticks[:first]
    log.batches[:] = [batch for batch in log.batches if batch.ready.max() > until]
    log.writes[:] = [write for write in log.writes if write[0] + write[1].max() > until]
