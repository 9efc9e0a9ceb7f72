"""GPM against a GPU whose every moment is known: what is asked for seldom is no less right for it."""

from __future__ import annotations

import ctypes
from array import array
from itertools import count
from typing import Any

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfed.collectors import gpm, nvml_page
from wellfed.collectors.nvml_calls import Context
from wellfed.collectors.nvml_page import INDEX

SECONDS = 0.11
#: graphics, SM, occupancy, tensor, DRAM in percent, PCIe and NVLink in MiB/s.
Moment = tuple[float, ...]
IDLE: Moment = (0.0,) * 9
TRAINING: Moment = (96.0, 91.0, 22.0, 78.0, 36.0, 7.0, 25.0, 0.0, 0.0)
SPINNING: Moment = (100.0, 14.0, 2.0, 0.0, 1.0, 3.0, 3.0, 9.0, 9.0)
#: One kernel of one block, resident for half of the time.
ONE_BLOCK: Moment = (48.0, 0.36, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Gpu:
    """The two functions of NVML that GPM needs, over moments that follow one another."""

    def __init__(self, moments: list[Moment]) -> None:
        self._moments = moments
        self.place = 0
        #: Pairs of moments that the graphics engine was asked about; each costs a real driver 1.8 ms.
        self.asked: list[tuple[int, int]] = []
        self._taken: dict[int, int] = {}

    def nvmlGpmSampleGet(self, _: object, sample: Any) -> int:
        self._taken[sample.value] = self.place
        return 0

    def nvmlGpmMetricsGet(self, reference: Any) -> int:
        question = reference._obj
        samples = (question.sample1, question.sample2)
        older, newer = (self._taken[ctypes.cast(at, ctypes.c_void_p).value or 0] for at in samples)
        between = self._moments[older:newer]
        order = (*gpm._GRAPHICS, *gpm._METRICS)
        for metric in question.metrics[: question.numMetrics]:
            values = [moment[order.index(metric.metricId)] for moment in between]
            metric.value = sum(values) / len(values)
            metric.nvmlReturn = 0
            if metric.metricId in gpm._GRAPHICS:
                self.asked.append((older, newer))
        return 0


def measure(moments: list[Moment]) -> tuple[dict[str, float], Gpu, gpm.Gpm]:
    """The row after all of them: compared at each ninth sample, exact at each ninetieth and at the end."""
    gpu = Gpu(moments)
    addresses = count(0x1000)
    context = Context(nvml_page.Writer(nvml_page.create()))
    row = array("d", nvml_page.NULLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "symbol", lambda name: getattr(gpu, name))
        patch.setattr(pynvml, "nvmlGpmSampleAlloc", lambda: ctypes.c_void_p(next(addresses)))
        reader = gpm.Gpm(context, 0, "GPU-0", None, None, array("d", [0.0]) * len(nvml_page.ACTIVITY))
    for place in range(len(moments) + 1):
        gpu.place = place
        reader.sample(100 + place * SECONDS)
        if place % 9 == 8 or place == len(moments):
            reader.settle(100 + place * SECONDS, exact=place % 90 == 89 or place == len(moments))
    reader.store(row)
    return {column: row[INDEX[column]] for column in nvml_page.ACTIVITY}, gpu, reader


def truth(moments: list[Moment]) -> dict[str, float]:
    each = [gpm.reduce(moment, SECONDS) for moment in moments]
    return {
        column: sum(told) for column, told in zip(nvml_page.ACTIVITY, zip(*each, strict=True), strict=True)
    }


@st.composite
def moment(draw: st.DrawFn) -> Moment:
    """No SM is active without a kernel resident, and one at least with it."""
    graphics = draw(st.sampled_from([0.0, 100.0]) | st.floats(0.01, 100.0))
    sm = graphics * draw(st.sampled_from([1 / 132, 1.0]) | st.floats(1 / 132, 1.0))
    share = st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0)
    return (graphics, sm, sm * draw(share), sm * draw(share), 100 * draw(share), 1.0, 2.0, 3.0, 4.0)


@settings(deadline=None)
@given(st.lists(st.tuples(moment(), st.integers(1, 30)), min_size=1, max_size=12))
def test_every_integral_is_that_of_asking_for_everything_each_time(parts: list[tuple[Moment, int]]) -> None:
    # The end is time enough to pay back what was told too much.
    moments = [moment for moment, times in parts for _ in range(times)] + [TRAINING] * 180
    told, gpu, _ = measure(moments)
    assert told == pytest.approx(truth(moments), abs=1e-6)
    assert len(gpu.asked) <= len(moments) + len(moments) // 9 + 2


@pytest.mark.parametrize("steady", [IDLE, TRAINING, SPINNING])
def test_a_steady_gpu_is_asked_rarely(steady: Moment) -> None:
    told, gpu, _ = measure([steady] * 900)
    assert told == pytest.approx(truth([steady] * 900))
    # 99 s: at the start and each tenth second; once a second where only that tells spinning from idle.
    assert len(gpu.asked) <= (113 if steady is SPINNING else 12)


def test_stalls_of_a_fast_loop_are_idle_without_being_asked_about() -> None:
    moments = ([TRAINING] * 4 + [IDLE] * 5) * 20
    told, gpu, _ = measure(moments)
    assert told["idle_seconds"] == pytest.approx(100 * SECONDS)
    assert told["active_seconds"] == pytest.approx(0.96 * 80 * SECONDS)
    assert len(gpu.asked) <= 4


def test_another_kind_of_work_is_asked_about_at_once() -> None:
    launches = (30.0, 8.0, 1.0, 6.0, 3.0, 7.0, 25.0, 0.0, 0.0)
    told, gpu, _ = measure([TRAINING] * 90 + [launches] * 45)
    assert told["active_seconds"] == pytest.approx(0.96 * 90 * SECONDS + 0.3 * 45 * SECONDS)
    assert len(gpu.asked) <= 6


def test_one_block_for_half_of_the_time_is_neither_idle_nor_spinning() -> None:
    told, _, _ = measure([ONE_BLOCK] * 18)
    assert (told["idle_seconds"], told["spin_seconds"]) == (0.0, 0.0)


def test_a_suspended_worker_counts_nothing_for_the_time_it_slept() -> None:
    _, gpu, reader = measure([TRAINING] * 20)
    row = array("d", nvml_page.NULLS)
    for place in (18, 19, 20):
        gpu.place = place
        reader.sample(200 + place * SECONDS)
    reader.settle(203.0, exact=True)
    reader.store(row)
    assert row[INDEX["observed_seconds"]] == pytest.approx(22 * SECONDS)
    assert row[INDEX["active_seconds"]] == pytest.approx(0.96 * 22 * SECONDS, rel=0.01)
