"""Numbers and files as the kernel gives them: counts, short counters, descriptors held open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.files import Held, Recent, count, tell
from wellfed.collectors.unwrap import Unwrap


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_unwrapping_follows_any_growth_below_half_the_range(steps: list[int], start: int) -> None:
    unwrap = Unwrap()
    true = start
    assert unwrap(start) == start
    for step in steps:
        true += step
        assert unwrap(true % 2**32) == true


def test_a_fall_that_is_no_wrap_is_a_reset() -> None:
    unwrap = Unwrap()
    assert [unwrap(1000), unwrap(10), unwrap(20)] == [1000, 10, 20]


def test_a_counter_that_turns_out_wide_is_never_unwrapped() -> None:
    unwrap = Unwrap()
    assert [unwrap(2**32 - 1), unwrap(2**32 + 7), unwrap(3)] == [2**32 - 1, 2**32 + 7, 3]


@pytest.mark.parametrize(
    "token", [b"", b"-1", b"+1", b"1_000", b"0x1", b"1.5", b" 1", b"9" * 21, "١".encode()]
)
def test_only_what_the_kernel_prints_is_a_count(token: bytes) -> None:
    with pytest.raises(ValueError, match="expected a count"):
        count(token)
    assert count(b"18446744073709551615") == 2**64 - 1


def test_a_held_file_is_read_whole_and_again(tmp_path: Path) -> None:
    held = Held()
    path = tmp_path / "stats"
    for text in (b"one\n", b"line\n" * 5000, b""):
        path.write_bytes(text)
        assert held.read(str(path)) == text
    held.close()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        held.read(str(path))


def test_files_read_together_are_those_read_one_by_one(tmp_path: Path) -> None:
    held = Held()
    texts = {"a": b"1\n", "b": b"4: ACTIVE\n", "c": b"x" * 64, "d": b"y" * 9000}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    paths = [str(tmp_path / name) for name in (*texts, "missing")]
    for _ in range(2):
        *found, error = held.together(paths)
        assert found == list(texts.values())
        assert isinstance(error, FileNotFoundError)
    short = paths[:2]
    for number in (5, 6):
        (tmp_path / "a").write_text(f"{number}\n")
        assert held.together(short) == [b"%d\n" % number, b"4: ACTIVE\n"]
    held.close()


def test_a_file_that_refuses_does_not_keep_the_others_from_staying_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, paths = Held(), [str(tmp_path / name) for name in "abc"]
    for path in (paths[0], paths[2]):
        Path(path).write_text("1")
    (tmp_path / "b").mkdir()  # opens, and cannot be read
    opened: list[str] = []
    really = os.open
    monkeypatch.setattr(
        "wellfed.collectors.files.os.open", lambda path, *more: opened.append(path) or really(path, *more)
    )
    for _ in range(3):
        first, refused, last = held.together(paths)
        assert (first, last) == (b"1", b"1")
        assert isinstance(refused, IsADirectoryError)
    assert opened.count(paths[0]) == opened.count(paths[2]) == 1
    held.close()


def test_who_asks_for_what_was_just_read_gets_that_and_the_rest_from_the_disk(tmp_path: Path) -> None:
    recent, folder = Recent(), str(tmp_path)
    paths = [f"{folder}/{name}" for name in "abc"]
    for path in paths[:2]:
        Path(path).write_text("old")
    assert recent.together(folder, paths, b"?") == [b"old", b"old", b"?"]
    tell(folder, paths[:1], [b"told"])
    assert recent.together(folder, paths, b"?") == [b"told", b"old", b"?"]
    # As many as before, and others.
    tell(folder, paths[1:], [b"told", OSError(5, "Input/output error")])
    assert recent.together(folder, paths, b"?") == [b"old", b"told", b"?"]


def test_what_hardly_ever_moves_is_read_anew_after_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("wellfed.collectors.files.time.monotonic", lambda: clock[0])
    recent, folder = Recent(), str(tmp_path)
    paths = [f"{folder}/{name}" for name in ("bytes", "errors")]
    seen = []
    for second in range(7):
        clock[0] = 100.0 + second
        for path in paths:
            Path(path).write_text(str(second))
        seen.append(recent.together(folder, paths, b"?", frozenset(paths[1:])))
    assert [int(moved) for moved, _ in seen] == list(range(7))
    assert [int(errors) for _, errors in seen] == [0, 0, 0, 0, 0, 5, 5]
