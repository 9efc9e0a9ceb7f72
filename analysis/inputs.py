"""Where `wellfed diagnose` gets its tables: a store, a folder of `<table>.parquet` files, object storage.

Everything that can be wrong with a folder is found here, before any output: each file is opened, its
columns are checked against the catalog and its `ts` column is read.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import polars as pl

from wellfed.analysis.lake import is_url, read_lake
from wellfed.analysis.schema import conform, schema
from wellfed.analysis.store import Store, is_store
from wellfed.collectors.catalog import TABLES, Table
from wellfed.errors import UserError

__all__ = ["read_tables"]

_EXPECTED = "a Wellfed store, or gpu.parquet, host.parquet and so on"


def read_tables(
    path: str | os.PathLike[str], start: datetime | None = None, end: datetime | None = None
) -> dict[str, pl.LazyFrame]:
    """Every table of the catalog by name, rows with ts in (start, end]; a table without a file is empty.

    Raises UserError, one line, when the folder or a file in it cannot be used, ValueError for a time without
    time zone.
    """
    folder = os.fspath(path)
    if is_url(folder):
        return {name: _between(frame, start, end) for name, frame in read_lake(folder).items()}
    if is_store(folder):
        store = Store(folder, readonly=True)
        return {name: store.scan(name, start, end) for name in TABLES}
    files = _files(folder)
    return {
        name: _between(_read(files[name], table), start, end)
        if name in files
        else schema(table).to_frame().lazy()
        for name, table in TABLES.items()
    }


def _files(folder: str) -> dict[str, str]:
    """Table -> path of its file."""
    if not os.path.exists(folder):
        raise UserError(f"no such folder: {folder}")
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is a file; give the folder that holds {_EXPECTED}")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error
    files = {name: os.path.join(folder, f"{name}.parquet") for name in TABLES if f"{name}.parquet" in names}
    if not files:
        raise UserError(f"nothing to read in {folder}: expected {_EXPECTED}; found {_some(names)}")
    return files


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "no files"


def _read(path: str, table: Table) -> pl.LazyFrame:
    """The file in the catalog's columns. Raises UserError."""
    try:
        with open(path, "rb") as file:
            if not file.read(4):
                raise UserError(f"{path} is empty; expected a Parquet file")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        frame = conform(pl.scan_parquet(path, glob=False), table, path)
        missing = frame.select(pl.col("ts").null_count()).collect(engine="streaming").item()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{path} is not a readable Parquet file: {_reason(error)}") from error
    if missing:
        raise UserError(f"{path}: column ts of table {table.name} is null in {missing} rows")
    return frame


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _between(frame: pl.LazyFrame, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
    for moment in (start, end):
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"{moment} carries no time zone")
    if start is not None:
        frame = frame.filter(pl.col("ts") > start.astimezone(UTC))
    if end is not None:
        frame = frame.filter(pl.col("ts") <= end.astimezone(UTC))
    return frame
