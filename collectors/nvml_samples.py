"""Activity and power of a GPU without GPM, from the samples that the driver takes by itself between our
reads.

What: utilisation (share of the sample period with a kernel resident) as of each tick, corrected every tenth
by the integral of the driver's own samples; power averaged over them. Source: nvmlDeviceGetUtilizationRates,
which lies ready in the driver, and nvmlDeviceGetSamples, 1/6 s to 1 s apart (0.2 s on an H100), a ring of
about 100. Cost: the samples take 2.5 ms of CPU on an H100, each time. Privilege: none. Spinning, SM, tensor
and memory activity stay null: utilisation cannot tell them.
"""

from __future__ import annotations

import ctypes
from array import array
from struct import Struct

import pynvml

from wellfed.collectors.activity import idles
from wellfed.collectors.nvml_calls import Call, Context
from wellfed.collectors.nvml_fields import decode
from wellfed.collectors.nvml_page import INDEX
from wellfed.collectors.rising import Rising

__all__ = ["PLACES", "Samples", "Utilization", "integrate"]

#: Places in a row of what utilisation tells.
PLACES = tuple(INDEX[column] for column in ("observed_seconds", "active_seconds", "idle_seconds"))

#: A hole in the samples longer than this is not covered by the sample that ends it.
_HOLE = 2_000_000
_RING = 512
_SAMPLE = Struct("=QQ")  # timestamp, value


def integrate(samples: list[tuple[int, float]], last: int) -> tuple[int, float, float, float]:
    """Sums utilisation samples: (newest timestamp, seconds observed, active, idle).

    samples: (timestamp in microseconds, percent) in any order, repeated ones included; only those after
    `last` count. Each covers the time since the one before. last: 0 at the start, when what the driver has
    kept from before covers nothing.

    >>> integrate([(200_000, 50.0), (100_000, 0.0), (200_000, 50.0)], 100_000)
    (200000, 0.1, 0.05, 0.0)
    """
    observed = active = idle = 0.0
    if not last:
        return max((taken for taken, _ in samples), default=0), observed, active, idle
    for taken, percent in sorted(dict(samples).items()):
        if taken <= last:
            continue
        if taken - last <= _HOLE:
            seconds = (taken - last) / 1e6
            share = min(max(percent, 0.0), 100.0) / 100
            observed += seconds
            active += share * seconds
            idle += seconds if idles(share) else 0.0
        last = taken
    return last, observed, active, idle


class Samples:
    """The driver's samples of one kind on one GPU."""

    def __init__(self, context: Context, number: int, device: str, handle: object, kind: int) -> None:
        self._since = ctypes.c_ulonglong(0)
        self._kind = ctypes.c_uint(0)
        self._count = ctypes.c_uint(_RING)
        self._ring = (pynvml.c_nvmlSample_t * _RING)()
        self._view = memoryview(self._ring).cast("B")
        self._call = Call(
            context,
            number,
            device,
            "samples",
            ("nvmlDeviceGetSamples",),
            (
                handle,
                ctypes.c_uint(kind),
                self._since,
                ctypes.byref(self._kind),
                ctypes.byref(self._count),
                self._ring,
            ),
            fine=(pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_NO_DATA),
        )

    @property
    def supported(self) -> bool:
        """False once the driver said that this GPU keeps no such samples."""
        return self._call.supported

    def read(self, now: float) -> list[tuple[int, float]]:
        """(timestamp in microseconds, value) of the samples since the last read; possibly repeated."""
        self._count.value = _RING
        if not self._call.run(now):
            return []
        kind = self._kind.value
        filled = self._view[: min(self._count.value, _RING) * _SAMPLE.size]
        found = [(taken, decode(kind, raw)) for taken, raw in _SAMPLE.iter_unpack(filled)]
        self._since.value = max([self._since.value, *(taken for taken, _ in found)])
        return found


class Utilization:
    """Activity of one GPU by utilisation. sums: of ACTIVITY so far."""

    def __init__(
        self, context: Context, number: int, device: str, handle: object, sums: array[float]
    ) -> None:
        self._sums = sums
        self._samples = Samples(context, number, device, handle, pynvml.NVML_GPU_UTILIZATION_SAMPLES)
        self._rates = pynvml.c_nvmlUtilization_t()
        self._call = Call(
            context,
            number,
            device,
            "utilization",
            ("nvmlDeviceGetUtilizationRates",),
            (handle, ctypes.byref(self._rates)),
        )
        self._rising = [Rising() for _ in PLACES]
        self._last = 0
        self._held = 0.0
        #: What was added since the last correction.
        self._told = [0.0, 0.0, 0.0]

    def tick(self, now: float, *, slow: bool) -> bool:
        """Adds what happened since the last tick, as the rate of now tells; slow: corrects what was added
        since the last time by the driver's own samples. False when this GPU tells nothing now.
        """
        grown = [0.0, 0.0, 0.0]
        known = self._call.run(now)
        if known:
            seconds = min(now - self._held, _HOLE / 1e6) if self._held else 0.0
            share = self._rates.gpu / 100
            grown = [seconds, share * seconds, seconds if idles(share) else 0.0]
            self._held = now
        else:
            self._held = 0.0
        self._told = [told + more for told, more in zip(self._told, grown, strict=True)]
        if slow and self._samples.supported:
            found = self._samples.read(now)
            last, *exact = integrate(found, self._last)
            # A ring that has lost samples meanwhile corrects nothing.
            if self._last and found and min(found)[0] - self._last <= _HOLE:
                grown = [
                    more + right - told for more, right, told in zip(grown, exact, self._told, strict=True)
                ]
                known = True
            if found:
                self._last = last
                self._told = [0.0, 0.0, 0.0]
        for place, rising, amount in zip(PLACES, self._rising, grown, strict=True):
            self._sums[place] += rising.step(amount)
        return known

    def restart(self) -> None:
        """Something better covers this time: what the driver keeps of it must not count again."""
        self._last = 0
        self._held = 0.0
        self._told = [0.0, 0.0, 0.0]
