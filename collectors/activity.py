"""What a moment of a GPU's activity counts as: idle, or spinning inside a collective.

One rule for every source that sees inside a GPU. Source: SIGNALS, table `gpu`. Cost: none. Privilege: none.
"""

from __future__ import annotations

__all__ = ["IDLE", "RESIDENT", "idles", "spins"]

#: Share of a moment with a kernel resident, below which it is idle.
IDLE = 0.05

#: Share of a moment with a kernel resident, from which on a GPU that does nothing else spins.
RESIDENT = 0.50


def idles(active: float) -> bool:
    """Whether so small a share of time with a kernel resident is none to speak of."""
    return active < IDLE


def spins(active: float, sm: float, tensor: float, dram: float) -> bool:
    """Whether a kernel is resident that keeps no SM, tensor pipe or memory busy: it waits for its peers."""
    return active >= RESIDENT and sm < 0.25 and tensor < 0.03 and dram < 0.10
