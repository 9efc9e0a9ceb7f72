"""Files that survive a crash: written beside their name, synced, renamed; and the lock of a single writer."""

from __future__ import annotations

import fcntl
import os
import sys

from wellfed.errors import UserError

__all__ = ["lock", "publish", "replace"]


def replace(path: str, content: bytes) -> None:
    """Writes a file as a whole or not at all. Raises OSError."""
    with open(path + ".tmp", "wb") as file:
        file.write(content)
    publish(path + ".tmp", path)


def publish(temporary: str, path: str) -> None:
    """Makes a finished file durable under its name: sync, rename, sync the folder."""
    for target in (temporary, os.path.dirname(path)):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if target == temporary:
            os.rename(temporary, path)


def lock(path: str, store: str) -> int:
    """Holds a store's lock file until the returned descriptor is closed. Raises UserError with the holder."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip()
        os.close(descriptor)
        raise UserError(f"the store {store} is in use by {holder or 'another process'}") from None
    os.ftruncate(descriptor, 0)
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    os.pwrite(descriptor, f"{command} (pid {os.getpid()})\n".encode(), 0)
    return descriptor
