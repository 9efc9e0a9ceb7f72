"""The spool keeps order, bounds and every accepted record, whatever the disk or a kill does."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfed.collectors.spool import Spool
from wellfed.options import OPTIONS

NOW = time.time()


def drain(spool: Spool) -> list[bytes]:
    out = []
    while (record := spool.peek()) is not None:
        out.append(record.body)
        spool.done(record)
    return out


def make(folder: Path | None, max_bytes: int = 10**6, max_age: float = 1e9) -> Spool:
    return Spool(str(folder) if folder else None, max_bytes, max_age)


def test_order_and_content_survive_a_restart(tmp_path: Path) -> None:
    first = make(tmp_path / "s")
    for index in range(20):
        first.put(NOW + index, b"%d" % index)
    second = make(tmp_path / "s")
    record = second.peek()
    assert record is not None
    assert (record.body, record.ts) == (b"0", NOW)
    second.done(record)
    second.put(NOW, b"new")
    assert drain(make(tmp_path / "s")) == [b"%d" % i for i in range(1, 20)] + [b"new"]
    assert os.listdir(tmp_path / "s") == []


def test_bytes_are_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    for folder in (tmp_path / "s", None):
        spool = make(folder, max_bytes=5 * 120)
        for index in range(50):
            spool.put(NOW, b"%03d" % index + b"x" * 97)
            assert spool.size <= 5 * 120
        assert spool.dropped == 45
        assert [body[:3] for body in drain(spool)] == [b"045", b"046", b"047", b"048", b"049"]
        assert spool.size == 0


def test_age_is_bounded(tmp_path: Path) -> None:
    for folder in (tmp_path / "s", None):
        spool = make(folder, max_age=3600)
        spool.put(time.time() - 7200, b"old")
        spool.put(time.time(), b"new")
        assert drain(spool) == [b"new"]
        assert spool.dropped == 1


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10**6), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_byte_costs_one_record(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("s")
    spool = make(folder)
    for index in range(3):
        spool.put(NOW, b"record %d" % index)
    path = sorted(folder.iterdir())[1]
    content = bytearray(path.read_bytes())
    position %= len(content)
    if cut:
        content = content[:position]
    else:
        content[position] ^= flip
    path.write_bytes(content)
    again = make(folder, max_age=1e300)
    assert drain(again) == [b"record 0", b"record 2"]
    assert (again.corrupt, again.dropped) == (1, 0)


def test_a_refusing_disk_degrades_to_memory_and_recovers_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make(tmp_path / "s")
    spool.put(NOW, b"1")
    real = os.rename

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    spool.put(NOW, b"2")
    spool.put(NOW, b"3")
    assert "No space left on device" in spool.degraded
    assert len(spool) == 3
    assert [p.suffix for p in (tmp_path / "s").iterdir()] == [".rec"]
    monkeypatch.setattr(os, "rename", real)
    spool.put(NOW, b"4")
    assert drain(spool) == [b"1", b"2", b"3", b"4"]
    assert spool.degraded == ""


def test_a_folder_that_cannot_be_made_is_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool = make(tmp_path / "file" / "s")
    spool.put(NOW, b"1")
    assert "Not a directory" in spool.degraded
    assert drain(spool) == [b"1"]


def test_memory_holds_less_than_a_disk_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wellfed.collectors.spool.MEMORY_BYTES", 500)
    spool = make(None)
    for index in range(10):
        spool.put(NOW, b"%d" % index + b"x" * 99)
    assert [body[:1] for body in drain(spool)] == [b"6", b"7", b"8", b"9"]
    assert (spool.dropped, spool.size) == (6, 0)


def test_a_folder_that_takes_no_files_is_memory() -> None:
    spool = make(Path("/proc/self"))
    spool.put(NOW, b"1")
    assert spool.degraded.startswith("/proc/self: ")
    assert drain(spool) == [b"1"]


@pytest.mark.parametrize("folder", ["disk", "memory"])
def test_six_hours_of_outage_lose_nothing(tmp_path: Path, folder: str) -> None:
    """With the default bounds, and windows of a large node's size, which do not compress further."""
    size, hours = OPTIONS["spool_bytes"].default, OPTIONS["spool_hours"].default
    assert isinstance(size, int)
    assert isinstance(hours, float)
    where = tmp_path / "s" if folder == "disk" else None
    spool, draw, windows = make(where, size, hours * 3600), random.Random(1), 6 * 360
    bodies = [b"%d " % index + draw.randbytes(10_000) for index in range(windows)]
    for index, body in enumerate(bodies):
        spool.put(NOW - 6 * 3600 + 10 * index, body)
    if where is not None:
        spool = make(where, size, hours * 3600)
    assert len(spool) == windows
    assert drain(spool) == bodies
    assert spool.dropped == 0
