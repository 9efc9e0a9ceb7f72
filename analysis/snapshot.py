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
    """One hour of one table. hot: shape and bytes of its hot files, in the order of their append."""

    hour: str
    sealed: BinaryIO | None
    hot: list[tuple[int, bytes]]

    def close(self) -> None:
        """Closes the sealed file; a query that is still reading it has its own descriptor."""
        if self.sealed is not None:
            self.sealed.close()


def merge(table: Table, view: View) -> pl.LazyFrame:
    """All rows of the hour, each key and ts once. Raises UserError when the sealed file has wrong types."""
    frames = [
        _hot_rows(table, shape_, [data for _, data in files])
        for shape_, files in groupby(view.hot, key=itemgetter(0))
    ]
    if view.sealed is not None:
        view.sealed.seek(0)
        frames.insert(0, conform(pl.scan_parquet(view.sealed), table, f"{table.name}/{view.hour}.parquet"))
    if not frames:
        return schema(table).to_frame().lazy()
    rows = pl.concat(frames)
    # A sealed file alone is unique already.
    return rows.unique(keys(table), keep="last", maintain_order=True) if view.hot else rows


def _hot_rows(table: Table, shape_: int, files: list[bytes]) -> pl.LazyFrame:
    """One scan over files of one shape: 360 ticks decode in 16 ms, one by one in 220 ms."""
    rows = pl.scan_ipc(files)
    return rows if shape_ == shape(schema(table)) else conform(rows, table, table.name)


@dataclass(slots=True)
class Reader:
    """Reads the hours of one store. report: hears of each damaged file at every look at it."""

    layout: Layout
    report: Report
    _sound: set[tuple[int, int, int]] = field(default_factory=set)
    _fitting: set[tuple[str, int]] = field(default_factory=set)

    def scan(self, table: Table, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
        """Rows of the table with ts in (start, end]; None = unbounded. Row order is not defined."""
        inside = [pl.col("ts") > start] if start else []
        inside += [pl.col("ts") <= end] if end else []

        def source(
            columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            def run(frame: pl.LazyFrame) -> pl.DataFrame:
                frame = frame.filter(inside) if inside else frame
                frame = frame if predicate is None else frame.filter(predicate)
                frame = frame if columns is None else frame.select(columns)
                return (frame if n_rows is None else frame.head(n_rows)).collect(engine="streaming")

            left = n_rows
            for group in self._groups(table, start, end):
                try:
                    for frame in self._run_group(table, group, run):
                        yield frame if left is None else frame.head(left)
                        left = None if left is None else max(0, left - frame.height)
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
            sealed = self._open_sealed(self.layout.sealed(table.name, hour))
            try:
                done = through(sealed) if sealed is not None and names else -1
                wanted = [n for n in names if n.seq > done and n.last >= within[0] and n.first <= within[1]]
                hot = [self._read_hot(table, hour, name) for name in wanted]
            except FileNotFoundError:
                if sealed is not None:
                    sealed.close()
                continue
            return View(hour, sealed, [file for file in hot if file is not None])

    def _open_sealed(self, path: str) -> BinaryIO | None:
        """The file, opened, if it is there and intact."""
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return None
        except OSError as error:
            self.report(path, str(error.strerror))
            return None
        stat = os.fstat(file.fileno())
        identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if identity not in self._sound:
            if not intact(file):
                self.report(path, "checksum mismatch" if stat.st_size else "empty file")
                file.close()
                return None
            self._sound.add(identity)
        return file

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

    def _run_group(
        self, table: Table, group: list[View], run: Callable[[pl.LazyFrame], pl.DataFrame]
    ) -> Iterator[pl.DataFrame]:
        """One query over all hours of the group; hour by hour when a file of it has another shape."""
        files: list[IO[bytes]] = [view.sealed for view in group if view.sealed is not None and not view.hot]
        try:
            frames = [merge(table, view) for view in group if view.hot]
            if files:
                # One scan over many files costs half of as many scans; it also adds and drops columns.
                sealed = pl.scan_parquet(
                    files, schema=schema(table), missing_columns="insert", extra_columns="ignore"
                )
                frames.insert(0, sealed)
            whole = run(pl.concat(frames)) if frames else None
        except (pl.exceptions.PolarsError, UserError):
            yield from (self._run_hour(table, view, run) for view in group)
            return
        if whole is not None:
            yield whole

    def _run_hour(
        self, table: Table, view: View, run: Callable[[pl.LazyFrame], pl.DataFrame]
    ) -> pl.DataFrame:
        try:
            return run(merge(table, view))
        except UserError as error:
            self.report(self.layout.sealed(table.name, view.hour), _reason(error))
            return run(merge(table, View(view.hour, None, view.hot)))


def _within(hour: str, start: datetime | None, end: datetime | None) -> tuple[int, int]:
    since = hour_start(hour)
    first = int((start - since).total_seconds() * 1000) if start else 0
    last = int((end - since).total_seconds() * 1000) if end else _HOUR_MS
    return first, last


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
