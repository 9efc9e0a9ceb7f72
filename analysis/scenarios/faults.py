"""Faults as changes of the mechanism's parameters, and the reruns without them that give the truth.

A rerun ("variant") is the same job with the same seed under a subset of its faults. All variants advance in
lockstep, step by step; a fault has at a step the strength it had in the factual run at that step, so that two
variants differ by nothing but the faults they contain. Variant 0 is the factual run, variant 1 has no fault,
then for two faults and more: each alone, and all but each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.plan import Fault

__all__ = ["NEUTRAL", "Parameters", "level", "shares", "variants"]

F = NDArray[np.float64]

#: Parameter -> value without any fault. Multipliers are 1, additions 0.
NEUTRAL: Mapping[str, float] = MappingProxyType(
    {
        "service": 1.0,  # server's time per read
        "capacity": 1.0,  # share of the server's throughput left to this job
        "speed": 1.0,  # share of the throughput that the server itself still reaches
        "metadata_service": 1.0,  # server's time per metadata operation
        "metadata_capacity": 1.0,
        "slots": 1.0,  # requests a client may have at the server
        "client": 1.0,  # share of the client's own throughput that is left
        "loss": 0.0,  # TCP segments lost on the storage network
        "files": 1.0,  # files per sample
        "sample": 1.0,  # bytes per sample
        "cold": 0.0,  # share of page-cache hits that miss now
        "cpu_cost": 1.0,  # CPU seconds per sample
        "tenant_cores": 0.0,  # runnable threads of others on the host
        "quota": 1.0,  # share of the CPU limit that is left
        "leak": 0.0,  # bytes of host memory lost a second
        "launch": 1.0,  # host seconds to issue a step's kernels
        "compute": 1.0,  # GPU work of a step
        "copy": 1.0,  # bytes copied to the GPU a step
        "pcie_gen": 0.0,  # generations lost
        "pcie_width": 1.0,  # share of the lanes left
        "pcie_replays": 0.0,
        "cooling": 1.0,  # thermal resistance
        "power": 1.0,  # power limit
        "brake": 0.0,  # share of the clock cut by an external brake
        "link": 1.0,  # throughput of the host's first port
        "link_rate": 1.0,  # its trained rate
        "link_errors": 0.0,  # bad packets a second on it
        "congestion": 0.0,  # share of the fabric's throughput others take
        "rails": 1.0,  # share of the ports the collective library uses
        "nvlink": 1.0,  # share of NVLink's throughput left
        "nvlink_down": 0.0,  # links of the GPU that are inactive
        "reduce": 1.0,  # bytes reduced a step
        "checkpoint": 1.0,  # bytes of a checkpoint
        "checkpoint_write": 1.0,  # share of the write throughput left
        "checkpoint_every": 1.0,  # interval between checkpoints
        "evaluation": 1.0,  # length of an evaluation
        "hang": 0.0,  # 1: the collective never completes
        "xid": 0.0,  # XID to report at onset
        "ecc": 0.0,  # uncorrectable errors a second
        "remap_failed": 0.0,
    }
)


def level(fault: Fault, now: float) -> float:
    """Strength 0..1 of a fault at a time."""
    if now < fault.start or now >= fault.end:
        return 0.0
    since = now - fault.start
    if fault.every > 0:
        since %= fault.every
        if since >= fault.length:
            return 0.0
    return 1.0 if fault.ramp <= 0 else min(1.0, since / fault.ramp)


def variants(faults: Sequence[Fault]) -> list[frozenset[int]]:
    """The faults that are on in each variant: factual, none, then each alone and all but each."""
    every = frozenset(range(len(faults)))
    found = [every, frozenset[int]()]
    if len(faults) > 1:
        found += [frozenset({i}) for i in every]
        found += [every - {i} for i in every]
    return found


def shares(durations: F, faults: int) -> F:
    """Seconds each fault adds to each step, shape (steps, faults), summing to what all add together.

    durations: (steps, variants). A fault's part is the mean of what it adds alone and what its removal saves
    (the Shapley value for two faults), scaled so that the parts add up.
    """
    excess = durations[:, 0] - durations[:, 1]
    if faults == 0:
        return np.zeros((len(durations), 0))
    if faults == 1:
        return excess[:, None]
    alone = durations[:, 2 : 2 + faults] - durations[:, 1:2]
    saved = durations[:, 0:1] - durations[:, 2 + faults : 2 + 2 * faults]
    part = np.maximum(0.0, alone + saved)
    total = part.sum(axis=1, keepdims=True)
    return np.where(total > 0, part / np.where(total > 0, total, 1.0), 1.0 / faults) * excess[:, None]


class Parameters:
    """Current value of every parameter for every variant and rank, shape (variants, hosts, gpus)."""

    def __init__(self, faults: Sequence[Fault], hosts: int, gpus: int) -> None:
        self.faults = tuple(faults)
        self._shape = (max(2, len(variants(faults))), hosts, gpus)
        self._on = [
            np.array([index in chosen for chosen in variants(faults)], dtype=bool)
            for index in range(len(faults))
        ]
        self._hit = [self._mask(fault, hosts * gpus).reshape(hosts, gpus) for fault in faults]
        self._levels: tuple[float, ...] = (-1.0,) * len(faults)
        self._values: dict[str, F] = {}
        self.update(-1.0)

    @staticmethod
    def _mask(fault: Fault, ranks: int) -> NDArray[np.bool_]:
        mask = np.zeros(ranks, dtype=bool)
        mask[list(fault.ranks) if fault.ranks else slice(None)] = True
        return mask

    def hit(self, index: int) -> NDArray[np.bool_]:
        """Ranks hit by a fault, flat."""
        return self._hit[index].ravel()

    def update(self, now: float) -> bool:
        """Sets every parameter for a time of the factual run; False when nothing changed."""
        levels = tuple(level(fault, now) for fault in self.faults)
        if levels == self._levels and self._values:
            return False
        self._levels = levels
        self._values = {name: np.full(self._shape, value) for name, value in NEUTRAL.items()}
        for fault, strength, on, hit in zip(self.faults, levels, self._on, self._hit, strict=True):
            if strength <= 0:
                continue
            where = on[:, None, None] & hit[None]
            for name, target in fault.effects.items():
                values, neutral = self._values[name], NEUTRAL[name]
                if neutral == 1.0:
                    changed = values * (1.0 + strength * (target - 1.0))
                else:
                    changed = values + strength * target
                self._values[name] = np.where(where, changed, values)
        return True

    def __getitem__(self, name: str) -> F:
        return self._values[name]

    def factual(self, name: str) -> F:
        """A parameter in the factual run, shape (hosts, gpus)."""
        return np.asarray(self._values[name][0])
