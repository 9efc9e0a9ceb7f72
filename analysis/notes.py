"""What people say about findings: seen, muted for a while, a remark. An append-only file beside the tables.

    DIR/notes.jsonl     a note a line: JSON, the last key its CRC-32 (of the line with eight zeros there)

A note is on disk when `say` returns. Nothing is ever changed or removed: what is taken back is another note.
A damaged line is left out, told once, and stays in the file.

Notes belong to the trouble behind a finding (analysis/trouble.py), whose id is another in another range.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wellfed.analysis.trouble import Episode, Handle, episode_of
from wellfed.errors import UserError

__all__ = ["ACKNOWLEDGE", "COMMENT", "FILE", "KINDS", "LONGEST", "MUTE", "Note", "Notes", "Standing"]

log = logging.getLogger("wellfed.notes")

FILE = "notes.jsonl"
#: Letters of a remark or a name.
LONGEST = 2000
ACKNOWLEDGE, MUTE, COMMENT, UNDO = KINDS = ("acknowledge", "mute", "comment", "undo")

_ZEROS = "00000000"


@dataclass(frozen=True, slots=True)
class Note:
    """Who said what, when, about which episode of a trouble. until: end of a mute; undoes: id of the note
    taken back."""

    id: str
    at: datetime
    who: str
    kind: str
    about: Episode
    text: str = ""
    until: datetime | None = None
    undoes: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON has it; times in ISO 8601."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "who": self.who,
            "kind": self.kind,
            "text": self.text,
            "until": _iso(self.until),
            "undoes": self.undoes,
            "about": {
                "cause": self.about.cause,
                "job": self.about.job,
                "resource": self.about.resource,
                "hosts": list(self.about.hosts),
                "gpus": list(self.about.gpus),
                "start": self.about.start.isoformat(),
                "end": _iso(self.about.end),
            },
        }

    def overlaps(self, finding: Episode, now: datetime) -> bool:
        """Whether a finding of the trouble was there when the one was that this was said about."""
        ended, ends = self.about.end or self.at, finding.end or now
        return finding.start <= ended + finding.slack and ends >= self.about.start - finding.slack


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds for a finding now. said: all that was said about its trouble and still holds, in order."""

    acknowledged: Note | None = None
    muted: Note | None = None
    said: Sequence[Note] = field(default_factory=tuple)

    @property
    def state(self) -> str:
        """`muted`, `acknowledged` or `new`."""
        return "muted" if self.muted else "acknowledged" if self.acknowledged else "new"


class Notes:
    """The notes of a store. path: of their file, which need not exist yet; None keeps them in memory.

    Methods may be called from several threads. Raises UserError when the file cannot be read.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._all: dict[str, Note] = {}
        self._undone: set[str] = set()
        self._by_handle: dict[Handle, list[Note]] = {}
        #: When a trouble came back after a note on it.
        self._back: dict[str, datetime] = {}
        #: One line on what of the file could not be read, "" for nothing.
        self.problem = ""
        if path is not None:
            self._load(path)

    @property
    def version(self) -> int:
        """Grows with every note."""
        return len(self._all)

    def history(self) -> list[Note]:
        """Every note, the newest first, those that take back others included."""
        with self._lock:
            return list(self._all.values())[::-1]

    def undone(self, note: str) -> bool:
        """Whether a note was taken back."""
        return note in self._undone

    def standing(self, finding: Mapping[str, Any], now: datetime, since: datetime) -> Standing:
        """What holds for a finding of a range that begins at `since`.

        A mute holds until its end, for every finding of the trouble. An acknowledgement holds for the episode
        it was said about: a trouble that comes back is new.
        """
        episode = episode_of(finding)
        with self._lock:
            near = {n.id: n for handle in episode.sought() for n in self._by_handle.get(handle, ())}
            said = [
                n
                for n in sorted(near.values(), key=lambda n: n.at)
                if n.kind != UNDO and n.id not in self._undone and n.about.concerns(episode)
            ]
            seen = [n for n in said if n.kind == ACKNOWLEDGE and self._covers(n, episode, now, since)]
        muted = [n for n in said if n.kind == MUTE and n.until is not None and n.until > now]
        return Standing(seen[-1] if seen else None, muted[-1] if muted else None, said)

    def _covers(self, note: Note, finding: Episode, now: datetime, since: datetime) -> bool:
        """Whether a finding of the note's trouble is the episode that the note is about.

        One that begins with the range began before it: it is the same if the other was open and the trouble
        has not been seen to begin again since.
        """
        if note.overlaps(finding, now):
            return True
        if finding.start < note.at:
            return False
        if finding.start <= since + finding.slack:
            back = self._back.get(note.id)
            return note.about.end is None and (back is None or finding.start < back)
        self._back[note.id] = min(finding.start, self._back.get(note.id, finding.start))
        return False

    def say(
        self, finding: Mapping[str, Any], kind: str, who: str, text: str = "", until: datetime | None = None
    ) -> Note:
        """A new note on a finding's trouble. Raises ValueError: what to write instead; OSError."""
        text, now = text.strip(), datetime.now(UTC)
        if kind not in (ACKNOWLEDGE, MUTE, COMMENT):
            raise ValueError(f"kind is {kind!r}: write acknowledge, mute or comment")
        if len(text) > LONGEST:
            raise ValueError(f"text has {len(text)} letters: write {LONGEST} at most")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("text has letters that are no Unicode")
        if kind == COMMENT and not text:
            raise ValueError("a comment needs a text")
        if (kind == MUTE) != (until is not None):
            raise ValueError("a mute needs an end, and nothing else has one")
        if until is not None and until <= now:
            raise ValueError("a mute needs an end that is still to come")
        note = Note(secrets.token_hex(6), now, who, kind, episode_of(finding), text, until)
        self._add(note)
        return note

    def undo(self, note: str, who: str) -> Note:
        """Takes a note back. Raises KeyError for one that is unknown or already taken back; OSError."""
        found = self._all[note]
        if found.kind == UNDO or note in self._undone:
            raise KeyError(note)
        made = Note(secrets.token_hex(6), datetime.now(UTC), who, UNDO, found.about, undoes=note)
        self._add(made)
        return made

    def _add(self, note: Note) -> None:
        with self._lock:
            if self._path is not None:
                _append(self._path, _encode(note))
            self._keep(note)

    def _keep(self, note: Note) -> None:
        self._all[note.id] = note
        for handle in note.about.filed():
            self._by_handle.setdefault(handle, []).append(note)
        if note.undoes is not None:
            self._undone.add(note.undoes)

    def _load(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read the notes on findings, {path}: {error.strerror}") from error
        damaged = []
        for number, line in enumerate(lines, 1):
            note = _decode(line) if line else None
            if note is not None:
                self._keep(note)
            elif line:
                damaged.append(number)
        if damaged:
            which = ", ".join(map(str, damaged[:5])) + (" …" if len(damaged) > 5 else "")
            plural = "lines are" if len(damaged) > 1 else "line is"
            self.problem = f"{path}: {len(damaged)} damaged {plural} left out (line {which}); the rest holds"
            log.warning("%s", self.problem)


def _encode(note: Note) -> bytes:
    text = json.dumps(note.document() | {"crc32": _ZEROS}, ensure_ascii=False)
    head = text.removesuffix(f'{_ZEROS}"}}')
    return f'{head}{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _decode(line: bytes) -> Note | None:
    """The note of a line, None when it is damaged."""
    crc = line[-10:-2]
    if f"{zlib.crc32(line[:-10] + _ZEROS.encode() + line[-2:]):08x}".encode() != crc:
        return None
    try:
        said = json.loads(line)
        about = said["about"]
        names = {name: tuple(about[name]) for name in ("hosts", "gpus")}
        episode = Episode(**about | names | _times(about, "start", "end"))
        held = {name: said[name] for name in Note.__slots__}
        return Note(**held | _times(said, "at", "until") | {"about": episode})
    except (ValueError, KeyError, TypeError):
        return None


def _times(said: Mapping[str, Any], *names: str) -> dict[str, datetime | None]:
    return {name: said[name] and datetime.fromisoformat(said[name]) for name in names}


def _append(path: str, line: bytes) -> None:
    """The line whole at the end of the file and on disk; what a crash left half written ends before it."""
    fresh = not os.path.exists(path)
    with open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = b"\n" + line
        try:
            if file.write(line) != len(line):
                raise OSError(28, os.strerror(28), path)
            os.fsync(file.fileno())
        except OSError:
            # A note that was not kept must not come back with the next start.
            os.ftruncate(file.fileno(), size)
            raise
    if fresh:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
