"""The store loses nothing it acknowledged, counts nothing twice, and stays readable meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wellfed.analysis.inputs import read_tables
from wellfed.analysis.schema import schema
from wellfed.analysis.store import Store
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)


def tick(index: int, hosts: int = 1, load: float = 1.0) -> pl.DataFrame:
    """The `host` rows of the index-th window since T0."""
    rows = [{"ts": T0 + timedelta(seconds=10 * index), "host": f"n{h}", "load1": load} for h in range(hosts)]
    return pl.DataFrame(rows, schema=schema(TABLES["host"]))


def loads(store: Store) -> list[tuple[datetime, str, float]]:
    return store.scan("host").sort("ts", "host").select("ts", "host", "load1").collect().rows()


def test_what_was_appended_is_read_back_hot_and_sealed(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s")) as store:
        for index in range(400):
            store.append({"host": tick(index)})
        hot = loads(store)
        assert len(hot) == 400
        assert store.seal() == 2
        assert loads(store) == hot
        assert not list((tmp_path / "s").rglob("*.arrow"))
        part = store.scan("host", T0 + timedelta(seconds=100), T0 + timedelta(seconds=200)).collect()
        assert part["ts"].min() == T0 + timedelta(seconds=110)
        assert part["ts"].max() == T0 + timedelta(seconds=200)
        assert store.bounds() == (T0, T0 + timedelta(hours=2))


def test_an_hour_in_progress_stays_hot(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s")) as store:
        store.append({"host": tick(0)})
        assert store.seal(now=T0 + timedelta(minutes=59)) == 0
        assert store.seal(now=T0 + timedelta(minutes=61)) == 1


def test_a_late_row_and_a_repeated_one(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s")) as store:
        store.append({"host": tick(0, load=1)})
        store.seal()
        store.append({"host": tick(1, load=2)})
        store.append({"host": tick(0, load=9)})
        want = [(T0, "n0", 9.0), (T0 + timedelta(seconds=10), "n0", 2.0)]
        assert loads(store) == want
        store.seal()
        assert loads(store) == want


def test_rows_without_a_host_are_told_apart_by_their_own_keys(tmp_path: Path) -> None:
    rows = [{"ts": T0, "array": a, "protocol": "nfs", "used_ratio": 0.5} for a in ("a", "b", "b")]
    with Store(str(tmp_path / "s")) as store:
        store.append({"array": pl.DataFrame(rows, schema=schema(TABLES["array"]))})
        assert store.scan("array").collect().height == 2


def test_yesterdays_file_lacks_a_column_and_has_one_we_do_not_know(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s")) as store:
        store.append({"host": tick(0)})
        store.seal()
        (path,) = (tmp_path / "s" / "host").glob("*.parquet")
        pl.read_parquet(path).drop("page_cache_bytes").with_columns(mood=pl.lit("fine")).write_parquet(path)
        frame = store.scan("host").collect()
        assert frame.schema == schema(TABLES["host"])
        assert frame["page_cache_bytes"].to_list() == [None]
        store.append({"host": tick(1)})
        assert store.scan("host").collect().height == 2


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s")), pytest.raises(UserError, match=rf"in use by .*pid {os.getpid()}"):
        Store(str(tmp_path / "s"))
    Store(str(tmp_path / "s")).close()
    assert Store(str(tmp_path / "s"), readonly=True).bounds() is None


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no Wellfed store"):
        Store(str(tmp_path))
    assert (tmp_path / "letter.txt").read_text() == "dear"
    assert os.listdir(tmp_path) == ["letter.txt"]


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_damaged_file_costs_itself_only(tmp_path: Path, damage: str, sealed: bool) -> None:
    root = tmp_path / "s"
    with Store(str(root)) as store:
        for index in (0, 360):
            store.append({"host": tick(index)})
        if sealed:
            store.seal()
        path = sorted(root.rglob("*.parquet" if sealed else "*.arrow"))[0]
        content = path.read_bytes()
        cut = {"truncate": content[: len(content) // 2], "empty": b"", "flip": b"\xff" * 40 + content[40:-20]}
        path.write_bytes(cut[damage])
        assert [row[0] for row in loads(store)] == [T0 + timedelta(hours=1)]
        assert any(str(path) in problem for problem in store.problems)
        assert len(store.repair()) == 1
        assert store.check() == []
        assert len(loads(store)) == 1


def test_retention_by_age_and_by_size_spares_the_hot_hour(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with Store(str(tmp_path / "s")) as store:
        for hours in (0, 5, 30, 50):
            moment = now - timedelta(hours=hours)
            store.append(
                {"host": tick(0).with_columns(pl.lit(moment).cast(pl.Datetime("ms", "UTC")).alias("ts"))}
            )
        store.seal()
        planned = store.scan("host")
        assert store.retain(age=timedelta(hours=40)) == 1
        assert store.scan("host").collect().height == 3
        assert planned.collect().height == 4
        assert store.retain(size=1) == 2
        assert store.retain(size=1) == 0
        assert store.scan("host").collect().height == 1
        assert not list((tmp_path / "s").rglob("*.gone"))


def test_export_is_an_input(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s")) as store:
        store.append({"host": tick(0, hosts=3)})
        assert [Path(p).name for p in store.export(str(tmp_path / "out"))] == ["host.parquet"]
        exported = read_tables(str(tmp_path / "out"))
        assert exported["host"].collect().height == 3
        assert exported["gpu"].collect().height == 0


def test_duckdb_reads_sealed_hours_while_the_store_is_written(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with Store(str(root)) as store:
        for index in range(5):
            store.append({"host": tick(index, hosts=4)})
        store.seal()
        store.append({"host": tick(360)})
        count, mean = duckdb.sql(
            f"select count(*), avg(load1) from '{root}/host/*.parquet' "
            "where ts >= timestamptz '2026-03-01 10:00:00+00'"
        ).fetchall()[0]
        assert (count, mean) == (20, 1.0)
        hot = store.scan("host").collect()
        assert duckdb.sql("select count(*) from hot").fetchall() == [(21,)]
        assert hot.height == 21


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(8)),
    cuts=st.sets(st.integers(0, 7)),
    seals=st.sets(st.integers(0, 7)),
)
def test_any_order_and_any_seal_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: set[int], seals: set[int]
) -> None:
    with Store(str(tmp_path_factory.mktemp("s") / "s")) as store:
        batch: list[pl.DataFrame] = []
        for at, index in enumerate(order):
            batch.append(tick(index * 100, load=index))
            if at in cuts or at == len(order) - 1:
                store.append({"host": pl.concat(batch)})
                batch = []
            if at in seals:
                store.seal()
        assert [row[2] for row in loads(store)] == list(range(8))


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
import polars as pl
from wellfed.analysis.store import Store
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES
start = int(sys.argv[2])
with Store(sys.argv[1]) as store:
    for index in range(start, start + 100000):
        ts = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=200 * index)
        row = {"ts": ts, "host": "n", "load1": float(index)}
        store.append({"host": pl.DataFrame([row], schema=schema(TABLES["host"]))})
        print(index, flush=True)
        if index % 7 == 6:
            store.seal()
"""


def test_kill_9_loses_nothing_acknowledged_and_readers_never_fail(tmp_path: Path) -> None:
    root = str(tmp_path / "s")
    stop = threading.Event()
    failures: list[BaseException] = []
    counts: list[int] = []

    def read() -> None:
        reader = Store(root, readonly=True)
        while not stop.is_set():
            try:
                rows = [row[2] for row in loads(reader)]
                assert len(rows) == len(set(rows)), "a row was read twice"
                counts.append(len(rows))
            except BaseException as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    acknowledged = -1
    try:
        for round_ in range(6):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, root, str(acknowledged + 1)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
            assert writer.stdout is not None
            for _ in range(5 + 4 * round_):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
            writer.stdout.close()
            writer.wait()
            acknowledged = int(rest[-1]) if rest else acknowledged
            found = [int(row[2]) for row in loads(Store(root, readonly=True))]
            # The tick under way may be there or not; every acknowledged one is, once.
            assert found[: acknowledged + 1] == list(range(acknowledged + 1))
            assert len(found) <= acknowledged + 2
    finally:
        stop.set()
        reader.join()
    assert not failures
    assert counts == sorted(counts)
    with Store(root) as store:
        assert store.check() == []
        assert not list(Path(root).rglob("*.tmp"))
