"""What `--data` may name: a store, or a folder of <table>.parquet files, checked before it is used."""

from __future__ import annotations

import os
from datetime import datetime

import polars as pl

from wellfed.analysis.schema import conform, schema
from wellfed.analysis.store import Store, is_store
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

__all__ = ["read_tables"]


def read_tables(
    path: str, start: datetime | None = None, end: datetime | None = None
) -> dict[str, pl.LazyFrame]:
    """Every catalog table, empty where the input has none; rows with start < ts <= end.

    Raises UserError: no such folder, nothing of ours in it, a file that is empty, not Parquet or without the
    key columns, or a column of the wrong type.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such folder")
    if not os.path.isdir(path):
        raise UserError(f"{path} is a file; name the folder that holds <table>.parquet files")
    if is_store(path):
        store = Store(path, readonly=True)
        return {name: store.scan(name, start, end) for name in TABLES}
    try:
        files = set(os.listdir(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not any(f"{name}.parquet" in files for name in TABLES):
        there = ", ".join(sorted(files)[:5]) or "nothing"
        raise UserError(f"{path} holds no table such as gpu.parquet or host.parquet; it holds {there}")
    return {
        name: _bounded(_file(os.path.join(path, f"{name}.parquet"), name), start, end)
        if f"{name}.parquet" in files
        else pl.LazyFrame(schema=schema(table))
        for name, table in TABLES.items()
    }


def _file(path: str, name: str) -> pl.LazyFrame:
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise UserError(f"{path} is empty")
    try:
        frame = pl.scan_parquet(path)
        conformed = conform(frame, TABLES[name], path)
        # Damage below the footer shows only when rows are read.
        conformed.select(pl.len()).collect(engine="streaming")
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as Parquet: {reason}") from error
    return conformed


def _bounded(frame: pl.LazyFrame, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
    if start is not None:
        frame = frame.filter(pl.col("ts") > start)
    return frame.filter(pl.col("ts") <= end) if end is not None else frame
