"""The hub's tables on disk: hot files at every append, one sealed Parquet file per table and hour later.

One writer (the lock says who), any number of readers that never wait for it and never see an error while it
appends, seals and expires. What append() returned from survives kill -9 and power loss, and is read exactly
once. The sealed files are plain Parquet: DuckDB, pandas or anything else may read DIR/<table>/*.parquet at
any time. Files: wellfed.analysis.segments.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType

import polars as pl

from wellfed.analysis.judged import JUDGED, STORED
from wellfed.analysis.lake import export_hours, is_url
from wellfed.analysis.lock import check_marker, is_store, take
from wellfed.analysis.schema import conform, keys, schema
from wellfed.analysis.seal import expire, finish, quarantine, seal_hour
from wellfed.analysis.segments import (
    DAMAGE,
    Layout,
    encode_hot,
    encode_sealed,
    hour_name,
    hour_start,
    place,
    through,
)
from wellfed.analysis.snapshot import Reader
from wellfed.analysis.upkeep import Damage, export, inspect
from wellfed.collectors.catalog import Table
from wellfed.errors import UserError

__all__ = ["Store", "is_store"]

_LOG = logging.getLogger(__name__)

#: How long after its end an hour is sealed: most rows that come late have come by then.
SETTLE = timedelta(minutes=1)

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class Store:
    """A store folder, opened for writing (made where there is none) or, with readonly, only to read.

    Methods may be called from several threads; seal() does not hold up append(). Raises UserError when the
    folder is not a store, is one of a later format, or another process writes to it.
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        self._layout = Layout(os.path.abspath(path))
        self._appending = threading.Lock()
        self._aging = threading.Lock()
        self._problems: dict[str, None] = {}
        self._reader = Reader(self._layout, self._report)
        self._seq = 0
        self._arrived: datetime | None = None
        self._floors: dict[tuple[str, str], int] = {}
        self._lock: int | None = None
        if readonly:
            check_marker(self._layout)
            return
        try:
            self._lock = take(self._layout)
            self._recover()
        except OSError as error:
            self.close()
            raise UserError(
                f"cannot open the store {self.path}: {error.strerror}: {error.filename}"
            ) from error

    @property
    def path(self) -> str:
        """The store's folder."""
        return self._layout.root

    @property
    def problems(self) -> list[str]:
        """One line for each damaged file met so far, in the order they were met."""
        return list(self._problems)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process write. Scans go on working."""
        with self._aging, self._appending:
            if self._lock is not None:
                os.ftruncate(self._lock, 0)
                os.close(self._lock)
                self._lock = None

    @property
    def version(self) -> int:
        """Grows with every append of this process; a reader's grows with time."""
        return self._seq if self._lock is not None else time.time_ns() // 5_000_000_000

    def append(self, frames: Mapping[str, pl.DataFrame]) -> None:
        """Stores rows by table, on disk when it returns; all of them or, on an error, none.

        A row with the key and ts of an earlier one replaces it. Raises UserError for an unknown table, wrong
        columns or rows without a usable ts, OSError when the disk is full or fails.
        """
        parts = [part for table, frame in frames.items() for part in _by_hour(table, frame)]
        with self._appending:
            self._must_write()
            files: dict[str, bytes | memoryview] = {}
            for of, hour, rows in parts:
                name, data = encode_hot(rows, hour, self._next_seq(of, hour))
                files[os.path.join(self._layout.hot(of.name, hour), str(name))] = data
            place(files, self._layout.tmp)
            told = [rows["ts"].min() for of, _, rows in parts if of.name not in JUDGED]
            stamps = [ts for ts in told if isinstance(ts, datetime)]
            self._arrived = min([*stamps, *([self._arrived] if self._arrived else [])], default=None)

    def arrived(self) -> datetime | None:
        """The earliest ts to judge that this process appended since it was last asked; None without a row."""
        with self._appending:
            earliest, self._arrived = self._arrived, None
        return earliest

    def scan(self, table: str, start: datetime | None = None, end: datetime | None = None) -> pl.LazyFrame:
        """Rows of a table with ts in (start, end], in the columns of today's catalog, in no defined order.

        The files are looked up when the frame is collected. Best with engine="streaming". Raises UserError
        for an unknown table, ValueError for a time without time zone.
        """
        return self._reader.scan(_table(table), _utc(start), _utc(end))

    def bounds(self) -> tuple[datetime, datetime] | None:
        """Start of the first hour and end of the last one held; None for an empty store."""
        hours = sorted({hour for table in STORED for hour in self._layout.hours(table)})
        return (hour_start(hours[0]), hour_start(hours[-1]) + timedelta(hours=1)) if hours else None

    def seal(self, now: datetime | None = None) -> int:
        """Merges the hot files of every hour that ended a minute before now, or earlier.

        Rows that came late for a sealed hour are merged into its file. Returns the number of files written.
        Raises OSError when the disk is full; the hour at hand then stays as it was.
        """
        limit = hour_name((_utc(now) or datetime.now(UTC)) - SETTLE)
        written = 0
        with self._aging:
            self._must_write()
            for table in STORED.values():
                for hour in self._layout.hot_hours(table.name):
                    if hour < limit:
                        written += seal_hour(self._layout, table, hour, self._appending, self._report)
        return written

    def sealed(self, table: str) -> dict[str, int]:
        """The sealed hours of a table by name, with a number that changes when rows are added to one."""
        found = {}
        for hour in self._layout.sealed_hours(_table(table).name):
            with contextlib.suppress(FileNotFoundError):
                found[hour] = os.stat(self._layout.sealed(table, hour)).st_mtime_ns
        return found

    def replace(self, hour: str, frames: Mapping[str, pl.DataFrame]) -> None:
        """Makes these rows all that an hour holds of these tables, sealed; rows appended meanwhile stay.

        Raises OSError, and nothing is changed then.
        """
        with self._aging:
            self._must_write()
            files: dict[str, bytes | memoryview] = {}
            for name, rows in frames.items():
                table = _table(name)
                with self._appending:
                    last = _last_seq(self._layout, table, hour)
                whole = conform(rows.lazy(), table, "replace").collect().sort(keys(table))
                files[self._layout.sealed(name, hour)] = encode_sealed(whole, last)
            place(files, self._layout.tmp)
            for name in frames:
                finish(self._layout, _table(name), hour, self._appending)

    def retain(
        self, age: timedelta | None = None, size: int | None = None, now: datetime | None = None
    ) -> int:
        """Removes the oldest sealed hours, all tables of an hour together; returns the number of files.

        An hour goes when it ended more than `age` before now, or while the store holds more than `size`
        bytes (quarantine not counted). Hot files and the hour of now stay.
        """
        with self._aging:
            self._must_write()
            moment = _utc(now) or datetime.now(UTC)
            return expire(self._layout, age, size, moment, self._appending)

    def check(self) -> list[str]:
        """Reads every byte of every file; one line for each that is damaged or does not belong here."""
        return [damage.text for damage in inspect(self._layout)]

    def repair(self) -> list[str]:
        """Moves what check() finds to DIR/quarantine; one line for each file moved. Raises OSError."""
        with self._aging, self._appending:
            self._must_write()
            return [self._set_aside(damage) for damage in inspect(self._layout)]

    def export(
        self,
        dest: str | os.PathLike[str],
        tables: Collection[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> dict[str, int]:
        """Writes dest/<table>.parquet with the rows in (start, end]; returns path -> rows.

        dest: a folder; or a URL on object storage, which gets whole hours as dest/<table>/<hour>.parquet.
        tables: default, those that hold any file. Raises UserError before it writes when a target exists.
        """
        if tables is None:
            tables = [name for name in STORED if self._layout.hours(name)]
        if is_url(os.fspath(dest)):
            return export_hours({name: self._hours(name, start, end) for name in tables}, os.fspath(dest))
        return export({name: self.scan(name, start, end) for name in tables}, os.fspath(dest))

    def _hours(self, table: str, start: datetime | None, end: datetime | None) -> dict[str, pl.LazyFrame]:
        """The rows of each hour that a range touches, whole: half an hour must not replace a full one."""
        first = hour_name(start) if start else ""
        last = hour_name(end) if end else "~"
        tick, length = timedelta(milliseconds=1), timedelta(hours=1)
        hours = [hour for hour in self._layout.hours(table) if first <= hour <= last]
        begins = {hour: hour_start(hour) - tick for hour in hours}
        return {hour: self.scan(table, begin, begin + length) for hour, begin in begins.items()}

    def _report(self, path: str, why: str) -> None:
        line = f"{path} is damaged and left out: {why}"
        if line not in self._problems:
            self._problems[line] = None
            _LOG.warning("%s", line)

    def _must_write(self) -> None:
        if self._lock is None:
            raise ValueError(f"the store {self.path} is not open for writing")

    def _next_seq(self, table: Table, hour: str) -> int:
        """Above all numbers of this process and of the hour, also when the clock was set back."""
        if (table.name, hour) not in self._floors:
            self._floors[table.name, hour] = _last_seq(self._layout, table, hour)
        self._seq = max(time.time_ns(), self._seq + 1, self._floors[table.name, hour] + 1)
        return self._seq

    def _recover(self) -> None:
        """Undoes what a killed writer left: files half written, hot files already sealed."""
        os.makedirs(self._layout.tmp, exist_ok=True)
        for name in os.listdir(self._layout.tmp):
            os.unlink(os.path.join(self._layout.tmp, name))
        for table in STORED.values():
            for hour in self._layout.hot_hours(table.name):
                finish(self._layout, table, hour, self._appending)

    def _set_aside(self, damage: Damage) -> str:
        target = quarantine(self._layout, damage.path)
        return f"{damage.text}; moved to {target}"


def _by_hour(name: str, frame: pl.DataFrame) -> list[tuple[Table, str, pl.DataFrame]]:
    """The rows in today's columns, split by the hour of their ts."""
    table = _table(name)
    if frame.schema != schema(table):
        frame = conform(frame.lazy(), table, "append").collect()
    if frame.is_empty():
        return []
    ts = frame["ts"]
    if ts.has_nulls() or not ts.is_between(_EARLIEST, _LATEST).all():
        raise UserError(f"append: table {name} has rows without a ts between {_EARLIEST:%Y} and {_LATEST:%Y}")
    hours = ts.dt.truncate("1h")
    if hours.n_unique() == 1:
        return [(table, hour_name(hours[0]), frame)]
    parts = frame.with_columns(hours.alias("hour")).partition_by("hour", as_dict=True, include_key=False)
    return [(table, hour_name(hour), rows) for (hour,), rows in parts.items()]


def _table(name: str) -> Table:
    try:
        return STORED[name]
    except KeyError:
        raise UserError(f"there is no table {name}; the tables are {', '.join(STORED)}") from None


def _utc(moment: datetime | None) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise ValueError(f"{moment} carries no time zone")
    return moment.astimezone(UTC) if moment is not None else None


def _last_seq(layout: Layout, table: Table, hour: str) -> int:
    names = layout.hot_files(table.name, hour)
    last = names[-1].seq if names else -1
    try:
        with open(layout.sealed(table.name, hour), "rb") as file:
            return max(last, through(file))
    except (*DAMAGE, ValueError):
        return last
