"""What was not acknowledged yet, on disk: one file a record, oldest first, bounded in bytes and age.

A record is written beside its name and renamed, so a kill -9 leaves it whole or absent; a checksum finds
what a bad disk changed, and costs that record alone. When the disk refuses, records wait in memory and
`degraded` says why; memory holds less than a disk. Not synced: a power cut may cost the last records, never
the order or the rest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import threading
import time
import zlib
from collections import deque
from dataclasses import dataclass

__all__ = ["Record", "Spool"]

log = logging.getLogger("wellfed.spool")

_HEADER = struct.Struct("<4sIId")
_MAGIC = b"WFS1"
_ENDING = ".rec"
#: What may wait in memory at most: some eight hours of 10 s windows of a large node.
MEMORY_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """name: its file, or "" while it waits in memory. ts: seconds since the epoch."""

    name: str
    ts: float
    body: bytes


class Spool:
    """A queue in a folder (made when missing), or in memory alone with folder None.

    dropped: records given up because the bounds were reached. corrupt: records whose checksum was wrong.
    """

    def __init__(self, folder: str | None, max_bytes: int, max_age: float) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.dropped = 0
        self.corrupt = 0
        self.degraded = "" if folder else "no spool folder"
        self._lock = threading.Lock()
        self._files: deque[tuple[str, int]] = deque()
        self._memory: deque[Record] = deque()
        self._bytes = 0
        self._memory_bytes = 0
        self._latest: Record | None = None
        self._next = 0
        if folder:
            self._recover(folder)

    def __len__(self) -> int:
        return len(self._files) + len(self._memory)

    @property
    def size(self) -> int:
        """Bytes held, on disk and in memory."""
        return self._bytes + self._memory_bytes

    def put(self, ts: float, body: bytes) -> None:
        """Accepts a record: it is on disk when this returns, or in memory when the disk refuses."""
        with self._lock:
            self._trim(len(body) + _HEADER.size)
            # Never overtake what already waits in memory.
            if self.folder and not self._memory and self._write(ts, body):
                return
            self._memory.append(Record("", ts, body))
            self._memory_bytes += len(body) + _HEADER.size
            while self._memory_bytes > min(self.max_bytes, MEMORY_BYTES):
                self._forget()
                self.dropped += 1

    def peek(self) -> Record | None:
        """The oldest record, or None. What is too old or damaged is given up and counted on the way."""
        with self._lock:
            self._retry()
            while self._files:
                name, size = self._files[0]
                # What was written a moment ago is not read again to be sent.
                record = self._latest if self._latest and self._latest.name == name else self._read(name)
                if record is None:
                    self.corrupt += 1
                elif time.time() - record.ts > self.max_age:
                    self.dropped += 1
                else:
                    return record
                self._remove(name, size)
            while self._memory and time.time() - self._memory[0].ts > self.max_age:
                self._forget()
                self.dropped += 1
            return self._memory[0] if self._memory else None

    def done(self, record: Record) -> None:
        """Removes the record that `peek` gave: it was acknowledged."""
        with self._lock:
            if self._files and self._files[0][0] == record.name:
                self._remove(*self._files[0])
            elif self._memory and self._memory[0] is record:
                self._forget()

    def _recover(self, folder: str) -> None:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            names = sorted(os.listdir(folder))
            for name in names:
                path = os.path.join(folder, name)
                if name.endswith(_ENDING):
                    size = os.path.getsize(path)
                    self._files.append((name, size))
                    self._bytes += size
                    self._next = int(name.removesuffix(_ENDING)) + 1
                elif name.endswith(".tmp"):
                    os.unlink(path)
        except (OSError, ValueError) as error:
            self._degrade(error)

    def _write(self, ts: float, body: bytes) -> bool:
        assert self.folder is not None
        name = f"{self._next:012d}{_ENDING}"
        path = os.path.join(self.folder, name)
        content = _HEADER.pack(_MAGIC, len(body), _checksum(ts, body), ts) + body
        try:
            with open(path + ".tmp", "wb", buffering=0) as file:
                if file.write(content) != len(content):
                    raise OSError(28, "short write")
            os.rename(path + ".tmp", path)
        except OSError as error:
            self._degrade(error)
            with contextlib.suppress(OSError):
                os.unlink(path + ".tmp")
            return False
        self.degraded = ""
        self._next += 1
        self._files.append((name, len(content)))
        self._bytes += len(content)
        self._latest = Record(name, ts, body) if len(self._files) == 1 else None
        return True

    def _read(self, name: str) -> Record | None:
        assert self.folder is not None
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                content = file.read()
            magic, length, crc, ts = _HEADER.unpack_from(content)
        except (OSError, struct.error):
            return None
        body = content[_HEADER.size :]
        if magic != _MAGIC or length != len(body) or crc != _checksum(ts, body):
            return None
        return Record(name, ts, body)

    def _retry(self) -> None:
        """Moves what waits in memory to a disk that takes it again, in order."""
        while self.folder and self._memory:
            record = self._memory[0]
            if not self._write(record.ts, record.body):
                return
            self._forget()

    def _forget(self) -> None:
        self._memory_bytes -= len(self._memory.popleft().body) + _HEADER.size

    def _trim(self, coming: int) -> None:
        while self.size + coming > self.max_bytes and len(self):
            self.dropped += 1
            if self._files:
                self._remove(*self._files[0])
            else:
                self._forget()

    def _remove(self, name: str, size: int) -> None:
        assert self.folder is not None
        self._files.popleft()
        self._bytes -= size
        self._latest = None
        try:
            os.unlink(os.path.join(self.folder, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            self._degrade(error)

    def _degrade(self, error: Exception) -> None:
        text = f"{self.folder}: {getattr(error, 'strerror', None) or error}"
        if text != self.degraded:
            log.warning("the spool is kept in memory: %s", text)
        self.degraded = text


def _checksum(ts: float, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<d", ts)))
