"""Rows as Prometheus text: format 0.0.4 and OpenMetrics 1.0.

Names, HELP, TYPE and UNIT come from the catalog; labels are a table's keys without host plus its label
columns. Each table that has text columns also has `wellfed_<table>_info`, always 1, that carries them all.
While the same things are measured only the values change, so the text around them is kept as a template.
Source: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics 1.0 specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, count, repeat
from operator import is_, itemgetter, ne
from typing import TypeVar

from wellfed.collectors.catalog import HOST, TABLES, Column, Table
from wellfed.collectors.registry import Row

__all__ = [
    "OPENMETRICS",
    "TEXT",
    "Exposition",
    "Family",
    "Foreign",
    "Numbers",
    "absent",
    "getter",
    "labelled",
    "number",
    "wants_openmetrics",
]

T = TypeVar("T")

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Numbers:
    """The texts of a page's values: what did not change since the last page is not written anew."""

    def __init__(self, count: int) -> None:
        self._values: Sequence[float | None] = [None] * count
        self._texts = [""] * count

    def texts(self, values: Sequence[float | None]) -> tuple[str, ...]:
        """As `number` writes each."""
        texts = self._texts
        for place in compress(count(), map(ne, values, self._values)):
            # A template has places for what was measured alone, so none is None here.
            texts[place] = number(values[place])  # type: ignore[arg-type]
        self._values = values
        return tuple(texts)


@dataclass(slots=True)
class _Template:
    """Text with a place for each value, where the values are among all rows' values, and what they were.

    absent: which of all values are None.
    """

    text: str
    pick: Callable[[Sequence[float | None]], Sequence[float | None]]
    absent: bytes
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Family:
    """A metric that is in no table. name: without `_total` or `_info`. samples: labels as `labelled` writes
    them, and a value.
    """

    name: str
    kind: str
    help: str
    samples: list[tuple[str, float]]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A series under another exporter's name. kind: counter or gauge."""

    name: str
    kind: str
    help: str
    labels: tuple[tuple[str, str], ...]


class Exposition:
    """One format of /metrics. openmetrics: which; labels: more of them for every sample."""

    def __init__(self, openmetrics: bool = False, labels: Sequence[tuple[str, str]] = ()) -> None:
        self.openmetrics = openmetrics
        self._labels = tuple(labels)
        self._shape: tuple[object, ...] = ()
        self._template = _Template("", tuple, b"", Numbers(0))

    def render(
        self, rows: Sequence[Row], families: Iterable[Family] = (), more: Iterable[bytes] = ()
    ) -> bytes:
        """The exposition of rows, then of other families, then complete lines made elsewhere."""
        shape = [(row.table, row.key, *row.values) for row in rows]
        infos = [row.info for row in rows]
        every: list[float | None] = []
        for row in rows:
            every += row.values.values()
        template = self._template
        if (shape, infos) != self._shape or absent(every) != template.absent:
            template = self._template = self._build(rows, absent(every))
            self._shape = (shape, [dict(info) for info in infos])
        body = template.text % template.numbers.texts(template.pick(every))
        lines = [body] if body else []
        for family in families:
            lines += self._lines(family)
        end = b"# EOF\n" if self.openmetrics else b""
        return b"\n".join([*(["\n".join(lines).encode()] if lines else []), *more, end])

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

    def _build(self, rows: Sequence[Row], missing: bytes) -> _Template:
        lines: list[str] = []
        places: list[int] = []
        tables: dict[str, list[tuple[Row, dict[str, int]]]] = {}
        at = 0
        for row in rows:
            found = {name: at + n for n, (name, value) in enumerate(row.values.items()) if value is not None}
            tables.setdefault(row.table, []).append((row, found))
            at += len(row.values)
        for name, table in TABLES.items():
            labels = [(found, self._labels_of(table, row)) for row, found in tables.get(name, [])]
            for column in table.signals:
                there = [(found[column.name], label) for found, label in labels if column.name in found]
                if there:
                    lines += self._family(table, column)
                    lines += [f"{table.metric(column)}{label} %s" for _, label in there]
                    places += [place for place, _ in there]
            if table.infos:
                lines += self._info_family(table, [row for row, _ in tables.get(name, [])])
        return _Template("\n".join(lines), getter(places), missing, Numbers(len(places)))

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


@lru_cache(maxsize=64)
def wants_openmetrics(accept: str) -> bool:
    """Whether a client's Accept header puts OpenMetrics above text; text where it likes both as much.

    >>> wants_openmetrics("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4")
    True
    """
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        said = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        weight = float(said) if re.fullmatch(r"[01](\.\d{0,3})?", said) else 0.0
        for known in weights if kind in ("*/*", "") else {kind} & weights.keys():
            weights[known] = max(weights[known], weight)
    return weights["application/openmetrics-text"] > weights["text/plain"]


def labelled(pairs: Iterable[tuple[str, str]]) -> str:
    """`gpu="GPU-1",index="0"`: what stands between the braces. Absent text is left out."""
    return ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in pairs if text)


def number(value: float) -> str:
    """A sample value as both formats write it: the shortest text that reads back as the same number."""
    if -1e16 < value < 1e16 and value == int(value):
        return str(int(value))
    text = repr(value)
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[text] if text[-1] in "nf" else text


def absent(values: Iterable[float | None]) -> bytes:
    """Which of them are None, a byte each. Comparing with == takes twice as long."""
    return bytes(map(is_, values, repeat(None)))


def getter(places: Sequence[int]) -> Callable[[Sequence[T]], Sequence[T]]:
    """Picks what stands at those places. itemgetter answers with a tuple for two places or more only."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda every: tuple(every[place] for place in places)


def _header(family: str, kind: str, text: str, unit: str = "") -> list[str]:
    """HELP, TYPE and, where there is one, UNIT of a family."""
    lines = [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
    return [*lines, f"# UNIT {family} {unit}"] if unit else lines


def _keys(table: Table, row: Row) -> list[tuple[str, str]]:
    return list(zip((k for k in table.keys if k != HOST), row.key, strict=True))
