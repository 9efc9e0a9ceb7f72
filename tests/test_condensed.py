"""Days of kept verdicts in longer steps: the same sums and findings, from a stretch at a time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from served import serving
from test_judged import END, answer, folder, store, tables

from wellfed.analysis import condensed
from wellfed.analysis.condensed import Condensed, condense, step_for
from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.judged import JUDGED
from wellfed.analysis.segments import hour_name
from wellfed.analysis.store import Store
from wellfed.collectors.catalog import TABLES
from wellfed.dashboard import app, data, room
from wellfed.dashboard.data import StoreSource
from wellfed.dashboard.ranges import parse_range
from wellfed.errors import UserError

__all__ = ["folder", "store", "tables"]

BEGIN = END - timedelta(hours=3)


def short(store: Store, most: int = 700) -> Condensed:
    found = condense(store.scan, BEGIN, END, most)
    assert found is not None
    return found


def shown(store: Store, found: Condensed) -> Diagnosis:
    read = found.thinned({name: store.scan(name, BEGIN, END) for name in TABLES})
    return diagnose(read, start=BEGIN, end=END, judged=found)


@pytest.mark.parametrize(
    ("windows", "most", "step"),
    [(600_000, 600_000, 30), (8_850_000, 600_000, 300), (8_850_000, 400_000, 300), (10**9, 600_000, 3600)],
)
def test_a_step_is_as_short_as_fits(windows: int, most: int, step: float) -> None:
    assert step_for(windows, 10.0, most) == step


def test_sums_and_findings_are_those_of_the_full_detail(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answer(store, BEGIN, END)
    monkeypatch.setattr(condensed, "_STRETCH", 900)
    found = short(store)
    assert found.step > found.fine == 10
    assert found.windows.height <= 700 < whole.windows.height
    assert found.windows.select("ts", "host", "gpu", "job").is_unique().all()
    told = shown(store, found).document
    for part in ("gpus", "jobs", "totals"):
        ours, theirs = (d[part] if isinstance(d[part], list) else [d[part]] for d in (told, whole.document))
        for one, other in zip(ours, theirs, strict=True):
            for key in ("covered_seconds", "lost_seconds", "au", "by_cause"):
                assert one[key] == pytest.approx(other[key]), (part, key)
    for key in ("joules", "joules_lost", "hardware_flop_utilization"):
        assert told["totals"][key] == pytest.approx(whole.document["totals"][key])
    assert told["window_seconds"] == found.step
    assert json.loads(json.dumps(told["findings"])) == json.loads(json.dumps(whole.document["findings"]))


def test_shares_and_activity_over_time_are_those_of_the_windows_in_a_step(store: Store) -> None:
    whole, found = answer(store, BEGIN, END), short(store)
    step = timedelta(seconds=found.step)
    for frame, ours in ((whole.shares, found.shares), (whole.windows, found.windows)):
        at = pl.col("ts").dt.offset_by("-1ms").dt.truncate(step) + step
        expected = frame.group_by(at).agg(pl.col("lost_seconds").sum()).sort("ts")
        got = ours.group_by("ts").agg(pl.col("lost_seconds").sum()).sort("ts")
        assert got["ts"].to_list() == expected["ts"].to_list()
        assert got["lost_seconds"].to_list() == pytest.approx(expected["lost_seconds"].to_list())
    weighted = (whole.windows["useful"] * whole.windows["covered_seconds"]).sum()
    assert (found.windows["useful"] * found.windows["covered_seconds"]).sum() == pytest.approx(weighted)


def test_a_page_shows_a_range_of_more_windows_than_it_works_with(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MOST", 700)
    monkeypatch.setattr(room, "free", lambda: 100 * room.WINDOW_BYTES)
    source = StoreSource(store)
    wanted = parse_range(BEGIN.isoformat(), END.isoformat(), datetime.now(UTC))
    assert source.answer(wanted).diagnosis.windows.height <= 700
    query = f"from={BEGIN:%Y-%m-%dT%H:%M:%SZ}&to={END:%Y-%m-%dT%H:%M:%SZ}"
    with serving(app.create_app(source).server) as asked:
        told = asked.get(f"/api/v1/summary?{query}")
    assert told.status == 200
    assert told.json["window_seconds"] > 10


def test_what_nobody_judged_is_not_guessed_in_longer_steps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MOST", 700)
    monkeypatch.setattr(room, "free", lambda: 100 * room.WINDOW_BYTES)
    hour = END.replace(minute=0) - timedelta(hours=1)
    store.seal(END + timedelta(hours=2))
    store.replace(hour_name(hour), {name: store.scan(name).head(0).collect() for name in JUDGED})
    assert condense(store.scan, BEGIN, END, 700) is None
    wanted = parse_range(BEGIN.isoformat(), END.isoformat(), datetime.now(UTC))
    with pytest.raises(UserError, match="Choose a shorter range"):
        StoreSource(store).answer(wanted)
