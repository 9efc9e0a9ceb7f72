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

from wellfed.collectors.activity import idles, spins
from wellfed.collectors.nvml_calls import Call, Context
from wellfed.collectors.nvml_page import ACTIVITY

__all__ = ["PERIOD", "Gpm", "reduce"]

#: Seconds between two samples of a GPU.
PERIOD = 0.11
_SHORTEST = 0.1
#: Two samples further apart than this (a suspended worker) say nothing about idle and spin; start again.
_LONGEST = 10.0

_NAN = float("nan")
_MEBI = float(1 << 20)
_METRIC = Struct("=IId24x")  # id, return code, value, names
_PAIR = Struct("=QQ")  # older and newer sample
_PAIR_AT = 2 * 4  # after version and count
_HEAD = _PAIR_AT + _PAIR.size
_UNKNOWN = array("d", [_NAN]) * len(ACTIVITY)
_LINKS_AT = ACTIVITY.index("nvlink_rx_bytes")

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
_COUNT = len(_METRICS)
_SPAN = _HEAD + _COUNT * _METRIC.size


def reduce(metrics: list[float], seconds: float) -> list[float]:
    """What one pair of samples adds to ACTIVITY.

    metrics: graphics, SM, occupancy, tensor, DRAM in percent, then PCIe rx, tx, NVLink rx, tx in MiB/s; NaN
    where the GPU does not tell. Percentages above 100, seen on MIG slices, count as 100. NaN stays NaN.
    """
    active, sm, occupancy, tensor, dram = [
        _NAN if m != m else 1.0 if m > 100.0 else m / 100 if m > 0.0 else 0.0 for m in metrics[:5]
    ]
    observed = idle = spin = _NAN
    if active == active:
        observed = seconds
        idle = seconds if idles(active) else 0.0
        if sm + tensor + dram == sm + tensor + dram:
            spin = seconds if spins(active, sm, tensor, dram) else 0.0
    mebis = _MEBI * seconds
    return [
        observed,
        active * seconds,
        sm * seconds,
        occupancy * seconds,
        tensor * seconds,
        dram * seconds,
        idle,
        spin,
        *[m * mebis if m > 0.0 or m != m else 0.0 for m in metrics[5:]],
    ]


class Gpm:
    """GPM of one GPU or one GPU instance.

    instance: None for a whole GPU. sums: of ACTIVITY so far, shared with whatever else measures this device.
    """

    def __init__(
        self,
        context: Context,
        number: int,
        device: str,
        handle: object,
        instance: int | None,
        sums: array[float],
    ) -> None:
        #: The last pair of samples told something.
        self.fresh = False
        #: The driver refuses: something else must measure activity.
        self.failing = False
        self._sums = sums
        self._shown = array("d", _UNKNOWN)
        self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
        self._taken = 0.0
        where = (handle,) if instance is None else (handle, instance)
        symbol = "nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet"
        self._calls = [
            Call(context, number, device, "gpm", (symbol,), (*where, sample)) for sample in self._samples
        ]
        self._addresses = [ctypes.cast(sample, ctypes.c_void_p).value for sample in self._samples]
        question = pynvml.c_nvmlGpmMetricsGet_t()
        question.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        question.numMetrics = _COUNT
        for place, metric in enumerate(_METRICS):
            question.metrics[place].metricId = metric
        self._question = memoryview(question).cast("B")
        self._answer = self._question[_HEAD:_SPAN]
        self._metrics = Call(
            context, number, device, "gpm", ("nvmlGpmMetricsGet",), (ctypes.byref(question),)
        )

    def sample(self, now: float) -> None:
        """Takes a sample and adds what happened since the one before."""
        if now - self._taken < _SHORTEST:
            return
        if not self._calls[0].run(now):
            self._taken = 0.0
            self._fail()
            return
        seconds = now - self._taken
        paired = self._taken > 0.0 and seconds < _LONGEST
        self._taken = now
        _PAIR.pack_into(self._question, _PAIR_AT, self._addresses[1], self._addresses[0])
        for pair in (self._samples, self._calls, self._addresses):
            pair.reverse()
        if not paired:
            return
        if not self._metrics.run(now):
            self._fail()
            return
        metrics = [_NAN if code else value for _, code, value in _METRIC.iter_unpack(self._answer)]
        self.fresh = metrics[0] == metrics[0]
        self.failing = not self.fresh
        sums, shown = self._sums, self._shown
        for place, grown in enumerate(reduce(metrics, seconds)):
            if grown == grown:
                sums[place] += grown
                shown[place] = sums[place]
            else:
                shown[place] = _NAN

    def _fail(self) -> None:
        self.fresh = False
        self.failing = True
        self._shown[:] = _UNKNOWN

    def store(self, row: array[float], *, links: bool) -> None:
        """Writes the sums into the row; null for what the last pair of samples did not tell.

        links: NVLink bytes come from the driver's own counters instead.
        """
        end = _LINKS_AT if links else len(ACTIVITY)
        row[:end] = self._shown[:end]
