"""Reads a store while a writer appends, seals and expires: every hour is one consistent view, never an error.

Source: the files of wellfed.analysis.segments; needs read permission on them, takes no lock. An hour's view
is its sealed file, opened, plus the hot files that this sealed file does not hold yet. Files are opened when
the query runs, not when it is written, at most 64 at a time. Where a key and `ts` occur twice, the row
appended last wins. A damaged file is reported and left out: checksums are compared once per process and
file, at 7 GB/s a tenth of what a query over the same file costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import IO, BinaryIO

import polars as pl
from polars.io.plugins import register_io_source

from wellfed.analysis.schema import conform, keys, schema
from wellfed.analysis.segments import (
    DAMAGE,
    Hot,
    Layout,
    hour_name,
    hour_start,
    intact,
    read_hot,
    shape,
    through,
)
from wellfed.collectors.catalog import Table
from wellfed.errors import UserError

__all__ = ["Reader", "Report", "View", "merge"]

#: Called with the path of a damaged file and what is wrong with it.
Report = Callable[[str, str], None]

#: Sealed files read by one query of the engine: enough to keep the cores busy, few enough to fit in memory.
_GROUP_FILES = 64
_GROUP_BYTES = 32 << 20
_HOUR_MS = 3_600_000
_WHOLE_HOUR = (0, _HOUR_MS)


@dataclass(frozen=True, slots=True)
class View:
    """One hour of one table.

    exact: the columns of the sealed file have today's types, though some may be missing or unknown.
    hot: shape and bytes of the hot files, in the order of their append.
    """

    hour: str
    sealed: BinaryIO | None
    exact: bool
    hot: list[tuple[int, bytes]]

    def close(self) -> None:
        """Closes the sealed file; a query that is still reading it has its own descriptor."""
        if self.sealed is not None:
            self.sealed.close()


def merge(table: Table, view: View) -> pl.LazyFrame:
    """All rows of the hour, each key and ts once."""
    frames = [
        _hot_rows(table, shape_, [data for _, data in files])
        for shape_, files in groupby(view.hot, key=itemgetter(0))
    ]
    if view.sealed is not None:
        view.sealed.seek(0)
        frames.insert(0, conform(pl.scan_parquet(view.sealed), table, view.hour))
    if not frames:
        return schema(table).to_frame().lazy()
    rows = pl.concat(frames)
    # A sealed file alone is unique already.
    return rows.unique(keys(table), keep="last", maintain_order=True) if view.hot else rows


def _rows(table: Table, group: list[View]) -> pl.LazyFrame:
    """All rows of several hours: one scan over the sealed files where that is possible, 1.3x as fast."""
    files: list[IO[bytes]] = []
    frames: list[pl.LazyFrame] = []
    for view in group:
        if view.sealed is not None and view.exact and not view.hot:
            files.append(view.sealed)
        else:
            frames.append(merge(table, view))
    if files:
        frames.append(
            pl.scan_parquet(files, schema=schema(table), missing_columns="insert", extra_columns="ignore")
        )
    return pl.concat(frames)


def _hot_rows(table: Table, shape_: int, files: list[bytes]) -> pl.LazyFrame:
    """One scan over files of one shape: 360 ticks decode in 16 ms, one by one in 220 ms."""
    rows = pl.scan_ipc(files)
    return rows if shape_ == shape(schema(table)) else conform(rows, table, table.name)


@dataclass(slots=True)
class Reader:
    """Reads the hours of one store. report: hears of each damaged file at every look at it."""

    layout: Layout
    report: Report
    _exact: dict[tuple[int, int, int], bool] = field(default_factory=dict)
    _fitting: set[tuple[str, int]] = field(default_factory=set)

    def scan(self, table: Table, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
        """Rows of the table with ts in (start, end]; None = unbounded. Row order is not defined."""
        inside = [pl.col("ts") > start] if start else [pl.lit(True)]
        inside += [pl.col("ts") <= end] if end else []

        def source(
            columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            left = n_rows
            for group in self._groups(table, start, end):
                frame = _rows(table, group).filter(inside)
                frame = frame if predicate is None else frame.filter(predicate)
                frame = frame if columns is None else frame.select(columns)
                frame = frame if left is None else frame.head(left)
                try:
                    for batch in frame.collect_batches(engine="streaming"):
                        left = None if left is None else left - batch.height
                        yield batch
                finally:
                    for view in group:
                        view.close()
                if left == 0:
                    return

        return register_io_source(source, schema=schema(table), is_pure=True)

    def view(self, table: Table, hour: str, within: tuple[int, int] = _WHOLE_HOUR) -> View:
        """The hour as it is now; close it after use.

        within: leaves out hot files that hold no `ts` in these milliseconds of the hour.
        """
        while True:
            # Hot files are listed before the sealed file is opened: what a sealing writer removes from the
            # one is then in the other. A listed file that is gone when opened has been sealed: look again.
            names = self.layout.hot_files(table.name, hour)
            sealed, exact = self._open_sealed(table, self.layout.sealed(table.name, hour))
            try:
                done = through(sealed) if sealed is not None and names else -1
                wanted = [n for n in names if n.seq > done and n.last >= within[0] and n.first <= within[1]]
                hot = [self._read_hot(table, hour, name) for name in wanted]
            except FileNotFoundError:
                if sealed is not None:
                    sealed.close()
                continue
            return View(hour, sealed, exact, [file for file in hot if file is not None])

    def _open_sealed(self, table: Table, path: str) -> tuple[BinaryIO | None, bool]:
        """The file, opened, if it is there, intact and fits the table; and whether its types are today's."""
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return None, False
        except OSError as error:
            self.report(path, str(error.strerror))
            return None, False
        stat = os.fstat(file.fileno())
        identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if identity not in self._exact:
            try:
                self._exact[identity] = _is_exact(table, file, path)
            except (*DAMAGE, UserError) as error:
                self.report(path, _reason(error))
                file.close()
                return None, False
        return file, self._exact[identity]

    def _read_hot(self, table: Table, hour: str, name: Hot) -> tuple[int, bytes] | None:
        """The file's shape and bytes, if it is intact and its columns fit the table."""
        path = os.path.join(self.layout.hot(table.name, hour), str(name))
        try:
            data = read_hot(path, name)
            if (table.name, name.shape) not in self._fitting:
                conform(pl.scan_ipc(data), table, path)
                self._fitting.add((table.name, name.shape))
        except FileNotFoundError:
            raise
        except (*DAMAGE, UserError) as error:
            self.report(path, _reason(error))
            return None
        return name.shape, data

    def _groups(self, table: Table, start: datetime | None, end: datetime | None) -> Iterator[list[View]]:
        """The hours that may hold ts in (start, end], oldest first, in portions for one query each."""
        first = hour_name(start) if start else ""
        last = hour_name(end) if end else "~"
        group: list[View] = []
        size = 0
        for hour in self.layout.hours(table.name):
            if not first <= hour <= last:
                continue
            view = self.view(table, hour, _within(hour, start, end))
            group.append(view)
            size += os.fstat(view.sealed.fileno()).st_size if view.sealed else 0
            size += sum(len(data) for _, data in view.hot)
            if size >= _GROUP_BYTES or len(group) >= _GROUP_FILES:
                yield group
                group, size = [], 0
        if group:
            yield group


def _is_exact(table: Table, file: BinaryIO, path: str) -> bool:
    """Whether the columns we know have today's types. Raises OSError, another DAMAGE, or UserError."""
    if not intact(file):
        raise OSError("checksum mismatch" if os.fstat(file.fileno()).st_size else "empty file")
    rows = pl.scan_parquet(file)
    conform(rows, table, path)
    today = schema(table)
    return all(today[name] == dtype for name, dtype in rows.collect_schema().items() if name in today)


def _within(hour: str, start: datetime | None, end: datetime | None) -> tuple[int, int]:
    since = hour_start(hour)
    first = int((start - since).total_seconds() * 1000) if start else 0
    last = int((end - since).total_seconds() * 1000) if end else _HOUR_MS
    return first, last


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
