"""Learns a request's layout from its bytes: a walk over every point, 7 us each.

Points of one thing that lie within half a window of each other are one row.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import polars as pl

from wellfed.analysis.receiver_layout import COLUMN, SPREAD, Block, Kind, Layout, Spans, digest, texts_of
from wellfed.analysis.receiver_names import INFOS, KEYS, Target, free, host_of, target
from wellfed.analysis.receiver_wire import Metric, head, texts, walk
from wellfed.collectors.catalog import TABLES

__all__ = ["learn"]

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Floats = npt.NDArray[np.float64]
_Places = npt.NDArray[np.int32]

#: Bytes that a text costs in memory.
_TEXT = 64


def learn(data: bytes) -> Layout:
    """The layout of a serialized ExportMetricsServiceRequest. Raises ValueError when it is none."""
    seen = _Seen(data)
    for metric in walk(data):
        seen.add(metric)
    sender = head(data)
    offset = sender.stop if sender else 0
    named = sender is not None and host_of(sender.attributes) != ""
    return seen.kind(offset, named).layout(data, offset, None)


@dataclass(slots=True)
class _Row:
    """A row in the making. cells: column -> attributes -> number of the point."""

    table: str
    host: str
    key: tuple[str, ...]
    time: int
    first: int
    info: dict[str, str] = field(default_factory=dict)
    cells: dict[str, dict[bytes, int]] = field(default_factory=dict)
    ones: dict[str, int] = field(default_factory=dict)
    level: int = -1
    points: int = 0


class _Seen:
    """All points of a request, sorted into rows."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._time_at: list[int] = []
        self._value_at: list[int] = []
        self._whole: list[bool] = []
        self._changing: list[int] = []
        self._others = 0
        self._rejected: dict[str, int] = {}
        self._rows: dict[tuple[str, str, tuple[str, ...]], list[_Row]] = {}
        self._texts: dict[bytes, dict[str, tuple[str, int, int]]] = {}
        self._plain: dict[bytes, dict[str, str]] = {}
        self._free = _Free()

    def add(self, metric: Metric) -> None:
        host = host_of(metric.resource.attributes)
        self._others += metric.others
        self._reject("unknown", metric.others)
        for time, value, double, packed, start, where in metric.points:
            number = len(self._time_at)
            self._time_at.append(time)
            self._value_at.append(value)
            self._whole.append(not double)
            self._changing += [at for at in (time, value, start) if at]
            if not time or not host or metric.delta:
                self._reject("no_time" if not time else "no_host" if not host else "delta", 1)
                continue
            plain = self._plain.get(packed)
            if plain is None:
                placed = self._texts[packed] = texts(packed)
                plain = self._plain[packed] = {name: text for name, (text, _, _) in placed.items()}
            found = target(metric.scope, metric.name, plain)
            row = None
            if not found:
                self._reject("unknown", 1)
            for nth, one in enumerate(found):
                row = self._place(one, host, number, packed, bool(value))
                row.points += nth == 0
            self._free.add(row, where, packed, free(metric.scope, metric.name, found))

    def _reject(self, reason: str, points: int) -> None:
        if points:
            self._rejected[reason] = self._rejected.get(reason, 0) + points

    def _place(self, one: Target, host: str, number: int, packed: bytes, has_value: bool) -> _Row:
        at = self._time_at[number]
        time = int.from_bytes(self._data[at : at + 8], "little", signed=True)
        row = self._row(one, host, time, number)
        row.info.update(one.info)
        if one.column is None or not has_value:
            return row
        if one.ones:
            row.ones[one.column] = row.ones.get(one.column, 0) + 1
        elif one.level:
            row.level = number
        else:
            # Without parts the last point of a column stands for it.
            row.cells.setdefault(one.column, {})[packed if one.parts else b""] = number
        return row

    def _row(self, one: Target, host: str, time: int, number: int) -> _Row:
        rows = self._rows.setdefault((one.table, host, one.key), [])
        for row in rows:
            if abs(row.time - time) <= SPREAD:
                return row
        rows.append(_Row(one.table, host, one.key, time, number))
        return rows[-1]

    def kind(self, offset: int, named: bool) -> Kind:
        """All that was seen. offset: of the end of the sender's attributes. named: there is one sender."""
        by_table: dict[str, list[_Row]] = {}
        for rows in self._rows.values():
            by_table.setdefault(rows[0].table, []).extend(rows)
        steady = all(len(rows) == 1 for rows in self._rows.values())
        shared = _Shared()
        cells: list[int] = []
        points: list[int] = []
        blocks: list[Block] = []
        base: list[_Floats] = []
        wording: list[str | None] = []
        slots: list[tuple[int, int, int]] = []
        movable = self._free if named and steady else _Free()
        params, every = movable.found(self._texts, offset)
        spans = Spans(*(shared(column.copy()) for column in every.T))
        start = 0
        for table, rows in by_table.items():
            width = len(TABLES[table].signals)
            empty = np.full(len(rows) * width, np.nan)
            for index, row in enumerate(rows):
                for column, cell, point in _cells(row):
                    empty[index * width + cell] = row.ones.get(column, 0.0)
                    if point >= 0:
                        cells.append(start + index * width + cell)
                        points.append(point)
            first = shared(np.array([row.first for row in rows], np.int32))
            sizes = shared(np.array([row.points for row in rows], np.int64))
            levels = [(i, row.level) for i, row in enumerate(rows) if row.level >= 0]
            owners = [row.host for row in rows]
            at = len(wording)
            columns = []
            for name, (attribute, column_of) in zip(texts_of(table), _wordings(table), strict=True):
                for row in rows:
                    if (span := params.get((id(row), attribute))) is not None:
                        slots.append((len(wording), *span))
                    wording.append(column_of(row))
                columns.append(pl.Series(name, wording[-len(rows) :], pl.String()))
            blocks.append(Block(table, start, at, columns, owners, first, sizes, levels))
            base.append(empty)
            start += len(empty)
        changing = np.array(sorted(set(self._changing)), np.int32) - offset
        near = [(p, r.first) for rows in by_table.values() for r in rows for p in _points(r)]
        pair = np.array(near, np.int32).reshape(-1, 2)
        rest = bytearray(self._data[offset:])
        spans.blank(rest)
        return Kind(
            points=len(self._time_at) + self._others,
            rejected=self._rejected,
            steady=steady,
            size=len(self._data) - offset,
            shared=named and steady,
            changing=shared(changing),
            time_at=shared(_places(self._time_at, offset)),
            value_at=shared(_places(self._value_at, offset)),
            whole=shared(np.array(self._whole, np.bool_)),
            cell=shared(np.array(cells, np.int32)),
            point=shared(np.array(points, np.int32)),
            near=(shared(pair[:, 0].copy()), shared(pair[:, 1].copy())),
            base=shared(np.concatenate(base) if base else np.zeros(0)),
            blocks=tuple(blocks),
            spans=spans,
            texts=wording,
            slots=slots,
            digest=digest(rest, changing, 0),
            cost=shared.cost + _TEXT * len(wording),
        )


class _Free:
    """Texts that may be others in the request of a node of the kind.

    A thing has each of its texts in all its points: together they are one, and none where they are not alike.
    """

    def __init__(self) -> None:
        self._points: dict[tuple[int, bytes, frozenset[str] | None], list[int]] = {}

    def add(self, row: _Row | None, where: int, packed: bytes, names: frozenset[str] | None) -> None:
        """A point's attributes, from where on. row: None where nobody looks. names: of the free ones."""
        self._points.setdefault((id(row) if row else 0, packed, names), []).append(where)

    def found(
        self, texts: Mapping[bytes, Mapping[str, tuple[str, int, int]]], offset: int
    ) -> tuple[dict[tuple[int, str], tuple[int, int]], _Places]:
        """By thing and attribute, where its text begins and ends; start, size, first start of every text."""
        found: dict[tuple[int, str], list[tuple[str, list[int]]]] = {}
        fixed = set()
        spans = []
        for (owner, packed, names), wheres in self._points.items():
            for name, (text, low, high) in texts[packed].items():
                movable = high > low and text.isascii() and -1 not in wheres
                if movable and (names is None or name in names):
                    starts = [where + low - offset for where in wheres]
                    if owner:
                        found.setdefault((owner, name), []).append((text, starts))
                    else:
                        spans += [(start, len(text), start) for start in starts]
                else:
                    fixed.add((owner, name))
        params = {}
        for who, parts in found.items():
            text, (first, *_) = parts[0]
            if who not in fixed and all(other == text for other, _ in parts):
                params[who] = (first, first + len(text))
                spans += [(start, len(text), first) for _, starts in parts for start in starts]
        return params, np.array(spans, np.int32).reshape(-1, 3)


class _Shared:
    """Arrays that are held once, however many layouts have them: nodes of a kind differ in names alone.

    cost: bytes of those that were not there yet.
    """

    _held: ClassVar[WeakValueDictionary[bytes, Any]] = WeakValueDictionary()
    _lock: ClassVar = threading.Lock()

    def __init__(self) -> None:
        self.cost = 0

    def __call__(self, array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
        key = hashlib.blake2b(array.tobytes(), digest_size=16, person=array.dtype.str.encode()).digest()
        with self._lock:
            found: npt.NDArray[_Scalar] | None = self._held.get(key)
            if found is None:
                self._held[key] = found = array
                self.cost += array.nbytes
        return found


def _cells(row: _Row) -> Iterator[tuple[str, int, int]]:
    """Column, its number and the number of a point, -1 for none."""
    places = COLUMN[row.table]
    for column, parts in row.cells.items():
        for point in parts.values():
            yield column, places[column], point
    for column in row.ones.keys() - row.cells.keys():
        yield column, places[column], -1


def _points(row: _Row) -> Iterator[int]:
    yield from (point for parts in row.cells.values() for point in parts.values())
    if row.level >= 0:
        yield row.level


def _wordings(table: str) -> Iterator[tuple[str, Callable[[_Row], str | None]]]:
    """A table's columns of text in the order of texts_of(): attribute, and what a row has there."""
    for nth, attribute in enumerate(KEYS[table]):
        yield attribute, partial(_key, nth)
    for name in INFOS[table]:
        yield name, partial(_info, name)


def _key(nth: int, row: _Row) -> str | None:
    return row.key[nth]


def _info(name: str, row: _Row) -> str | None:
    return row.info.get(name)


def _places(at: Sequence[int], offset: int) -> _Places:
    """From the offset on; 0 for nowhere."""
    return np.maximum(np.array(at, np.int32) - offset, 0)
