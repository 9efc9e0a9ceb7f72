"""Whether a folder is a store, and the lock of its only writer.

Cost: one small file read, one flock. The lock goes with the process, however it ends; the lock file names
its holder to the next one that asks.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys

from wellfed.analysis.segments import FORMAT, Layout, place
from wellfed.errors import UserError

__all__ = ["check_marker", "is_store", "take"]


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a store."""
    return os.path.isfile(Layout(os.fspath(path)).marker)


def check_marker(layout: Layout) -> None:
    """Raises UserError unless this version can read the folder."""
    if not os.path.isdir(layout.root):
        kind = "is not a folder" if os.path.exists(layout.root) else "does not exist"
        raise UserError(f"{layout.root} {kind}")
    try:
        with open(layout.marker, encoding="utf-8") as file:
            version = json.load(file)["format"]
    except FileNotFoundError:
        raise UserError(f"{layout.root} is not a Wellfed store: it has no wellfed-store.json") from None
    except OSError as error:
        raise UserError(f"cannot read {layout.marker}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{layout.marker} is damaged; it should read {{"format": {FORMAT}}}') from None
    if version != FORMAT:
        raise UserError(f"{layout.root} has store format {version}; this version of Wellfed reads {FORMAT}")


def take(layout: Layout) -> int:
    """Makes the folder a store where it is new, locks it and returns the lock's descriptor."""
    if os.path.exists(layout.marker) or (os.path.exists(layout.root) and not os.path.isdir(layout.root)):
        check_marker(layout)
    os.makedirs(layout.root, exist_ok=True)
    strangers = set(os.listdir(layout.root)) - {"lock", "tmp"}
    if strangers and not os.path.exists(layout.marker):
        raise UserError(f"{layout.root} is not a Wellfed store and not empty: it holds {min(strangers)}")
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Only the name of the command: its options may hold secrets, and the folder may be readable to all.
        command = " ".join([os.path.basename(sys.argv[0]), *_words(sys.argv[1:])])
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {command}\n".encode(errors="replace"), 0)
        if not os.path.exists(layout.marker):
            os.makedirs(layout.tmp, exist_ok=True)
            place({layout.marker: json.dumps({"format": FORMAT}).encode() + b"\n"}, layout.tmp)
    except BlockingIOError:
        pid, _, command = os.pread(descriptor, 4096, 0).decode(errors="replace").strip().partition(" ")
        os.close(descriptor)
        raise UserError(f"store {layout.root} is in use by pid {pid or '?'} ({command or '?'})") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _words(arguments: list[str]) -> list[str]:
    """The leading words before the first option: `store repair`."""
    words = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument)
    return words
