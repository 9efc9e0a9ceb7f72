"""Lustre mounts as this client sees them: bytes, operations and round-trip times, all targets summed.

Source: the `stats` of every object (osc) and metadata (mdc) client, below /sys/kernel/debug/lustre since
Lustre 2.11 and /proc/fs/lustre before. The mount's own (llite) statistics are not used: they count what
programs read, page cache included, not what crossed to the servers. Cost: one pread a target, held open.
Privilege: root for debugfs. Never touches the mount itself, so a hung server hangs nobody here.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from wellfed.collectors.files import RECHECK, STALE, Held, count, host_view
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Counter", "Lustre", "mounts", "parse"]

#: Lines of a stats file that are no counters.
_TIMES = frozenset({b"snapshot_time", b"start_time", b"elapsed_time"})
_SECONDS = {b"[usec]": 1e-6, b"[usecs]": 1e-6, b"[nsecs]": 1e-9, b"[msecs]": 1e-3}
#: Not operations on data's behalf: gauges of the request queue, byte counts, keep-alive, and COMMIT's kin.
_NEITHER = frozenset({"req_waittime", "req_active", "read_bytes", "write_bytes", "obd_ping", "ost_sync"})
_DATA = {"ost_read": "read", "ost_write": "write"}
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Counter:
    """samples: how often. total: the sum, in seconds or bytes; None where the line carries none."""

    samples: int
    total: float | None


def parse(text: bytes) -> dict[str, Counter]:
    """The counters of a stats file by name; a name that is not there was never counted. Raises ValueError."""
    out: dict[str, Counter] = {}
    begun = False
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[0] in _TIMES:
            begun = True
        elif len(fields) >= 4 and fields[2] == b"samples":
            total = count(fields[6]) * _SECONDS.get(fields[3], 1.0) if len(fields) > 6 else None
            out[fields[0].decode("ascii", "replace")] = Counter(count(fields[1]), total)
        else:
            raise ValueError(f"expected `name N samples [unit]`, found {line[:60]!r}")
    if not begun:
        raise ValueError("no snapshot_time")
    return out


def mounts(text: bytes) -> dict[str, list[tuple[str, str]]]:
    """File system -> its (mount point, servers), from a mounts file."""
    out = defaultdict(list)
    for line in text.splitlines():
        fields = [_ESCAPE.sub(lambda m: bytes([int(m[1], 8) & 255]), f) for f in line.split(b" ")]
        if len(fields) > 2 and fields[2] == b"lustre":
            servers, _, inside = fields[0].decode("utf-8", "replace").rpartition(":/")
            out[inside.partition("/")[0]].append((fields[1].decode("utf-8", "replace"), servers))
    return dict(out)


@dataclass(frozen=True, slots=True)
class _Mount:
    """name: the mount point, or the client's own name where several mounts share a file system."""

    name: str
    server: str
    stats: tuple[str, ...]


@register
class Lustre:
    """Fills `mount` for Lustre."""

    name = "lustre"
    interval = 5.0
    deadline = 4.0
    tables = ("mount",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._held = Held()
        self._mounts: tuple[_Mount, ...] | None = None
        self._reads = 0

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a mounted Lustre client."""
        if not self._mounts or self._reads % RECHECK == 0:
            self._find(roots)
        self._reads += 1
        try:
            return [self._row(mount) for mount in self._mounts or ()]
        except OSError as error:
            # Targets come and go while the file system stays mounted.
            if error.errno not in STALE:
                raise
            self._find(roots)
            return [self._row(mount) for mount in self._mounts or ()]

    def close(self) -> None:
        """Closes the files held open."""
        self._held.close()
        self._mounts = None

    def _find(self, roots: Roots) -> None:
        self.close()
        self.reason = self.remedy = ""
        bases = (f"{roots.sys}/kernel/debug/lustre", f"{roots.proc}/fs/lustre")
        clients = {name for base in (f"{roots.sys}/fs/lustre", *bases) for name in _clients(base)}
        if not clients:
            self.reason = f"no Lustre client below {bases[0]} or {bases[1]}"
            self.remedy = (
                "none needed without Lustre; with it, run the agent as root: debugfs is closed to others"
            )
            return
        known = mounts(host_view(roots.proc, "mounts")[1] or b"")
        targets = [path for base in bases for path in _targets(base)]
        self._mounts = tuple(_mount(client, clients, known, targets) for client in sorted(clients))
        if not any(mount.stats for mount in self._mounts):
            self._mounts = ()
            self.reason = f"Lustre is mounted, but no statistics of its targets are readable below {bases[0]}"
            self.remedy = (
                "run the agent as root: debugfs is closed to others (mount -t debugfs none /sys/kernel/debug)"
            )

    def _row(self, mount: _Mount) -> Row:
        values: dict[str, float | None] = defaultdict(float)
        for path in mount.stats:
            try:
                counters = parse(self._held.read(path))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            for column, amount in _amounts(counters):
                values[column] = (values[column] or 0.0) + amount
        info = {"fstype": "lustre"} | ({"server": mount.server} if mount.server else {})
        return Row("mount", (mount.name,), dict(values), info)


def _amounts(counters: Mapping[str, Counter]) -> Iterator[tuple[str, float]]:
    nothing = Counter(0, 0.0)
    yield "read_bytes", counters.get("read_bytes", nothing).total or 0.0
    yield "written_bytes", counters.get("write_bytes", nothing).total or 0.0
    for column in ("reads", "writes", "metadata_ops"):
        yield column, 0.0
    for column in ("read_rtt_seconds", "write_rtt_seconds", "metadata_rtt_seconds"):
        yield column, 0.0
    for name, counter in counters.items():
        if name in _DATA:
            yield f"{_DATA[name]}s", float(counter.samples)
            yield f"{_DATA[name]}_rtt_seconds", counter.total or 0.0
        elif name not in _NEITHER:
            yield "metadata_ops", float(counter.samples)
            yield "metadata_rtt_seconds", counter.total or 0.0


def _clients(base: str) -> list[str]:
    try:
        return [name for name in os.listdir(f"{base}/llite") if "-" in name]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _targets(base: str) -> list[str]:
    out = []
    for kind in ("osc", "mdc"):
        try:
            names = sorted(os.listdir(f"{base}/{kind}"))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        paths = [f"{base}/{kind}/{name}/stats" for name in names]
        out += [path for path in paths if os.path.exists(path)]
    return out


def _mount(
    client: str,
    clients: Iterable[str],
    known: Mapping[str, list[tuple[str, str]]],
    targets: Iterable[str],
) -> _Mount:
    filesystem, _, instance = client.rpartition("-")
    # The kernel does not say which client serves which mount point: with one of each there is no doubt.
    alone = sum(other.rpartition("-")[0] == filesystem for other in clients) == 1
    places = known.get(filesystem, [])
    point, server = places[0] if places else (client, "")
    own = tuple(
        path
        for path in targets
        if (name := path.split("/")[-2]).startswith(f"{filesystem}-") and name.endswith(f"-{instance}")
    )
    return _Mount(point if alone else client, server, own)
