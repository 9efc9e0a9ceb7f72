"""What a Hopper or later GPU does inside: SMs, occupancy, tensor pipes, memory, PCIe, NVLink, at up to 10 Hz.

What: GPM compares two samples of the GPU's performance counters; each pair is reduced to integrals at once,
so nothing is lost between reads. Source: nvmlGpmSampleGet / nvmlGpmMigSampleGet and nvmlGpmMetricsGet. NVIDIA
asks for at least 100 ms between two samples, hence PERIOD. Cost: two driver calls a GPU and sample; where
they cost more than the worker's budget it samples less often, and the integrals stay exact. Privilege: none
is documented; a driver that wants root answers "no permission" (not checked on hardware).

A MIG slice is sampled by GPU instance: compute instances that share one show the same activity.
"""

from __future__ import annotations

import ctypes
from array import array
from struct import Struct

import pynvml

from wellfed.collectors.nvml_calls import Call, Context
from wellfed.collectors.nvml_page import INDEX

__all__ = ["PERIOD", "Gpm", "reduce"]

#: Seconds between two samples of a GPU.
PERIOD = 0.105
#: Two samples further apart than this (a suspended worker) say nothing about idle and spin; start again.
_LONGEST = 10.0

_NAN = float("nan")
_MEBI = float(1 << 20)
_METRIC = Struct("=IId24x")  # id, return code, value, names
_HEAD = 2 * 4 + 2 * 8  # version, count, two samples

_METRICS = (
    pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL,
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC,
    pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC,
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC,
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC,
)
#: Sums kept for each GPU, in this order; the first eight are seconds, the last four bytes.
COLUMNS = (
    "observed_seconds",
    "active_seconds",
    "sm_active_seconds",
    "sm_occupancy_seconds",
    "tensor_active_seconds",
    "dram_active_seconds",
    "idle_seconds",
    "spin_seconds",
    "pcie_rx_bytes",
    "pcie_tx_bytes",
    "nvlink_rx_bytes",
    "nvlink_tx_bytes",
)
_COUNT = len(_METRICS)
_SPAN = _HEAD + _COUNT * _METRIC.size


def reduce(metrics: list[float], seconds: float) -> list[float]:
    """What one pair of samples adds to COLUMNS.

    metrics: graphics, SM, occupancy, tensor, DRAM in percent, then PCIe rx, tx, NVLink rx, tx in MiB/s; NaN
    where the GPU does not tell. Percentages above 100, seen on MIG slices, count as 100. NaN stays NaN, never
    0.
    """
    active, sm, occupancy, tensor, dram = (
        min(max(m, 0.0), 100.0) / 100 if m == m else _NAN for m in metrics[:5]
    )
    known = active == active
    spin_known = known and sm == sm and tensor == tensor and dram == dram
    spins = active >= 0.50 and sm < 0.25 and tensor < 0.03 and dram < 0.10
    return [
        seconds if known else _NAN,
        active * seconds,
        sm * seconds,
        occupancy * seconds,
        tensor * seconds,
        dram * seconds,
        (seconds if active < 0.05 else 0.0) if known else _NAN,
        (seconds if spins else 0.0) if spin_known else _NAN,
        *(max(m, 0.0) * _MEBI * seconds if m == m else _NAN for m in metrics[5:]),
    ]


class Gpm:
    """GPM of one GPU or one GPU instance. instance: None for a whole GPU. totals: sums so far, shared with
    whatever else measures activity on this device.
    """

    def __init__(
        self,
        context: Context,
        number: int,
        device: str,
        handle: object,
        instance: int | None,
        totals: dict[str, float],
    ) -> None:
        self.totals = totals
        #: The last pair of samples told something.
        self.fresh = False
        #: The driver refuses: something else must measure activity.
        self.failing = False
        self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
        self._known: set[str] = set()
        self._taken = 0.0
        where = (handle,) if instance is None else (handle, instance)
        symbol = "nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet"
        self._calls = [
            Call(context, number, device, "gpm", (symbol,), (*where, sample)) for sample in self._samples
        ]
        self._question = pynvml.c_nvmlGpmMetricsGet_t()
        self._question.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._question.numMetrics = _COUNT
        for place, metric in enumerate(_METRICS):
            self._question.metrics[place].metricId = metric
        self._view = memoryview(self._question).cast("B")[_HEAD:_SPAN]
        self._metrics = Call(
            context, number, device, "gpm", ("nvmlGpmMetricsGet",), (ctypes.byref(self._question),)
        )

    def sample(self, now: float) -> None:
        """Takes a sample and adds what happened since the one before."""
        if now - self._taken < 0.1:
            return
        newer, older = self._samples
        if not self._calls[0].run(now):
            self._taken = 0.0
            self.fresh = False
            self.failing = True
            return
        seconds = now - self._taken
        paired = self._taken > 0.0 and seconds < _LONGEST
        self._taken = now
        self._samples.reverse()
        self._calls.reverse()
        if not paired:
            return
        self._question.sample1 = older
        self._question.sample2 = newer
        if not self._metrics.run(now):
            self.fresh = False
            self.failing = True
            return
        metrics = [value if code == 0 else _NAN for _, code, value in _METRIC.iter_unpack(self._view)]
        self.fresh = metrics[0] == metrics[0]
        self.failing = not self.fresh
        self._known.clear()
        for column, grown in zip(COLUMNS, reduce(metrics, seconds), strict=True):
            if grown == grown:
                self.totals[column] = self.totals.get(column, 0.0) + grown
                self._known.add(column)

    def store(self, row: array[float], *, links: bool) -> None:
        """Writes the sums into the row; null for what the last pair of samples did not tell.

        links: NVLink bytes come from the driver's own counters instead.
        """
        for column in COLUMNS[:10] if links else COLUMNS:
            row[INDEX[column]] = self.totals[column] if self.fresh and column in self._known else _NAN
