"""Notes on findings survive crashes and damage, hold in every range, and are taken back, never removed."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfed.analysis.notes import Notes
from wellfed.analysis.trouble import episode_of, find, key, trouble
from wellfed.errors import UserError

START = datetime.now(UTC) - timedelta(minutes=30)


def finding(began: datetime = START, ended: datetime | None = None, **scope: Any) -> dict[str, Any]:
    about = {"job": "slurm:7", "resource": None, "gpus": ["a", "b"], "hosts": ["n1"]} | scope
    end = None if ended is None else ended.isoformat()
    return {
        "id": f"{began}",
        "cause": "storage.remote",
        "start": began.isoformat(),
        "end": end,
        "scope": about,
    }


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


def test_a_finding_cut_off_by_a_range_that_moves_is_still_the_acknowledged_one() -> None:
    notes = Notes()
    notes.say(finding(), "acknowledge", "ada")
    since = datetime.now(UTC) + timedelta(minutes=30)
    cut = finding(since + timedelta(seconds=20))
    assert notes.standing(cut, since + timedelta(hours=1), since).state == "acknowledged"


def test_a_checkpoint_that_comes_again_and_again_is_one_episode() -> None:
    notes = Notes()
    again = {**finding(), "cause": "checkpoint"}
    notes.say(again, "acknowledge", "ada")
    since = datetime.now(UTC) + timedelta(minutes=30)
    first = (since + timedelta(minutes=6)).isoformat()
    assert (
        notes.standing({**again, "start": first}, since + timedelta(hours=1), since).state == "acknowledged"
    )
    assert notes.standing({**finding(), "start": first}, since + timedelta(hours=1), since).state == "new"


def test_a_trouble_that_came_back_stays_new_when_the_range_moves_over_its_beginning() -> None:
    notes = Notes()
    notes.say(finding(), "acknowledge", "ada")
    back = datetime.now(UTC) + timedelta(minutes=30)
    assert state(notes, finding(back), back + timedelta(minutes=5)) == "new"
    since = back + timedelta(minutes=40)
    cut = finding(since + timedelta(seconds=20))
    assert notes.standing(cut, since + timedelta(hours=1), since).state == "new"


def test_an_acknowledgement_of_what_has_ended_covers_that_episode_alone() -> None:
    notes = Notes()
    first = finding(START, START + timedelta(minutes=5))
    second = finding(START + timedelta(minutes=15), START + timedelta(minutes=25))
    notes.say(first, "acknowledge", "ada")
    assert (state(notes, first), state(notes, second)) == ("acknowledged", "new")
    # Another range may see both as one, or begin the first a little later.
    assert state(notes, finding(START, START + timedelta(minutes=25))) == "acknowledged"
    assert state(notes, finding(START + timedelta(minutes=1), START + timedelta(minutes=5))) == "acknowledged"


def test_another_diagnosis_may_know_less_or_more_of_whose_trouble_it_is() -> None:
    notes = Notes()
    notes.say(finding(resource="/mnt/data"), "acknowledge", "ada")
    # A second job came: the finding is the mount's.
    assert state(notes, finding(job=None, resource="/mnt/data")) == "acknowledged"
    assert state(notes, finding(job="slurm:8", resource="/mnt/data")) == "new"
    assert state(notes, finding(job=None, resource="/mnt/home")) == "new"
    free = finding(job=None, gpus=["x"], hosts=["n1"])
    notes.say(free, "acknowledge", "ada")
    assert state(notes, finding(job=None, gpus=["x", "y"], hosts=["n1", "n2"])) == "acknowledged"
    assert state(notes, finding(job=None, gpus=["x"], hosts=["n2"])) == "new"


def test_a_key_finds_its_episode_in_every_range() -> None:
    first = finding(START, START + timedelta(minutes=5))
    second = finding(START + timedelta(minutes=15))
    other = finding(START + timedelta(minutes=16), job="slurm:8")
    findings = [other, second, first]
    assert [find(findings, key(f)) for f in findings] == findings
    later = finding(START + timedelta(minutes=20), gpus=["b", "c"])
    assert find([other, later], key(second)) == later
    assert find(findings, second["id"]) == second
    assert find(findings, trouble(first)) == second
    for name in ("", "nonsense", f"{trouble(first)}-x", "0123456789ab-20260302T090000Z"):
        assert find([other], name) is None


# Each note waits for the disk, as long as that takes.
@settings(deadline=None)
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


@settings(deadline=None)
@given(st.data())
def test_what_concerns_an_episode_is_found_under_its_names(data: st.DataObject) -> None:
    def some() -> dict[str, Any]:
        name = st.none() | st.sampled_from(["x", "y"])
        names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True)
        return finding(
            job=data.draw(name), resource=data.draw(name), gpus=data.draw(names), hosts=data.draw(names)
        )

    one, two = episode_of(some()), episode_of(some())
    assert one.concerns(two) == two.concerns(one)
    if one.concerns(two):
        assert set(one.filed()) & set(two.sought())
        assert set(two.filed()) & set(one.sought())
