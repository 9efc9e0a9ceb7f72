"""A killed writer: what append() returned from is there, once, and the next writer goes on from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from wellfed.analysis import segments, snapshot
from wellfed.analysis.schema import TS
from wellfed.analysis.segments import Hot, Layout
from wellfed.analysis.store import Store

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
LATER = T0 + timedelta(days=30)


def tables(window: int) -> dict[str, pl.DataFrame]:
    """Two tables whose rows fall into two hours, numbered by the window."""
    ends = [T0 + timedelta(seconds=window), T0 + timedelta(hours=1, seconds=window)]
    columns = {"ts": pl.Series(ends, dtype=TS), "host": "a"}
    return {
        "host": pl.DataFrame({**columns, "load1": float(window)}),
        "disk": pl.DataFrame({**columns, "device": "sda", "inflight": float(window)}),
    }


def windows(store: Store) -> dict[str, list[int]]:
    """The windows found, by table and in order; each counts as often as it is read."""
    return {
        table: store.scan(table).select(pl.col(column).cast(int)).collect()[column].sort().to_list()
        for table, column in (("host", "load1"), ("disk", "inflight"))
    }


def twice(numbers: range) -> list[int]:
    return sorted([*numbers, *numbers])


def assert_whole(found: list[int], acknowledged: int) -> None:
    """All acknowledged windows in both hours, and of the one under way what was already written."""
    assert found[: 2 * acknowledged] == twice(range(acknowledged))
    assert found[2 * acknowledged :] in ([], [acknowledged], [acknowledged] * 2)


def test_every_state_between_two_file_operations_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[Path, int]] = []
    acknowledged = 0

    def record(name: str) -> None:
        original: Callable[..., Any] = getattr(os, name)

        def operation(*args: Any, **options: Any) -> Any:
            target = tmp_path / f"state-{len(states)}"
            shutil.copytree(tmp_path / "s", target)
            states.append((target, acknowledged))
            return original(*args, **options)

        monkeypatch.setattr(os, name, operation)

    with Store(tmp_path / "s") as store:
        for name in ("replace", "rename", "unlink", "rmdir", "fsync"):
            record(name)
        for window in range(3):
            store.append(tables(window))
            acknowledged += 1
        store.seal(LATER)
        store.append(tables(3))
        acknowledged += 1
        store.seal(LATER)
        monkeypatch.undo()
    assert len(states) > 60

    for state, sure in states:
        with Store(state, readonly=True) as reader:
            before = windows(reader)
        for found in before.values():
            assert_whole(found, sure)
        with Store(state) as heir:
            assert windows(heir) == before
            assert os.listdir(state / "tmp") == []
            heir.append(tables(sure))
            heir.seal(LATER)
            assert windows(heir) == {"host": twice(range(sure + 1)), "disk": twice(range(sure + 1))}
            assert (heir.check(), heir.problems) == ([], [])
            assert not list((state / "hot").rglob("*.arrow"))


def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source: str, target: str) -> None:
        events.append(("rename", source))
        rename(source, target)
        events.append(("name", target))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with Store(tmp_path / "s") as store:
        events.clear()
        store.append(tables(0))
        store.seal(LATER)
    files = [(at, path) for at, (kind, path) in enumerate(events) if kind == "rename"]
    assert len(files) == 8
    for at, source in files:
        assert ("sync", source) in events[:at]
        folder = os.path.dirname(events[at + 1][1])
        assert ("sync", folder) in events[at:]
        # New folders are names too.
        assert ("sync", os.path.dirname(folder)) in events


@pytest.mark.parametrize("moment", ["before the listing", "after the listing", "before a hot file is read"])
def test_a_reader_misses_no_row_when_the_hour_is_sealed_while_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    listing, reading = Layout.hot_files, segments.read_hot
    seals = []

    def overtake() -> None:
        if not seals:
            seals.append(0)
            seals[0] = store.seal(LATER)

    def list_late(layout: Layout, table: str, hour: str) -> list[Hot]:
        if moment == "before the listing":
            overtake()
        found = listing(layout, table, hour)
        if moment == "after the listing":
            overtake()
        return found

    def read_late(path: str, hot: Hot) -> bytes:
        if moment == "before a hot file is read":
            overtake()
        return reading(path, hot)

    with Store(tmp_path / "s") as store, Store(tmp_path / "s", readonly=True) as reader:
        for window in range(3):
            store.append(tables(window))
        monkeypatch.setattr(Layout, "hot_files", list_late)
        monkeypatch.setattr(snapshot, "read_hot", read_late)
        assert windows(reader) == {"host": twice(range(3)), "disk": twice(range(3))}
        assert seals == [4]


def test_a_hot_file_that_outlived_its_sealing_does_not_come_back(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.append(tables(0))
        shutil.copytree(tmp_path / "s" / "hot", tmp_path / "old")
        store.append({"host": tables(0)["host"].with_columns(load1=5.0)})
        store.seal(LATER)
        shutil.copytree(tmp_path / "old", tmp_path / "s" / "hot", dirs_exist_ok=True)
        assert windows(store) == {"host": [5, 5], "disk": [0, 0]}
        assert store.retain(size=0, now=LATER) == 4
        assert windows(store) == {"host": [], "disk": []}


WRITER = """
import sys
from test_store_crash import LATER, tables
from wellfed.analysis.store import Store

first = int(sys.argv[2])
with Store(sys.argv[1]) as store:
    for window in range(first, 3600):
        store.append(tables(window))
        print(window, flush=True)
        if window % 3 == 0:
            store.seal(LATER)
"""


def test_kill_9_at_any_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    root = tmp_path / "s"
    Store(root).close()
    path = os.pathsep.join([os.path.dirname(__file__), *(p for p in sys.path if p)])
    done = threading.Event()

    def read() -> int:
        reader, looks = Store(root, readonly=True), 0
        while not done.is_set():
            rows = reader.scan("host").select("load1", hour=pl.col("ts").dt.hour()).collect()
            for _, hour in rows.group_by("hour"):
                assert hour["load1"].sort().to_list() == list(range(hour.height))
            looks += 1
        assert reader.problems == []
        return looks

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        acknowledged = 0
        try:
            for life in range(8):
                writer = subprocess.Popen(
                    [sys.executable, "-c", WRITER, str(root), str(acknowledged)],
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": path},
                )
                assert writer.stdout is not None
                for _ in range(3 + 5 * life):
                    acknowledged = int(writer.stdout.readline()) + 1
                writer.kill()
                rest = writer.communicate()[0].split()
                acknowledged = int(rest[-1]) + 1 if rest else acknowledged
                for found in windows(Store(root, readonly=True)).values():
                    assert_whole(found, acknowledged)
        finally:
            done.set()
        assert reading.result() > 1
    with Store(root) as store:
        assert (store.check(), store.problems) == ([], [])
