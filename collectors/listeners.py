"""Which GPUs are behind a port of this machine: those of the process that listens there, or of its children.
With TGI those of its siblings: its launcher starts the router, which listens, beside the shards.

Source: /proc/net/tcp and tcp6 say which socket listens, /proc/<pid>/fd who has it; the processes that hold
GPUs are on the board. Cost: 1 ms a server, once a minute. Privilege: root or the server's own user; without
it the answer is empty. A process that inherited the socket counts as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from wellfed.collectors.fetch import Target
from wellfed.collectors.files import read
from wellfed.collectors.processes import children, stat
from wellfed.collectors.registry import Roots

__all__ = ["gpus_behind", "listening"]

_LISTEN = b"0A"
_CLIMB = 8
#: text-generation-launcher, as much of the name as the kernel keeps; the router and the shards are called so
#: as well, and have no children that listen.
_LAUNCHER = "text-generation"


def listening(text: bytes, port: int) -> set[str]:
    """Inodes of the sockets in /proc/net/tcp that listen on the port; lines that are none are skipped."""
    wanted = b":%04X" % port
    found = set()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN and fields[1].endswith(wanted) and fields[9].isdigit():
            found.add(fields[9].decode())
    return found


def gpus_behind(roots: Roots, to: Target) -> list[str]:
    """GPUs of the server at a loopback address, sorted; none where it is elsewhere or cannot be seen."""
    parts = urlsplit(to.url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1") or not parts.port:
        return []
    inodes: set[str] = set()
    for name in ("tcp", "tcp6"):
        try:
            inodes |= listening(read(f"{roots.proc}/net/{name}"), parts.port)
        except OSError:
            continue
    if not inodes:
        return []
    held = [
        (gpu, pid)
        for source in list(roots.board.held.values())
        for gpu, pids in source.items()
        for pid in pids
    ]
    serving = {pid: _serves(roots.proc, pid, inodes) for _, pid in held}
    return sorted({gpu for gpu, pid in held if serving[pid]})


def _serves(proc: str, pid: int, inodes: Iterable[str]) -> bool:
    links = {f"socket:[{inode}]" for inode in inodes}
    return any(not links.isdisjoint(_open(proc, near)) for near in _line(proc, pid))


def _line(proc: str, pid: int) -> Iterator[int]:
    """The process, those that it descends from, and what a launcher among them started beside it."""
    for _ in range(_CLIMB):
        if pid <= 1:
            return
        yield pid
        try:
            found = stat(proc, pid)
        except ValueError:
            return
        if found is not None and found.name == _LAUNCHER:
            yield from children(proc, pid)
        pid = found.parent if found else 0


def _open(proc: str, pid: int) -> Iterator[str]:
    folder = f"{proc}/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue
