"""Rows as Prometheus text: format 0.0.4 and OpenMetrics 1.0.

Names, HELP, TYPE and UNIT come from the catalog; labels are a table's keys without host plus its label
columns. Each table that has text columns also has `wellfed_<table>_info`, always 1, that carries them all.
While the same things are measured only the values change, so the text around them is kept as a template.
Source: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics 1.0 specification.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wellfed.collectors.catalog import HOST, TABLES, Column, Table
from wellfed.collectors.registry import Row

__all__ = ["OPENMETRICS", "TEXT", "Exposition", "Family", "labelled", "number"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


@dataclass(frozen=True, slots=True)
class _Template:
    """Text with a place for each value, and where the values are: number of the row, column."""

    text: str
    values: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric that is in no table. name: without `_total` or `_info`. samples: labels as `labelled` writes
    them, and a value.
    """

    name: str
    kind: str
    help: str
    samples: Sequence[tuple[str, float]]
    unit: str = ""


class Exposition:
    """One format of /metrics. openmetrics: which; labels: more of them for every sample."""

    def __init__(self, openmetrics: bool = False, labels: Sequence[tuple[str, str]] = ()) -> None:
        self.openmetrics = openmetrics
        self._labels = tuple(labels)
        self._shape: tuple[object, ...] = ()
        self._template = _Template("", ())

    def render(self, rows: Sequence[Row], families: Iterable[Family] = (), text: str = "") -> bytes:
        """The exposition of rows, then of other families, then text: complete lines made elsewhere."""
        shape = tuple(
            (row.table, row.key, *[name for name, value in row.values.items() if value is not None])
            for row in rows
        )
        infos = [row.info for row in rows]
        if (shape, infos) != self._shape:
            self._template = self._build(rows)
            self._shape = (shape, [dict(info) for info in infos])
        values = [rows[place].values[name] for place, name in self._template.values]
        body = self._template.text % tuple([number(value) for value in values])  # type: ignore[arg-type]
        lines = [body] if body else []
        for family in families:
            lines += self._lines(family)
        lines += [text] if text else []
        return "\n".join([*lines, *(["# EOF"] if self.openmetrics else []), ""]).encode()

    def _lines(self, family: Family) -> list[str]:
        if not family.samples:
            return []
        suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
        name = family.name if self.openmetrics else family.name + suffix
        kind = "gauge" if family.kind == "info" and not self.openmetrics else family.kind
        lines = _header(name, kind, family.help, family.unit if self.openmetrics else "")
        extra = labelled(self._labels)
        for labels, value in family.samples:
            inner = ",".join(filter(None, (labels, extra)))
            lines.append(
                f"{family.name}{suffix}{{{inner}}} {number(value)}"
                if inner
                else f"{family.name}{suffix} {number(value)}"
            )
        return lines

    def _build(self, rows: Sequence[Row]) -> _Template:
        lines: list[str] = []
        values: list[tuple[int, str]] = []
        tables: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            tables.setdefault(row.table, []).append(place)
        for name, table in TABLES.items():
            places = tables.get(name, [])
            labels = [(place, self._labels_of(table, rows[place])) for place in places]
            for column in table.signals:
                found = [
                    (place, label)
                    for place, label in labels
                    if rows[place].values.get(column.name) is not None
                ]
                if found:
                    lines += self._family(table, column)
                    lines += [f"{table.metric(column)}{label} %s" for _, label in found]
                    values += [(place, column.name) for place, _ in found]
            if table.infos:
                lines += self._info_family(table, [rows[place] for place in places])
        return _Template("\n".join(lines), values)

    def _labels_of(self, table: Table, row: Row) -> str:
        """`{gpu="GPU-1",index="0"}`, or "" for a table without labels. Absent text is left out."""
        texts = ((c.name, row.info.get(c.name, "")) for c in table.infos if c.label)
        return self._braces([*_keys(table, row), *texts])

    def _braces(self, pairs: Iterable[tuple[str, str]]) -> str:
        # The text becomes a template: a per cent sign in a label stands for itself.
        inner = labelled((*pairs, *self._labels)).replace("%", "%%")
        return f"{{{inner}}}" if inner else ""

    def _family(self, table: Table, column: Column) -> list[str]:
        sample = table.metric(column)
        counter = self.openmetrics and column.kind == "counter"
        family = sample.removesuffix("_total") if counter else sample
        text = column.help.replace("%", "%%")
        return _header(family, column.kind, text, column.openmetrics_unit if self.openmetrics else "")

    def _info_family(self, table: Table, rows: Sequence[Row]) -> list[str]:
        family = f"wellfed_{table.name}" if self.openmetrics else f"wellfed_{table.name}_info"
        samples = [
            f"wellfed_{table.name}_info"
            + self._braces([*_keys(table, row), *((c.name, row.info.get(c.name, "")) for c in table.infos)])
            + " 1"
            for row in rows
            if any(row.info.values())
        ]
        kind = "info" if self.openmetrics else "gauge"
        return [*_header(family, kind, f"Text about each row of {table.name}"), *samples] if samples else []


def labelled(pairs: Iterable[tuple[str, str]]) -> str:
    """`gpu="GPU-1",index="0"`: what stands between the braces. Absent text is left out."""
    return ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in pairs if text)


def number(value: float) -> str:
    """A sample value as both formats write it."""
    if value - value == 0.0:
        whole = int(value)
        return repr(whole) if whole == value and -(2**53) < whole < 2**53 else repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _header(family: str, kind: str, text: str, unit: str = "") -> list[str]:
    """HELP, TYPE and, where there is one, UNIT of a family."""
    lines = [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
    return [*lines, f"# UNIT {family} {unit}"] if unit else lines


def _keys(table: Table, row: Row) -> list[tuple[str, str]]:
    return list(zip((k for k in table.keys if k != HOST), row.key, strict=True))
