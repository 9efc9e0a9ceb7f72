"""Answers are computed once per range and revision, never hold a page up, and survive a failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from programs import until

from wellfed.analysis.scenarios import fleet
from wellfed.analysis.store import Store
from wellfed.dashboard import data
from wellfed.dashboard.data import Answer, StoreSource
from wellfed.dashboard.facts import by_window, reporting
from wellfed.dashboard.ranges import parse_range
from wellfed.dashboard.series import gather
from wellfed.dashboard.topology import TopologyFile

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "store")) as opened:
        now = datetime.now(UTC).replace(microsecond=0)
        opened.append(fleet(seed=1, gpus=80, duration=120, end=now).tables)
        yield opened


def window(store: Store, after: float) -> None:
    """One more window of a host."""
    row = store.scan("host").collect().sort("ts").tail(1)
    store.append({"host": row.with_columns(pl.col("ts") + timedelta(seconds=after))})


def live() -> data.Range:
    return parse_range("15m", None, datetime.now(UTC))


def test_an_answer_is_computed_once_for_a_revision(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = data.diagnose
    monkeypatch.setattr(data, "diagnose", lambda *a, **k: made.append(1) or real(*a, **k))
    source = StoreSource(store)
    first = source.answer(live())
    asked = [threading.Thread(target=source.answer, args=(live(),)) for _ in range(4)]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    assert source.answer(live()) is first
    assert len(made) == 1


def test_many_who_come_at_once_share_one_diagnosis(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = data.diagnose
    monkeypatch.setattr(data, "diagnose", lambda *a, **k: made.append(1) or real(*a, **k))
    source = StoreSource(store)
    got: list[Answer] = []
    asked = [threading.Thread(target=lambda: got.append(source.answer(live()))) for _ in range(4)]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    assert len(made) == 1
    assert len({id(answer) for answer in got}) == 1


def test_a_live_page_is_not_held_up_by_the_next_diagnosis(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = StoreSource(store)
    first = source.answer(live())
    first.once(by_window)
    go = threading.Event()
    real = data.diagnose

    def slow(*args: object, **more: object) -> object:
        assert go.wait(30)
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "diagnose", slow)
    source._pause.clear()
    window(store, 10)
    assert source.answer(live()) is first
    go.set()
    second = until(lambda: (found := source.answer(live())) is not first and found, what="the next answer")
    assert second.revision > first.revision
    # What the pages derived from the first is ready in the second.
    assert (by_window,) in second._derived


def test_a_failed_refresh_leaves_the_last_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = StoreSource(store)
    first = source.answer(live())

    def broken(*args: object, **more: object) -> object:
        raise OSError("disk on fire")

    monkeypatch.setattr(data, "diagnose", broken)
    source._pause.clear()
    window(store, 10)
    assert source.answer(live()) is first
    until(lambda: not source._making, what="the refresh has failed")
    assert source.answer(live()) is first
    assert "disk on fire" in caplog.text


def test_what_can_no_longer_be_derived_does_not_stop_the_next_answer(store: Store) -> None:
    source = StoreSource(store)
    first = source.answer(live())

    def once_only(answer: Answer) -> str:
        if answer is not first:
            raise StopIteration("the finding is gone")
        return "here"

    assert first.once(once_only) == "here"
    source._pause.clear()
    window(store, 10)
    second = until(lambda: (found := source.answer(live())) is not first and found, what="the next answer")
    assert second.revision > first.revision


def test_few_answers_and_few_derivations_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = StoreSource(store)
    now = datetime.now(UTC)
    ranges = [data.Range("", now - timedelta(minutes=m), now, False) for m in range(1, 12)]
    for wanted in ranges:
        source.answer(wanted)
    assert len(source._kept) == 8
    monkeypatch.setattr(data, "_KEEP_ROWS", 1)
    last = source.answer(data.Range("", now - timedelta(minutes=20), now, False))
    assert list(source._kept.values()) == [last]
    for n in range(100):
        assert last.once(lambda answer, number: number, n) == n
    assert len(last._derived) <= 64


def test_the_first_answer_raises_what_went_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **more: object) -> object:
        raise OSError("disk on fire")

    monkeypatch.setattr(data, "diagnose", broken)
    with pytest.raises(OSError, match="disk on fire"):
        StoreSource(store).answer(live())


def test_a_fixed_range_is_not_computed_again(store: Store) -> None:
    source = StoreSource(store)
    start = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    wanted = parse_range(start, datetime.now(UTC).isoformat(), datetime.now(UTC))
    first = source.answer(wanted)
    window(store, 10)
    assert source.answer(wanted) is first


def test_a_host_that_fell_silent_is_not_counted_as_reporting() -> None:
    made = fleet(seed=1, gpus=80, duration=300, end=NOW)
    tables = {name: frame.lazy() for name, frame in made.tables.items()}
    gone = (pl.col("host") == "r01-n01") & (pl.col("ts") > NOW - timedelta(seconds=90))
    tables["host"] = tables["host"].filter(~gone)
    diagnosis = data.diagnose(tables)
    shown = parse_range("15m", None, NOW)
    assert reporting(Answer(shown, tables, diagnosis, NOW, NOW)) == (10, 9)


@pytest.mark.parametrize(
    ("start", "end", "text", "live"),
    [
        (None, None, "1h", True),
        ("6h", None, "6h", True),
        ("0h", None, "1h", True),
        ("6h", "x", "1h", True),
        ("2026-01-01T00:00", "2026-01-01T06:00", "2026-01-01 00:00 – 06:00", False),
        ("2026-01-01T00:00", "2026-01-02T06:00", "2026-01-01 00:00 – 2026-01-02 06:00", False),
        ("2026-01-01T00:00:10Z", "2026-01-01T00:01Z", "2026-01-01 00:00:10 – 00:01:00", False),
        ("2026-01-02T00:00", "2026-01-01T00:00", "1h", True),
        ("<script>", None, "1h", True),
    ],
)
def test_ranges_of_the_url(start: str | None, end: str | None, text: str, live: bool) -> None:
    found = parse_range(start, end, NOW)
    assert (found.text, found.live) == (text, live)
    assert found.start < found.end


def test_rates_have_gaps_where_the_data_has() -> None:
    seconds = [0, 10, 20, 80, 90, 100]
    values = [0.0, 5.0, 10.0, 40.0, 20.0, 25.0]
    frame = pl.LazyFrame(
        {"ts": [NOW + timedelta(seconds=s) for s in seconds], "host": "n", "net_rx_bytes": values}
    ).cast({"ts": pl.Datetime("ms", "UTC")})
    found = gather(frame, ["net_rx_bytes"], [], 10.0)
    rates = dict(
        zip(((found.stamps - found.stamps[0]) / 1000).tolist(), found["net_rx_bytes"].tolist(), strict=True)
    )
    known = {s: r for s, r in rates.items() if not np.isnan(r)}
    assert known == {10.0: 0.5, 20.0: 0.5, 100.0: 0.5}
    assert len(rates) == 11
    assert np.isnan(found["cpu_busy_seconds"]).all()


def test_a_month_is_at_most_1500_points() -> None:
    stamps = [NOW + timedelta(seconds=10 * i) for i in range(5000)]
    frame = pl.LazyFrame({"ts": stamps, "host": "n", "load1": 1.0}).cast({"ts": pl.Datetime("ms", "UTC")})
    assert gather(frame, [], ["load1"], 10.0).stamps.size <= 1501


def test_an_answer_has_the_topology_of_its_time(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "topology.conf"
    file.write_text("SwitchName=leaf1 Nodes=r01-n01")
    source = StoreSource(store, topology=TopologyFile(str(file)))
    first = source.answer(live()).topology
    assert first is not None
    assert first.leaves == ["leaf1"]
    (tmp_path / "next").write_text("SwitchName=leaf1 Nodes=r01-n01\nSwitchName=leaf2 Nodes=r01-n02")
    (tmp_path / "next").replace(file)
    fixed = source.answer(parse_range("2026-03-02", "2026-03-03", datetime.now(UTC)))
    assert fixed.topology is not None
    assert fixed.topology.leaves == ["leaf1", "leaf2"]
    assert StoreSource(store).answer(live()).topology is None
