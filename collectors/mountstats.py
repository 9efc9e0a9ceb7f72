"""NFS mounts as this client sees them: bytes, operations, round-trip, execution and queue times.

Source: /proc/<pid>/mountstats of pid 1 where it may be read (the host's view from a container), else our
own (net/sunrpc/stats.c, fs/nfs/super.c). Cost: one read. Privilege: none for our own view; root or
CAP_SYS_PTRACE for pid 1's. Never touches the mount itself, so a hung server hangs nobody here. Connections
to pNFS data servers are not in this file: their bytes and operations are, their backlog is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from itertools import count as natural
from operator import ne

from wellfed.collectors.files import count, counts, host_view
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Mountstats", "NfsMount", "parse"]

#: What an operation counts as, where it is not metadata.
_KINDS = {b"READ": "read", b"READ_PLUS": "read", b"WRITE": "write", b"COMMIT": "", b"NULL": ""}
#: Columns of a kind: its operations, then which times of them.
_COLUMNS = {
    "read": ("reads", "queue", "rtt", "exec"),
    "write": ("writes", "rtt", "exec"),
    "metadata": ("metadata_ops", "rtt", "exec"),
}
#: Numbers of an operation that are added up: made, transmissions, timeouts, then the times.
_NUMBERS = (0, 1, 2, 5, 6, 7)
_TIMES = ("queue", "rtt", "exec")
#: Position of the backlog in an xprt line, counted from the protocol.
_BACKLOG = {b"tcp": 10, b"rdma": 10, b"udp": 7, b"local": 9}
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(slots=True)
class NfsMount:
    """One mount; times in seconds, all transports summed."""

    device: str
    mount: str
    fstype: str
    totals: dict[str, float] = field(default_factory=dict)
    operations: int = 0

    @property
    def server(self) -> str:
        """The host before `:/export`."""
        return self.device.partition(":/")[0].strip("[]")

    def add(self, amounts: Mapping[str, float]) -> None:
        """Adds to the totals."""
        for column, amount in amounts.items():
            self.totals[column] = self.totals.get(column, 0.0) + amount


@dataclass(slots=True)
class _Operations:
    """What the operations of a mount said last: their lines and names, a column of each number that is added
    up, and the places of each kind.
    """

    lines: list[bytes]
    names: list[bytes]
    columns: list[list[int]]
    kinds: dict[str, list[int]]


#: First lines of mounts -> their operations.
Known = dict[bytes, _Operations]


def parse(text: bytes, known: Known | None = None) -> list[NfsMount]:
    """The NFS mounts of a mountstats file. Raises ValueError.

    known: what the operations of the last text said, of which most say it again; brought up to date.
    """
    mounts: list[NfsMount] = []
    seen: Known = {}
    for part in (b"\n" + text).split(b"\ndevice ")[1:]:
        first, _, rest = part.partition(b"\n")
        mount = _mount(first)
        if mount is None:
            continue
        mounts.append(mount)
        head, found, after = rest.partition(b"per-op statistics\n")
        for line in head.splitlines():
            name, _, numbers = line.strip().partition(b":")
            if name == b"bytes":
                _bytes(mount, _numbers(numbers.split(), line))
            elif name == b"xprt":
                _transport(mount, numbers.split())
        lines = after.split(b"\n") if found else []
        operations = _learn(mount, lines, known.pop(first, None) if known else None)
        _add_up(mount, operations)
        # Of two mounts alike the later one is kept: either learns the other's lines anew, which is right.
        seen[first] = operations
    if known is not None:
        known.clear()
        known.update(seen)
    for mount in mounts:
        if not {"reads", "writes", "read_bytes"} <= mount.totals.keys():
            raise ValueError(f"{mount.mount}: expected bytes, READ and WRITE; the file ends early")
    return mounts


def _mount(line: bytes) -> NfsMount | None:
    head, found, tail = line.rpartition(b" with fstype ")
    device, mounted, mount = head.partition(b" mounted on ")
    fstype = tail.split()[:1]
    if not found or not mounted or not fstype:
        if found or b"no device mounted" in line:
            return None
        raise ValueError(f"expected `device D mounted on M with fstype T`, found {b'device ' + line[:73]!r}")
    if fstype[0] not in (b"nfs", b"nfs4"):
        return None
    return NfsMount(_text(device), _text(mount), fstype[0].decode())


def _text(raw: bytes) -> str:
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 8) & 255]), raw).decode("utf-8", "replace")


def _numbers(fields: list[bytes], line: bytes) -> list[int]:
    try:
        return counts(fields)
    except ValueError:
        raise ValueError(f"expected numbers, found {line.strip()[:80]!r}") from None


def _bytes(mount: NfsMount, n: list[int]) -> None:
    # normal read, normal write, direct read, direct write, server read, server write, ...: the server's
    # are what crossed the wire, direct I/O included.
    if len(n) < 6:
        raise ValueError(f"{mount.mount}: bytes has {len(n)} numbers, expected 6 or more")
    mount.add({"read_bytes": n[4], "written_bytes": n[5]})


def _transport(mount: NfsMount, fields: list[bytes]) -> None:
    # Only the one number: the idle time beside it may be negative.
    at = _BACKLOG.get(fields[0] if fields else b"")
    if at is not None and len(fields) > at:
        mount.add({"backlog": count(fields[at])})


def _learn(mount: NfsMount, lines: list[bytes], known: _Operations | None) -> _Operations:
    """The operations of these lines; only those are read that have changed."""
    if known is None or len(known.lines) != len(lines):
        known = _Operations([b""] * len(lines), [b""] * len(lines), [[0] * len(lines) for _ in _NUMBERS], {})
    moved = False
    for place in compress(natural(), map(ne, lines, known.lines)):
        name, numbers = _operation(mount, lines[place])
        moved = moved or name != known.names[place]
        known.names[place] = name
        for column, at in zip(known.columns, _NUMBERS, strict=True):
            column[place] = numbers[at]
    if moved:
        kinds: dict[str, list[int]] = {kind: [] for kind in _COLUMNS}
        for place, name in enumerate(known.names):
            kinds.get(_KINDS.get(name, "metadata") if name else "", []).append(place)
        known.kinds = {kind: places for kind, places in kinds.items() if places}
    known.lines = lines
    return known


def _operation(mount: NfsMount, line: bytes) -> tuple[bytes, Sequence[int]]:
    """Name and numbers; b"" and zeros for a line that is none."""
    # operations, transmissions, major timeouts, bytes sent, bytes received, then milliseconds queued,
    # on the wire and in all; kernels since 5.2 add errors.
    name, colon, rest = line.strip().partition(b":")
    if not colon:
        return b"", [0] * 8
    numbers = _numbers(rest.split(), line)
    if len(numbers) < 8:
        raise ValueError(f"{mount.mount}: {name!r} has {len(numbers)} numbers, expected 8 or more")
    return name, numbers


def _add_up(mount: NfsMount, operations: _Operations) -> None:
    made, sent, late, *times = operations.columns
    if not operations.kinds and not any(operations.names):
        return
    mount.operations = sum(made)
    mount.totals["retransmits"] = sum(
        more - less for less, more in zip(made, sent, strict=True) if more > less
    )
    mount.totals["timeouts"] = sum(late)
    for kind, places in operations.kinds.items():
        first, *wanted = _COLUMNS[kind]
        mount.totals[first] = sum([made[place] for place in places])
        for time, column in zip(_TIMES, times, strict=True):
            if time in wanted:
                # Milliseconds are summed as the integers they are.
                mount.totals[f"{kind}_{time}_seconds"] = sum([column[place] for place in places]) / 1000.0


@register
class Mountstats:
    """Fills `mount` for NFS."""

    name = "mountstats"
    interval = 1.0
    deadline = 2.0
    tables = ("mount",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._last: dict[str, tuple[int, float]] = {}
        self._lines: Known = {}

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a mount; several on one mount point are one row."""
        path, text, refused = host_view(roots.proc, "mountstats")
        if text is None:
            self.reason, self.remedy = f"no {path}", "mount procfs, or name it with --procfs"
            return []
        try:
            mounts = _by_point(parse(text, self._lines))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.reason = "" if mounts else f"no NFS mount in {path}"
        self.remedy = ""
        if refused and not mounts:
            self.reason += f", and {roots.proc}/1/mountstats is closed to this user"
            self.remedy = "if the host has mounts that a container hides: hostPID: true and CAP_SYS_PTRACE"
        self._last = {mount.mount: self._held_up(mount) for mount in mounts}
        return [
            Row(
                "mount",
                (mount.mount,),
                {**mount.totals, "retransmits": self._last[mount.mount][1]},
                {"fstype": mount.fstype, "server": mount.server},
            )
            for mount in mounts
        ]

    def _held_up(self, mount: NfsMount) -> tuple[int, float]:
        # A request killed before it was ever sent counts as an operation without a transmission: the
        # difference falls by one. Only a remount, which zeroes the operations, may lower a counter.
        operations, retransmits = self._last.get(mount.mount, (0, 0.0))
        now = mount.totals["retransmits"]
        return mount.operations, max(now, retransmits) if mount.operations >= operations else now


def _by_point(mounts: Iterable[NfsMount]) -> list[NfsMount]:
    points: dict[str, NfsMount] = {}
    for mount in mounts:
        known = points.setdefault(mount.mount, mount)
        if known is not mount:
            known.add(mount.totals)
            known.operations += mount.operations
    return list(points.values())
