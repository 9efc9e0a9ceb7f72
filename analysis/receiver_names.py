"""Which column of which table an OTLP data point is: our agent's names, and those of other senders.

Others are the OpenTelemetry Collector's hostmetrics receiver (`system.*`, attributes with and without their
namespace) and anything that follows the semantic conventions for GPUs (`hw.*` with `hw.type=gpu`, or
`hw.gpu.*`). Their points may be parts of one of our columns, per CPU or per interface: those are added up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from wellfed.collectors.catalog import DERIVED_OTLP, HOST, KEY_ATTRIBUTES, SCOPE, TABLES, Table, info_metric

__all__ = ["INFOS", "KEYS", "Target", "free", "host_of", "target"]

#: Longest text that is taken for a key or label.
LONGEST = 1024

_VIRTUAL = re.compile(r"(lo|veth|docker|br-|cni|flannel|cali|cilium|lxc|virbr|tun|tap|dummy|ifb|vxlan|kube)")
_NO_DISK = re.compile(r"(loop|ram|zram|fd|sr)\d|(sd|vd|xvd|hd)[a-z]+\d|(nvme\d+n\d+|mmcblk\d+)p\d")
_BUSY = frozenset({"user", "nice", "system", "interrupt", "softirq"})
_TOTAL = frozenset({"used", "free", "cached", "buffered", "buffers"})
_CACHE = frozenset({"cached", "buffered", "buffers"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where a point goes.

    key: without host. column: None for a point that only carries text. parts: points of one column are added
    up. level: the value holds since the point before and is to be integrated. ones: the points are counted,
    whatever their value.
    """

    table: str
    key: tuple[str, ...]
    column: str | None
    info: Mapping[str, str] = field(default_factory=dict)
    parts: bool = False
    level: bool = False
    ones: bool = False


def host_of(resource: Mapping[str, str]) -> str:
    """The sender's machine, "" when it does not say."""
    for name in ("host.name", "k8s.node.name", "host.id", "service.instance.id"):
        if resource.get(name):
            return resource[name]
    return ""


def target(scope: str, name: str, attributes: Mapping[str, str]) -> tuple[Target, ...]:
    """The columns a point fills; none for a metric that no table holds."""
    if attributes and max(map(len, attributes.values())) > LONGEST:
        return ()
    if scope == SCOPE:
        return _ours(name, attributes)
    if name.startswith("hw."):
        return _gpu(name, attributes)
    return _host(name, attributes) if name.startswith("system.") else ()


def free(scope: str, name: str, found: tuple[Target, ...]) -> frozenset[str] | None:
    """Attributes of which a point may have other texts, as long, and still fill the same columns: of a thing
    of our own those that name or describe it, of a metric that nobody looks at all of them (None).
    """
    if scope != SCOPE:
        return frozenset() if name.startswith(("hw.", "system.")) else None
    if name not in _OURS:
        return None
    return _FREE[name, found[0].table] if found else frozenset()


_OURS: dict[str, list[tuple[Table, str | None, Mapping[str, str]]]] = {}
for _table in TABLES.values():
    for _column in _table.signals:
        _OURS.setdefault(_column.otlp.name, []).append((_table, _column.name, _column.otlp.attributes))
    _OURS[info_metric(_table.name)] = [(_table, None, {})]
for (_name, _), _otlp in DERIVED_OTLP.items():
    # Computed from a column that is sent too.
    _OURS[_otlp.name] = [(TABLES[_name], None, _otlp.attributes)]
#: By table: its keys as attributes, its columns of text.
KEYS = {
    t.name: tuple(KEY_ATTRIBUTES.get((t.name, key), key) for key in t.keys if key != HOST)
    for t in TABLES.values()
}
INFOS = {t.name: tuple(c.name for c in t.infos) for t in TABLES.values()}
#: By metric and table: what names and describes a thing, but for what tells its metrics apart.
_FREE = {
    (name, table.name): frozenset((*KEYS[table.name], *INFOS[table.name])).difference(
        *(wanted for _, _, wanted in columns)
    )
    for name, columns in _OURS.items()
    for table, _, _ in columns
}


def _ours(name: str, attributes: Mapping[str, str]) -> tuple[Target, ...]:
    for table, column, wanted in _OURS.get(name, ()):
        key = _key(table, attributes)
        if key is not None and all(attributes.get(k) == v for k, v in wanted.items()):
            return (Target(table.name, key, column, _info(table, attributes)),)
    return ()


def _key(table: Table, attributes: Mapping[str, str]) -> tuple[str, ...] | None:
    # An empty key is one that a sender could not tell: proto3 leaves no difference.
    try:
        return tuple([attributes[name] for name in KEYS[table.name]])
    except KeyError:
        return None


def _info(table: Table, attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: attributes[name] for name in INFOS[table.name] if attributes.get(name)}


def _gpu(name: str, attributes: Mapping[str, str]) -> tuple[Target, ...]:
    """`hw.*` of a GPU; `hw.type` is optional where the name says it."""
    gpu = attributes.get("hw.id")
    if not gpu or (attributes.get("hw.type") != "gpu" and not name.startswith("hw.gpu.")):
        return ()
    info = {"model": attributes.get("hw.model") or attributes.get("hw.name", "")}
    info["vendor"] = attributes.get("hw.vendor", "").lower()
    info = {k: v for k, v in info.items() if v}
    if name == "hw.gpu.utilization":
        if attributes.get("hw.gpu.task", "general") != "general":
            return ()
        return (Target("gpu", (gpu,), "active_seconds", info, level=True),)
    for table, column, wanted in _OURS.get(name, ()):
        needed = {k: v for k, v in wanted.items() if k != "hw.type"}
        if table.name == "gpu" and all(attributes.get(k) == v for k, v in needed.items()):
            return (Target("gpu", (gpu,), column, info),)
    return ()


def _either(attributes: Mapping[str, str], *names: str) -> str:
    return next((attributes[name] for name in names if name in attributes), "")


def _host(name: str, attributes: Mapping[str, str]) -> tuple[Target, ...]:
    if name.startswith("system.disk."):
        return _disk(name, attributes)
    column: str | None = None
    parts = False
    match name:
        case "system.cpu.time":
            state = _either(attributes, "cpu.mode", "state", "system.cpu.state")
            column = "cpu_busy_seconds" if state in _BUSY else None
            column = "cpu_iowait_seconds" if state in ("wait", "iowait") else column
            if state == "idle":
                return (Target("host", (), "cpu_count", parts=True, ones=True),)
            parts = True
        case "system.cpu.logical.count":
            column = "cpu_count"
        case "system.cpu.load_average.1m":
            column = "load1"
        case "system.memory.usage":
            state = _either(attributes, "state", "system.memory.state")
            found = [Target("host", (), "memory_total_bytes", parts=True)] if state in _TOTAL else []
            found += [Target("host", (), "page_cache_bytes", parts=True)] if state in _CACHE else []
            return tuple(found)
        case "system.linux.memory.available":
            column = "memory_available_bytes"
        case "system.paging.faults" if _either(attributes, "type", "system.paging.type") == "major":
            column = "major_faults"
        case "system.network.io":
            device = _either(attributes, "device", "network.interface.name")
            way = _either(attributes, "direction", "network.io.direction")
            if not _VIRTUAL.match(device):
                column = {"receive": "net_rx_bytes", "transmit": "net_tx_bytes"}.get(way)
            parts = True
        case _:
            pass
    return (Target("host", (), column, parts=parts),) if column else ()


_DISK = {
    ("io", "read"): "read_bytes",
    ("io", "write"): "written_bytes",
    ("operations", "read"): "reads",
    ("operations", "write"): "writes",
    ("operation_time", "read"): "read_seconds",
    ("operation_time", "write"): "write_seconds",
    ("io_time", ""): "busy_seconds",
    ("weighted_io_time", ""): "queue_seconds",
    ("pending_operations", ""): "inflight",
}


def _disk(name: str, attributes: Mapping[str, str]) -> tuple[Target, ...]:
    device = _either(attributes, "device", "system.device")
    way = _either(attributes, "direction", "disk.io.direction")
    column = _DISK.get((name.removeprefix("system.disk."), way))
    if not device or column is None or _NO_DISK.match(device):
        return ()
    return (Target("disk", (device,), column),)
