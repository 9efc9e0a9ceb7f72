"""The store's files: what they are called, how one is written whole or not at all, how damage shows.

    DIR/wellfed-store.json                  format version
    DIR/<table>/<hour>.parquet              sealed: the hour's rows, each once, sorted by key and ts
    DIR/hot/<table>/<hour>/<seq>-<a>-<b>-<shape>-<crc>.arrow    hot: the rows of one append (IPC, lz4)
    DIR/tmp/                                being written; emptied when a writer starts
    DIR/quarantine/                         damaged files, set aside

<hour> is `YYYY-MM-DDTHH` in UTC and holds the rows whose `ts` lies in it. <seq> only grows. <a> and <b> are
the first and last `ts` in milliseconds since the hour: a look at the last minute opens the last minute's
files. <shape> tells files of the same columns, which are decoded together. A sealed file names in its
metadata the last <seq> merged into it (`wellfed.through`): hot files up to that one are leftovers. Both kinds
carry a CRC-32 of their bytes, hot files in the name, sealed ones in `wellfed.crc32`, computed with that
value as eight zeros.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import BinaryIO

import polars as pl

__all__ = [
    "DAMAGE",
    "FORMAT",
    "Hot",
    "Layout",
    "encode_hot",
    "encode_sealed",
    "hour_name",
    "hour_start",
    "intact",
    "place",
    "read_hot",
    "shape",
    "through",
]

FORMAT = 1
ROW_GROUP = 131_072
_HOUR = "%Y-%m-%dT%H"
_THROUGH = "wellfed.through"
_CRC = "wellfed.crc32"
_NO_CRC = b"00000000"

#: What Polars raises on bytes that are not what they claim to be; its decoders may also panic.
DAMAGE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError)


def hour_name(ts: datetime) -> str:
    """`2025-01-31T07`; names sort as times do. ts: with a time zone."""
    return ts.astimezone(UTC).strftime(_HOUR)


def hour_start(name: str) -> datetime:
    """The hour's first instant, UTC. Raises ValueError when the name is not an hour."""
    if len(name) != 13 or name[10] != "T":
        raise ValueError(f"{name} is not an hour")
    return datetime.fromisoformat(name).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, order=True)
class Hot:
    """The name of a hot file. first, last: `ts` bounds in milliseconds since the hour."""

    seq: int
    first: int
    last: int
    shape: int
    crc: int

    def __str__(self) -> str:
        return f"{self.seq:020d}-{self.first:07d}-{self.last:07d}-{self.shape:08x}-{self.crc:08x}.arrow"

    @classmethod
    def parse(cls, name: str) -> Hot | None:
        """None for a name that no writer gave."""
        parts = name.removesuffix(".arrow").split("-")
        try:
            seq, first, last, shape, crc = parts
            hot = cls(int(seq), int(first), int(last), int(shape, 16), int(crc, 16))
        except ValueError:
            return None
        return hot if str(hot) == name else None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie below the store's folder."""

    root: str

    @property
    def marker(self) -> str:
        return os.path.join(self.root, "wellfed-store.json")

    @property
    def lock(self) -> str:
        return os.path.join(self.root, "lock")

    @property
    def tmp(self) -> str:
        return os.path.join(self.root, "tmp")

    @property
    def quarantine(self) -> str:
        return os.path.join(self.root, "quarantine")

    def sealed(self, table: str, hour: str) -> str:
        return os.path.join(self.root, table, hour + ".parquet")

    def hot(self, table: str, hour: str) -> str:
        return os.path.join(self.root, "hot", table, hour)

    def sealed_hours(self, table: str) -> list[str]:
        """Sorted names of the hours that have a sealed file."""
        names = _listdir(os.path.join(self.root, table))
        return sorted(n.removesuffix(".parquet") for n in names if n.endswith(".parquet") and _is_hour(n))

    def hot_hours(self, table: str) -> list[str]:
        """Sorted names of the hours that have a folder of hot files."""
        return sorted(filter(_is_hour, _listdir(os.path.join(self.root, "hot", table))))

    def hours(self, table: str) -> list[str]:
        """Sorted names of all hours of a table."""
        # Hot first: an hour that is sealed between the two listings is then seen twice, not never.
        return sorted({*self.hot_hours(table), *self.sealed_hours(table)})

    def hot_files(self, table: str, hour: str) -> list[Hot]:
        """The hour's hot files in the order they were appended."""
        return sorted(filter(None, map(Hot.parse, _listdir(self.hot(table, hour)))))

    def relative(self, path: str) -> str:
        return os.path.relpath(path, self.root)


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _is_hour(name: str) -> bool:
    try:
        hour_start(name.removesuffix(".parquet"))
    except ValueError:
        return False
    return True


def shape(columns: pl.Schema) -> int:
    """A number for names and types of columns; another version of Polars may give another one."""
    return zlib.crc32(repr(list(columns.items())).encode())


def encode_hot(frame: pl.DataFrame, hour: str, seq: int) -> tuple[Hot, bytes]:
    """A hot file's name and bytes. frame: at least one row, all of the hour."""
    buffer = BytesIO()
    frame.write_ipc(buffer, compression="lz4")
    data = buffer.getvalue()
    since = frame["ts"].dt.epoch("ms") - int(hour_start(hour).timestamp() * 1000)
    first, last = since.min(), since.max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    return Hot(seq, first, last, shape(frame.schema), zlib.crc32(data)), data


def read_hot(path: str, hot: Hot) -> bytes:
    """A hot file's bytes. Raises FileNotFoundError, or OSError when they are not those that were written."""
    with open(path, "rb", buffering=0) as file:
        data = file.read()
    if zlib.crc32(data) != hot.crc:
        raise OSError("checksum mismatch")
    return data


def encode_sealed(frame: pl.DataFrame, last_seq: int) -> memoryview:
    """The bytes of a sealed file, with the last sequence number merged and the checksum in its metadata."""
    buffer = BytesIO()
    frame.write_parquet(
        buffer,
        compression="zstd",
        compression_level=6,
        row_group_size=ROW_GROUP,
        metadata={_THROUGH: str(last_seq), _CRC: _NO_CRC.decode()},
    )
    data = buffer.getbuffer()
    at = _crc_position(data)
    if at is None or bytes(data[at : at + 8]) != _NO_CRC:
        raise RuntimeError("Polars wrote the Parquet metadata in an unknown shape")
    data[at : at + 8] = b"%08x" % zlib.crc32(data)
    return data


def _crc_position(data: memoryview) -> int | None:
    """Where the checksum's digits are. The footer's length stands in the 4 bytes before the final `PAR1`."""
    footer = int.from_bytes(data[-8:-4], "little")
    start = max(0, len(data) - 8 - footer)
    # In Thrift's compact protocol a value follows its key after a field header and a length, one byte each.
    at = bytes(data[start:]).rfind(_CRC.encode())
    return start + at + len(_CRC) + 2 if at >= 0 else None


def intact(file: BinaryIO) -> bool:
    """Whether a sealed file's bytes are those that were written; one without checksum must decode."""
    if os.fstat(file.fileno()).st_size < 12:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
        return _intact(data)


def _intact(data: memoryview) -> bool:
    if bytes(data[-4:]) != b"PAR1":
        return False
    at = _crc_position(data)
    if at is not None:
        crc = zlib.crc32(data[at + 8 :], zlib.crc32(_NO_CRC, zlib.crc32(data[:at])))
        return bytes(data[at : at + 8]) == b"%08x" % crc
    if _THROUGH.encode() in bytes(data):
        # Ours, and the damage is in the name of the checksum itself.
        return False
    try:
        pl.read_parquet(BytesIO(data))
    except DAMAGE:
        return False
    return True


def through(file: BinaryIO) -> int:
    """The last sequence number merged into a sealed file; -1 when another program wrote it.

    Raises one of DAMAGE, or ValueError.
    """
    file.seek(0)
    seq = int(pl.read_parquet_metadata(file).get(_THROUGH, "-1"))
    # Polars reads a file object from where it stands.
    file.seek(0)
    return seq


def place(files: dict[str, bytes | memoryview], tmp: str) -> None:
    """Writes path -> bytes so that each appears whole, on disk for good, or none does.

    Everything is written and synced under tmp before the first rename, so that a full disk is noticed
    while nothing is visible. Raises OSError.
    """
    done: list[str] = []
    staged: dict[str, str] = {}
    try:
        for number, (path, data) in enumerate(files.items()):
            staged[path] = os.path.join(tmp, f"{number}-{os.path.basename(path)}")
            _write(staged[path], data)
        for folder in {os.path.dirname(path) for path in files}:
            _make_folder(folder)
        replaced = {path for path in files if os.path.exists(path)}
        for path, source in staged.items():
            os.replace(source, path)
            if path not in replaced:
                done.append(path)
        for folder in {os.path.dirname(path) for path in files}:
            _sync_folder(folder)
    except BaseException as error:
        for path in (*staged.values(), *done):
            _remove(path)
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f"cannot write to the store: {error.strerror}", error.filename
            ) from error
        raise


def _write(path: str, data: bytes | memoryview) -> None:
    with open(path, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _make_folder(path: str) -> None:
    """mkdir -p, each new folder synced into its parent."""
    if os.path.isdir(path):
        return
    _make_folder(os.path.dirname(path))
    os.makedirs(path, exist_ok=True)
    _sync_folder(os.path.dirname(path))


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
