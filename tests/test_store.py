"""What goes into the store comes out once, in today's columns, whatever happened to the files meanwhile."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfed.analysis.inputs import read_tables
from wellfed.analysis.judged import STORED
from wellfed.analysis.schema import TS, schema
from wellfed.analysis.segments import intact
from wellfed.analysis.store import Store, is_store
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = T0 + 24 * HOUR


def host(*windows: int, load: float = 1.0, name: str = "a") -> dict[str, pl.DataFrame]:
    """One row of table host for each 10 s window after T0."""
    stamps = [T0 + timedelta(seconds=10 * window) for window in windows]
    frame = pl.DataFrame({"ts": stamps, "host": name, "load1": load}, schema_overrides={"ts": TS})
    return {"host": frame}


def loads(store: Store) -> list[float]:
    """The values of all rows of table host in the order of their ts."""
    rows = store.scan("host").collect(engine="streaming").sort("ts", "host")
    assert rows.schema == schema(TABLES["host"])
    return rows["load1"].to_list()


def sealed(store: Store) -> Path:
    """The only sealed file of table host."""
    (path,) = Path(store.path, "host").glob("*.parquet")
    return path


def hot(store: Store) -> list[Path]:
    return sorted(Path(store.path, "hot").rglob("*.arrow"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def test_rows_are_readable_when_append_returns_and_after_sealing(store: Store) -> None:
    store.append(host(*range(400)))
    assert loads(store) == [1.0] * 400
    assert store.seal(LATER) == 2
    assert loads(store) == [1.0] * 400
    assert hot(store) == []
    assert sorted(p.name for p in Path(store.path, "host").iterdir()) == [
        "2026-03-01T10.parquet",
        "2026-03-01T11.parquet",
    ]
    assert store.bounds() == (T0, T0 + 2 * HOUR)


def test_an_hour_that_has_not_ended_stays_hot(store: Store) -> None:
    store.append(host(0))
    assert store.seal(T0 + timedelta(minutes=60, seconds=30)) == 0
    assert store.seal(T0 + timedelta(minutes=61)) == 1
    assert store.seal(LATER) == 0


@pytest.mark.parametrize("seals", [False, True])
def test_scan_takes_the_windows_that_end_after_start_and_by_end(store: Store, seals: bool) -> None:
    store.append(host(*range(359, 365)))
    for window in range(720, 724):
        store.append(host(window))
    if seals:
        store.seal(LATER)
    got = store.scan("host", T0 + HOUR, T0 + 2 * HOUR).collect()["ts"].sort().to_list()
    assert got == [T0 + timedelta(seconds=10 * w) for w in (361, 362, 363, 364, 720)]
    assert store.scan("host", T0 + 5 * HOUR).collect().height == 0
    assert store.scan("host", None, T0).collect().schema == schema(TABLES["host"])


def test_filters_columns_and_limits_are_pushed_into_the_files(store: Store) -> None:
    store.append(host(*range(10), load=1.0))
    store.append(host(*range(360, 370), load=2.0))
    store.seal(LATER)
    store.append(host(*range(720, 730), load=3.0))
    frame = store.scan("host")
    assert frame.head(4).collect(engine="streaming").height == 4
    assert frame.filter(pl.col("load1") > 1).select(pl.col("load1").sum()).collect().item() == 50.0
    assert frame.join(frame, on=["host", "ts"]).select(pl.len()).collect(engine="streaming").item() == 30
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        frame.select("nonsense").collect()


def test_a_query_that_fails_is_not_taken_for_a_damaged_file(store: Store) -> None:
    store.append(host(0))
    store.seal(LATER)
    with pytest.raises(pl.exceptions.PolarsError):
        store.scan("host").filter(pl.col("host").cast(pl.Int64) > 0).collect(engine="streaming")
    assert store.problems == []


def test_late_and_repeated_rows_replace_earlier_ones(store: Store) -> None:
    store.append(host(0, 1, 2, load=1.0))
    store.seal(LATER)
    store.append(host(1, load=5.0))
    store.append(host(7, load=7.0))
    assert loads(store) == [1.0, 5.0, 1.0, 7.0]
    assert store.seal(LATER) == 1
    assert loads(store) == [1.0, 5.0, 1.0, 7.0]
    assert hot(store) == []


def test_the_last_of_many_repeats_wins_hot_and_sealed(store: Store) -> None:
    for load in range(60):
        store.append(host(0, 1, load=float(load)))
        store.append(host(2, load=-float(load)))
    assert loads(store) == [59.0, 59.0, -59.0]
    store.seal(LATER)
    assert loads(store) == [59.0, 59.0, -59.0]


def test_hot_files_of_an_older_catalog_are_read_in_todays_columns(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = {**STORED, "host": replace(TABLES["host"], columns=TABLES["host"].columns[1:])}
    store.append(host(0, load=1.0))
    with monkeypatch.context() as patch:
        patch.setattr("wellfed.analysis.store.STORED", older)
        store.append({"host": host(1, load=2.0)["host"].with_columns(cpu_count=4.0)})
        assert "cpu_count" not in store.scan("host").collect_schema()
    store.append(host(2, load=3.0))
    assert loads(store) == [1.0, 2.0, 3.0]
    store.seal(LATER)
    assert loads(store) == [1.0, 2.0, 3.0]
    assert store.problems == []


def test_rows_without_a_host_are_told_apart_by_their_other_keys(store: Store) -> None:
    stamps = pl.Series([T0, T0, T0], dtype=TS)
    columns = {"ts": stamps, "array": ["x", "y", "x"], "protocol": "nfs", "used_ratio": [0.1, 0.2, 0.3]}
    for _ in range(2):
        store.append({"array": pl.DataFrame(columns)})
        assert store.scan("array").collect()["used_ratio"].sort().to_list() == [0.2, 0.3]
    store.seal(LATER)
    assert store.scan("array").collect()["used_ratio"].sort().to_list() == [0.2, 0.3]
    assert store.check() == []


def test_sealed_rows_are_sorted_by_key_then_time(store: Store) -> None:
    store.append(host(3, 1, name="b"))
    store.append(host(2, 0, name="a"))
    store.seal(LATER)
    rows = pl.read_parquet(sealed(store))
    assert rows.equals(rows.sort("host", "ts"))


def test_a_column_of_tomorrow_reads_as_null_from_yesterdays_file(store: Store) -> None:
    store.append(host(0))
    store.seal(LATER)
    today = pl.read_parquet(sealed(store))
    yesterday = today.drop("load1").with_columns(forgotten=pl.lit(3.0), cpu_count=pl.lit(4, pl.Int64))
    yesterday.write_parquet(sealed(store))
    assert loads(store) == [None]
    assert store.scan("host").select("cpu_count").collect().item() == 4.0
    store.append(host(360, load=2.0))
    store.append(host(1, load=3.0))
    assert loads(store) == [None, 3.0, 2.0]
    store.seal(LATER)
    assert loads(store) == [None, 3.0, 2.0]
    assert (store.problems, store.check()) == ([], [])


def test_retention_by_age_removes_the_hours_that_ended_before(store: Store) -> None:
    store.append(host(0, 360, 720))
    store.seal(LATER)
    assert store.retain(age=2 * HOUR, now=T0 + 3 * HOUR + timedelta(seconds=1)) == 1
    assert store.bounds() == (T0 + HOUR, T0 + 3 * HOUR)


def test_retention_by_size_removes_the_oldest_hour_of_every_table_but_nothing_hot(store: Store) -> None:
    disk = pl.DataFrame(
        {"ts": pl.Series([T0 + HOUR], dtype=TS), "host": "a", "device": "sda", "inflight": 1.0}
    )
    store.append({**host(0, 360, 720), "disk": disk})
    store.seal(T0 + 2 * HOUR + timedelta(minutes=5))
    everything = sum(
        path.stat().st_size for path in Path(store.path).rglob("*") if path.suffix in (".parquet", ".arrow")
    )
    assert store.retain(size=everything, now=LATER) == 0
    assert store.retain(size=everything - 1, now=LATER) == 1
    assert store.bounds() == (T0 + HOUR, T0 + 3 * HOUR)
    assert store.retain(size=1, now=LATER) == 2
    assert loads(store) == [1.0]
    assert len(hot(store)) == 1


def test_retention_spares_the_hour_of_now(store: Store) -> None:
    store.append(host(0))
    store.seal(LATER)
    assert store.retain(age=timedelta(), size=0, now=T0 + timedelta(minutes=59)) == 0
    assert loads(store) == [1.0]


def test_a_clock_set_back_after_a_restart_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "s") as store:
        store.append(host(0))
        store.seal(LATER)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000)
    with Store(tmp_path / "s") as store:
        store.append(host(1, load=2.0))
        store.append(host(1, load=3.0))
        assert loads(store) == [1.0, 3.0]
        store.seal(LATER)
        assert loads(store) == [1.0, 3.0]


def test_append_refuses_what_it_could_not_give_back(store: Store) -> None:
    with pytest.raises(UserError, match="there is no table gpus; the tables are gpu, host"):
        store.append({"gpus": host(0)["host"]})
    with pytest.raises(UserError, match="lacks the column host"):
        store.append({"host": host(0)["host"].drop("host")})
    for ts in (None, datetime(1969, 12, 31, tzinfo=UTC)):
        frame = host(0)["host"].with_columns(ts=pl.lit(ts, TS))
        with pytest.raises(UserError, match="rows without a ts between 1970 and 9999"):
            store.append({"host": frame})
    with pytest.raises(ValueError, match="no time zone"):
        store.scan("host", datetime(2026, 1, 1))
    store.append({})
    store.append({"host": host(0)["host"].clear()})
    assert hot(store) == []


def test_a_full_disk_is_an_error_that_leaves_all_tables_as_they_were(store: Store) -> None:
    store.append(host(0))
    before = sorted(Path(store.path).rglob("*"))
    big = host(*range(3000))["host"].with_columns(load1=pl.int_range(3000).cast(pl.Float64).sin())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(OSError, match="cannot write to the store: File too large"):
            store.append({**host(1), "host": big})
        assert sorted(Path(store.path).rglob("*")) == before
        with pytest.raises(OSError, match="cannot write to the store"):
            store.seal(LATER)
        assert loads(store) == [1.0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.append({"host": big})
    store.seal(LATER)
    assert len(loads(store)) == 3000


@pytest.mark.parametrize("kind", ["hot", "sealed"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped"])
def test_a_damaged_file_is_named_left_out_and_set_aside(store: Store, kind: str, damage: str) -> None:
    store.append(host(0, load=1.0))
    if kind == "sealed":
        store.seal(LATER)
    victim = sealed(store) if kind == "sealed" else hot(store)[0]
    store.append(host(1, load=2.0))
    store.append(host(360, load=3.0))
    content = bytearray(victim.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 1
    victim.write_bytes({"empty": b"", "truncated": content[:-20], "flipped": content}[damage])
    assert loads(store) == [2.0, 3.0]
    assert len(store.problems) == 1
    assert f"{victim} is damaged and left out" in store.problems[0]
    (line,) = store.check()
    assert f"{victim} is damaged" in line
    (moved,) = store.repair()
    assert "quarantine" in moved
    assert (store.check(), loads(store)) == ([], [2.0, 3.0])
    (kept,) = Path(store.path, "quarantine").iterdir()
    assert kept.read_bytes() == {"empty": b"", "truncated": content[:-20], "flipped": content}[damage]


@pytest.mark.parametrize("kind", ["hot", "sealed"])
def test_sealing_keeps_a_damaged_file_in_quarantine_and_the_rest_in_the_hour(store: Store, kind: str) -> None:
    store.append(host(0, load=1.0))
    if kind == "sealed":
        store.seal(LATER)
    victim = sealed(store) if kind == "sealed" else hot(store)[0]
    store.append(host(1, load=2.0))
    victim.write_bytes(victim.read_bytes()[:-9])
    assert store.seal(LATER) == 1
    assert loads(store) == [2.0]
    assert len(list(Path(store.path, "quarantine").iterdir())) == 1
    assert store.check() == []
    assert len(store.problems) == 1


def test_a_flip_of_any_byte_of_a_sealed_file_is_found(store: Store, tmp_path: Path) -> None:
    store.append(host(0))
    store.seal(LATER)
    content = sealed(store).read_bytes()
    copy = tmp_path / "copy"
    missed = []
    for place in range(len(content)):
        copy.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with open(copy, "rb") as file:
            missed += [place] * intact(file)
    assert missed == []
    with open(sealed(store), "rb") as file:
        assert intact(file)


def test_check_names_rows_of_another_hour_and_files_of_others(store: Store) -> None:
    store.append(host(0, 360))
    store.seal(LATER)
    folder = Path(store.path, "host")
    (folder / "2026-03-01T11.parquet").rename(folder / "2026-03-01T12.parquet")
    (folder / "notes.txt").write_text("mine")
    wrong, stray = store.check()
    assert "1 of 1 rows belong to another hour" in wrong
    assert f"{folder / 'notes.txt'} does not belong to the store" in stray
    assert len(store.repair()) == 2
    assert (folder / "notes.txt").exists() is False
    assert store.check() == []


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    code = f"""
import sys
from wellfed.analysis.store import Store
sys.argv[:] = ["/x/wellfed", "up", "--token", "secret"]
store = Store({str(tmp_path / "s")!r})
print(flush=True)
sys.stdin.read()
"""
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    try:
        first.stdout.readline()
        with pytest.raises(UserError, match=rf"in use by pid {first.pid} \(wellfed up\)$"):
            Store(tmp_path / "s")
        assert Store(tmp_path / "s", readonly=True).scan("gpu").collect().height == 0
    finally:
        first.communicate()
    Store(tmp_path / "s").close()


def test_reading_takes_no_lock_and_a_reader_cannot_write(store: Store) -> None:
    store.append(host(0))
    with Store(store.path, readonly=True) as reader:
        assert loads(reader) == [1.0]
        with pytest.raises(ValueError, match="not open for writing"):
            reader.append(host(1))
        store.append(host(1))
        assert loads(reader) == [1.0, 1.0]
    assert loads(reader) == [1.0, 1.0]


def test_a_frame_planned_before_sealing_and_retention_can_be_collected_after(store: Store) -> None:
    store.append(host(0, 360))
    planned = store.scan("host")
    store.seal(LATER)
    assert planned.collect().height == 2
    store.retain(age=timedelta(), now=T0 + HOUR + timedelta(minutes=1))
    assert planned.collect().height == 1


def test_a_folder_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    with pytest.raises(UserError, match=r"not a Wellfed store and not empty: it holds letter.txt"):
        Store(tmp_path)
    assert list(tmp_path.iterdir()) == [letter]
    with pytest.raises(UserError, match="is not a folder"):
        Store(letter)
    with pytest.raises(UserError, match=r"not a Wellfed store: it has no wellfed-store.json"):
        Store(tmp_path, readonly=True)
    with pytest.raises(UserError, match="does not exist"):
        Store(tmp_path / "none", readonly=True)
    with pytest.raises(UserError, match=r"cannot open the store .*Not a directory"):
        Store(letter / "below")
    assert not is_store(tmp_path)


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    marker = tmp_path / "s" / "wellfed-store.json"
    for text, message in (('{"format": 2}', "has store format 2"), ("[", "is damaged"), ("[]", "is damaged")):
        marker.write_text(text)
        for readonly in (False, True):
            with pytest.raises(UserError, match=message):
                Store(tmp_path / "s", readonly=readonly)


def test_what_is_exported_is_an_input(store: Store, tmp_path: Path) -> None:
    store.append(host(0, 1, 360))
    store.seal(LATER)
    out = tmp_path / "out"
    assert store.export(out, start=T0) == {str(out / "host.parquet"): 2}
    assert read_tables(out)["host"].collect().height == 2
    with pytest.raises(UserError, match=r"already holds host.parquet"):
        store.export(out)
    assert [path.name for path in out.iterdir()] == ["host.parquet"]
    assert store.export(tmp_path / "two", ["gpu"]) == {str(tmp_path / "two" / "gpu.parquet"): 0}


def test_duckdb_reads_the_sealed_hours_while_the_store_is_written(store: Store) -> None:
    for hour in range(4):
        store.append(host(*range(hour * 360, hour * 360 + 5)))
        store.seal(LATER)
        store.append(host(hour * 360 + 5, load=9.0))
        query = f"select count(*), sum(load1) from read_parquet('{store.path}/host/*.parquet')"
        done = hour * 6 + 5
        assert duckdb.sql(query).fetchall() == [(done, 5.0 * (hour + 1) + 9.0 * hour)]
        store.seal(LATER)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.integers(0, 800), min_size=1, max_size=12, unique=True),
    data=st.data(),
)
def test_any_order_of_appends_and_seals_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], data: st.DataObject
) -> None:
    with Store(tmp_path_factory.mktemp("any") / "s") as store:
        left = list(rows)
        while left:
            size = data.draw(st.integers(1, len(left)))
            batch = [host(w, load=float(w))["host"] for w in left[:size]]
            store.append({"host": pl.concat(batch)})
            # A sender that saw no answer sends again.
            if data.draw(st.booleans()):
                store.append({"host": batch[0]})
            left = left[size:]
            if data.draw(st.booleans()):
                store.seal(LATER)
        assert loads(store) == sorted(map(float, rows))


def test_appends_and_reads_of_other_threads_go_on_while_hours_are_sealed(store: Store) -> None:
    with ThreadPoolExecutor(3) as pool:
        writers = [
            pool.submit(lambda lane=lane: [store.append(host(w, name=lane)) for w in range(40)])
            for lane in ("a", "b")
        ]
        seals = 0
        while not all(writer.done() for writer in writers):
            counts = [len(loads(store)), store.seal(LATER), len(loads(store))]
            assert counts[0] <= counts[2]
            seals += 1
        for writer in writers:
            writer.result()
    assert seals > 1
    assert loads(store) == [1.0] * 80
    assert store.problems == []


def test_readers_see_no_error_while_hours_are_sealed_and_expire(store: Store) -> None:
    done = threading.Event()

    def read() -> int:
        reader, looks = Store(store.path, readonly=True), 0
        while not done.is_set():
            rows = reader.scan("host").collect(engine="streaming")
            assert rows.select("host", "ts").is_unique().all()
            looks += 1
        assert reader.problems == []
        return looks

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for hour in range(40):
            store.append(host(360 * hour))
            store.append(host(360 * hour, 360 * hour + 1))
            store.seal(LATER + 40 * HOUR)
            store.append(host(360 * hour, 360 * max(0, hour - 1)))
            store.retain(age=2 * HOUR, now=T0 + HOUR * hour)
        done.set()
        assert all(reader.result() > 1 for reader in readers)
