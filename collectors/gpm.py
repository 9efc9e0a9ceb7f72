"""What a Hopper or later GPU does inside: SMs, occupancy, tensor pipes, memory, PCIe, NVLink, at up to 10 Hz.

What: GPM compares two samples of the GPU's performance counters; each pair is reduced to integrals, so
nothing is lost between reads. Samples are only taken at 10 Hz and compared once a second, all at once: waking
up ten times a second to compare them cost 3.2 ms of CPU a second with 8 GPUs, this costs 1.9.
Source: nvmlGpmSampleGet / nvmlGpmMigSampleGet and nvmlGpmMetricsGet. NVIDIA asks for at least 100 ms between
two samples, hence PERIOD. Cost: two driver calls a GPU and sample; where they cost more than the worker's
budget it samples less often, and the integrals stay exact. Privilege: none is documented; a driver that wants
root answers "no permission" (not checked on hardware).

A MIG slice is sampled by GPU instance: compute instances that share one show the same activity.
"""

from __future__ import annotations

import ctypes
from array import array
from operator import mul
from struct import Struct

import pynvml

from wellfed.collectors.activity import idles, spins
from wellfed.collectors.nvml_calls import Call, Context
from wellfed.collectors.nvml_page import ACTIVITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PERIOD", "Gpm", "reduce", "total"]

#: Seconds between two samples of a GPU.
PERIOD = 0.11
_SHORTEST = 0.1
#: Two samples further apart than this (a suspended worker) say nothing about idle and spin; start again.
_LONGEST = 10.0
#: Samples kept until they are compared: those of 1.5 s.
_RING = 16

_NAN = float("nan")
_MEBI = float(1 << 20)
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
_ANSWER = Struct("=" + "4xId24x" * _COUNT)  # id, return code, value, names of each
_SPAN = _HEAD + _ANSWER.size


def reduce(metrics: Sequence[float], seconds: float) -> list[float]:
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


def _plain(pairs: Sequence[Sequence[float]]) -> bool:
    """Whether nothing is missing, negative or above 100 percent."""
    return all(min(metrics) >= 0.0 and max(metrics[:5]) <= 100.0 and sum(metrics) >= 0.0 for metrics in pairs)


def total(pairs: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """What pairs of samples without anything missing add to ACTIVITY: the sum of what each adds."""
    columns = [sum(map(mul, column, seconds)) for column in zip(*pairs, strict=True)]
    idle = spin = 0.0
    for (active, sm, _, tensor, dram, *_), apart in zip(pairs, seconds, strict=True):
        if idles(active / 100):
            idle += apart
        elif spins(active / 100, sm / 100, tensor / 100, dram / 100):
            spin += apart
    rates = (amount * _MEBI for amount in columns[5:])
    return [sum(seconds), *(amount / 100 for amount in columns[:5]), idle, spin, *rates]


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
        #: The driver refuses: something else must measure activity.
        self.failing = False
        self._sums = sums
        self._shown = array("d", _UNKNOWN)
        samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(_RING)]
        where = (handle,) if instance is None else (handle, instance)
        symbol = "nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet"
        self._calls = [
            Call(context, number, device, "gpm", (symbol,), (*where, sample)) for sample in samples
        ]
        self._addresses = [ctypes.cast(sample, ctypes.c_void_p).value for sample in samples]
        #: When the samples that wait were taken; the first is the last of those compared already.
        self._taken: list[float] = []
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
        """Takes a sample."""
        taken = self._taken
        if taken and now - taken[-1] < _SHORTEST:
            return
        if len(taken) == _RING:
            self.settle(now)
        if self._calls[len(taken)].run(now):
            taken.append(now)
        else:
            taken.clear()
            self._fail()

    def settle(self, now: float) -> None:
        """Compares the samples taken since the last time and adds what happened between them."""
        taken = self._taken
        if len(taken) < 2:
            return
        pairs, seconds = self._compare(now)
        newest = len(taken) - 1
        calls, addresses = self._calls, self._addresses
        calls[0], calls[newest] = calls[newest], calls[0]
        addresses[0], addresses[newest] = addresses[newest], addresses[0]
        del taken[:-1]
        if not pairs:
            return
        # Nearly always the GPU tells everything, and a pair at a time costs twice as much.
        for grown in [total(pairs, seconds)] if _plain(pairs) else map(reduce, pairs, seconds):
            for column, amount in enumerate(grown):
                if amount == amount:
                    self._sums[column] += amount
        if self._complete:
            last = reduce(pairs[-1], seconds[-1])
            self.failing = last[0] != last[0]
            shown = zip(last, self._sums, strict=False)
            self._shown[:] = array("d", [sum_ if grown == grown else _NAN for grown, sum_ in shown])

    def _compare(self, now: float) -> tuple[list[tuple[float, ...]], list[float]]:
        """Metrics of each pair of samples, NaN where the GPU does not tell, and the seconds between them."""
        taken, addresses = self._taken, self._addresses
        pairs, seconds = [], []
        self._complete = True
        for place in range(1, len(taken)):
            apart = taken[place] - taken[place - 1]
            if apart >= _LONGEST:
                continue
            _PAIR.pack_into(self._question, _PAIR_AT, addresses[place - 1], addresses[place])
            if not self._metrics.run(now):
                self._complete = False
                self._fail()
                break
            answer = _ANSWER.unpack(self._answer)
            codes, metrics = answer[::2], answer[1::2]
            if any(codes):
                metrics = tuple(_NAN if code else m for code, m in zip(codes, metrics, strict=True))
            pairs.append(metrics)
            seconds.append(apart)
        return pairs, seconds

    def _fail(self) -> None:
        self.failing = True
        self._shown[:] = _UNKNOWN

    def store(self, row: array[float], *, links: bool) -> None:
        """Writes the sums into the row; null for what the last pair of samples did not tell.

        links: NVLink bytes come from the driver's own counters instead.
        """
        end = _LINKS_AT if links else len(ACTIVITY)
        row[:end] = self._shown[:end]
