"""The pure parts of the NVIDIA collectors, and the page that worker and agent share."""

from __future__ import annotations

import doctest
import itertools
import math
import os
import struct
import subprocess
import sys
from array import array
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nvml.conftest import ROOT
from wellfed.collectors import (
    gpm,
    nvml_device,
    nvml_fields,
    nvml_page,
    nvml_samples,
    nvml_session,
    nvml_worker,
)
from wellfed.collectors.nvml import Monotone
from wellfed.collectors.nvml_calls import Problems

NAN = math.nan
BUSY = [100.0, 90.0, 50.0, 40.0, 30.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("module", [nvml_fields, nvml_samples, nvml_session])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


def reduced(metrics: list[float], seconds: float = 0.1) -> dict[str, float]:
    return dict(zip(nvml_page.ACTIVITY, gpm.reduce(metrics, seconds), strict=True))


def test_a_pair_of_samples_becomes_seconds_and_bytes() -> None:
    grown = reduced(BUSY, 0.5)
    assert grown["sm_active_seconds"] == pytest.approx(0.45)
    assert grown["tensor_active_seconds"] == pytest.approx(0.2)
    assert grown["pcie_rx_bytes"] == 0.5 * 2**20
    assert grown["idle_seconds"] == grown["spin_seconds"] == 0


@pytest.mark.parametrize(("active", "idle"), [(0.0, 0.1), (4.99, 0.1), (5.0, 0.0), (60.0, 0.0)])
def test_below_five_percent_is_idle(active: float, idle: float) -> None:
    assert reduced([active, *BUSY[1:]])["idle_seconds"] == idle


@pytest.mark.parametrize(
    ("active", "sm", "tensor", "dram", "spins"),
    [
        (100, 10, 0, 2, True),
        (50, 24.9, 2.9, 9.9, True),
        (49, 10, 0, 2, False),
        (100, 25, 0, 2, False),
        (100, 10, 3, 2, False),
        (100, 10, 0, 10, False),
    ],
)
def test_a_resident_kernel_that_does_nothing_spins(
    active: float, sm: float, tensor: float, dram: float, spins: bool
) -> None:
    assert reduced([active, sm, 0, tensor, dram, 0, 0, 0, 0])["spin_seconds"] == (0.1 if spins else 0.0)


@given(st.lists(st.tuples(st.tuples(*[st.floats(0, 100)] * 9), st.floats(0.1, 1)), min_size=1, max_size=16))
def test_many_pairs_at_once_are_the_sum_of_each(pairs: list[tuple[tuple[float, ...], float]]) -> None:
    each = [gpm.reduce(metrics, seconds) for metrics, seconds in pairs]
    assert gpm.total(*zip(*pairs, strict=True)) == pytest.approx(
        [math.fsum(c) for c in zip(*each, strict=True)]
    )


@given(st.lists(st.just(NAN) | st.floats(-1, 1e6), min_size=9, max_size=9), st.floats(0.1, 10))
def test_what_is_unknown_stays_unknown_and_no_share_exceeds_its_time(
    metrics: list[float], seconds: float
) -> None:
    grown = reduced(metrics, seconds)
    for column, metric in zip(nvml_page.ACTIVITY[1:6], metrics[:5], strict=True):
        assert math.isnan(grown[column]) == math.isnan(metric)
        assert math.isnan(metric) or 0 <= grown[column] <= seconds
    assert math.isnan(grown["observed_seconds"]) == math.isnan(metrics[0])
    assert math.isnan(grown["spin_seconds"]) == any(math.isnan(metrics[i]) for i in (0, 1, 3, 4))


@given(st.lists(st.tuples(st.integers(1, 10**7), st.floats(0, 100)), max_size=60), st.integers(0, 60))
def test_samples_read_in_two_parts_count_as_in_one(samples: list[tuple[int, float]], cut: int) -> None:
    samples = sorted(dict(samples).items())
    last, *whole = nvml_samples.integrate(samples, 1)
    middle, *first = nvml_samples.integrate(samples[:cut], 1)
    # the driver may hand out again what was read before
    end, *second = nvml_samples.integrate(samples[max(0, cut - 3) :], middle)
    assert end == last
    assert [a + b for a, b in zip(first, second, strict=True)] == pytest.approx(whole)


@given(st.integers(0, 2**64 - 1))
def test_a_field_is_read_as_the_type_it_says(raw: int) -> None:
    stored = struct.pack("=Q", raw)
    for kind, letter in ((1, "I"), (3, "Q"), (4, "q"), (5, "i"), (6, "H")):
        assert nvml_fields.decode(kind, raw) == struct.unpack_from(f"={letter}", stored)[0]


@given(st.lists(st.integers(0, 2**34), min_size=1, max_size=20))
def test_growth_is_never_negative(values: list[int]) -> None:
    assert all(nvml_fields.advance(a, b) >= 0 for a, b in itertools.pairwise(values))


@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=5), min_size=1, max_size=5))
def test_published_sums_never_fall_and_add_up_over_workers(workers: list[list[float]]) -> None:
    monotone = Monotone()
    published = []
    for grown in workers:
        monotone.restart()
        total = 0.0
        for more in grown:
            total += more
            published.append(monotone.publish("GPU-0", "active_seconds", total))
    assert published == sorted(published)
    assert published[-1] == pytest.approx(sum(sum(grown) for grown in workers))


def test_energy_that_a_new_worker_knows_better_is_no_reset() -> None:
    monotone = Monotone()
    assert [monotone.publish("GPU-0", "energy_joules", joules) for joules in (9000.0, 9700.0)] == [9000, 9700]
    monotone.restart()
    # The last worker had estimated a little too much; then the driver is loaded anew and counts from zero.
    told = [monotone.publish("GPU-0", "energy_joules", joules) for joules in (9650.0, 9720.0, 30.0, 100.0)]
    assert told == [9700, 9720, 9750, 9820]


def test_energy_is_estimated_between_two_readings_of_its_counter() -> None:
    energy = nvml_fields.Energy()
    told = []
    for reading, joules in (
        (1000.0, 0.0),
        (None, 50.0),
        (None, NAN),
        (None, 60.0),
        (1100.0, 0.0),
        (None, 30.0),
    ):
        if reading is None:
            energy.add(joules)
        else:
            energy.read(reading)
        told.append(energy.joules)
    # Ten joules were told too many; the next thirty pay them back.
    assert told == [1000, 1050, 1050, 1110, 1110, 1130]
    energy.read(1200.0)
    assert energy.joules == 1200
    energy.read(NAN)
    assert math.isnan(energy.joules)
    energy.read(1300.0)
    assert energy.joules == 1300


def test_power_is_not_drawn_on_while_a_gpu_sleeps() -> None:
    device = object.__new__(nvml_device.Device)
    device._ticked = 100.0
    assert [device._since(now) for now in (101.0, 4000.0)] == [1.0, 2.0]


def test_the_same_problem_on_many_gpus_is_told_once() -> None:
    problems = Problems()
    for gpu in range(8):
        problems.add(f"GPU-{gpu}", "gpm", "no permission", "be root")
    problems.add("GPU-3", "fields", "timed out")
    assert problems.listed() == [
        ("GPU-0 and 7 more: gpm: no permission", "be root"),
        ("GPU-3: fields: timed out", ""),
    ]


def test_the_agents_side_does_not_load_the_driver_bindings() -> None:
    program = "import sys, wellfed.collectors.nvml; print({'pynvml', 'grpc', 'polars'} & {*sys.modules})"
    command = [sys.executable, "-c", program]
    environment = dict(os.environ) | {"PYTHONPATH": ROOT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def page() -> tuple[int, nvml_page.Writer, nvml_page.Reader]:
    descriptor = nvml_page.create()
    return descriptor, nvml_page.Writer(descriptor), nvml_page.Reader(descriptor)


def text(gpu: str) -> nvml_page.Text:
    return {
        "rows": [{"gpu": gpu, "number": 0, "instance": "", "inside": True, "info": {}, "pids": []}],
        "problems": [],
        "broken": False,
    }


def test_a_page_is_read_as_written() -> None:
    descriptor, writer, reader = page()
    assert reader.snapshot() is None
    row = array("d", [float(i) for i in range(len(nvml_page.COLUMNS))])
    writer.describe(text("GPU-0"))
    writer.rows([row.tobytes()])
    snapshot = reader.snapshot()
    assert snapshot is not None
    assert snapshot.rows == [tuple(row)]
    assert snapshot.text == text("GPU-0")
    writer.enter(5, "gpm")
    assert reader.position()[1:] == (5, "gpm")
    os.close(descriptor)


def test_rows_half_written_or_of_another_text_are_not_shown() -> None:
    descriptor, writer, reader = page()
    writer.describe(text("GPU-0"))
    writer.rows([nvml_page.NULLS])
    before = reader.snapshot()
    os.pwrite(descriptor, b"\1", 64 + 20)
    assert reader.snapshot() is before
    os.pwrite(descriptor, nvml_page.NULLS[:1], 64 + 20)
    writer.describe(text("GPU-1"))
    assert reader.snapshot() is before
    writer.rows([nvml_page.NULLS])
    after = reader.snapshot()
    assert after is not None
    assert after.text == text("GPU-1")
    os.close(descriptor)


@given(st.floats(0.0, 1.8e9), st.lists(st.floats(0.0, 0.28), min_size=3, max_size=20))
def test_each_second_of_the_agent_has_one_tick_of_the_worker(start: float, lates: list[float]) -> None:
    wall, seen = start, []
    for late in lates:
        wall += nvml_worker.until_tick(wall, 1.0) + late
        seen.append(int(wall))
    # The agent reads at whole seconds; where the worker starts within one does not matter.
    assert seen == list(range(seen[0], seen[0] + len(lates)))


@given(st.floats(0.0, 1.8e9), st.sampled_from([0.1, 1.0]))
def test_ticks_of_the_worker_are_half_a_tick_apart_at_least(wall: float, tick: float) -> None:
    assert tick * 0.49 <= nvml_worker.until_tick(wall, tick) <= tick * 1.51


class _Clock:
    """A machine whose sleeps end late and whose reads of the driver take a while."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_700_000_000.37

    def sleep(self, seconds: float) -> None:
        self.now += seconds + 0.003


@pytest.mark.parametrize("pace", [0.11, 0.3, 1.0])
def test_the_worker_reads_once_between_two_reads_of_the_agent(
    monkeypatch: pytest.MonkeyPatch, pace: float
) -> None:
    clock, read, dear = _Clock(), list[float](), list[int]()
    monkeypatch.setattr(nvml_worker, "time", clock)
    worker = object.__new__(nvml_worker.Worker)
    page = SimpleNamespace(enter=lambda *_: None, rows=lambda _: None)
    for name, value in {"_page": page, "_tick": 1.0, "_pace": pace, "_gpms": [()], "_turn": None}.items():
        setattr(worker, name, value)
    for name in ("_sample", "_settle", "_describe", "_rows"):
        monkeypatch.setattr(worker, name, lambda **_: None)

    def reads(_: float, *, slow: bool) -> bool:
        read.append(clock.time())
        if slow:
            dear.append(round(clock.time()))
        clock.now += 0.02
        return len(read) < 40

    monkeypatch.setattr(worker, "_read", reads)
    assert worker.run() == nvml_worker.REOPEN
    # The agent reads at whole seconds, and finds what is 0.15 to 0.45 s old.
    seconds = [int(at) for at in read[1:]]
    assert seconds == list(range(seconds[0], seconds[0] + 39))
    assert all(0.55 < at % 1.0 < 0.85 for at in read[1:])
    # What is dear, it asks for at its start and right before the ends of windows of ten seconds.
    assert len(dear) == 5
    assert all(second % 10 == 0 for second in dear[1:])


def test_dear_hardware_is_sampled_less_often_but_not_for_what_is_asked_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(spent=0.0, monotonic=lambda: 0.0)
    clock.thread_time = lambda: clock.spent
    monkeypatch.setattr(nvml_worker, "time", clock)

    class Dear:
        def sample(self, _: float) -> None:
            clock.spent += 0.004

        def settle(self, _: float, *, exact: bool) -> None:
            clock.spent += 0.5 if exact else 0.0

    worker = object.__new__(nvml_worker.Worker)
    gpus = [(SimpleNamespace(lost=False), Dear())]
    for name, value in {"_gpms": gpus, "_period": 0.11, "_pace": 0.11, "_spent": 0.0, "_rounds": 0}.items():
        setattr(worker, name, value)
    for exact, pace in ((True, 0.11), (False, 0.4), (True, 0.4)):
        for _ in range(3):
            worker._sample()
        worker._settle(exact=exact)
        assert worker._pace == pytest.approx(pace)
