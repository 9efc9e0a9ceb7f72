"""The host's facts once more under node_exporter's names, for dashboards and alerts that use those.

What: cpu, diskstats, netdev, pressure, infiniband, mountstats (NFS), meminfo and vmstat as node_exporter 1.5
publishes them, value for value. Source: the same files of /proc and /sys, read when asked. Cost: 1 ms for
2,700 series; numbers that need no conversion go from file to page as text. Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from wellfed.collectors.exposition import labelled
from wellfed.collectors.files import Held, host_view, read
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
from wellfed.collectors.registry import Roots

__all__ = ["NodeNames"]

_SKIPPED_DISK = re.compile(r"(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+")
_ADDRESS = re.compile(r"(?:^|,| )addr=([^,\s]+)")
_MEMORY_SIGNS = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(slots=True)
class _Block:
    """Rows of one file: labels and tokens of each thing, the fields that its tokens are."""

    fields: Sequence[Field]
    labels: list[Sequence[tuple[str, str]]] = field(default_factory=list)
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, pairs: Sequence[tuple[str, str]], tokens: Sequence[str]) -> None:
        """One thing; missing tokens at the end are fields that this kernel does not have."""
        self.labels.append(pairs)
        self.rows.append(tokens)


class NodeNames:
    """Text of all families. Templates are kept while the same things are there."""

    def __init__(self, openmetrics: bool, labels: Sequence[tuple[str, str]] = ()) -> None:
        self._openmetrics = openmetrics
        self._more = labelled(labels)
        self._held = Held()
        self.read = self._held.read
        #: Numbers of the fields that a port has, with their files.
        self.ports: dict[str, list[tuple[int, str]]] = {}
        self._once: dict[str, str] = {}
        self._mountinfo: tuple[bytes, dict[str, str]] = (b"", {})
        self._templates: dict[Callable[[NodeNames, Roots], Iterator[_Block]], tuple[object, str]] = {}

    def text(self, roots: Roots) -> str:
        """Complete lines; a source that is missing or broken leaves its families out."""
        parts = []
        for source in (_cpu, _disk, _network, _pressure, _infiniband, _mounts, _memory, _vmstat):
            try:
                blocks = list(source(self, roots))
            except (OSError, ValueError, IndexError, KeyError):
                continue
            blocks = [block for block in blocks if block.rows]
            shape = [(block.labels, min(map(len, block.rows))) for block in blocks]
            known = self._templates.get(source)
            if known is None or known[0] != shape:
                template = "\n".join(line for block in blocks for line in self._lines(block))
                known = self._templates[source] = (shape, template)
            values = [value for block in blocks for column in _columns(block) for value in column]
            if values:
                parts.append(known[1] % tuple(values))
        return "\n".join(parts)

    def once(self, path: str) -> str:
        """A text that does not change, "" where there is none."""
        if path not in self._once:
            try:
                self._once[path] = read(path).decode().strip()
            except OSError:
                self._once[path] = ""
        return self._once[path]

    def addresses(self, roots: Roots) -> dict[str, str]:
        """The server's address by mount point."""
        text = host_view(roots.proc, "mountinfo")[1] or b""
        if text != self._mountinfo[0]:
            found = {}
            for line in text.decode("utf-8", "replace").splitlines():
                head, _, tail = line.partition(" - ")
                address = _ADDRESS.search(tail)
                if address:
                    found[head.split()[4]] = address[1]
            self._mountinfo = (text, found)
        return self._mountinfo[1]

    def _lines(self, block: _Block) -> Iterator[str]:
        width = min(map(len, block.rows))
        last = ""
        for one in block.fields[:width]:
            if not one.family:
                continue
            if one.family != last:
                last = one.family
                yield from self._header(one)
            for labels in block.labels:
                inner = ",".join(filter(None, (labelled(labels), one.labels, self._more))).replace("%", "%%")
                yield f"{one.family}{{{inner}}} %s" if inner else f"{one.family} %s"

    def _header(self, one: Field) -> Iterator[str]:
        kind, family = one.kind, one.family
        if self._openmetrics:
            kind = "unknown" if kind == "untyped" else kind
            family = family.removesuffix("_total") if kind == "counter" else family
        yield f"# HELP {family} {one.help}"
        yield f"# TYPE {family} {kind}"


def _columns(block: _Block) -> Iterator[Sequence[str]]:
    for one, column in zip(block.fields, zip(*block.rows, strict=False), strict=False):
        if one.scale is not None:
            yield [repr(one.scale(int(token))) for token in column]
        elif one.family:
            yield column


def _cpu(_: NodeNames, roots: Roots) -> Iterator[_Block]:
    block, guests = _Block(CPU_MODES), _Block(GUEST_MODES)
    for line in read(f"{roots.proc}/stat").decode().splitlines():
        if not line.startswith("cpu"):
            break
        if line[3] != " ":
            name, *tokens = line.split()
            pair = [("cpu", name[3:])]
            block.add(pair, tokens[:8])
            guests.add(pair, tokens[8:10])
    yield block
    yield guests


def _disk(_: NodeNames, roots: Roots) -> Iterator[_Block]:
    block = _Block(DISK)
    for line in read(f"{roots.proc}/diskstats").decode().splitlines():
        tokens = line.split()
        if not _SKIPPED_DISK.fullmatch(tokens[2]):
            block.add([("device", tokens[2])], tokens[3:])
    yield from _by_width(block)


def _network(_: NodeNames, roots: Roots) -> Iterator[_Block]:
    block = _Block(NETWORK)
    for line in read(f"{roots.proc}/net/dev").decode().splitlines()[2:]:
        name, numbers = line.rsplit(":", 1)
        block.add([("device", name.strip())], numbers.split())
    yield block


def _pressure(_: NodeNames, roots: Roots) -> Iterator[_Block]:
    for resource, fields in PRESSURE.items():
        try:
            lines = read(f"{roots.proc}/pressure/{resource}").decode().splitlines()
        except FileNotFoundError:
            continue
        totals = {line.split()[0]: line.rpartition("total=")[2] for line in lines}
        block = _Block([one for _, one in fields])
        block.add([], [totals[kind] for kind, _ in fields])
        yield block


def _infiniband(names: NodeNames, roots: Roots) -> Iterator[_Block]:
    root = f"{roots.sys}/class/infiniband"
    blocks, info = [_Block([one]) for _, one in INFINIBAND], _Block([INFINIBAND_INFO])
    for device in sorted(os.listdir(root)):
        texts = [(label, names.once(f"{root}/{device}/{file}")) for file, label in INFINIBAND_TEXTS.items()]
        info.add([("device", device), *texts], ["1"])
        for port in sorted(os.listdir(f"{root}/{device}/ports")):
            folder = f"{root}/{device}/ports/{port}"
            pair = [("device", device), ("port", port)]
            known = names.ports.get(folder)
            if known is None:
                paths = ((place, f"{folder}/{file}") for place, (file, _) in enumerate(INFINIBAND))
                known = names.ports[folder] = [(p, path) for p, path in paths if os.path.exists(path)]
            for place, path in known:
                token = _port_token(names.read(path).decode())
                if token:
                    blocks[place].add(pair, [token])
    yield from (*blocks, info)


def _port_token(text: str) -> str:
    """The number of a counter, state or rate file, "" for `N/A (no PMA)`."""
    first = text.strip().partition(" ")[0].rstrip(":")
    if "Gb/sec" in text:
        return str(int(float(first) * 125_000_000))
    return first if first.isdigit() else ""


def _mounts(names: NodeNames, roots: Roots) -> Iterator[_Block]:
    text = host_view(roots.proc, "mountstats")[1]
    addresses = names.addresses(roots)
    totals, events, transports, operations = (_Block(f) for f in (NFS_BYTES, EVENTS, TRANSPORT, OPERATION))
    seen = set()
    for mount in (text or b"").decode("utf-8", "replace").split("device ")[1:]:
        head, *lines = mount.splitlines()
        export, _, rest = head.partition(" mounted on ")
        point, _, kind = rest.partition(" with fstype ")
        if not kind.startswith("nfs"):
            continue
        found = {line.strip().partition(":")[0]: line.partition(":")[2].split() for line in lines}
        options = "".join(found.get("opts", [])).split(",")
        protocol = next((o[6:] for o in options if o.startswith("proto=")), "tcp")
        address = addresses.get(point, "")
        pair = [("export", export), ("mountaddr", address), ("protocol", protocol)]
        # The same file system mounted twice has one set of counters.
        if (export, address, protocol) in seen:
            continue
        seen.add((export, address, protocol))
        totals.add(pair, [found["age"][0], *found["bytes"]])
        events.add(pair, found["events"])
        if found.get("xprt"):
            transports.add(pair, _transport(protocol, found["xprt"]))
        begun = lines.index("\tper-op statistics") + 1 if "\tper-op statistics" in lines else len(lines)
        for line in lines[begun:]:
            name, colon, numbers = line.partition(":")
            if colon:
                operations.add([*pair, ("operation", name.strip())], numbers.split()[:8])
    yield from (totals, events, transports, operations)


def _transport(protocol: str, tokens: Sequence[str]) -> Sequence[str]:
    # Over UDP there is no connection, so three fields are missing.
    numbers = list(tokens[1:])
    if protocol == "udp":
        numbers[2:2] = ["0", "0", "0"]
    return numbers[1:]


def _memory(_: NodeNames, roots: Roots) -> Iterator[_Block]:
    for line in read(f"{roots.proc}/meminfo").decode().splitlines():
        name, rest = line.split(":", 1)
        tokens = rest.split()
        family = "node_memory_" + _MEMORY_SIGNS.sub("_", name.replace("(", "_").replace(")", ""))
        kilo = len(tokens) > 1
        scale = (lambda number: number * 1024) if kilo else None
        one = Field(family + ("_bytes" if kilo else ""), "gauge", f"{name} of /proc/meminfo", scale)
        block = _Block([one])
        block.add([], tokens[:1])
        yield block


def _vmstat(_: NodeNames, roots: Roots) -> Iterator[_Block]:
    for line in read(f"{roots.proc}/vmstat").decode().splitlines():
        name, token = line.split(" ", 1)
        if VMSTAT.match(name):
            block = _Block([Field(f"node_vmstat_{name}", "untyped", f"{name} of /proc/vmstat")])
            block.add([], [token])
            yield block


def _by_width(block: _Block) -> Iterator[_Block]:
    """Older kernels and some drivers write fewer fields for a device: each field on its own."""
    if len({len(tokens) for tokens in block.rows}) <= 1:
        yield block
        return
    for place, one in enumerate(block.fields):
        part = _Block([one])
        for labels, tokens in zip(block.labels, block.rows, strict=True):
            if len(tokens) > place:
                part.labels.append(labels)
                part.rows.append(tokens[place : place + 1])
        yield part
