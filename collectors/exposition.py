"""Rows as Prometheus text: format 0.0.4 and OpenMetrics 1.0.

Names, HELP, TYPE and UNIT come from the catalog; labels are a table's keys without host plus its label
columns. Each table that has text columns also has `wellfed_<table>_info`, always 1, that carries them all.
Source: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics 1.0 specification.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from wellfed.collectors.catalog import HOST, TABLES, Column, Table
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import by_table

__all__ = ["OPENMETRICS", "TEXT", "number", "render"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def render(rows: Iterable[Row], openmetrics: bool = False, extra: Sequence[str] = ()) -> bytes:
    """The exposition of rows. extra: complete lines of other families, put before the end marker."""
    lines: list[str] = []
    for name, found in by_table(rows).items():
        table = TABLES[name]
        labels = [labels_of(table, row) for row in found]
        for column in table.signals:
            _family(lines, table, column, found, labels, openmetrics)
        if table.infos:
            _info_family(lines, table, found, openmetrics)
    lines += extra
    if openmetrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines).encode()


def labels_of(table: Table, row: Row) -> str:
    """`{gpu="GPU-1",index="0"}`, or "" for a table without labels. Absent text is left out."""
    return _braces(
        [*_keys(table, row), *((c.name, row.info.get(c.name, "")) for c in table.infos if c.label)]
    )


def number(value: float) -> str:
    """A sample value as both formats write it."""
    if math.isfinite(value):
        return repr(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _keys(table: Table, row: Row) -> list[tuple[str, str]]:
    return list(zip((k for k in table.keys if k != HOST), row.key, strict=True))


def _braces(pairs: Iterable[tuple[str, str]]) -> str:
    inner = ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in pairs if text)
    return f"{{{inner}}}" if inner else ""


def _family(
    lines: list[str],
    table: Table,
    column: Column,
    rows: Sequence[Row],
    labels: Sequence[str],
    openmetrics: bool,
) -> None:
    sample = table.metric(column)
    name = column.name
    samples = [
        f"{sample}{label} {number(value)}"
        for row, label in zip(rows, labels, strict=True)
        if (value := row.values.get(name)) is not None
    ]
    if samples:
        family = sample.removesuffix("_total") if openmetrics and column.kind == "counter" else sample
        lines += _header(family, column.kind, column.help, column.openmetrics_unit, openmetrics)
        lines += samples


def _info_family(lines: list[str], table: Table, rows: Sequence[Row], openmetrics: bool) -> None:
    family = f"wellfed_{table.name}" if openmetrics else f"wellfed_{table.name}_info"
    kind = "info" if openmetrics else "gauge"
    samples = [
        f"wellfed_{table.name}_info"
        + _braces([*_keys(table, row), *((c.name, row.info.get(c.name, "")) for c in table.infos)])
        + " 1"
        for row in rows
        if any(row.info.values())
    ]
    if samples:
        lines += _header(family, kind, f"Text about each row of {table.name}", "", openmetrics)
        lines += samples


def _header(family: str, kind: str, text: str, unit: str, openmetrics: bool) -> list[str]:
    header = [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
    if openmetrics and unit:
        header.append(f"# UNIT {family} {unit}")
    return header
