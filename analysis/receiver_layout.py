"""A request's layout: learned once from its bytes; the same sender's next requests are read in one gather.

Learning walks the bytes (8 us a point) and notes for each point where its time and value lie and which cell
of which table it fills. A later request fits when all other bytes are the same, which a digest tells; reading
it then costs 0.1 us a point. Points of one thing that lie within half a window of each other are one row.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import polars as pl

from wellfed.analysis.receiver_names import Target, host_of, target
from wellfed.analysis.receiver_wire import Metric, attributes, walk
from wellfed.collectors.catalog import HOST, TABLES

__all__ = ["Integrals", "Layout", "Part", "learn"]

#: Nanoseconds within which points of one thing belong to one window.
SPREAD = 5_000_000_000
#: Seconds after which a level is not known to have held since the point before.
LONGEST_HOLD = 180.0
#: GPUs whose levels are integrated at once.
MOST_LEVELS = 100_000

#: Bytes that a row costs as one of the things of its host.
_THING = 100

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one table. fixed: host, keys and texts, one row each. values: rows x signals in catalog order,
    NaN where a signal is missing. ts: milliseconds. points: how many of the request are in each row.
    """

    table: str
    fixed: pl.DataFrame
    values: _Floats
    ts: _Ints
    points: _Ints


class Integrals:
    """Levels summed over time, by host and GPU, for senders that publish no counter."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, float, float]] = {}
        self._lock = threading.Lock()

    def add(self, who: tuple[str, str], ts: float, level: float) -> tuple[float, float]:
        """Seconds active and observed so far. ts: seconds; a repeated or earlier one adds nothing."""
        with self._lock:
            last, active, observed = self._known.get(who, (ts, 0.0, 0.0))
            held = ts - last
            if 0 < held <= LONGEST_HOLD and level == level:
                active, observed = active + held * min(1.0, max(0.0, level)), observed + held
            if len(self._known) >= MOST_LEVELS and who not in self._known:
                del self._known[next(iter(self._known))]
            self._known[who] = (max(ts, last), active, observed)
            return active, observed


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


@dataclass(frozen=True, slots=True)
class _Block:
    """Where a table's rows lie among all cells. levels: row, (host, gpu), number of the point."""

    table: str
    start: int
    fixed: pl.DataFrame
    first: _Ints
    points: _Ints
    levels: Sequence[tuple[int, tuple[str, str], int]]


@dataclass(frozen=True, slots=True)
class Layout:
    """What the bytes of one request mean.

    points: all in it. rejected: of those, by reason, the ones that fill no cell. things: the rows of each
    host, as hashes. steady: it holds one window, as the next one will. size: of the request. cost: bytes of
    memory that no other layout holds too.
    """

    points: int
    rejected: dict[str, int]
    things: dict[str, frozenset[int]]
    steady: bool
    size: int
    cost: int
    digest: bytes
    _changing: _Ints
    _time_at: _Ints
    _value_at: _Ints
    _whole: npt.NDArray[np.bool_]
    _cell: _Ints
    _point: _Ints
    _near: tuple[_Ints, _Ints]
    _base: _Floats
    _blocks: tuple[_Block, ...]

    def fits(self, data: bytes) -> bool:
        """Whether a request differs from the learned one in times and values only."""
        return len(data) == self.size and _digest(data, self._changing) == self.digest

    def read(self, data: bytes, integrals: Integrals) -> list[Part] | None:
        """The rows of a request that fits; None when its points do not lie together in time as they did."""
        times = _ints(data)[self._time_at] if len(self._time_at) else self._time_at
        if np.abs(times[self._near[0]] - times[self._near[1]]).max(initial=0) > SPREAD:
            return None
        values = _numbers(data, self._value_at, self._whole)
        cells = self._base.copy()
        if len(self._cell):
            cells += np.bincount(self._cell, values[self._point], len(cells))
        return [self._part(block, cells, times, values, integrals) for block in self._blocks]

    def _part(
        self, block: _Block, cells: _Floats, times: _Ints, values: _Floats, integrals: Integrals
    ) -> Part:
        signals = TABLES[block.table].signals
        height = block.fixed.height
        matrix = cells[block.start : block.start + height * len(signals)].reshape(height, len(signals))
        ts = (times[block.first] + 500_000) // 1_000_000
        for row, who, point in block.levels:
            active, observed = integrals.add(who, ts[row] / 1000, values[point])
            matrix[row, _COLUMN["gpu"]["active_seconds"]] = active
            matrix[row, _COLUMN["gpu"]["observed_seconds"]] = observed
        return Part(block.table, block.fixed, matrix, ts, block.points)


_COLUMN = {t.name: {c.name: i for i, c in enumerate(t.signals)} for t in TABLES.values()}


def learn(data: bytes) -> Layout:
    """The layout of a serialized ExportMetricsServiceRequest. Raises ValueError when it is none."""
    seen = _Seen(data)
    for metric in walk(data):
        seen.add(metric)
    return seen.layout()


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
        self._texts: dict[bytes, dict[str, str]] = {}

    def add(self, metric: Metric) -> None:
        host = host_of(metric.resource.attributes)
        self._others += metric.others
        self._reject("unknown", metric.others)
        for time, value, double, packed, start in metric.points:
            number = len(self._time_at)
            self._time_at.append(time)
            self._value_at.append(value)
            self._whole.append(not double)
            self._changing += [at for at in (time, value, start) if at]
            if not time or not host or metric.delta:
                self._reject("no_time" if not time else "no_host" if not host else "delta", 1)
                continue
            texts = self._texts.get(packed)
            if texts is None:
                texts = self._texts[packed] = attributes(packed)
            found = target(metric.scope, metric.name, texts)
            if not found:
                self._reject("unknown", 1)
            for nth, one in enumerate(found):
                self._place(one, host, number, packed, bool(value)).points += nth == 0

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

    def layout(self) -> Layout:
        by_table: dict[str, list[_Row]] = {}
        for rows in self._rows.values():
            by_table.setdefault(rows[0].table, []).extend(rows)
        cells: list[int] = []
        points: list[int] = []
        blocks: list[_Block] = []
        base: list[_Floats] = []
        start = 0
        shared = _Shared()
        for table, rows in by_table.items():
            width = len(TABLES[table].signals)
            empty = np.full(len(rows) * width, np.nan)
            for index, row in enumerate(rows):
                for column, cell, point in _cells(row):
                    empty[index * width + cell] = row.ones.get(column, 0.0)
                    if point >= 0:
                        cells.append(start + index * width + cell)
                        points.append(point)
            levels = [(i, (r.host, r.key[0]), r.level) for i, r in enumerate(rows) if r.level >= 0]
            first = shared(np.array([row.first for row in rows], np.int64))
            sizes = shared(np.array([row.points for row in rows], np.int64))
            blocks.append(_Block(table, start, _fixed(table, rows), first, sizes, levels))
            base.append(empty)
            start += len(empty)
        changing = shared(np.array(sorted(set(self._changing)), np.int64))
        near = [(p, r.first) for rows in by_table.values() for r in rows for p in _points(r)]
        pair = np.array(near, np.int64).reshape(-1, 2)
        things: dict[str, set[int]] = {}
        for thing in self._rows:
            things.setdefault(thing[1], set()).add(hash(thing))
        arrays = (
            shared(np.array(self._time_at, np.int64)),
            shared(np.array(self._value_at, np.int64)),
            shared(np.array(self._whole, np.bool_)),
            shared(np.array(cells, np.int64)),
            shared(np.array(points, np.int64)),
            (shared(pair[:, 0].copy()), shared(pair[:, 1].copy())),
            shared(np.concatenate(base) if base else np.zeros(0)),
        )
        texts = sum(int(block.fixed.estimated_size()) for block in blocks)
        return Layout(
            len(self._time_at) + self._others,
            self._rejected,
            {host: frozenset(found) for host, found in things.items()},
            all(len(rows) == 1 for rows in self._rows.values()),
            len(self._data),
            shared.cost + texts + _THING * len(self._rows),
            _digest(self._data, changing),
            changing,
            *arrays,
            tuple(blocks),
        )


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
    places = _COLUMN[row.table]
    for column, parts in row.cells.items():
        for point in parts.values():
            yield column, places[column], point
    for column in row.ones.keys() - row.cells.keys():
        yield column, places[column], -1


def _points(row: _Row) -> Iterator[int]:
    yield from (point for parts in row.cells.values() for point in parts.values())
    if row.level >= 0:
        yield row.level


def _fixed(name: str, rows: Sequence[_Row]) -> pl.DataFrame:
    """Host, keys and texts of the rows, in the catalog's columns."""
    table = TABLES[name]
    keys = [key for key in table.keys if key != HOST]
    columns: dict[str, list[str | None]] = {HOST: [r.host if HOST in table.keys else None for r in rows]}
    columns |= {key: [r.key[i] for r in rows] for i, key in enumerate(keys)}
    columns |= {c.name: [r.info.get(c.name) for r in rows] for c in table.infos}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String()))


def _ints(data: bytes | bytearray) -> _Ints:
    """The eight bytes from every offset on, as integers; no copy."""
    return np.ndarray((max(0, len(data) - 7),), "<i8", data, strides=(1,))


def _numbers(data: bytes, at: _Ints, whole: npt.NDArray[np.bool_]) -> _Floats:
    """Values that lie at these offsets; whole: which are integers."""
    words = _ints(data)[at] if len(at) else at
    floats = words.view(np.float64)
    return np.where(whole, words, floats) if whole.any() else floats


def _digest(data: bytes, changing: _Ints) -> bytes:
    """Of all bytes but those that hold times and values."""
    copy = bytearray(data)
    if len(changing):
        _ints(copy)[changing] = 0
    return hashlib.blake2b(copy, digest_size=16).digest()
