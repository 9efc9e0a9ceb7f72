"""Notes on findings survive crashes and damage, hold in every range, and are taken back, never removed."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.analysis.notes import Notes, trouble
from wellfed.errors import UserError

START = datetime.now(UTC) - timedelta(minutes=30)


def finding(began: datetime = START, **scope: Any) -> dict[str, Any]:
    about = {"job": "slurm:7", "resource": None, "gpus": ["a", "b"], "hosts": ["n1"]} | scope
    return {"id": f"{began}", "cause": "storage.remote", "start": began.isoformat(), "scope": about}


def state(notes: Notes, of: dict[str, Any], now: datetime | None = None) -> str:
    return notes.standing(of, now or datetime.now(UTC), START - timedelta(hours=1)).state


def test_a_trouble_keeps_its_name_while_the_finding_grows_and_the_range_moves() -> None:
    later = finding(START + timedelta(minutes=10), gpus=["b", "c"], hosts=["n2"])
    assert trouble(later) == trouble(finding())
    assert trouble(finding(job="slurm:8")) != trouble(finding())
    mount = finding(job=None, resource="/mnt/data")
    assert trouble(mount) == trouble(finding(job=None, resource="/mnt/data", gpus=["x"]))
    assert trouble(finding(job=None, gpus=["a"])) != trouble(finding(job=None, gpus=["b"]))


def test_what_was_said_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "notes.jsonl")
    notes = Notes(path)
    notes.say(finding(), "acknowledge", "ada", "on it")
    mute = notes.say(finding(), "mute", "bo", until=datetime.now(UTC) + timedelta(hours=4))
    notes.undo(mute.id, "cy")
    again = Notes(path)
    assert again.history() == notes.history()
    assert [n.who for n in again.history()] == ["cy", "bo", "ada"]
    assert state(again, finding()) == "acknowledged"
    assert again.problem == ""


def test_a_mute_ends_by_itself_and_an_acknowledgement_does_not_cover_what_comes_back() -> None:
    notes = Notes()
    now = datetime.now(UTC)
    notes.say(finding(), "acknowledge", "ada")
    assert state(notes, finding()) == "acknowledged"
    assert state(notes, finding(now + timedelta(hours=1))) == "new"
    notes.say(finding(), "mute", "ada", until=now + timedelta(hours=4))
    assert state(notes, finding(now + timedelta(hours=1))) == "muted"
    assert state(notes, finding(), now + timedelta(hours=5)) == "acknowledged"


def test_a_finding_cut_off_by_the_range_counts_as_begun_before_it() -> None:
    notes = Notes()
    notes.say(finding(), "acknowledge", "ada")
    began = datetime.now(UTC) + timedelta(minutes=30)
    cut = finding(began + timedelta(seconds=20))
    assert notes.standing(cut, began + timedelta(hours=1), began).state == "acknowledged"


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=2))
def test_damage_leaves_the_other_lines_and_the_file_as_they_are(noise: bytes, where: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "notes.jsonl")
        notes = Notes(path)
        for text in ("one", "two"):
            notes.say(finding(), "comment", "ada", text)
        lines = Path(path).read_bytes().splitlines(keepends=True)
        lines.insert(where, noise + b"\n")
        Path(path).write_bytes(b"".join(lines))
        logging.disable()
        try:
            again = Notes(path)
        finally:
            logging.disable(logging.NOTSET)
        assert [n.text for n in again.history()] == ["two", "one"]
        assert bool(again.problem) == bool(noise.strip(b"\n"))
        again.say(finding(), "comment", "ada", "three")
        assert noise in Path(path).read_bytes()


def test_a_line_that_a_crash_cut_short_costs_one_warning_and_no_other_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notes.jsonl"
    notes = Notes(str(path))
    for text in ("one", "two"):
        notes.say(finding(), "comment", "ada", text)
    path.write_bytes(path.read_bytes()[:-7])
    again = Notes(str(path))
    assert len(caplog.records) == 1
    assert "1 damaged line is left out (line 2)" in again.problem
    again.say(finding(), "comment", "ada", "three")
    assert [n.text for n in Notes(str(path)).history()] == ["three", "one"]


def test_a_full_disk_keeps_neither_the_note_nor_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notes.jsonl"
    notes = Notes(str(path))
    notes.say(finding(), "comment", "ada", "one")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        notes.say(finding(), "comment", "ada", "two")
    assert path.read_bytes() == before
    assert notes.version == 1


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the notes"):
        Notes(str(tmp_path))
