"""Verdicts that a hub keeps: the same answer as a diagnosis, for any range, whatever was missed or late."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.judged import JUDGED, frames, kept, seen_rows
from wellfed.analysis.live import Live
from wellfed.analysis.scenarios import simulate
from wellfed.analysis.sealed_verdicts import Latecomers
from wellfed.analysis.segment import joined
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.cli import main
from wellfed.collectors.catalog import TABLES

END = datetime(2026, 3, 2, 12, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEP = timedelta(seconds=10)


@pytest.fixture(scope="module")
def tables() -> Mapping[str, pl.DataFrame]:
    """A job whose late host holds the others up, and why."""
    return simulate("straggler-host-storage", seed=1, end=END).tables


@pytest.fixture(scope="module")
def folder(tables: Mapping[str, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was judged as it grew, as by a hub."""
    path = tmp_path_factory.mktemp("judged") / "store"
    first = tables["gpu"]["ts"].min()
    assert isinstance(first, datetime)
    with Store(path) as store:
        live, done = Live(store, Streaming(store)), first - STEP
        while done < END:
            until = done + timedelta(minutes=4)
            store.append(between(tables, done, until))
            live.update(until)
            done = until
    return path


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of it."""
    with Store(shutil.copytree(folder, tmp_path / "store")) as copy:
        yield copy


def between(tables: Mapping[str, pl.DataFrame], start: datetime, end: datetime) -> dict[str, pl.DataFrame]:
    inside = (pl.col("ts") > start) & (pl.col("ts") <= end)
    return {name: rows.filter(inside) for name, rows in tables.items()}


def answer(store: Store, start: datetime | None = None, end: datetime | None = None) -> Diagnosis:
    known = kept(store.scan, start, end)
    assert known is not None
    read = {name: store.scan(name, start, end) for name in TABLES}
    return diagnose(read, start=start, end=end, judged=known.partial)


def anew(store: Store) -> Diagnosis:
    return diagnose({name: store.scan(name) for name in TABLES})


def same(one: Any, other: Any) -> None:
    assert json.loads(json.dumps(one), parse_float=rounded) == json.loads(
        json.dumps(other), parse_float=rounded
    )


def rounded(text: str) -> float:
    return float(f"{float(text):.9g}")


def test_a_whole_range_has_the_document_of_a_diagnosis(store: Store) -> None:
    known, made = answer(store), anew(store)
    same(known.document, made.document)
    assert known.document["findings"]
    assert_frame_equal(known.windows, made.windows)


def test_a_loop_without_a_gpu_is_kept_too(tables: Mapping[str, pl.DataFrame], tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.append({name: rows for name, rows in tables.items() if name != "gpu"})
        Live(store, Streaming(store)).update(END)
        known = answer(store)
        assert known.document["totals"]["lost_seconds"] > 0
        same(known.document, anew(store).document)


def test_a_window_has_one_verdict_whatever_range_is_asked_for(store: Store) -> None:
    whole = answer(store)
    start, end = END - timedelta(seconds=545), END - timedelta(seconds=35)
    cut = answer(store, start, end)
    inside = (pl.col("ts") > start) & (pl.col("ts") <= end)
    assert cut.windows.height == 51 * whole.windows.select("host", "gpu").n_unique()
    assert_frame_equal(cut.windows, whole.windows.filter(inside))
    assert cut.document["totals"]["lost_seconds"] == pytest.approx(
        whole.windows.filter(inside)["lost_seconds"].sum()
    )


def test_a_finding_keeps_its_id_and_start_while_the_range_moves(store: Store) -> None:
    found = answer(store).document["findings"][0]
    start = datetime.fromisoformat(found["start"]) + timedelta(minutes=2)
    assert datetime.fromisoformat(found["end"]) > start + timedelta(minutes=2)
    for moved in (start, start + timedelta(minutes=1)):
        same_one = {f["id"]: f for f in answer(store, moved, END).document["findings"]}[found["id"]]
        assert same_one["start"] == found["start"]
        assert 0 < same_one["lost_gpu_seconds"] < found["lost_gpu_seconds"]


def test_a_restarted_hub_adds_verdicts_and_changes_none(
    tables: Mapping[str, pl.DataFrame], tmp_path: Path
) -> None:
    with Store(tmp_path / "s") as store:
        middle = END - timedelta(minutes=5)
        store.append(between(tables, END - HOUR, middle))
        Live(store, Streaming(store)).update(middle)
        before = store.scan("verdict").collect().sort("host", "gpu", "ts")
        store.append(between(tables, middle, END))
        Live(store, Streaming(store)).update(END)
        after = store.scan("verdict").collect().sort("host", "gpu", "ts")
        assert_frame_equal(before, after.filter(pl.col("ts") <= middle))
        assert after["ts"].max() == END
        assert kept(store.scan, None, None) is not None


def test_the_first_windows_of_a_store_are_not_late(
    tables: Mapping[str, pl.DataFrame], tmp_path: Path
) -> None:
    ends = tables["gpu"]["ts"].unique().sort()[:5].to_list()
    with Store(tmp_path / "s") as store:
        live = Live(store, Streaming(store))
        for end in ends:
            store.append(between(tables, end - STEP, end))
            live.update(end)
        assert store.scan("verdict_seen").collect()["late"].sum() == 0.0
        same(answer(store).document, anew(store).document)


def test_rows_that_nobody_judged_are_diagnosed_anew(store: Store) -> None:
    start = END - timedelta(minutes=5)
    assert kept(store.scan, start, END) is not None
    late = store.scan("gpu", start, END).collect().with_columns(pl.lit("another").alias("host"))
    store.append({"gpu": late})
    assert kept(store.scan, start, END) is None
    assert kept(store.scan, END - HOUR, start - STEP) is not None


def test_a_range_beside_what_was_judged_has_no_verdicts(store: Store) -> None:
    assert kept(store.scan, END + STEP, END + HOUR) is None
    assert kept(store.scan, END - timedelta(days=2), END - timedelta(days=1)) is None
    assert kept(store.scan, END - timedelta(days=1), END + HOUR) is not None


def test_what_is_judged_while_it_is_read_is_not_taken_in_halves(store: Store) -> None:
    verdicts = {name: store.scan(name).collect() for name in JUDGED}
    later = {name: rows.with_columns(pl.col("ts") + HOUR) for name, rows in verdicts.items()}

    def scan(table: str, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
        rows = store.scan(table, start, end)
        if table == "gpu":
            # The hub goes on once the first of its tables was read.
            store.append(later)
        return rows

    known = kept(scan, None, END + 2 * HOUR)
    assert known is not None
    assert known.partial.windows["ts"].max() == END


def test_a_live_hub_is_not_asked_about_the_window_it_is_judging(
    tables: Mapping[str, pl.DataFrame], tmp_path: Path
) -> None:
    now = datetime.fromtimestamp(datetime.now(UTC).timestamp() // 10 * 10, UTC)
    moved = {name: rows.with_columns(pl.col("ts") + (now - END)) for name, rows in tables.items()}
    with Store(tmp_path / "s") as store:
        store.append(between(moved, now - HOUR, now - STEP))
        Live(store, Streaming(store)).update(now - STEP)
        store.append(between(moved, now - STEP, now))
        known = kept(store.scan, now - timedelta(minutes=5), None)
        assert known is not None
        assert known.until == known.partial.windows["ts"].max() == now - STEP
    with Store(tmp_path / "old") as store:
        store.append(between(tables, END - HOUR, END - STEP))
        Live(store, Streaming(store)).update(END - STEP)
        store.append(between(tables, END - STEP, END))
        assert kept(store.scan, END - timedelta(minutes=5), None) is None


@pytest.mark.parametrize("column", ["version", "step", "late"])
def test_verdicts_of_another_kind_are_not_mixed(store: Store, column: str) -> None:
    start = END - timedelta(minutes=5)
    seen = store.scan("verdict_seen", start, END).collect()
    store.append({"verdict_seen": seen.head(8).with_columns(pl.lit(20.0).alias(column))})
    assert kept(store.scan, start, END) is None


def test_a_sealed_hour_without_verdicts_gets_them(tables: Mapping[str, pl.DataFrame], tmp_path: Path) -> None:
    now = END + HOUR
    with Store(tmp_path / "s") as store:
        store.append(tables)
        # Judged late and wrongly, by a hub that had a part of the rows.
        hosts = store.scan("gpu").select("ts", "host").unique().collect()
        store.append(frames(joined([], 10.0), seen_rows(hosts, joined([], 10.0), END)))
        store.seal(now)
        assert kept(store.scan, None, None) is None
        latecomers = Latecomers(store)
        hours = sorted(store.sealed("gpu"), reverse=True)
        assert [latecomers.judge(now) for _ in range(len(hours) + 1)] == [*hours, None]
        same(answer(store).document, anew(store).document)
        assert store.check() == []
        # More rows for a sealed hour: it is looked at again, and judged again where they were not.
        late = store.scan("gpu", END - timedelta(minutes=5)).collect()
        store.append({"gpu": late.with_columns(pl.lit("another").alias("host"))})
        store.seal(now)
        assert latecomers.judge(now) == hours[0]
        assert "another" in answer(store).windows["host"]
        assert latecomers.judge(now) is None


@pytest.mark.parametrize("table", sorted(JUDGED))
def test_a_lost_file_of_verdicts_shows(store: Store, table: str) -> None:
    now = END + HOUR
    store.seal(now)
    rows = store.scan(table).group_by(pl.col("ts").dt.truncate("1h").alias("hour")).len().collect()
    hour = rows.sort("len")["hour"][-1]
    (Path(store.path) / table / f"{hour:%Y-%m-%dT%H}.parquet").unlink()
    assert kept(store.scan, None, None) is None
    latecomers = Latecomers(store)
    assert {latecomers.judge(now) for _ in range(3)} >= {f"{hour:%Y-%m-%dT%H}", None}
    same(answer(store).document, anew(store).document)


def test_a_full_disk_costs_the_kept_verdict_and_nothing_else(
    tables: Mapping[str, pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "s") as store:
        store.append(tables)
        live = Live(store, Streaming(store))

        def full(_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store, "append", full)
        live.update(END)
        lost = live.counters.filter(pl.col("metric") == "lost_gpu_seconds")["value"].sum()
        assert lost == pytest.approx(anew(store).document["totals"]["lost_seconds"])
        assert store.scan("verdict").collect().is_empty()


def test_the_command_and_other_programs_read_them(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    span = ["--from", (END - timedelta(minutes=6)).isoformat(), "--to", END.isoformat()]
    want = answer(store, END - timedelta(minutes=6), END).document
    assert main(["diagnose", "--json", f"--data={store.path}", *span]) == 0
    same(json.loads(capsys.readouterr().out), want)
    assert main(["store", "export", f"--data={store.path}", f"--out={tmp_path / 'out'}"]) == 0
    assert {path.stem for path in (tmp_path / "out").iterdir()} >= {"gpu", *JUDGED}
    summed = (
        pl.read_parquet(tmp_path / "out/verdict_loss.parquet")
        .group_by("cause")
        .agg(pl.col("lost_seconds").sum())
    )
    assert dict(summed.iter_rows()) == pytest.approx(answer(store).document["totals"]["by_cause"])
