"""Whose series is it: host, key and texts of a row, from the labels of exporters and scrapes.

Own names carry a table's keys without host; what collides with a label of the scrape comes back as
`exported_<label>`. Other exporters: wellfed.collectors.names. Upper and lower case are the same there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wellfed.analysis.promql_plan import INFO, OWN, UNAME, Query
from wellfed.collectors.catalog import HOST, Table
from wellfed.collectors.names import EXPORTER_POD, HOST_LABELS, JOB_LABELS, Group

__all__ = ["Identity", "Labels", "Thing"]

Labels = Mapping[str, str]
_EXPORTER = re.compile(EXPORTER_POD)
_BARE_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PORT = re.compile(r":\d+$")


@dataclass(frozen=True, slots=True)
class Thing:
    """What a row is about. host: "" for a table without. key: the other keys. info: text columns."""

    host: str
    key: tuple[str, ...]
    info: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Identity:
    """Reads labels; learns which address is which host and which `job` labels are the scrape's own."""

    addresses: dict[str, str] = field(default_factory=dict)
    scrapes: set[str] = field(default_factory=set)
    _ambiguous: set[str] = field(default_factory=set)

    def learn(self, query: Query, all_labels: Iterable[Labels]) -> None:
        """Takes in what a query's labels tell about the others; before `thing` is asked."""
        for labels in all_labels:
            if query.family == UNAME:
                self._name(labels)
            elif query.family == OWN and "job" not in (*query.table.keys, *query.table.labels):
                self.scrapes |= {labels["job"]} if "job" in labels else set()

    def _name(self, labels: Labels) -> None:
        address, name = _PORT.sub("", labels.get("instance", "")), labels.get("nodename", "")
        if self.addresses.get(address, name) != name:
            # An address that is several hosts, such as localhost behind a proxy, names none.
            self._ambiguous.add(address)
        if address and name and address not in self._ambiguous:
            self.addresses[address] = name
        else:
            self.addresses.pop(address, None)

    def thing(self, query: Query, labels: Labels) -> Thing | None:
        """None where a key is missing."""
        if query.group is None:
            return self._own(query, labels)
        return self._foreign(query.group, query.table, {k.lower(): v for k, v in labels.items() if v})

    def _own(self, query: Query, labels: Labels) -> Thing | None:
        table = query.table
        texts = {label: _text(labels, label) for label in table.labels}
        if query.column == INFO:
            texts |= {column.name: _text(labels, column.name) for column in table.infos}
        if "job" in texts and "exported_job" not in labels and texts["job"] in self.scrapes:
            texts["job"] = ""
        return self._row(table, texts, labels)

    def _foreign(self, group: Group, table: Table, labels: Labels) -> Thing | None:
        texts = dict(group.fixed)
        for column, names in group.labels.items():
            parts = [_text(labels, name) for name in names]
            texts[column] = "/".join(parts) if all(parts) else ""
        if table.name == "gpu":
            texts |= _gpu(texts, labels) | {"job": _job(labels)}
        return self._row(table, texts, labels, group.host)

    def _row(
        self, table: Table, texts: Mapping[str, str], labels: Labels, own: tuple[str, ...] = ()
    ) -> Thing | None:
        host = self._host(labels, own or HOST_LABELS) if HOST in table.keys else ""
        key = tuple(texts.get(name, "") for name in table.keys if name != HOST)
        if not all(key) or (HOST in table.keys and not host):
            return None
        infos = {column.name for column in table.infos}
        return Thing(host, key, tuple((n, t) for n, t in sorted(texts.items()) if t and n in infos))

    def _host(self, labels: Labels, names: tuple[str, ...]) -> str:
        lowered = {name.lower(): text for name, text in labels.items() if text}
        for label in names:
            text = _PORT.sub("", lowered.get(label, "")) if "instance" in label else lowered.get(label, "")
            if text and not _EXPORTER.fullmatch(text):
                return self.addresses.get(text, text)
        return ""


def _text(labels: Labels, name: str) -> str:
    return labels.get(f"exported_{name}") or labels.get(name, "")


def _gpu(known: Mapping[str, str], labels: Labels) -> dict[str, str]:
    """The id of a GPU, or of a MIG slice as it was written before slices had UUIDs: MIG-<GPU>/<instance>."""
    whole = known["gpu"]
    if _BARE_UUID.fullmatch(whole):
        whole = f"GPU-{whole}"
    instance = labels.get("gpu_i_id", "")
    if not instance or not whole:
        return {"gpu": whole}
    index = known.get("index", "")
    return {
        "gpu": f"MIG-{whole}/{instance}",
        "parent": whole,
        "index": f"{index}:{instance}" if index else "",
    }


def _job(labels: Labels) -> str:
    for kind, names in JOB_LABELS:
        parts = [labels.get(name, "") for name in names]
        if all(parts) and not _EXPORTER.fullmatch(parts[-1]):
            return f"{kind}:{'/'.join(parts)}"
    return ""
