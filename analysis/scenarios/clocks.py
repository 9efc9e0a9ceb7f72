"""Power, heat and clock of a GPU: what the work asks for, and what the limits leave.

Dynamic power grows with activity and with the clock to the power 2.4 (frequency times voltage squared).
Temperature follows power with one time constant. A thermal controller lowers the clock step by step above the
throttle temperature; a power cap holds the clock at which the power meets the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.plan import Node

__all__ = ["Clocks", "activity_power"]

F = NDArray[np.float64]

EXPONENT = 2.4
TIME_CONSTANT = 45.0


def activity_power(sm: F | float, tensor: F | float, dram: F | float) -> F:
    """Share of the dynamic power range that an activity draws at full clock."""
    return np.asarray(
        0.22 * np.sqrt(sm) + 0.25 * np.asarray(sm) + 0.55 * np.asarray(tensor) + 0.4 * np.asarray(dram)
    )


@dataclass(slots=True)
class Clocks:
    """State of all GPUs of a job in all variants, shape (variants, hosts, gpus)."""

    node: Node
    draw: float
    temperature: F
    thermal: F
    capped: F
    watts: F

    @classmethod
    def at_rest(cls, node: Node, shape: tuple[int, int, int], draw: float, bias: F) -> Clocks:
        """All GPUs warm, at full clock. bias: kelvin each GPU's place in the chassis adds."""
        warm = node.ambient + node.kelvin_per_watt * node.limit_watts * 0.9
        return cls(
            node,
            draw,
            np.full(shape, warm) + bias,
            np.ones(shape),
            np.ones(shape),
            np.full(shape, node.idle_watts),
        )

    def advance(self, elapsed: float, duty: F, cooling: F, power: F, brake: F, bias: F) -> F:
        """Moves temperature and clock by `elapsed` seconds; returns the clock as a share of its maximum.

        duty: share of the time in which kernels computed.
        """
        node = self.node
        span = (node.peak_watts - node.idle_watts) * max(self.draw, 1e-6)
        limit = node.limit_watts * power
        room = np.maximum(limit - node.idle_watts, 20.0) / span
        self.capped = np.minimum(1.0, room ** (1.0 / EXPONENT))
        clock = np.minimum(self.capped, self.thermal) * (1.0 - brake)
        self.watts = node.idle_watts + span * duty * clock**EXPONENT
        target = node.ambient + bias + node.kelvin_per_watt * cooling * self.watts
        self.temperature = self.temperature + (target - self.temperature) * (
            1.0 - np.exp(-elapsed / TIME_CONSTANT)
        )
        over = self.temperature - node.throttle_celsius
        self.thermal = np.clip(
            self.thermal - np.clip(0.006 * over, -0.015, 0.05) * (elapsed / 10.0), 0.3, 1.0
        )
        return np.asarray(np.minimum(self.capped, self.thermal) * (1.0 - brake))
