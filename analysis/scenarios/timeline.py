"""Exact integrals of what happened inside steps over windows that cut the steps anywhere.

A step of a synchronous job is one event for all ranks: it starts and ends for all at the same time and is, on
each rank, a sequence of phases. An amount is spread evenly over the phases it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Phase", "Timeline", "ramps"]

F = NDArray[np.float64]


class Phase(IntEnum):
    """What a rank does, in the order in which a step goes through them."""

    FETCH = 0
    COPY = 1
    COMPUTE = 2
    SAVE_COPY = 3
    SAVE_WRITE = 4
    EVALUATE = 5
    START = 6
    DEAD = 7
    WAIT = 8
    REDUCE = 9


class Timeline:
    """Consecutive events that cover the windows.

    start: (events,) seconds. phases: (events, phases, ranks) seconds; the sum over phases is the event's
    length on every rank. edges: (windows + 1,) seconds, inside the events.
    """

    def __init__(self, start: F, phases: F, edges: F) -> None:
        self.start, self.phases, self.edges = start, phases, edges
        self.length: F = phases[:, :, 0].sum(axis=1)
        self._at = np.clip(np.searchsorted(start, edges, side="right") - 1, 0, len(start) - 1)
        began = np.cumsum(phases, axis=1) - phases
        since = (edges - start[self._at])[:, None, None]
        self._done: F = np.clip(since - began[self._at], 0.0, phases[self._at])
        self._since: F = np.minimum(edges - start[self._at], self.length[self._at])[:, None]

    def phase(self, names: Sequence[Phase], factor: F | None = None) -> F:
        """Seconds in the phases x factor (events, ranks), per window and rank."""
        chosen = [int(name) for name in names]
        seconds = self.phases[:, chosen].sum(axis=1)
        done = self._done[:, chosen].sum(axis=1)
        if factor is not None:
            seconds = seconds * factor
            done = done * factor[self._at]
        return self._windows(seconds, done)

    def span(self, factor: F) -> F:
        """Whole length of the events x factor (events, n), per window: shape (windows, n)."""
        return self._windows(self.length[:, None] * factor, self._since * factor[self._at])

    def ended(self, counts: F) -> F:
        """Sum of `counts` (events, n) over the events that end in each window."""
        before = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
        complete = self._at + (self._since[:, 0] >= self.length[self._at])
        return np.asarray(np.diff(before[complete], axis=0))

    def _windows(self, whole: F, part: F) -> F:
        before = np.cumsum(whole, axis=0) - whole
        return np.asarray(np.maximum(0.0, np.diff(before[self._at] + part, axis=0)))


def ramps(start: F, end: F, amount: F, edges: F) -> F:
    """Amounts (events, n), each spread evenly from start to end (events, n), summed per window.

    Only what falls between the first and the last edge is counted. Returns (windows, n).
    """
    columns = amount.shape[1]
    width = np.maximum(end - start, 1e-6)
    rate = amount / width
    low, high = np.clip(start, edges[0], edges[-1]), np.clip(start + width, edges[0], edges[-1])
    column = np.broadcast_to(np.arange(columns), amount.shape)
    windows = len(edges)
    total = np.zeros(windows * columns)
    slope = np.zeros(windows * columns)
    origin = float(edges[0])
    for at, sign in ((low, 1.0), (high, -1.0)):
        first = np.searchsorted(edges, at.ravel(), side="left").reshape(at.shape)
        index = (first * columns + column).ravel()
        signed = (sign * rate).ravel()
        slope += np.bincount(index, weights=signed, minlength=windows * columns)[: windows * columns]
        weighted = signed * (at.ravel() - origin)
        total += np.bincount(index, weights=weighted, minlength=windows * columns)[: windows * columns]
    slopes = np.cumsum(slope.reshape(windows, columns), axis=0)
    totals = np.cumsum(total.reshape(windows, columns), axis=0)
    reached = slopes * (edges - origin)[:, None] - totals
    return np.asarray(np.maximum(0.0, np.diff(reached, axis=0)))
