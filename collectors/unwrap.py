"""32-bit counters of the kernel made to grow past their width.

Used where the source's word is known to be short: /proc/diskstats prints milliseconds as unsigned int, and
mlx5's queue counters are 32-bit registers.
"""

from __future__ import annotations

__all__ = ["Unwrap"]

_RANGE = 1 << 32


class Unwrap:
    """One counter. A fall by more than half the range is a wrap; by less, a reset, and is passed on.

    A source that ever shows more than 32 bits is wider than it looked: it is never unwrapped again.
    """

    __slots__ = ("_last", "_turns", "_wide")

    def __init__(self) -> None:
        self._last = 0
        self._turns = 0
        self._wide = False

    def __call__(self, raw: int) -> int:
        """The counter without its wraps since the first call."""
        self._wide = self._wide or raw >= _RANGE
        if self._wide or (raw < self._last and self._last - raw <= _RANGE // 2):
            self._turns = 0
        elif raw < self._last:
            self._turns += 1
        self._last = raw
        return raw + self._turns * _RANGE
