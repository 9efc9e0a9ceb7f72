"""What a catalog entry is: a column with its unit and names, a table with its keys.

The entries themselves are in `catalog`, which re-exports these classes; import them from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

__all__ = ["HOST", "Column", "Kind", "Otlp", "Table"]

Kind = Literal["counter", "gauge", "info"]

HOST = "host"

#: Name suffix -> (UCUM unit for OTLP, OpenMetrics unit or "" where the name carries none).
_UNITS = {
    "seconds": ("s", "seconds"),
    "bytes": ("By", "bytes"),
    "watts": ("W", "watts"),
    "joules": ("J", "joules"),
    "hertz": ("Hz", "hertz"),
    "celsius": ("Cel", "celsius"),
    "ratio": ("1", "ratio"),
    "bps": ("bit/s", "bps"),
    "bytes_per_second": ("By/s", "bytes_per_second"),
    "ops_per_second": ("{operation}/s", "ops_per_second"),
}


@dataclass(frozen=True, slots=True)
class Otlp:
    """An OpenTelemetry metric name with the attributes that tell this column from its siblings."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Column:
    """One signal of a table."""

    name: str
    kind: Kind
    help: str
    otlp: Otlp
    label: bool = False
    of: str = ""

    @property
    def unit(self) -> str:
        """UCUM unit, as OTLP writes it; "" for info."""
        if self.kind == "info":
            return ""
        for suffix in sorted(_UNITS, key=len, reverse=True):
            if self.name.endswith("_" + suffix):
                return _UNITS[suffix][0]
        return f"{{{self.of}}}" if self.of else "1"

    @property
    def openmetrics_unit(self) -> str:
        """The unit at the end of the name, as OpenMetrics' UNIT line wants it; "" where there is none."""
        for suffix in sorted(_UNITS, key=len, reverse=True):
            if self.name.endswith("_" + suffix):
                return _UNITS[suffix][1]
        return ""


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of thing. `keys` identify a row within a window; values follow in `columns`."""

    name: str
    keys: tuple[str, ...]
    help: str
    columns: tuple[Column, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Prometheus label names: the keys without host, then the info columns marked as label."""
        return tuple(k for k in self.keys if k != HOST) + tuple(c.name for c in self.columns if c.label)

    @property
    def signals(self) -> tuple[Column, ...]:
        """Columns that carry numbers."""
        return tuple(c for c in self.columns if c.kind != "info")

    @property
    def infos(self) -> tuple[Column, ...]:
        """Columns that carry text."""
        return tuple(c for c in self.columns if c.kind == "info")

    def column(self, name: str) -> Column:
        """The column of that name. Raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name}")

    def metric(self, column: Column) -> str:
        """Prometheus sample name: `wellfed_gpu_active_seconds_total`."""
        return f"wellfed_{self.name}_{column.name}" + ("_total" if column.kind == "counter" else "")
