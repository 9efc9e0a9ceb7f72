"""Where windows are kept: hot ticks as small Arrow files, finished hours as one sorted Parquet file a table.

    DIR/wellfed-store.json                  format version
    DIR/lock                                held by the writer
    DIR/<table>/<YYYY-MM-DDTHH>.parquet     a sealed hour; its metadata names the last tick in it
    DIR/hot/<table>/<hour>/<tick>.arrow     ticks not sealed yet

A tick is written to a temporary file, synced and renamed, so a kill -9 loses nothing acknowledged and a
reader never sees half a file. Sealing merges the hot ticks of an hour into its Parquet file by one rename;
ticks that the file already holds are ignored, so nothing counts twice whenever the process dies. Ticks that
come late for a sealed hour are hot again until the next seal. Sealed files are plain Parquet for DuckDB,
pandas and anything else (docs/store.md).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from wellfed.analysis.durable import lock, publish, replace
from wellfed.analysis.schema import conform, keys, schema
from wellfed.collectors.catalog import TABLES, Table
from wellfed.errors import UserError

__all__ = ["Store", "is_store"]

_FORMAT = "wellfed-store.json"
_HOUR = "%Y-%m-%dT%H"
_THROUGH = "wellfed.through"
#: Beside a sealed file: given up by retention, removed by its next run.
_GONE = ".gone"
#: Sealed: 131,072 rows a group and zstd 1 measured best for queries and size.
_ROW_GROUP = 131_072
#: Reads that start over when sealing or retention took a file away between listing and opening it.
_ATTEMPTS = 20


def is_store(path: str) -> bool:
    """Whether a folder is a store."""
    return os.path.exists(os.path.join(path, _FORMAT))


class Store:
    """A store in a folder, made when it is not there. One writer at a time, any number of readers.

    problems: what could not be read, in words. Raises UserError when another process writes to it or when
    the folder is something else.
    """

    def __init__(self, path: str, readonly: bool = False) -> None:
        self.path = path
        self.problems: list[str] = []
        self._lock: int | None = None
        self._writing = threading.Lock()
        self._last = 0
        if not readonly:
            self._open()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def version(self) -> int:
        """Grows with every append of this process; a reader's grows with time."""
        return self._last if self._lock is not None else time.time_ns() // 5_000_000_000

    def append(self, frames: Mapping[str, pl.DataFrame]) -> None:
        """Adds rows. They are on disk when it returns. frames: table name -> rows in its schema.

        Raises OSError when the disk refuses; what was written before that stays.
        """
        with self._writing:
            for name, frame in frames.items():
                hours = frame.with_columns(pl.col("ts").dt.strftime(_HOUR).alias("_hour"))
                for (hour,), part in hours.partition_by("_hour", as_dict=True, include_key=False).items():
                    self._last = max(self._last + 1, time.time_ns())
                    folder = self._hot(name, str(hour))
                    os.makedirs(folder, exist_ok=True)
                    _write(os.path.join(folder, f"{self._last:020d}.arrow"), part)

    def scan(self, table: str, start: datetime | None = None, end: datetime | None = None) -> pl.LazyFrame:
        """Rows with start < ts <= end in the table's schema, each key once (the last written wins)."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._scan(TABLES[table], start, end)
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def bounds(self) -> tuple[datetime, datetime] | None:
        """Start of the first hour and end of the last one held, or None for an empty store."""
        hours = sorted({hour for table in TABLES for hour in self._hours(table)})
        if not hours:
            return None
        return _parse_hour(hours[0]), _parse_hour(hours[-1]) + timedelta(hours=1)

    def seal(self, now: datetime | None = None) -> int:
        """Merges hot ticks of hours that ended a minute ago or more. Returns the number of hours sealed."""
        limit = (now or datetime.now(UTC)) - timedelta(hours=1, minutes=1)
        sealed = 0
        for name, table in TABLES.items():
            for hour in self._listing("hot", name):
                if _parse_hour(hour) <= limit:
                    sealed += self._seal_hour(table, hour)
        return sealed

    def retain(self, age: timedelta | None = None, size: int | None = None) -> int:
        """Gives up sealed hours older than age, then the oldest until size bytes fit. Returns how many files.

        A file given up is out of every later scan and removed by the next call, so a reader that has already
        planned with it still finds it. Hot hours are never given up.
        """
        for path in self._given_up():
            os.unlink(path)
            os.unlink(path + _GONE)
        files = sorted((hour, path) for name in TABLES for hour, path in self._sealed(name).items())
        sizes = [os.path.getsize(path) for _, path in files]
        total = sum(sizes)
        oldest = datetime.now(UTC) - age if age is not None else datetime.min.replace(tzinfo=UTC)
        count = 0
        for (hour, path), length in zip(files, sizes, strict=True):
            if _parse_hour(hour) + timedelta(hours=1) < oldest or (size is not None and total > size):
                replace(path + _GONE, b"")
                total -= length
                count += 1
        return count

    def check(self) -> list[str]:
        """Every damaged file, in words: reads all of them."""
        damaged = []
        for path, _ in self._files():
            try:
                _load(path)
            except (pl.exceptions.PolarsError, OSError, EOFError) as error:
                damaged.append(f"{path}: {_first_line(error)}")
        return damaged

    def repair(self) -> list[str]:
        """Moves damaged files to DIR/quarantine and returns where they went."""
        moved = []
        for line in self.check():
            path = line.partition(": ")[0]
            target = os.path.join(
                self.path, "quarantine", os.path.relpath(path, self.path).replace(os.sep, "-")
            )
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(path, target)
            moved.append(target)
        return moved

    def export(
        self,
        folder: str,
        tables: Iterable[str] = TABLES,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[str]:
        """Writes <table>.parquet for each table with rows: an input of `wellfed diagnose --data`."""
        os.makedirs(folder, exist_ok=True)
        written = []
        for name in tables:
            frame = self.scan(name, start, end).sort(keys(TABLES[name])).collect(engine="streaming")
            if frame.height:
                path = os.path.join(folder, f"{name}.parquet")
                frame.write_parquet(path, compression="zstd", compression_level=1)
                written.append(path)
        return written

    def _open(self) -> None:
        format_ = os.path.join(self.path, _FORMAT)
        try:
            os.makedirs(self.path, exist_ok=True)
            if not os.path.exists(format_) and set(os.listdir(self.path)) - {"lock"}:
                raise UserError(
                    f"{self.path} is no Wellfed store and not empty; name another folder with --data"
                )
            self._lock = lock(os.path.join(self.path, "lock"), self.path)
            if not os.path.exists(format_):
                replace(format_, json.dumps({"version": 1}).encode())
        except OSError as error:
            raise UserError(f"cannot write the store {self.path}: {error.strerror or error}") from error
        for folder, _, names in os.walk(self.path):
            for name in names:
                if name.endswith(".tmp"):
                    os.unlink(os.path.join(folder, name))

    def _hot(self, table: str, hour: str) -> str:
        return os.path.join(self.path, "hot", table, hour)

    def _listing(self, *parts: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self.path, *parts)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _sealed(self, table: str) -> dict[str, str]:
        names = self._listing(table)
        gone = {name.removesuffix(_GONE) for name in names if name.endswith(_GONE)}
        return {
            name.removesuffix(".parquet"): os.path.join(self.path, table, name)
            for name in names
            if name.endswith(".parquet") and name not in gone
        }

    def _given_up(self) -> list[str]:
        return [
            os.path.join(self.path, table, name.removesuffix(_GONE))
            for table in TABLES
            for name in self._listing(table)
            if name.endswith(_GONE)
        ]

    def _hours(self, table: str) -> set[str]:
        return {*self._sealed(table), *self._listing("hot", table)}

    def _files(self) -> Iterator[tuple[str, str]]:
        for table in TABLES:
            for path in self._sealed(table).values():
                yield path, table
            for hour in self._listing("hot", table):
                for path in self._ticks(table, hour):
                    yield path, table

    def _ticks(self, table: str, hour: str) -> list[str]:
        names = self._listing("hot", table, hour)
        return [os.path.join(self._hot(table, hour), name) for name in names if name.endswith(".arrow")]

    def _scan(self, table: Table, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
        parts = []
        # Hot before sealed: an hour sealed in between is then in the second listing.
        hot = set(self._listing("hot", table.name))
        sealed = self._sealed(table.name)
        plain = []
        for hour in sorted({*sealed, *hot}):
            begin = _parse_hour(hour)
            if (end and begin > end) or (start and begin + timedelta(hours=1) < start):
                continue
            if hour not in hot:
                plain.append(sealed[hour])
                continue
            frame = self._merged(table, hour)
            if frame is not None:
                parts.append(frame.lazy())
        parts += [conform(self._parquet(path), table, path) for path in plain if self._readable(path)]
        if not parts:
            return pl.LazyFrame(schema=schema(table))
        rows = pl.concat(parts)
        if start is not None:
            rows = rows.filter(pl.col("ts") > start)
        return rows.filter(pl.col("ts") <= end) if end is not None else rows

    def _parquet(self, path: str) -> pl.LazyFrame:
        return pl.scan_parquet(path, glob=False)

    def _readable(self, path: str) -> bool:
        try:
            pl.read_parquet_schema(path)
        except FileNotFoundError:
            raise
        except (pl.exceptions.PolarsError, OSError) as error:
            self._problem(path, error)
            return False
        return True

    def _merged(self, table: Table, hour: str) -> pl.DataFrame | None:
        """An hour with hot ticks, each key once; None when it holds nothing that can be read.

        Ticks are listed first and the sealed file is opened after: whatever a seal takes away in between is
        either in the file then or raises FileNotFoundError here, and the reader starts over.
        """
        ticks = self._ticks(table.name, hour)
        sealed = self._sealed(table.name).get(hour)
        frames = []
        if sealed is not None and self._readable(sealed):
            through = int(pl.read_parquet_metadata(sealed).get(_THROUGH, "0"))
            ticks = [tick for tick in ticks if _number(tick) > through]
            frames.append(_load(sealed))
        for path in ticks:
            try:
                frames.append(_load(path))
            except FileNotFoundError:
                raise
            except (pl.exceptions.PolarsError, OSError, EOFError) as error:
                self._problem(path, error)
        if not frames:
            return None
        rows = [conform(frame.lazy(), table, hour).collect() for frame in frames]
        return pl.concat(rows).unique(keys(table), keep="last", maintain_order=True)

    def _seal_hour(self, table: Table, hour: str) -> bool:
        ticks = self._ticks(table.name, hour)
        known = len(self.problems)
        frame = self._merged(table, hour)
        if len(self.problems) > known:
            # A damaged tick stays where it is until `repair`; the rest is sealed with the next try.
            return False
        if frame is not None and ticks:
            by = [name for name in keys(table) if name not in ("ts", "host")]
            path = os.path.join(self.path, table.name, f"{hour}.parquet")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            through = max(map(_number, ticks))
            temporary = path + ".tmp"
            frame.sort([*by, "host", "ts"]).write_parquet(
                temporary,
                compression="zstd",
                compression_level=1,
                row_group_size=_ROW_GROUP,
                metadata={_THROUGH: str(through)},
            )
            publish(temporary, path)
        for tick in ticks:
            os.unlink(tick)
        try:
            os.rmdir(self._hot(table.name, hour))
        except OSError:
            # A tick arrived meanwhile: the hour stays hot.
            return False
        return True

    def _problem(self, path: str, error: Exception) -> None:
        text = f"{path}: {_first_line(error)}"
        if text not in self.problems:
            self.problems.append(text)


def _number(tick: str) -> int:
    return int(os.path.basename(tick).removesuffix(".arrow"))


def _load(path: str) -> pl.DataFrame:
    if path.endswith(".parquet"):
        return pl.read_parquet(path, glob=False)
    return pl.read_ipc(path)


def _write(path: str, frame: pl.DataFrame) -> None:
    temporary = path + ".tmp"
    try:
        frame.write_ipc(temporary, compression="lz4")
        publish(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _parse_hour(hour: str) -> datetime:
    try:
        return datetime.strptime(hour, _HOUR).replace(tzinfo=UTC)
    except ValueError:
        # A foreign file between ours: as old as can be, so it is pruned from every range.
        return datetime.min.replace(tzinfo=UTC)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
