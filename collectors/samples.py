"""The few samples that we want of a metrics page, and our columns from them.

What: the text format of Prometheus, line by line; a line whose name nobody asked for costs one look at it.
Source: prometheus.io/docs/instrumenting/exposition_formats. Cost: 0.2 us a line that is
skipped and 3 us one that is read; prometheus_client's parser costs 7 us for each and 2 MiB. Privilege: none.
Names in the quoted form of Prometheus 3 (`{"my.metric"} 1`) are skipped: nothing read here has such names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wellfed.collectors.names import Name

__all__ = ["Sample", "gather", "parse"]

_STRING = rb'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    rb"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*"
    rb'(?:\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?\s*'
    rb"(\S+)(?:\s+(\S+))?\s*(?:#.*)?"
)
_LABEL = re.compile(rb"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*" + _STRING + rb"\s*(?:,|$)")
_ESCAPE = re.compile(rb'\\([\\"n])')
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)", re.I)


class Sample(NamedTuple):
    """One line. labels: without empty ones, which are the same as absent ones."""

    name: str
    labels: dict[str, str]
    value: float


def parse(text: bytes, wanted: Collection[str]) -> Iterator[Sample]:
    """The samples of those names, in their order. Raises ValueError for a line of such a name without one."""
    known = {name.encode(): name for name in wanted}
    for line in text.split(b"\n"):
        line = line.strip()
        name = line.partition(b"{")[0].split(None, 1)
        if not name or name[0] not in known:
            continue
        match = _LINE.fullmatch(line)
        if match is None or not _NUMBER.fullmatch(match[3]):
            raise ValueError(f"expected `name{{labels}} value`, found {line[:80]!r}")
        yield Sample(known[name[0]], _labels(match[2] or b"", line), float(match[3]))


def _labels(text: bytes, line: bytes) -> dict[str, str]:
    labels = {}
    at = 0
    while at < len(text) and text[at:].strip():
        match = _LABEL.match(text, at)
        if match is None:
            raise ValueError(f'expected `label="value"`, found {text[at : at + 40]!r} in {line[:80]!r}')
        at = match.end()
        if match[2]:
            labels[match[1].decode()] = _ESCAPE.sub(_unescape, match[2]).decode("utf-8", "replace")
    return labels


def _unescape(match: re.Match[bytes]) -> bytes:
    return b"\n" if match[1] == b"n" else match[1]


_Key = TypeVar("_Key")


def gather(
    names: Iterable[Name],
    samples: Iterable[Sample],
    key: Callable[[Mapping[str, str]], _Key | None],
    worst: Collection[str] = (),
) -> dict[_Key, dict[str, float]]:
    """Our columns by thing. key: the thing that labels speak of, None for none of ours.

    Several series of one thing are summed, or the highest counts for columns in `worst`. Of several names
    for a column the lowest rank wins. What is not a number is not measured.
    """
    by_metric: dict[str, list[Name]] = {}
    for name in names:
        by_metric.setdefault(name.metric, []).append(name)
    found: dict[_Key, dict[str, tuple[int, float]]] = {}
    for sample in samples:
        thing = key(sample.labels)
        if thing is None or sample.value - sample.value != 0.0:
            continue
        columns = found.setdefault(thing, {})
        for name in by_metric.get(sample.name, ()):
            if not all(re.fullmatch(p, sample.labels.get(label, "")) for label, p in name.where.items()):
                continue
            value = sample.value * name.factor
            rank, before = columns.get(name.column, (name.rank + 1, 0.0))
            if name.rank < rank:
                columns[name.column] = (name.rank, value)
            elif name.rank == rank:
                columns[name.column] = (rank, max(before, value) if name.column in worst else before + value)
    return {
        thing: {column: value for column, (_, value) in columns.items()}
        for thing, columns in found.items()
        if columns
    }
