"""What people say about findings: seen, muted for a while, a remark. An append-only file beside the tables.

    DIR/notes.jsonl     a note a line: JSON, the last key its CRC-32 (of the line with eight zeros there)

A note is on disk when `say` returns. Nothing is ever changed or removed: what is taken back is another note.
A damaged line is left out, told once, and stays in the file.

Notes belong to a trouble, not to a finding: the same trouble has another id in a range that begins later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from wellfed.errors import UserError

__all__ = ["FILE", "KINDS", "LONGEST", "Note", "Notes", "Standing", "trouble"]

log = logging.getLogger("wellfed.notes")

FILE = "notes.jsonl"
#: Letters of a remark or a name.
LONGEST = 2000
#: A finding that begins this close to the range began before it.
CLIPPED = timedelta(minutes=1)

ACKNOWLEDGE, MUTE, COMMENT, UNDO = KINDS = ("acknowledge", "mute", "comment", "undo")

_ZEROS = "00000000"


@dataclass(frozen=True, slots=True)
class Note:
    """Who said what about a trouble, and when. until: end of a mute; undoes: id of the note taken back.

    cause, about: what the trouble is, for readers who no longer have its finding in their range.
    """

    id: str
    at: datetime
    who: str
    kind: str
    trouble: str
    cause: str
    about: str
    text: str = ""
    until: datetime | None = None
    undoes: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON has it; times in ISO 8601."""
        until = None if self.until is None else self.until.isoformat()
        return {name: getattr(self, name) for name in self.__slots__} | {
            "at": self.at.isoformat(),
            "until": until,
        }


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


def trouble(finding: Mapping[str, Any]) -> str:
    """What stays the same about a finding in every range: 12 hexadecimal digits."""
    cause, about = finding["cause"], _about(finding)
    return hashlib.sha256(f"{cause}|{about}".encode()).hexdigest()[:12]


def _about(finding: Mapping[str, Any]) -> str:
    """Whose finding it is, as wellfed.analysis.findings groups them."""
    scope = finding["scope"]
    if scope["job"] is not None:
        return f"job {scope['job']}"
    if scope["resource"] is not None:
        return str(scope["resource"])
    return f"GPU {scope['gpus'][0]}" if len(scope["gpus"]) == 1 else "free GPUs"


class Notes:
    """The notes of a store. path: of their file, which need not exist yet; None keeps them in memory.

    Methods may be called from several threads. Raises UserError when the file cannot be read.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._all: dict[str, Note] = {}
        self._undone: set[str] = set()
        self._by_trouble: dict[str, list[Note]] = {}
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

        A mute holds until its end, for every finding of the trouble. An acknowledgement holds for findings
        that had begun by then: a trouble that comes back is new.
        """
        with self._lock:
            said = [
                n
                for n in self._by_trouble.get(trouble(finding), ())
                if n.kind != UNDO and n.id not in self._undone
            ]
        began = datetime.fromisoformat(finding["start"])
        earlier = began <= since + CLIPPED
        seen = [n for n in said if n.kind == ACKNOWLEDGE and (earlier or n.at >= began)]
        muted = [n for n in said if n.kind == MUTE and n.until is not None and n.until > now]
        return Standing(seen[-1] if seen else None, muted[-1] if muted else None, said)

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
        name, about = trouble(finding), _about(finding)
        note = Note(secrets.token_hex(6), now, who, kind, name, finding["cause"], about, text, until)
        self._add(note)
        return note

    def undo(self, note: str, who: str) -> Note:
        """Takes a note back. Raises KeyError for one that is unknown or already taken back; OSError."""
        found = self._all[note]
        if found.kind == UNDO or note in self._undone:
            raise KeyError(note)
        made = Note(
            secrets.token_hex(6),
            datetime.now(UTC),
            who,
            UNDO,
            found.trouble,
            found.cause,
            found.about,
            undoes=note,
        )
        self._add(made)
        return made

    def _add(self, note: Note) -> None:
        with self._lock:
            if self._path is not None:
                _append(self._path, _encode(note))
            self._keep(note)

    def _keep(self, note: Note) -> None:
        self._all[note.id] = note
        self._by_trouble.setdefault(note.trouble, []).append(note)
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
        times = {name: said[name] and datetime.fromisoformat(said[name]) for name in ("at", "until")}
        return Note(**{name: said[name] for name in Note.__slots__} | times)
    except (ValueError, KeyError, TypeError):
        return None


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
