"""A notebook, or a process somebody forgot: it holds GPUs, and computes now and then or never.

Executions come at random and last a moment. All time without one is lost to the session's own cause.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.plan import JobPlan, Node, Session
from wellfed.analysis.scenarios.timeline import ramps
from wellfed.analysis.scenarios.usage import Columns, Loss, Usage

__all__ = ["SessionActivity", "resting_gpu"]

F = NDArray[np.float64]

#: Columns that are zero while nothing runs.
_ZERO = (
    "active_seconds", "sm_active_seconds", "sm_occupancy_seconds", "tensor_active_seconds",
    "dram_active_seconds", "spin_seconds", "throttle_thermal_seconds", "throttle_power_seconds",
    "throttle_brake_seconds", "pcie_rx_bytes", "pcie_tx_bytes", "nvlink_rx_bytes", "nvlink_tx_bytes",
    "pcie_replays", "ecc_uncorrected", "xid_errors", "remap_failed", "nvlink_down", "processes",
)  # fmt: skip


def resting_gpu(node: Node, seconds: F, ranks: int) -> Columns:
    """Columns of GPUs on which nothing runs; seconds: length of the windows (windows, 1)."""
    ones = np.ones((len(seconds), ranks))
    zero = 0.0 * ones
    columns: Columns = dict.fromkeys(_ZERO, zero)
    return columns | {
        "idle_seconds": seconds * ones,
        "memory_used_bytes": 0.6e9 * ones,
        "power_watts": node.idle_watts * ones,
        "power_limit_watts": node.limit_watts * ones,
        "temperature_celsius": (node.ambient + 3.0) * ones,
        "energy_joules": node.idle_watts * seconds * ones,
        "sm_clock_hertz": 0.345e9 * ones,
        "xid_last": np.nan * ones,
        "pcie_gen": ones,
        "pcie_width": node.pcie_width * ones,
    }


class SessionActivity:
    """One session on one host."""

    def __init__(self, plan: JobPlan, work: Session, node: Node, seed: int) -> None:
        self.plan, self.work, self.node = plan, work, node
        self._rng = np.random.default_rng([seed, 11])
        self._begun: list[float] = []
        self._lasts: list[float] = []
        self._next = plan.start + self._wait()

    def _wait(self) -> float:
        return float(self._rng.exponential(self.work.bursts)) if self.work.bursts > 0 else float("inf")

    def _executions(self, edges: F) -> F:
        """Seconds in which something executed, per window."""
        while self._next < edges[-1]:
            lasts = float(self._rng.gamma(2.0, self.work.burst / 2.0))
            self._begun.append(self._next)
            self._lasts.append(lasts)
            self._next += lasts + self._wait()
        begun: F = np.array(self._begun, dtype=np.float64)[:, None]
        lasted: F = np.array(self._lasts, dtype=np.float64)[:, None]
        ran = ramps(begun, begun + lasted, lasted, edges)[:, 0] if len(begun) else np.zeros(len(edges) - 1)
        keep = [i for i, start in enumerate(self._begun) if start + self._lasts[i] > edges[-1]]
        self._begun = [self._begun[i] for i in keep]
        self._lasts = [self._lasts[i] for i in keep]
        return np.asarray(np.minimum(ran, np.diff(edges)))

    def advance(self, edges: F) -> Usage:
        """The session's windows: the first GPU computes, the others are only held."""
        work, node, ranks = self.work, self.node, self.plan.gpus_each
        seconds = np.diff(edges)[:, None]
        first = np.zeros((1, ranks))
        first[0, 0] = 1.0
        ran = self._executions(edges)[:, None] * first
        ones = np.ones((len(seconds), ranks))
        gpu = resting_gpu(node, seconds, ranks)
        holds = float(work.memory > 0)
        power = node.idle_watts + 0.06 * node.peak_watts * holds + 0.52 * node.peak_watts * ran / seconds
        gpu |= {
            "allocated": ones,
            "processes": work.processes * ones * holds,
            "active_seconds": 0.95 * ran,
            "sm_active_seconds": work.sm * ran,
            "sm_occupancy_seconds": 0.3 * ran,
            "tensor_active_seconds": 0.15 * ran,
            "dram_active_seconds": 0.3 * ran,
            "idle_seconds": np.maximum(0.0, seconds - 1.02 * ran),
            "pcie_rx_bytes": 2e8 * ran,
            "pcie_tx_bytes": 5e7 * ran,
            "memory_used_bytes": np.maximum(0.6e9, work.memory) * ones,
            "power_watts": power,
            "energy_joules": power * seconds,
            "temperature_celsius": np.round(node.ambient + node.kelvin_per_watt * power),
            "sm_clock_hertz": np.where(ran > 0, node.clock, 1.2e9 if holds else 0.345e9),
            "pcie_gen": np.where(ran > 0, node.pcie_gen, 1.0),
        }
        thread = ran.sum(axis=1, keepdims=True)
        hosts = np.ones((len(seconds), 1))
        job: Columns = {
            "cpu_usage_seconds": 0.9 * thread + 0.004 * seconds * holds,
            "main_thread_seconds": 0.8 * thread,
            "psi_cpu_some_seconds": 0.001 * seconds,
            "psi_io_some_seconds": 0.0 * seconds,
            "psi_memory_full_seconds": 0.0 * seconds,
            "cpu_throttled_seconds": 0.0 * seconds,
            "io_read_bytes": 1e5 * thread,
            "io_write_bytes": 2e4 * thread,
            "memory_bytes": 6e9 * hosts,
            "memory_limit_bytes": 2e11 * hosts,
            "processes": (work.processes + 1.0) * hosts,
            "cpu_limit": (self.plan.quota or node.cores) * hosts,
        }
        host: Columns = {"cpu_busy_seconds": job["cpu_usage_seconds"], "memory_used": 6e9 * hosts}
        losses = [
            Loss(
                work.lost,
                work.lost,
                np.arange(ranks) == rank,
                np.maximum(0.0, (seconds - ran[:, [rank]])[:, 0]),
            )
            for rank in range(ranks)
        ]
        return Usage(gpu=gpu, host=host, job=job, losses=losses)
