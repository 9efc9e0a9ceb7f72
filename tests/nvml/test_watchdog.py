"""The watchdog's bookkeeping, with workers that only pretend."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wellfed.collectors import nvml_watchdog
from wellfed.collectors.nvml_watchdog import Watchdog
from wellfed.collectors.registry import Roots

ROOTS = Roots()


class Stuck:
    """A worker that is silent in a call and that the kernel cannot end before `mortal` is set."""

    made: list[Stuck]

    def __init__(self, settings: dict[str, object], environment: object, now: float) -> None:
        self.settings = settings
        self.started = now
        self.mortal = False
        self.kills = 0
        self.process = SimpleNamespace(poll=lambda: None)
        self.page = SimpleNamespace(position=lambda: (now, 3, "fields"), snapshot=lambda: None)
        Stuck.made.append(self)

    def end(self) -> bool:
        self.kills += 1
        return self.mortal


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    Stuck.made = []
    monkeypatch.setattr(nvml_watchdog, "_Process", Stuck)
    return Watchdog({}, hang=5.0)


def run(watchdog: Watchdog, begin: float, end: float) -> None:
    """One look a second, as the sampler does."""
    now = begin
    while now < end:
        watchdog.supervise(ROOTS, now)
        now += 1.0


def test_a_silent_worker_is_killed_after_the_limit_and_not_before(watchdog: Watchdog) -> None:
    run(watchdog, 0.0, 6.0)
    assert Stuck.made[0].kills == 0
    run(watchdog, 6.0, 7.0)
    assert Stuck.made[0].kills == 1
    assert watchdog.stuck
    assert watchdog.reason == "the NVIDIA driver hangs in fields on GPU 3: worker killed"


def test_the_next_worker_leaves_out_the_call_for_longer_each_time(watchdog: Watchdog) -> None:
    run(watchdog, 0.0, 8.0)
    skip = Stuck.made[1].settings["skip"]
    assert skip == [[3, "fields", pytest.approx(60, abs=2)]]
    Stuck.made[0].mortal = Stuck.made[1].mortal = True
    run(watchdog, 8.0, 20.0)
    assert Stuck.made[2].settings["skip"] == [[3, "fields", pytest.approx(120, abs=4)]]


def test_workers_that_cannot_be_ended_are_at_most_three(watchdog: Watchdog) -> None:
    run(watchdog, 0.0, 300.0)
    assert len(Stuck.made) == 3
    assert watchdog.reason == "3 workers hang in the NVIDIA driver and cannot be killed"
    Stuck.made[0].mortal = True
    run(watchdog, 300.0, 302.0)
    assert len(Stuck.made) == 4


def test_restarts_back_off_to_a_minute(watchdog: Watchdog) -> None:
    now = 0.0
    while len(Stuck.made) < 12:
        for worker in Stuck.made:
            worker.mortal = True
        watchdog.supervise(ROOTS, now)
        now += 0.5
    waits = [b.started - a.started - 5.5 for a, b in zip(Stuck.made, Stuck.made[1:], strict=False)]
    assert waits[:4] == pytest.approx([1, 2, 4, 8], abs=0.6)
    assert max(waits) == pytest.approx(60, abs=0.6)
