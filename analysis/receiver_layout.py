"""A request's layout: learned once from its bytes; the same sender's next requests are read in one gather.

A layout knows for each point where its time and value lie and which cell of which table it fills. A later
request fits when all other bytes are the same, which a digest tells; reading it then costs 0.1 us a point.
What a layout knows is not about one node but about a kind of nodes: those whose requests differ in the host,
the times, the values and the texts that name and describe their things, each as long as before. One of the
kind is known after 2 ms, where learning (wellfed.analysis.receiver_learn) takes some 20.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from wellfed.analysis.receiver_names import host_of
from wellfed.analysis.receiver_wire import Head
from wellfed.collectors.catalog import HOST, TABLES

__all__ = ["COLUMN", "SPREAD", "Block", "Integrals", "Kind", "Layout", "Part", "Spans", "digest", "texts_of"]

#: Nanoseconds within which points of one thing belong to one window.
SPREAD = 5_000_000_000
#: Seconds after which a level is not known to have held since the point before.
LONGEST_HOLD = 180.0
#: GPUs whose levels are integrated at once.
MOST_LEVELS = 100_000

#: Bytes that a sender costs, and a column of texts that is its own, beside what is in them.
_SENDER = 10_000
_COLUMN = 4_000

_Ints = npt.NDArray[np.int64]
_Places = npt.NDArray[np.int32]
_Floats = npt.NDArray[np.float64]

#: By table: the place of each signal in a row.
COLUMN = {t.name: {c.name: i for i, c in enumerate(t.signals)} for t in TABLES.values()}


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


@dataclass(frozen=True, slots=True)
class Block:
    """Where a table's rows lie among all cells and texts. cells, texts: the first one's place. owners: host
    of each row. first: number of its first point. points: how many it has. levels: row and number of a point.
    columns: the texts of the first sender, as those of many are the same.
    """

    table: str
    cells: int
    texts: int
    columns: Sequence[pl.Series]
    owners: Sequence[str]
    first: _Places
    points: _Ints
    levels: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Spans:
    """Where the texts lie that may be others. firsts: where the same text was first."""

    starts: _Places
    sizes: _Places
    firsts: _Places

    def blank(self, rest: bytearray) -> bool:
        """Zeroes the texts; False, and nothing done, where two differ that should not, or not ASCII."""
        ends = np.cumsum(self.sizes)
        within = np.arange(self.sizes.sum()) - np.repeat(ends - self.sizes, self.sizes)
        at = np.repeat(self.starts, self.sizes) + within
        content = np.frombuffer(rest, np.uint8)
        texts = content[at]
        if (texts > 127).any() or (texts != content[np.repeat(self.firsts, self.sizes) + within]).any():
            return False
        content[at] = 0
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What the requests of nodes of a kind have in common; places count from behind the sender's attributes.

    points: all in a request. rejected: of those, by reason, the ones that fill no cell. steady: it holds one
    window, as the next one will. size: bytes behind the sender's attributes. shared: others may be of this
    kind. cost: bytes of memory that no other kind holds too.
    """

    points: int
    rejected: Mapping[str, int]
    steady: bool
    size: int
    shared: bool
    cost: int
    changing: _Places
    time_at: _Places
    value_at: _Places
    whole: npt.NDArray[np.bool_]
    cell: _Places
    point: _Places
    near: tuple[_Places, _Places]
    base: _Floats
    blocks: tuple[Block, ...]
    spans: Spans
    texts: Sequence[str | None]
    slots: Sequence[tuple[int, int, int]]
    digest: bytes

    def of(self, data: bytes, head: Head) -> Layout | None:
        """The layout of another sender's request; None where it is not of this kind."""
        host = host_of(head.attributes)
        if not (self.shared and host and len(data) - head.stop == self.size):
            return None
        rest = bytearray(memoryview(data)[head.stop :])
        if not self.spans.blank(rest) or digest(rest, self.changing, 0) != self.digest:
            return None
        layout = self.layout(data, head.stop, host)
        # Two things of the same name would be one row.
        same = sum(map(len, layout.things.values())) == sum(len(block.owners) for block in self.blocks)
        return layout if same else None

    def layout(self, data: bytes, offset: int, host: str | None) -> Layout:
        """The layout of a request of this kind. host: of all its rows, None for those learned."""
        texts = list(self.texts)
        plain = data.decode("latin-1")
        for at, start, stop in self.slots:
            texts[at] = plain[offset + start : offset + stop]
        hosts = pl.Series(HOST, [host] * max((len(block.owners) for block in self.blocks), default=0))
        things: dict[str, set[int]] = {}
        fixed, levels = [], []
        cost = _SENDER
        for block in self.blocks:
            height = len(block.owners)
            owners = block.owners if host is None else [host] * height
            table = TABLES[block.table]
            named = HOST in table.keys
            columns = [
                hosts.head(height) if named and host else _column(HOST, owners if named else [None] * height)
            ]
            names: list[Sequence[str | None]] = []
            for nth, column in enumerate(block.columns):
                span = slice(block.texts + height * nth, block.texts + height * (nth + 1))
                mine = texts[span]
                names.append(mine)
                if mine != self.texts[span]:
                    column = _column(column.name, mine)
                    cost += _COLUMN + int(column.estimated_size())
                columns.append(column)
            keys = list(zip(*names[: len(table.keys) - named], strict=True)) or [()] * height
            for owner, key in zip(owners, keys, strict=True):
                things.setdefault(owner, set()).add(hash((block.table, owner, key)))
            fixed.append(pl.DataFrame(columns))
            levels.append([(row, (owners[row], str(keys[row][0])), point) for row, point in block.levels])
        known = {owner: np.unique(np.fromiter(found, np.int64)) for owner, found in things.items()}
        cost += sum(found.nbytes for found in known.values())
        return Layout(self, offset, digest(data, self.changing, offset), known, cost, fixed, levels)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the bytes of one sender's request mean.

    things: the rows of each host, as hashes in order. cost: bytes of memory beside those of its kind.
    """

    kind: Kind
    offset: int
    digest: bytes
    things: dict[str, _Ints]
    cost: int
    _fixed: Sequence[pl.DataFrame]
    _levels: Sequence[Sequence[tuple[int, tuple[str, str], int]]]

    def fits(self, data: bytes) -> bool:
        """Whether a request differs from the learned one in times and values only."""
        kind, offset = self.kind, self.offset
        return len(data) - offset == kind.size and digest(data, kind.changing, offset) == self.digest

    def read(self, data: bytes, integrals: Integrals) -> list[Part] | None:
        """The rows of a request that fits; None when its points do not lie together in time as they did."""
        kind = self.kind
        words = _ints(data, self.offset)
        times = _at(words, kind.time_at)
        if np.abs(times[kind.near[0]] - times[kind.near[1]]).max(initial=0) > SPREAD:
            return None
        values = _numbers(_at(words, kind.value_at), kind.whole)
        cells = kind.base.copy()
        if len(kind.cell):
            cells += np.bincount(kind.cell, values[kind.point], len(cells))
        parts = []
        for block, fixed, levels in zip(kind.blocks, self._fixed, self._levels, strict=True):
            width = len(COLUMN[block.table])
            matrix = cells[block.cells : block.cells + fixed.height * width].reshape(fixed.height, width)
            ts = (times[block.first] + 500_000) // 1_000_000
            for row, who, point in levels:
                active, observed = integrals.add(who, ts[row] / 1000, values[point])
                matrix[row, COLUMN["gpu"]["active_seconds"]] = active
                matrix[row, COLUMN["gpu"]["observed_seconds"]] = observed
            parts.append(Part(block.table, fixed, matrix, ts, block.points))
        return parts


def _column(name: str, texts: Sequence[str | None]) -> pl.Series:
    return pl.Series(name, texts, pl.String())


def texts_of(table: str) -> list[str]:
    """A table's columns of text, without the host: keys, then what describes."""
    columns = TABLES[table]
    return [*(key for key in columns.keys if key != HOST), *(c.name for c in columns.infos)]


def digest(data: bytes | bytearray, changing: _Places, offset: int) -> bytes:
    """Of all bytes but those that hold times and values."""
    copy = bytearray(data)
    if len(changing):
        _ints(copy, offset)[changing] = 0
    return hashlib.blake2b(copy, digest_size=16).digest()


def _ints(data: bytes | bytearray, offset: int) -> _Ints:
    """The eight bytes from every place on, as integers; no copy."""
    return np.ndarray((max(0, len(data) - offset - 7),), "<i8", data, offset, strides=(1,))


def _at(words: _Ints, places: _Places) -> _Ints:
    return words[places] if len(places) else np.zeros(0, np.int64)


def _numbers(words: _Ints, whole: npt.NDArray[np.bool_]) -> _Floats:
    """Values from their eight bytes; whole: which are integers."""
    floats = words.view(np.float64)
    return np.where(whole, words, floats) if whole.any() else floats
