"""Every byte of a hot, a sealed and a spooled file truncated and flipped: what is read is whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from attempts import FULL, Note

from wellfed.analysis.schema import TS
from wellfed.analysis.store import Store
from wellfed.collectors.spool import Spool

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
LATER = T0 + timedelta(days=2)
#: Every how many bytes a sample damages.
STRIDE = 1 if FULL else 97


def frame(window: int) -> dict[str, pl.DataFrame]:
    columns = {"ts": pl.Series([T0 + timedelta(seconds=10 * window)], dtype=TS), "host": "a"}
    return {"host": pl.DataFrame({**columns, "load1": float(window)})}


def damages(content: bytes) -> Iterator[bytes]:
    """The content with one byte flipped or cut before it, at every place tried."""
    for at in range(0, len(content), STRIDE):
        yield content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        yield content[:at]


@pytest.mark.parametrize("sealed", [False, True], ids=["hot", "sealed"])
def test_a_damaged_store_file_costs_its_rows_and_is_named(tmp_path: Path, note: Note, sealed: bool) -> None:
    root = tmp_path / "s"
    with Store(root) as store:
        store.append(frame(0))
        if sealed:
            store.seal(LATER)
        # In another hour, so that one file is damaged and one is not.
        store.append({n: f.with_columns(pl.col("ts") + pl.duration(hours=3)) for n, f in frame(1).items()})
    pattern = "host/*.parquet" if sealed else "hot/host/2026-03-01T10/*.arrow"
    (target,) = root.glob(pattern)
    content = target.read_bytes()
    tried = lost = 0
    for damaged in damages(content):
        target.write_bytes(damaged)
        with Store(root, readonly=True) as reader:
            found = reader.scan("host").select("load1").collect()["load1"].to_list()
            tried += 1
            # The damaged row may be gone, never changed; the other one is always there.
            lost += found != [1.0]
            assert found == [1.0]
            (problem,) = reader.problems
            assert target.name in problem
    target.write_bytes(content)
    assert Store(root, readonly=True).scan("host").collect().height == 2
    note(f"bytes of a {'sealed' if sealed else 'hot'} file flipped or cut", tried, lost)


def test_a_damaged_spool_file_costs_one_record(tmp_path: Path, note: Note) -> None:
    folder = tmp_path / "spool"
    spool = Spool(str(folder), 10**9, 1e12)
    for number in range(3):
        spool.put(1.7e9 + number, b"window %d " % number * 40)
    target = sorted(folder.glob("*.rec"))[1]
    content = target.read_bytes()
    tried = 0
    for damaged in damages(content):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        (copy / target.name).write_bytes(damaged)
        heir = Spool(str(copy), 10**9, 1e12)
        bodies = []
        while (record := heir.peek()) is not None:
            bodies.append(record.body[:9])
            heir.done(record)
        assert bodies == [b"window 0 ", b"window 2 "]
        assert heir.corrupt == 1
        shutil.rmtree(copy)
        tried += 1
    note("bytes of a spooled record flipped or cut", tried, 0)
