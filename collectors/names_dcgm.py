"""The GPUs' facts once more under dcgm-exporter's names, for dashboards and alerts that use those.

What: the DEV gauges and the PROF gauges, which are means over the last second or more here (dcgm-exporter's
are over its collection interval). Source: the rows of `gpu`; names and units from names.py, read from right
to left. Cost: 10 us a GPU. Privilege: none. MEM_CLOCK and MEM_COPY_UTIL are not measured and not offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wellfed.collectors.exposition import Foreign, absent, labelled
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
_OBSERVED = "observed_seconds"
_MEANS = {_OBSERVED, *(name.column for name in _FIELDS.values() if name.use == "level")}


def _free(values: Mapping[str, float | None]) -> float | None:
    total, used = values.get("memory_total_bytes"), values.get("memory_used_bytes")
    return None if total is None or used is None else (total - used) / MIB


class DcgmNames:
    """Keeps what the counters were, for the gauges that are means."""

    def __init__(self, host: str, openmetrics: bool = False, labels: Sequence[tuple[str, str]] = ()) -> None:
        self._host = host
        self._openmetrics = openmetrics
        self._more = labels
        self._at = 0.0
        self._values: dict[str, dict[str, float]] = {}
        self._levels: dict[str, dict[str, float]] = {}
        self._shape: object = None
        self._series: list[Foreign] = []
        self._told: Sequence[Foreign] = ()
        self._text = ""

    def text(self, rows: Sequence[Row], now: float) -> str:
        """Lines of the NVIDIA GPUs among rows. now: seconds of a clock that only grows."""
        series, values = self.points(rows, now)
        if series is not self._told:
            self._told, self._text = series, "\n".join(self._lines(series))
        return self._text % tuple(values)

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
            # Means are shares and rates: the shortest text that is exact takes twice as long to find.
            digits = 15 if one.kind == "counter" else 12
            yield f"{one.name}{{{inner}}} %.{digits}g"

    def points(self, rows: Sequence[Row], now: float) -> tuple[list[Foreign], list[float]]:
        """Series, which are the same object while the same things are there, and values, those of one metric
        together.
        """
        gpus = [row for row in rows if row.table == "gpu" and row.info.get("vendor") == "nvidia"]
        jobs = {row.key[0]: row.info for row in rows if row.table == "job"}
        if now - self._at >= SHORTEST:
            self._advance(gpus, now)
        values = [row.values for row in gpus]
        levels = [self._levels.get(row.key[0], {}) for row in gpus]
        every = [
            None if (value := one.get(name.column)) is None else value / name.factor
            for name in _FIELDS.values()
            for one in (levels if name.use == "level" else values)
        ]
        every += map(_free, values)
        called = [(row.key[0], row.info, jobs.get(row.info.get("job", ""), {})) for row in gpus]
        shape = (called, absent(every))
        if shape != self._shape:
            self._series = self._name(gpus, [job for *_, job in called], every)
            self._shape = ([(gpu, dict(info), dict(job)) for gpu, info, job in called], shape[1])
        return self._series, [value for value in every if value is not None]

    def _name(
        self, gpus: Sequence[Row], jobs: Sequence[dict[str, str]], every: Sequence[float | None]
    ) -> list[Foreign]:
        labels = [self._labels(row, job) for row, job in zip(gpus, jobs, strict=True)]
        told = [(metric, name.kind, f"Our {name.column}, in DCGM's unit") for metric, name in _FIELDS.items()]
        told.append((_FREE, "gauge", "Our memory_total_bytes less memory_used_bytes, in MiB"))
        found = [Foreign(*one, label) for one in told for label in labels]
        return [one for one, value in zip(found, every, strict=True) if value is not None]

    def _advance(self, gpus: Sequence[Row], now: float) -> None:
        """Means since the last time; of activity over the time that was observed, where the GPU tells it."""
        passed = now - self._at
        values, levels = {}, {}
        for row in gpus:
            gpu = row.key[0]
            values[gpu] = {c: v for c in _MEANS if (v := row.values.get(c)) is not None}
            before = self._values.get(gpu, {})
            grown = {c: v - before[c] for c, v in values[gpu].items() if v >= before.get(c, v + 1)}
            observed = grown.pop(_OBSERVED, passed)
            if observed:
                levels[gpu] = {
                    c: min(1.0, d / observed) if c.endswith("_seconds") else d / passed
                    for c, d in grown.items()
                }
            elif gpu in self._levels:
                # Not measured in between: what was said stands.
                levels[gpu] = self._levels[gpu]
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
