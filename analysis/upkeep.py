"""What `wellfed store` offers: check every byte of a store, set damaged files aside, export plain Parquet.

Works on the files of wellfed.analysis.segments. Check and export need no lock and disturb no writer. Export
writes `<table>.parquet`, which `wellfed diagnose --data` and anything that knows Parquet read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from wellfed.analysis.judged import STORED
from wellfed.analysis.schema import keys
from wellfed.analysis.segments import DAMAGE, Hot, Layout, hour_start
from wellfed.analysis.snapshot import Reader, View, merge
from wellfed.collectors.catalog import Table
from wellfed.errors import UserError

__all__ = ["Damage", "export", "inspect"]


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that readers leave out or should not trust."""

    path: str
    text: str


def inspect(layout: Layout) -> list[Damage]:
    """Every damaged or foreign file of the store, found by reading all of them."""
    found: list[Damage] = []
    for table in STORED.values():
        for hour in layout.hours(table.name):
            found += _inspect_hour(layout, table, hour)
        found += _strangers(layout, table)
    return found


def export(frames: Mapping[str, pl.LazyFrame], dest: str) -> dict[str, int]:
    """Writes each table to dest/<table>.parquet; returns path -> rows.

    Memory: one hour of one table. Raises UserError, before anything is written, when such a file exists.
    """
    try:
        os.makedirs(dest, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot export to {dest}: {error.strerror}") from error
    for table in frames:
        if os.path.lexists(os.path.join(dest, f"{table}.parquet")):
            raise UserError(f"{dest} already holds {table}.parquet; export to an empty folder")
    rows: dict[str, int] = {}
    for table, frame in frames.items():
        target = os.path.join(dest, f"{table}.parquet")
        try:
            frame.sink_parquet(target + ".tmp", compression="zstd", compression_level=1, engine="streaming")
            rows[target] = pl.scan_parquet(target + ".tmp", glob=False).select(pl.len()).collect().item()
            os.replace(target + ".tmp", target)
        finally:
            if os.path.exists(target + ".tmp"):
                os.unlink(target + ".tmp")
    return rows


def _inspect_hour(layout: Layout, table: Table, hour: str) -> Iterable[Damage]:
    faults: dict[str, str] = {}
    view = Reader(layout, faults.__setitem__).view(table, hour)
    try:
        if view.sealed is not None and (fault := _row_fault(table, View(hour, view.sealed, view.exact, []))):
            faults[layout.sealed(table.name, hour)] = fault
    finally:
        view.close()
    return [Damage(path, f"{path} is damaged: {why}") for path, why in faults.items()]


def _row_fault(table: Table, view: View) -> str | None:
    """What is wrong with the rows of a sealed file, all columns decoded."""
    in_hour = pl.col("ts").dt.truncate("1h") == hour_start(view.hour)
    try:
        facts = (
            merge(table, view)
            .select(
                pl.all().count().name.prefix("count "),
                rows=pl.len(),
                strays=in_hour.not_().sum() + pl.col("ts").null_count(),
                repeats=pl.struct(keys(table)).is_duplicated().sum(),
            )
            .collect(engine="streaming")
        )
    except (*DAMAGE, UserError) as error:
        return str(error).splitlines()[0]
    if strays := facts["strays"].item():
        return f"{strays} of {facts['rows'].item()} rows belong to another hour"
    if repeats := facts["repeats"].item():
        return f"{repeats} of {facts['rows'].item()} rows occur more than once"
    return None


def _strangers(layout: Layout, table: Table) -> Iterable[Damage]:
    """Files that no writer put there."""
    known = {layout.sealed(table.name, hour) for hour in layout.sealed_hours(table.name)}
    folders = [os.path.join(layout.root, table.name)]
    folders += [layout.hot(table.name, hour) for hour in layout.hot_hours(table.name)]
    for folder in folders:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.path not in known and Hot.parse(entry.name) is None:
                yield Damage(entry.path, f"{entry.path} does not belong to the store")
