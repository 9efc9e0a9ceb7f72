"""The sampler keeps time, isolates failures and integrates levels."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.crew import next_tick
from wellfed.collectors.registry import Roots, Row
from wellfed.collectors.sampler import Sampler, Window
from wellfed.collectors.slot import Slot

ROOTS = Roots("/nonexistent", "/nonexistent")


class Source:
    """A collector that answers what the test tells it to."""

    interval = 1.0
    deadline = 0.2
    tables = ("host",)
    remedy = ""

    def __init__(self, name: str = "source") -> None:
        self.name = name
        self.reason = ""
        self.rows: list[Row] = []
        self.error: Exception | None = None
        self.hang: threading.Event | None = None

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        if self.hang is not None:
            self.hang.wait(10)
        if self.error is not None:
            raise self.error
        return [Row(r.table, r.key, dict(r.values), dict(r.info), dict(r.levels)) for r in self.rows]


def find(window: Window, table: str, *key: str) -> Row | None:
    return next((r for r in window.rows if (r.table, r.key) == (table, key)), None)


def status(window: Window, name: str) -> dict[str, float | None]:
    row = find(window, "collector", name)
    assert row is not None
    return row.values


@given(
    now=st.floats(0, 4e9),
    interval=st.sampled_from([0.1, 0.5, 1.0, 10.0, 60.0]),
)
def test_ticks_are_multiples_of_the_interval_and_never_repeat(now: float, interval: float) -> None:
    first = next_tick(now, interval, last=0.0)
    assert 0 < first - now <= interval * 2 + 1e-6
    # Woken a hair early: the same tick must not come twice.
    assert next_tick(first - interval * 1e-3, interval, last=first) > first


def test_a_clock_set_back_an_hour_does_not_stop_sampling() -> None:
    tick = next_tick(10_000.2, 1.0, last=0.0)
    assert next_tick(10_000.2 - 3600, 1.0, last=tick) == 6401.0


def test_levels_become_seconds_and_observed_time() -> None:
    source = Source()
    slot = Slot(source)
    for at, level in ((100.0, 0.9), (101.0, 0.5), (103.0, 0.25)):
        source.rows = [Row("gpu", ("GPU-a",), {}, {}, {"sm_active_seconds": level})]
        slot.tick(ROOTS, at, at)
    values = slot.rows[0].values
    assert values["sm_active_seconds"] == pytest.approx(1 * 0.5 + 2 * 0.25)
    assert values["observed_seconds"] == pytest.approx(3.0)


def test_a_gap_is_not_observed() -> None:
    source = Source()
    slot = Slot(source)
    source.rows = [Row("gpu", ("GPU-a",), {}, {}, {"active_seconds": 1.0})]
    for at in (100.0, 101.0, 160.0, 161.0):
        slot.tick(ROOTS, at, at)
    assert slot.rows[0].values["active_seconds"] == pytest.approx(2.0)


def test_a_failing_collector_publishes_no_row_but_says_why_and_the_rest_goes_on() -> None:
    bad, good = Source("bad"), Source("good")
    bad.rows = [Row("disk", ("sda",), {"reads": 1.0})]
    good.rows = [Row("host", (), {"load1": 2.0})]
    sampler = Sampler([bad, good], ROOTS)
    for slot in sampler.slots:
        slot.tick(ROOTS, 100.0, 100.0)
    bad.error = ValueError("/proc/diskstats: 3 fields, expected 14 or more")
    for slot in sampler.slots:
        slot.tick(ROOTS, 101.0, 101.0)
    window = sampler.snapshot(101.0)
    assert find(window, "disk", "sda") is None
    assert status(window, "bad")["success"] == 0
    assert status(window, "bad")["errors"] == 1
    assert status(window, "bad")["last_success_seconds"] == 100.0
    row = find(window, "collector", "bad")
    assert row is not None
    assert "expected 14" in row.info["reason"]
    assert find(window, "host") is not None
    assert status(window, "good")["success"] == 1


def test_absent_hardware_is_no_success_and_no_error() -> None:
    source = Source()
    source.reason = "no InfiniBand: /sys/class/infiniband is missing"
    sampler = Sampler([source], ROOTS)
    sampler.slots[0].tick(ROOTS, 100.0, 100.0)
    values = status(sampler.snapshot(100.0), "source")
    assert (values["success"], values["errors"]) == (0, 0)


def test_rows_of_two_collectors_about_one_thing_are_one_row() -> None:
    one, two = Source("one"), Source("two")
    one.rows = [Row("host", (), {"load1": 1.0})]
    two.rows = [Row("host", (), {"boot_seconds": 5.0})]
    sampler = Sampler([one, two], ROOTS)
    for slot in sampler.slots:
        slot.tick(ROOTS, 100.0, 100.0)
    row = find(sampler.snapshot(100.0), "host")
    assert row is not None
    assert row.values == {"load1": 1.0, "boot_seconds": 5.0}


def test_what_was_read_long_ago_is_not_published_again() -> None:
    source = Source()
    source.rows = [Row("host", (), {"load1": 1.0})]
    sampler = Sampler([source], ROOTS, window=10.0)
    sampler.slots[0].tick(ROOTS, 100.0, 100.0)
    assert find(sampler.snapshot(110.0), "host") is not None
    assert find(sampler.snapshot(110.1), "host") is None


def test_a_stuck_collector_delays_nobody_and_shows_as_stuck() -> None:
    stuck, good = Source("stuck"), Source("good")
    stuck.hang = threading.Event()
    good.interval = stuck.interval = 0.05
    good.rows = [Row("host", (), {"load1": 1.0})]
    windows: list[Window] = []
    enough = threading.Event()

    def keep(window: Window) -> None:
        windows.append(window)
        if len(windows) >= 5:
            enough.set()

    sampler = Sampler([stuck, good], ROOTS, window=0.2, on_window=keep)
    sampler.start()
    try:
        assert enough.wait(10)
    finally:
        stuck.hang.set()
        sampler.stop()
    last = windows[-1]
    assert status(last, "stuck")["stuck"] == 1
    assert status(last, "stuck")["success"] == 0
    assert status(last, "good")["stuck"] == 0
    assert find(last, "host") is not None
    assert sum(t.name == "wellfed-stuck" for t in threading.enumerate()) <= 1


def test_windows_end_on_multiples_and_none_is_missing() -> None:
    source = Source()
    source.interval = 0.05
    source.rows = [Row("host", (), {"load1": 1.0})]
    ends: list[float] = []
    enough = threading.Event()

    def keep(window: Window) -> None:
        ends.append(window.ts)
        if len(ends) == 4:
            enough.set()

    sampler = Sampler([source], ROOTS, window=0.5, on_window=keep)
    sampler.start()
    try:
        assert enough.wait(10)
    finally:
        sampler.stop()
    assert [b - a for a, b in pairwise(ends[:4])] == [0.5] * 3
    assert all(end % 0.5 == 0 for end in ends)


def test_read_once_waits_for_no_stuck_collector_longer_than_its_deadline() -> None:
    stuck, good = Source("stuck"), Source("good")
    stuck.hang = threading.Event()
    good.rows = [Row("host", (), {"load1": 1.0})]
    sampler = Sampler([stuck, good], ROOTS)
    start = time.monotonic()
    window = sampler.read_once()
    stuck.hang.set()
    assert time.monotonic() - start < 5
    assert find(window, "host") is not None
    assert status(window, "stuck")["stuck"] == 1


def test_stop_closes_collectors_that_can_be_closed() -> None:
    closed = []

    class Closing(Source):
        def close(self) -> None:
            closed.append(self.name)

    Sampler([Closing()], ROOTS).stop()
    assert closed == ["source"]
