"""The GPUs' facts once more under dcgm-exporter's names, for dashboards and alerts that use those.

What: the DEV gauges and the PROF gauges, which are means over the last second or more here (dcgm-exporter's
are over its collection interval). Source: the rows of `gpu`; names and units from names.py, read from right
to left. Cost: 10 us a GPU. Privilege: none. MEM_CLOCK and MEM_COPY_UTIL are not measured and not offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wellfed.collectors.exposition import Foreign, labelled, number
from wellfed.collectors.names import GROUPS, MIB, Name
from wellfed.collectors.registry import Row

__all__ = ["DcgmNames"]

#: Seconds over which a mean is taken at least.
SHORTEST = 1.0

_OFFERED = (
    "DEV_GPU_UTIL DEV_GPU_TEMP DEV_POWER_USAGE DEV_SM_CLOCK DEV_FB_USED DEV_XID_ERRORS "
    "DEV_TOTAL_ENERGY_CONSUMPTION PROF_GR_ENGINE_ACTIVE PROF_SM_ACTIVE PROF_SM_OCCUPANCY "
    "PROF_PIPE_TENSOR_ACTIVE PROF_DRAM_ACTIVE PROF_PCIE_TX_BYTES PROF_PCIE_RX_BYTES PROF_NVLINK_TX_BYTES "
    "PROF_NVLINK_RX_BYTES"
)  # fmt: skip
_METRICS = {f"DCGM_FI_{name}" for name in _OFFERED.split()}
_FREE = "DCGM_FI_DEV_FB_FREE"
#: Their first name of each of our columns: one metric fills several columns on the way in.
_FIELDS: dict[str, Name] = {}
for _group in GROUPS:
    for _name in _group.names:
        if _group.family == "dcgm" and _name.metric in _METRICS and _name.use in ("value", "level"):
            _FIELDS.setdefault(_name.metric, _name)


@dataclass(slots=True)
class _Named:
    """A GPU and its series, as long as what they are called by stays the same."""

    info: dict[str, str]
    job: dict[str, str]
    labels: tuple[tuple[str, str], ...]
    known: dict[str, Foreign]

    def series(self, metric: str, kind: str, text: str) -> Foreign:
        """The one of that metric."""
        found = self.known.get(metric)
        return found or self.known.setdefault(metric, Foreign(metric, kind, text, self.labels))


class DcgmNames:
    """Keeps what the counters were, for the gauges that are means."""

    def __init__(self, host: str, openmetrics: bool = False, labels: Sequence[tuple[str, str]] = ()) -> None:
        self._host = host
        self._openmetrics = openmetrics
        self._more = labels
        self._told: Sequence[Foreign] = ()
        self._text = ""
        self._at = 0.0
        self._values: dict[str, dict[str, float]] = {}
        self._levels: dict[str, dict[str, float]] = {}
        self._named: dict[str, _Named] = {}

    def text(self, rows: Sequence[Row], now: float) -> str:
        """Lines of the NVIDIA GPUs among rows. now: seconds of a clock that only grows."""
        series, values = self.points(rows, now)
        if series != self._told:
            self._told, self._text = series, "\n".join(self._lines(series))
        return self._text % tuple(map(number, values))

    def _lines(self, series: Sequence[Foreign]) -> Iterator[str]:
        more = labelled(self._more)
        before = ""
        for one in series:
            if one.name != before:
                # OpenMetrics has no counter whose name does not end in _total.
                kind = "unknown" if self._openmetrics and one.kind == "counter" else one.kind
                yield f"# HELP {one.name} {one.help}"
                yield f"# TYPE {one.name} {kind}"
            before = one.name
            inner = ",".join(filter(None, (labelled(one.labels), more))).replace("%", "%%")
            yield f"{one.name}{{{inner}}} %s"

    def points(self, rows: Sequence[Row], now: float) -> tuple[list[Foreign], list[float]]:
        """Series and values, those of one metric together."""
        gpus = [row for row in rows if row.table == "gpu" and row.info.get("vendor") == "nvidia"]
        pods = {row.key[0]: row.info for row in rows if row.table == "job"}
        if now - self._at >= SHORTEST:
            self._advance(gpus, now)
        self._named = {row.key[0]: self._name(row, pods.get(row.info.get("job", ""), {})) for row in gpus}
        named = list(zip(gpus, self._named.values(), strict=True))
        found = [
            (one.series(metric, name.kind, f"Our {name.column}, in DCGM's unit"), value)
            for metric, name in _FIELDS.items()
            for row, one in named
            if (value := self._value(row, name)) is not None
        ]
        text = "Our memory_total_bytes less memory_used_bytes, in MiB"
        found += [
            (one.series(_FREE, "gauge", text), (total - used) / MIB)
            for row, one in named
            if (total := row.values.get("memory_total_bytes")) is not None
            and (used := row.values.get("memory_used_bytes")) is not None
        ]
        return [one for one, _ in found], [value for _, value in found]

    def _name(self, row: Row, job: dict[str, str]) -> _Named:
        known = self._named.get(row.key[0])
        if known is not None and (known.info, known.job) == (row.info, job):
            return known
        return _Named(dict(row.info), dict(job), self._labels(row, job), {})

    def _value(self, row: Row, name: Name) -> float | None:
        if name.use == "level":
            level = self._levels.get(row.key[0], {}).get(name.column)
            return None if level is None else level / name.factor
        value = row.values.get(name.column)
        return None if value is None else value / name.factor

    def _advance(self, gpus: Sequence[Row], now: float) -> None:
        seconds = now - self._at
        columns = {name.column for name in _FIELDS.values() if name.use == "level"}
        values, levels = {}, {}
        for row in gpus:
            values[row.key[0]] = {c: v for c in columns if (v := row.values.get(c)) is not None}
            before = self._values.get(row.key[0], {})
            grown = {c: v - before[c] for c, v in values[row.key[0]].items() if v >= before.get(c, v + 1)}
            levels[row.key[0]] = {
                c: min(1.0, d / seconds) if c.endswith("_seconds") else d / seconds for c, d in grown.items()
            }
        self._at, self._values, self._levels = now, values, levels

    def _labels(self, row: Row, job: dict[str, str]) -> tuple[tuple[str, str], ...]:
        index = row.info.get("index", "")
        kubernetes = job.get("kind") == "kubernetes"
        pairs = (
            ("gpu", index.partition(":")[0]),
            ("UUID", row.info.get("parent") or row.key[0]),
            ("pci_bus_id", row.info.get("pci_address", "")),
            ("device", f"nvidia{index.partition(':')[0]}" if index else ""),
            ("modelName", row.info.get("model", "")),
            ("Hostname", self._host),
            ("GPU_I_ID", index.partition(":")[2]),
            ("pod", job.get("name", "").rpartition("/")[2] if kubernetes else ""),
            ("namespace", job.get("namespace", "") if kubernetes else ""),
        )
        return tuple((name, text) for name, text in pairs if text)
