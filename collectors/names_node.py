"""The host's facts once more under node_exporter's names, for dashboards and alerts that use those.

What: cpu, diskstats, netdev, pressure, infiniband, mountstats (NFS), meminfo and vmstat as node_exporter 1.5
publishes them, value for value. Source: the same files of /proc and /sys: what a collector read less than a
second and a half ago, else read now; error counters and rates of InfiniBand may be 5 s old. Cost: 0.5 ms for
2,700 series. Privilege: none.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from wellfed.collectors.exposition import Foreign, labelled
from wellfed.collectors.files import RECHECK, Recent, host_view, read
from wellfed.collectors.names_node_tables import (
    CPU_MODES,
    DISK,
    EVENTS,
    GUEST_MODES,
    INFINIBAND,
    INFINIBAND_INFO,
    INFINIBAND_TEXTS,
    NETWORK,
    NFS_BYTES,
    OPERATION,
    PRESSURE,
    TRANSPORT,
    VMSTAT,
    Field,
)
from wellfed.collectors.names_template import Block, Place, Template
from wellfed.collectors.registry import Roots

__all__ = ["NodeNames"]

_SKIPPED_DISK = re.compile(r"(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+")
_ADDRESS = re.compile(r"(?:^|,| )addr=([^,\s]+)")
#: Stands for a counter that the card does not tell.
_MISSING = b"x!"
#: Files of a port that are read each time.
_OFTEN = re.compile(r"(_data|_packets|_wait|/state)$")
_KIBI = (1024).__mul__
_MEMORY_SIGNS = re.compile(r"[^a-zA-Z0-9_]")


class NodeNames:
    """Text of all families. Templates are kept while the same things are there."""

    def __init__(self, openmetrics: bool, labels: Sequence[tuple[str, str]] = ()) -> None:
        self._recent = Recent()
        self._once: dict[str, str] = {}
        self._ports = _Ports("", ())
        self._devices: list[str] = []
        self._renders = 0
        sources: dict[Callable[[Roots], bytes], Callable[[bytes], Iterator[Block]]] = {
            self._cpu: _cpu,
            self._proc("diskstats"): _disk,
            self._network: _network,
            self._pressure: _pressure,
            self._infiniband: self._infiniband_layout,
            self._mounts: self._mounts_layout,
            self._proc("meminfo"): _memory,
            self._proc("vmstat"): _vmstat,
        }
        more = labelled(labels)
        self._sources = [(text, Template(layout, openmetrics, more)) for text, layout in sources.items()]
        self._roots = Roots()

    def lines(self, roots: Roots) -> list[bytes]:
        """Complete lines of each source; one that is missing or broken leaves its families out."""
        self._roots = roots
        parts = []
        for source, template in self._sources:
            with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
                parts.append(template.render(source(roots)))
        return [part for part in parts if part]

    def points(self, roots: Roots) -> tuple[list[Foreign], list[float]]:
        """The same as series and their values."""
        self._roots = roots
        series: list[Foreign] = []
        values: list[float] = []
        for source, template in self._sources:
            with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
                found, numbers = template.points(source(roots))
                series += found
                values += numbers
        return series, values

    def _proc(self, name: str) -> Callable[[Roots], bytes]:
        return lambda roots: self._recent.read(f"{roots.proc}/{name}")

    def _cpu(self, roots: Roots) -> bytes:
        # The lines of interrupts below the CPUs' are most of the file and none of ours.
        return self._recent.read(f"{roots.proc}/stat").partition(b"\nintr")[0]

    def _network(self, roots: Roots) -> bytes:
        # Old kernels leave no space between an interface and a long number.
        return self._recent.read(f"{roots.proc}/net/dev").replace(b":", b": ")

    def _pressure(self, roots: Roots) -> bytes:
        lines = []
        for resource in PRESSURE:
            try:
                text = self._recent.read(f"{roots.proc}/pressure/{resource}")
            except FileNotFoundError:
                continue
            name = resource.encode()
            lines += [name + b" " + line.replace(b"total=", b"total= ") for line in text.splitlines()]
        return b"\n".join(lines)

    def _infiniband(self, roots: Roots) -> bytes:
        root = f"{roots.sys}/class/infiniband"
        devices = sorted(os.listdir(root))
        if devices != self._devices or self._renders % RECHECK == 0:
            self._ports = _Ports(root, devices)
            self._devices = devices
        self._renders += 1
        ports = self._ports
        texts = self._recent.together(root, ports.paths, _MISSING, ports.seldom)
        texts[ports.counters :] = map(_first, texts[ports.counters :])
        # What comes or goes changes these two, which are keys of the layout.
        text = b" ".join([ports.key, *texts]).replace(b"N/A (no PMA)", _MISSING)
        return text + b" %d" % text.count(_MISSING)

    def _infiniband_layout(self, text: bytes) -> Iterator[Block]:
        blocks = {one.family: Block([one]) for _, one in INFINIBAND}
        info = Block([INFINIBAND_INFO], keys=[0, len(self._ports.paths) + 1])
        for place, (device, port, one) in enumerate(self._ports.fields, 1):
            blocks[one.family].add([("device", device), ("port", port)], [place])
        for device in self._devices:
            folder = f"{self._roots.sys}/class/infiniband/{device}"
            texts = [(label, self._text(f"{folder}/{file}")) for file, label in INFINIBAND_TEXTS.items()]
            info.add([("device", device), *texts], ["1"])
        yield from (*blocks.values(), info)

    def _text(self, path: str) -> str:
        """A text that does not change, "" where there is none."""
        if path not in self._once:
            try:
                self._once[path] = read(path).decode().strip()
            except OSError:
                self._once[path] = ""
        return self._once[path]

    def _mounts(self, roots: Roots) -> bytes:
        path = f"{roots.proc}/1/mountstats"
        return self._recent.known(path) or host_view(roots.proc, "mountstats")[1] or b""

    def _mounts_layout(self, text: bytes) -> Iterator[Block]:
        return _mounts(text, _addresses(host_view(self._roots.proc, "mountinfo")[1] or b""))


class _Ports:
    """Files of all ports: counters first, then those whose first word counts. fields: device, port and field
    of each. key: one token that tells all ports.
    """

    def __init__(self, root: str, devices: Sequence[str]) -> None:
        ports = [(d, port) for d in devices for port in sorted(os.listdir(f"{root}/{d}/ports"))]
        there = [
            (path, (device, port, one))
            for device, port in ports
            for file, one in INFINIBAND
            if os.path.exists(path := f"{root}/{device}/ports/{port}/{file}")
        ]
        there.sort(key=lambda pair: pair[1][2].kind != "counter")
        self.key = ",".join(f"{device}/{port}" for device, port in ports).encode()
        self.paths = [path for path, _ in there]
        # Errors, the rate and what a link goes through while it comes up: the state tells whether it is up.
        self.seldom = frozenset(path for path in self.paths if not _OFTEN.search(path))
        self.fields = [named for _, named in there]
        self.counters = sum(one.kind == "counter" for _, _, one in self.fields)


@lru_cache(maxsize=256)
def _first(text: bytes) -> bytes:
    """The number of a state (`4: ACTIVE`), or of a rate in bytes a second."""
    first = text.strip().partition(b" ")[0].rstrip(b":")
    if b"Gb/sec" in text:
        return b"%d" % (float(first) * 125_000_000)
    return first if first.isdigit() else _MISSING


def _lines(text: bytes) -> Iterator[tuple[int, list[str], str]]:
    """Of each line its tokens, the number of the first, and all of it."""
    at = 0
    for line in text.splitlines():
        # Cut as bytes, as the template cuts them: text has more kinds of space.
        tokens = [token.decode("utf-8", "replace") for token in line.split()]
        yield at, tokens, line.decode("utf-8", "replace")
        at += len(tokens)


def _cpu(text: bytes) -> Iterator[Block]:
    block, guests = Block(CPU_MODES), Block(GUEST_MODES)
    for at, tokens, _ in _lines(text):
        name = tokens[0] if tokens else ""
        if name.startswith("cpu") and name != "cpu":
            pair = [("cpu", name[3:])]
            end = at + len(tokens)
            block.add(pair, range(at + 1, min(at + 9, end)), [at])
            guests.add(pair, range(at + 9, min(at + 11, end)))
    yield block
    yield guests


def _disk(text: bytes) -> Iterator[Block]:
    block = Block(DISK)
    for at, tokens, _ in _lines(text):
        block.keys.append(at + 2)
        if not _SKIPPED_DISK.fullmatch(tokens[2]):
            block.add([("device", tokens[2])], range(at + 3, at + len(tokens)))
    yield block


def _network(text: bytes) -> Iterator[Block]:
    block = Block(NETWORK)
    for at, tokens, line in _lines(text):
        if "|" in line:
            continue
        head, _, numbers = line.rpartition(":")
        name = head.replace(": ", ":").strip()
        first = at + len(tokens) - len(numbers.split())
        block.add([("device", name)], range(first, at + len(tokens)), range(at, first))
    yield block


def _pressure(text: bytes) -> Iterator[Block]:
    found = {(tokens[0], tokens[1]): at for at, tokens, _ in _lines(text)}
    for resource, fields in PRESSURE.items():
        block = Block([one for _, one in fields])
        places: list[Place] = [
            found[resource, kind] + 6 if (resource, kind) in found else "" for kind, _ in fields
        ]
        block.add(
            [], places, [at for key in found if key[0] == resource for at in (found[key], found[key] + 1)]
        )
        yield block


def _addresses(text: bytes) -> dict[str, str]:
    """The server's address by mount point."""
    found = {}
    for line in text.decode("utf-8", "replace").splitlines():
        head, _, tail = line.partition(" - ")
        address = _ADDRESS.search(tail)
        if address:
            found[head.split()[4]] = address[1]
    return found


def _mounts(text: bytes, addresses: dict[str, str]) -> Iterator[Block]:
    totals, events, transports, operations = (Block(f) for f in (NFS_BYTES, EVENTS, TRANSPORT, OPERATION))
    seen: set[tuple[str, str, str]] = set()
    for export, point, found, numbers in _nfs(text, totals.keys):
        options = found["opts:"][1][1].split(",") if "opts:" in found else []
        protocol = next((o[6:] for o in options if o.startswith("proto=")), "tcp")
        address = addresses.get(point, "")
        # The same file system mounted twice has one set of counters.
        if (export, address, protocol) in seen:
            continue
        seen.add((export, address, protocol))
        pair = [("export", export), ("mountaddr", address), ("protocol", protocol)]
        totals.add(pair, [found["age:"][0] + 1, *_rest(found["bytes:"])], [found["opts:"][0] + 1])
        events.add(pair, _rest(found["events:"]))
        if "xprt:" in found:
            transports.add(pair, _transport(protocol, _rest(found["xprt:"])[1:]))
        for at, name in numbers:
            operations.add([*pair, ("operation", name)], range(at + 1, at + 9), [at])
    yield from (totals, events, transports, operations)


_Found = dict[str, tuple[int, list[str]]]


def _nfs(text: bytes, keys: list[int]) -> Iterator[tuple[str, str, _Found, list[tuple[int, str]]]]:
    """Export, mount point, sections and operations of each NFS mount. keys: grows by the mounts' names."""
    mounts: list[tuple[str, str, _Found, list[tuple[int, str]]]] = []
    inside = per_operation = False
    for at, tokens, line in _lines(text):
        if line.startswith("device "):
            keys += range(at, at + len(tokens))
            export, _, rest = line.removeprefix("device ").partition(" mounted on ")
            point, _, kind = rest.partition(" with fstype ")
            inside, per_operation = kind.startswith("nfs"), False
            if inside:
                mounts.append((export, point, {}, []))
        elif inside and per_operation and tokens and tokens[0].endswith(":"):
            mounts[-1][3].append((at, tokens[0][:-1]))
        elif inside and tokens:
            per_operation = per_operation or tokens[0] == "per-op"
            mounts[-1][2][tokens[0]] = (at, tokens)
    yield from mounts


def _rest(section: tuple[int, list[str]]) -> Sequence[int]:
    at, tokens = section
    return range(at + 1, at + len(tokens))


def _transport(protocol: str, places: Sequence[int]) -> Sequence[Place]:
    """The local port is not published. Over UDP there is no connection, so three fields are missing."""
    numbers: list[Place] = list(places)
    if protocol == "udp":
        numbers[2:2] = ["0", "0", "0"]
    return numbers[1:]


def _memory(text: bytes) -> Iterator[Block]:
    for at, tokens, _ in _lines(text):
        name = tokens[0].rstrip(":")
        family = "node_memory_" + _MEMORY_SIGNS.sub("_", name.replace("(", "_").replace(")", ""))
        kilo = len(tokens) > 2
        scale = _KIBI if kilo else None
        block = Block(
            [Field(family + ("_bytes" if kilo else ""), "gauge", f"{name} of /proc/meminfo", scale)]
        )
        block.add([], [at + 1], [at])
        yield block


def _vmstat(text: bytes) -> Iterator[Block]:
    for at, tokens, _ in _lines(text):
        if VMSTAT.match(tokens[0]):
            block = Block([Field(f"node_vmstat_{tokens[0]}", "untyped", f"{tokens[0]} of /proc/vmstat")])
            block.add([], [at + 1], [at])
            yield block
