"""Totals that are estimated now, corrected later, and never fall.

Source: whatever they are made of. Cost: some additions. Privilege: none.
"""

from __future__ import annotations

__all__ = ["Rising"]


class Rising:
    """Turns what is known of a total's growth, estimates and their corrections, into steps upwards.

    >>> rising = Rising()
    >>> rising.step(8.0), rising.step(-2.0), rising.step(5.0)
    (8.0, 0.0, 3.0)
    """

    __slots__ = ("_over",)

    def __init__(self) -> None:
        #: By how much the steps so far were too high.
        self._over = 0.0

    def step(self, amount: float) -> float:
        """What to add to the total; amount: that it grew by, negative for an estimate that was too high."""
        amount -= self._over
        self._over = max(0.0, -amount)
        return max(0.0, amount)
