"""What a Hopper or later GPU does inside: SMs, occupancy, tensor pipes, memory, PCIe, NVLink, at up to 10 Hz.

What: GPM compares two samples of the GPU's performance counters; each pair is reduced to integrals, so
nothing is lost between reads. Samples are only taken at 10 Hz and compared once a second, all at once: waking
up ten times a second to compare them costs half as much again.
Source: nvmlGpmSampleGet / nvmlGpmMigSampleGet and nvmlGpmMetricsGet. NVIDIA asks for at least 100 ms between
two samples, hence PERIOD.
Cost, on an H100 with driver 580: 0.3 ms a sample on a cold core and 0.07 after another GPU's; 0.03 ms a
comparison, but 1.8 with the graphics engine's activity in it, for which the driver asks the GPU nine times.
So that one is asked for each ten seconds over all of them, and where a pair would not tell idle from spinning
without it; in between it follows the SMs' activity. Where sampling costs more than the worker's budget it is
done less often, and the integrals stay exact.
Privilege: none (the same H100 told root and nobody the same).

A MIG slice is sampled by GPU instance: compute instances that share one show the same activity.
"""

from __future__ import annotations

import ctypes
from array import array
from itertools import groupby, pairwise
from operator import mul
from struct import Struct

import pynvml

from wellfed.collectors.activity import IDLE, RESIDENT, idles, spins
from wellfed.collectors.nvml_calls import Call, Context
from wellfed.collectors.nvml_page import ACTIVITY
from wellfed.collectors.rising import Rising

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
_ACTIVE_AT = ACTIVITY.index("active_seconds")
#: No GPU has more SMs, and while a kernel is resident one of them at least is active.
_PROCESSORS = 256
#: Activity of SMs with which no kernel is resident for more than a twentieth of the time.
_NOTHING = IDLE / _PROCESSORS

_GRAPHICS = (pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL,)
_METRICS = (
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC,
    pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC,
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC,
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC,
)


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


def undecided(sm: float, _occupancy: float, tensor: float, dram: float, *_bytes: float) -> bool:
    """Whether it takes the graphics engine's activity to tell what this time counts as.

    In percent of the time. A kernel is resident for no less of it than the SMs are active on average, and for
    no more than if one SM alone was.
    """
    if sm != sm:
        return True
    sm, tensor, dram = sm / 100, tensor / 100, dram / 100
    most = min(1.0, _PROCESSORS * sm)
    return idles(sm) != idles(most) or spins(sm, sm, tensor, dram) != spins(most, sm, tensor, dram)


class _RefusedError(Exception):
    """The driver does not answer, or is not asked for a while since it did not."""


class _Question:
    """Some metrics of a pair of samples, asked for into a prepared buffer."""

    def __init__(self, context: Context, number: int, device: str, metrics: Sequence[int]) -> None:
        question = pynvml.c_nvmlGpmMetricsGet_t()
        question.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        question.numMetrics = len(metrics)
        for place, metric in enumerate(metrics):
            question.metrics[place].metricId = metric
        self._layout = Struct("=" + "4xId24x" * len(metrics))  # id, return code, value, names of each
        self._question = memoryview(question).cast("B")
        self._answer = self._question[_HEAD : _HEAD + self._layout.size]
        self._call = Call(context, number, device, "gpm", ("nvmlGpmMetricsGet",), (ctypes.byref(question),))

    def ask(self, older: _Sample, newer: _Sample, now: float) -> tuple[float, ...]:
        """NaN for a metric that the GPU does not tell. Raises _RefusedError."""
        _PAIR.pack_into(self._question, _PAIR_AT, older.address, newer.address)
        if not self._call.run(now):
            raise _RefusedError
        answer = self._layout.unpack(self._answer)
        codes, metrics = answer[::2], answer[1::2]
        if any(codes):
            return tuple(_NAN if code else m for code, m in zip(codes, metrics, strict=True))
        return metrics


class _Sample:
    """Room for one sample of the GPU's counters, and when it was taken."""

    __slots__ = ("_call", "address", "at")

    def __init__(self, context: Context, number: int, device: str, where: tuple[object, ...]) -> None:
        room = pynvml.nvmlGpmSampleAlloc()
        symbol = "nvmlGpmSampleGet" if len(where) == 1 else "nvmlGpmMigSampleGet"
        self._call = Call(context, number, device, "gpm", (symbol,), (*where, room))
        self.address = ctypes.cast(room, ctypes.c_void_p).value
        self.at = 0.0

    def take(self, now: float) -> bool:
        """Takes the sample. False where the driver refuses."""
        self.at = now
        return self._call.run(now)


if TYPE_CHECKING:
    _Pair = tuple[_Sample, _Sample]


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
        where = (handle,) if instance is None else (handle, instance)
        self._ring = [_Sample(context, number, device, where) for _ in range(_RING)]
        #: How many of the ring wait; the first of them is the last of those compared already.
        self._waiting = 0
        self._metrics = _Question(context, number, device, _METRICS)
        self._graphics = _Question(context, number, device, _GRAPHICS)
        #: Since when the graphics engine's activity is to be read, and what takes its place in the ring.
        self._anchor = self._spare = _Sample(context, number, device, where)
        self._anchored = False
        self._blind = False
        #: Since then: seconds with the graphics engine active, as told, and with SMs active.
        self._told = self._sm = 0.0
        #: How many times the SMs' activity the graphics engine's is, and their activity where that was seen.
        self._ratio = 1.0
        self._level = 0.0
        self._rising = Rising()

    def sample(self, now: float) -> None:
        """Takes a sample."""
        apart = now - self._ring[self._waiting - 1].at if self._waiting else _SHORTEST
        if apart < _SHORTEST:
            return
        if self._waiting == _RING or apart >= _LONGEST:
            self.settle(now, exact=False)
        if apart >= _LONGEST:
            self._restart()
        if self._ring[self._waiting].take(now):
            self._waiting += 1
        else:
            self._refused()

    def settle(self, now: float, *, exact: bool) -> None:
        """Compares the samples taken since the last time and adds what happened between them.

        exact: also asks for the graphics engine's activity over all the time since that was last done.
        """
        if self._waiting < 2:
            return
        try:
            pairs, seconds = self._compare(now)
            ring, newest, oldest = self._ring, self._waiting - 1, self._ring[0]
            ring[0], ring[newest] = ring[newest], self._spare if oldest is self._anchor else oldest
            self._waiting = 1
            active = self._add(pairs, seconds)
            sm = sum(pair[1] * apart for pair, apart in zip(pairs, seconds, strict=True)) / 100
            self._sm += sm
            level = sm / sum(seconds)
            # Another kind of work has another ratio.
            changed = level > _NOTHING and not self._level / 2 <= level <= self._level * 2
            if exact or changed or not self._anchored:
                active += self._correct(oldest, now)
        except _RefusedError:
            self._refused()
            return
        self._sums[_ACTIVE_AT] += self._rising.step(active)
        last = reduce(pairs[-1], seconds[-1])
        self.failing = last[0] != last[0]
        shown = zip(last, self._sums, strict=False)
        self._shown[:] = array("d", [sum_ if told == told else _NAN for told, sum_ in shown])

    def _compare(self, now: float) -> tuple[list[tuple[float, ...]], list[float]]:
        """What reduce() takes of each pair of samples that waits, and the seconds between them."""
        pairs = list(pairwise(self._ring[: self._waiting]))
        told = [self._metrics.ask(*pair, now) for pair in pairs]
        active = self._activity(pairs, told, now)
        metrics = [(share, *rest) for share, rest in zip(active, told, strict=True)]
        return metrics, [newer.at - older.at for older, newer in pairs]

    def _activity(self, pairs: list[_Pair], told: list[tuple[float, ...]], now: float) -> list[float]:
        """Percent of each pair's time with the graphics engine active: asked for where that decides what the
        time counts as, else after the SMs.
        """
        if self._blind:
            return [_NAN] * len(pairs)
        active = [min(self._ratio * sm, _PROCESSORS * sm, 100.0) for sm, *_ in told]
        for unclear, run in groupby(range(len(pairs)), lambda place: undecided(*told[place])):
            if unclear:
                places = list(run)
                asked = slice(places[0], places[-1] + 1)
                (share,) = self._graphics.ask(pairs[places[0]][0], pairs[places[-1]][1], now)
                active[asked] = self._split(pairs[asked], share, now)
        return active

    def _split(self, run: list[_Pair], share: float, now: float) -> list[float]:
        """Activity of each pair of a run that on average has `share` percent; asks as little as it takes."""
        times = [newer.at - older.at for older, newer in run]
        time, shortest = sum(times), min(times)
        busy = share / 100 * time
        alike = idles(busy / shortest) or time - busy <= (1.0 - RESIDENT) * shortest
        if len(run) == 1 or alike or share != share:
            return [share] * len(run)
        middle = len(run) // 2
        (first,) = self._graphics.ask(run[0][0], run[middle - 1][1], now)
        early = sum(times[:middle])
        rest = min(100.0, max(0.0, (share * time - first * early) / (time - early)))
        return self._split(run[:middle], first, now) + self._split(run[middle:], rest, now)

    def _add(self, pairs: list[tuple[float, ...]], seconds: list[float]) -> float:
        """Adds the pairs to the sums, but for the graphics engine's activity, which it returns."""
        active = 0.0
        # Nearly always the GPU tells everything, and a pair at a time costs twice as much.
        for grown in [total(pairs, seconds)] if _plain(pairs) else map(reduce, pairs, seconds):
            for column, amount in enumerate(grown):
                if amount != amount:
                    continue
                if column == _ACTIVE_AT:
                    active += amount
                else:
                    self._sums[column] += amount
        self._told += active
        return active

    def _correct(self, oldest: _Sample, now: float) -> float:
        """Reads the graphics engine's activity since the last reading, or since the oldest sample where there
        was none: seconds that were told too few since then.
        """
        since, until = self._anchor if self._anchored else oldest, self._ring[0]
        (share,) = self._graphics.ask(since, until, now)
        missing = 0.0
        self._blind = share != share
        if not self._blind:
            seconds = until.at - since.at
            exact = min(100.0, max(0.0, share)) / 100 * seconds
            missing = exact - self._told
            self._level = self._sm / seconds
            self._ratio = min(_PROCESSORS, max(1.0, exact / self._sm)) if self._sm > 0 else 1.0
        if self._anchor not in self._ring:
            self._spare = self._anchor
        self._anchor = until
        self._anchored = True
        self._told = self._sm = 0.0
        return missing

    def _refused(self) -> None:
        self.failing = True
        self._shown[:] = _UNKNOWN
        self._restart()

    def _restart(self) -> None:
        self._waiting = 0
        self._anchored = False
        self._told = self._sm = 0.0

    def questions(self, now: float) -> dict[str, Callable[[], object]]:
        """What it asks for of a pair of samples, to be timed; after two calls of sample()."""
        pair = self._ring[0], self._ring[1]
        return {
            "the graphics engine's activity": lambda: self._graphics.ask(*pair, now),
            "everything else": lambda: self._metrics.ask(*pair, now),
        }

    def store(self, row: array[float]) -> None:
        """Writes the sums into the row; null for what the last pair of samples did not tell."""
        row[: len(ACTIVITY)] = self._shown
