"""Reading kernel files: whole at once, or held open because there are hundreds of small ones; their numbers.

Held descriptors read with pread cost 0.4 us a file against 7.5 us for open and read (320 sysfs files); the
same with a look at each path and page 1.7 us, which is why many are read together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Container, Sequence

__all__ = ["RECHECK", "SELDOM", "STALE", "Held", "Recent", "count", "counts", "host_view", "read", "tell"]

#: Seconds that a number which hardly ever moves may be old: an error counter, a rate. Where it is read at the
#: multiples of this, windows of such a length end on a fresh one.
SELDOM = 5.0
#: Reads after which a collector looks again for devices it holds files of, though nothing told it to.
RECHECK = 60

_CHUNK = 1 << 16
_PAGE = 4096
#: What a file of one number or word fits into.
_SHORT = 64
#: A descriptor whose device went away and came back answers with one of these until it is reopened.
STALE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESTALE, errno.ENXIO, errno.EBADF})


def count(token: bytes) -> int:
    """A counter as the kernel prints it: decimal, not negative, 64 bits at most. Raises ValueError.

    int() alone also takes signs, underscores and numbers too long for a float.
    """
    if len(token) > 20 or not token.isdigit():
        raise ValueError(f"expected a count, found {token[:40]!r}")
    return int(token)


def counts(tokens: Sequence[bytes]) -> list[int]:
    """Many counters, each as `count` takes it. Raises ValueError. One look at all of them costs a third."""
    if tokens and b"".join(tokens).isdigit() and max(map(len, tokens)) <= 20:
        return list(map(int, tokens))
    return [count(token) for token in tokens]


def host_view(proc: str, name: str) -> tuple[str, bytes | None, bool]:
    """A file of pid 1, which sees the host's mounts even from a container, else our own.

    Answers with its path, its bytes (None where there is none) and whether pid 1's was refused.
    Raises OSError.
    """
    refused = False
    try:
        path = f"{proc}/1/{name}"
        return path, read(path), False
    except PermissionError:
        refused = True
    except (FileNotFoundError, ProcessLookupError):
        pass
    path = f"{proc}/self/{name}"
    try:
        return path, read(path), refused
    except FileNotFoundError:
        return path, None, refused


#: Files that `Recent` was asked for: when they were read last, and what they held.
_wanted: dict[str, tuple[float, bytes]] = {}
#: The same of groups of small files, by their common folder: when, which, what.
_groups: dict[str, tuple[float, Sequence[str], Sequence[bytes | OSError]]] = {}
_FRESH_SECONDS = 1.5


def read(path: str) -> bytes:
    """The whole file. Raises OSError."""
    data = _read(path)
    if path in _wanted:
        _wanted[path] = (time.monotonic(), data)
    return data


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _whole(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)


def _whole(descriptor: int) -> bytes:
    # A seq_file may answer with less than asked for long before its end.
    data = os.pread(descriptor, _CHUNK, 0)
    if not data:
        return data
    parts = [data]
    at = len(data)
    while more := os.pread(descriptor, _CHUNK, at):
        parts.append(more)
        at += len(more)
    return b"".join(parts)


def _held(descriptor: int) -> bytes:
    # One call is enough for sysfs, whose files are a line of a page at most.
    data = os.pread(descriptor, _PAGE, 0)
    return _whole(descriptor) if data.count(b"\n") > 1 or len(data) == _PAGE else data


class _Group:
    """Files that are read together: the descriptors of those that answer, the places of the others, which are
    tried one by one.
    """

    def __init__(self, paths: Sequence[str], descriptors: list[int], refusing: list[int]) -> None:
        self.paths, self.descriptors, self.refusing = paths, descriptors, refusing


class Held:
    """Files that stay open between reads, reopened when the device behind them changed."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}

    def read(self, path: str) -> bytes:
        """The file's content, whole. Raises OSError."""
        descriptor = self._open.get(path)
        if descriptor is not None:
            try:
                return _held(descriptor)
            except OSError as error:
                self.forget(path)
                if error.errno not in STALE:
                    raise OSError(error.errno, error.strerror, path) from error
        self._open[path] = descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _held(descriptor)
        except OSError as error:
            self.forget(path)
            raise OSError(error.errno, error.strerror, path) from error

    def together(self, paths: Sequence[str]) -> list[bytes | OSError]:
        """Many small files at once: the content of each, or why there is none. paths: the same object as long
        as they are the same files.
        """
        if not paths:
            return []
        known = self._groups.get(paths[0])
        if known is not None and known.paths is paths:
            with contextlib.suppress(OSError):
                read = [os.pread(descriptor, _SHORT, 0) for descriptor in known.descriptors]
                if not read or max(map(len, read)) < _SHORT:
                    found: list[bytes | OSError] = [*read]
                    for place in known.refusing:
                        found.insert(place, self._attempt(paths[place]))
                    return found
        found = [self._attempt(path) for path in paths]
        self._groups[paths[0]] = _Group(
            paths,
            [self._open[path] for path in paths if path in self._open],
            [place for place, path in enumerate(paths) if path not in self._open],
        )
        return found

    def _attempt(self, path: str) -> bytes | OSError:
        try:
            return self.read(path)
        except OSError as error:
            return error

    def forget(self, path: str) -> None:
        """Closes one file."""
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            self._groups = {
                first: group for first, group in self._groups.items() if descriptor not in group.descriptors
            }
            os.close(descriptor)

    def close(self) -> None:
        """Closes all files."""
        for path in list(self._open):
            self.forget(path)


def tell(folder: str, paths: Sequence[str], texts: Sequence[bytes | OSError]) -> None:
    """Keeps what was read below a folder, if somebody asks `Recent` for it. paths: the same object as long as
    they are the same files.
    """
    if folder in _groups:
        _groups[folder] = (time.monotonic(), paths, texts)


class _Rest:
    """Files that somebody wants beyond those that he is told: which he reads each time and which seldom, and
    where each of all is among those told, then those.
    """

    def __init__(self, paths: Sequence[str], told: Sequence[str], seldom: Container[str]) -> None:
        self.paths, self.told = paths, told
        rest = [path for path in paths if path not in told]
        self.often = [path for path in rest if path not in seldom]
        self.seldom = [path for path in rest if path in seldom]
        every = {path: place for place, path in enumerate([*told, *self.often, *self.seldom])}
        self.places = [every[path] for path in paths]
        self.read_at = -SELDOM
        self.texts: list[bytes | OSError] = []


class Recent:
    """What collectors read a moment ago, for those who ask for the same files: a counter of an InfiniBand
    card is a question to its firmware, and /proc/stat a walk over all CPUs.
    """

    def __init__(self) -> None:
        self._held = Held()
        self._rest: dict[str, _Rest] = {}

    def known(self, path: str) -> bytes | None:
        """The content, if somebody read it in the last 1.5 s."""
        at, data = _wanted.setdefault(path, (-_FRESH_SECONDS, b""))
        return data if time.monotonic() - at < _FRESH_SECONDS else None

    def read(self, path: str) -> bytes:
        """That, else the file. Raises OSError."""
        known = self.known(path)
        return _read(path) if known is None else known

    def together(
        self, folder: str, paths: Sequence[str], missing: bytes, seldom: Container[str] = ()
    ) -> list[bytes]:
        """That of many small files below a folder, else the files, which stay open; `missing` for one without
        an answer. paths: the same object as long as they are the same files. seldom: those of them that may
        be SELDOM seconds old.
        """
        now = time.monotonic()
        at, told, texts = _groups.setdefault(folder, (-_FRESH_SECONDS, (), ()))
        if now - at >= _FRESH_SECONDS:
            told, texts = (), ()
        known = self._rest.get(folder)
        if known is None or known.paths is not paths or known.told is not told:
            known = self._rest[folder] = _Rest(paths, told, seldom)
        if now - known.read_at >= SELDOM:
            known.texts, known.read_at = self._held.together(known.seldom), now
        every = [*texts, *self._held.together(known.often), *known.texts]
        found = [every[place] for place in known.places]
        return [text if isinstance(text, bytes) else missing for text in found]
