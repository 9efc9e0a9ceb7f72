"""What this machine's NVIDIA driver answers, how fast and to whom: `python -m
wellfed.collectors.nvml_report`.

What: for each GPU every call the collector makes, with its latency; the fields and GPM metrics that answer
for this user; how far apart the driver's own samples are; MIG, NVLink and events. Source: libnvidia-ml in
this very process, so a hanging driver hangs the report. Cost: some seconds. Privilege: none; run it as root
and as a user to see the difference. It exits with 1 where there is no GPU.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from itertools import pairwise

import pynvml

from wellfed.collectors.gpm import PERIOD, Gpm
from wellfed.collectors.nvml_calls import Context, DriverGoneError, GpuLostError, explain
from wellfed.collectors.nvml_fields import FIELDS
from wellfed.collectors.nvml_page import ACTIVITY, NULLS, Writer, create
from wellfed.collectors.nvml_samples import Samples
from wellfed.collectors.nvml_session import Gpu, Session

__all__ = ["main", "report"]

_ROUNDS = 20
_SECONDS = 1.5


class _Stopwatch(Context):
    """A context whose calls are timed, by function and return code."""

    def __init__(self) -> None:
        super().__init__(Writer(create()))
        self.times: dict[tuple[str, int], list[float]] = {}

    def symbol(self, *names: str) -> Callable[..., int] | None:
        """The function, wrapped."""
        function = super().symbol(*names)
        if function is None:
            return None
        name = next(n for n in names if super(_Stopwatch, self).symbol(n) is not None)

        def timed(*arguments: object) -> int:
            begin = time.perf_counter()
            code = function(*arguments)
            self.times.setdefault((name, code), []).append(time.perf_counter() - begin)
            return code

        return timed


def report(sys_root: str = "/sys", proc_root: str = "/proc") -> list[str]:
    """The report's lines. Raises DriverGoneError where there is no working driver."""
    context = _Stopwatch()
    session = Session(context, sys_root, proc_root)
    who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    lines = [f"driver {_driver()}, {len(session.gpus)} GPUs, asked as {who}"]
    for gpu in session.gpus:
        if gpu.device is None:
            lines.append(f"GPU {gpu.number} {gpu.address}: not open{', asleep' if gpu.dozing else ''}")
            continue
        lines.append(f"GPU {gpu.number} {gpu.uuid} {gpu.info['model']} at {gpu.address}")
        try:
            lines += [f"  {line}" for line in _gpu(context, gpu)]
        except GpuLostError as lost:
            lines.append(f"  {lost}")
    problems = context.problems.listed()
    return lines + [f"problem: {what}" + (f" ({remedy})" if remedy else "") for what, remedy in problems]


def _driver() -> str:
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return explain(error.value)


def _gpu(context: _Stopwatch, gpu: Gpu) -> list[str]:
    device = gpu.device
    assert device is not None
    lines = [f"MIG: {len(gpu.slices)} slices" if device.cut else "MIG: off"]
    context.times.clear()
    reads = []
    for turn in range(_ROUNDS):
        begin = time.perf_counter()
        device.tick(time.monotonic(), slow=turn % 2 == 0)
        reads.append(time.perf_counter() - begin)
    lines.append(f"a read: first {reads[0] * 1e3:.1f} ms, then {_spread(reads[1:])}")
    lines += _fields(gpu)
    lines += _gpm(device.gpm)
    for title, kind in (
        ("utilisation", pynvml.NVML_GPU_UTILIZATION_SAMPLES),
        ("power", pynvml.NVML_TOTAL_POWER_SAMPLES),
    ):
        samples = Samples(context, gpu.number, gpu.uuid, gpu.handle, kind)
        lines.append(f"samples of {title}: {_distance(samples)}")
    for (name, code), times in sorted(context.times.items()):
        answer = f" -> {explain(code)}" if code else ""
        lines.append(f"{name}{answer}: {len(times)} calls, {_spread(times)}")
    return lines


def _fields(gpu: Gpu) -> list[str]:
    """Every field the collector knows, asked one at a time."""
    lines = []
    for field, (column, _, scope, _) in FIELDS.items():
        times = []
        code = 0
        for _ in range(_ROUNDS):
            begin = time.perf_counter()
            try:
                code = pynvml.nvmlDeviceGetFieldValues(gpu.handle, [(field, scope)])[0].nvmlReturn
            except pynvml.NVMLError as error:
                code = error.value
            times.append(time.perf_counter() - begin)
        lines.append(f"field {field} ({column}): {explain(code) if code else _spread(times)}")
    return lines


def _gpm(gpm: Gpm | None) -> list[str]:
    if gpm is None:
        return ["GPM: none"]
    row = array("d", NULLS)
    for _ in range(_ROUNDS):
        gpm.sample(time.monotonic())
        time.sleep(PERIOD)
    lines = [
        f"GPM, a pair of samples, {what}: {_spread([_timed(ask) for _ in range(_ROUNDS)])}"
        for what, ask in gpm.questions(time.monotonic()).items()
    ]
    gpm.settle(time.monotonic(), exact=True)
    gpm.store(row)
    known = [column for column, value in zip(ACTIVITY, row, strict=False) if value == value]
    return [f"GPM, sampled each {PERIOD} s; known: {', '.join(known) or 'nothing'}", *lines]


def _timed(ask: Callable[[], object]) -> float:
    begin = time.perf_counter()
    ask()
    return time.perf_counter() - begin


def _distance(samples: Samples) -> str:
    """Median distance of the driver's own samples."""
    taken: set[int] = set()
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        taken |= {at for at, _ in samples.read(time.monotonic())}
        time.sleep(0.5)
    gaps = [after - before for before, after in pairwise(sorted(taken))]
    return f"{statistics.median(gaps) / 1e3:.1f} ms apart" if gaps else "none"


def _spread(times: list[float]) -> str:
    ordered = sorted(times)
    return f"{ordered[len(ordered) // 2] * 1e6:.0f} us (at most {ordered[-1] * 1e6:.0f})"


def main() -> int:
    """Prints the report."""
    try:
        print("\n".join(report()))
    except DriverGoneError as gone:
        print(gone, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
