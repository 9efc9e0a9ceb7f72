"""`wellfed diagnose`: reads a store, Parquet files or a Prometheus and prints who was starved by what."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from wellfed.analysis.diagnose import Diagnosis
from wellfed.analysis.diagnose import diagnose as answer
from wellfed.analysis.inputs import read_tables
from wellfed.analysis.promql import annotate, read
from wellfed.analysis.report import render_text
from wellfed.errors import UserError
from wellfed.options import DEFAULT_DATA
from wellfed.progress import progress
from wellfed.source import reader

__all__ = ["diagnose"]


#: What --prometheus reads unless --from says more, and all that a store holds is not asked for.
DEFAULT_RANGE = timedelta(hours=1)


def diagnose(options: Mapping[str, object]) -> int:
    """Prints the diagnosis as text, or as the JSON document with --json. Returns the exit status."""
    start, end = options.get("from"), options.get("to")
    assert start is None or isinstance(start, datetime)
    assert end is None or isinstance(end, datetime)
    if start and end and start >= end:
        raise UserError("--from is not before --to")
    if options.get("prometheus"):
        if options.get("data"):
            raise UserError("--data and --prometheus are two sources: give one")
        diagnosis = _of_server(options, start, end)
    else:
        diagnosis = _of_files(options, start, end)
    if options.get("json"):
        json.dump(diagnosis.document, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    else:
        width = min(120, shutil.get_terminal_size((100, 24)).columns)
        sys.stdout.write(render_text(diagnosis, width))
    return 0


def _of_files(options: Mapping[str, object], start: datetime | None, end: datetime | None) -> Diagnosis:
    path = str(options.get("data") or DEFAULT_DATA)
    if not options.get("data") and not os.path.isdir(path):
        raise UserError(f"no local store at {path} yet: run `wellfed up`, or name a folder with --data")
    with progress(f"reading {path}"):
        tables = read_tables(path, start, end)
    try:
        with progress("diagnosing"):
            return answer(tables, start=start, end=end, price=_price(options))
    except (OSError, pl.exceptions.ComputeError) as error:
        # Damage inside a file shows only when its rows are read.
        raise UserError(f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}") from error


def _of_server(options: Mapping[str, object], start: datetime | None, end: datetime | None) -> Diagnosis:
    end = end or datetime.now(UTC)
    start = start or end - DEFAULT_RANGE
    if start >= end:
        raise UserError("--from is not before --to")
    source = reader(options)
    with tempfile.TemporaryDirectory(prefix="wellfed-") as folder:
        with progress(f"reading {source.api.url}") as tell:
            reading = read(source, start, end, folder, tell)
        with progress("diagnosing"):
            diagnosis = answer(reading.tables, start=start, end=end, price=_price(options))
    annotate(diagnosis.document, reading)
    return diagnosis


def _price(options: Mapping[str, object]) -> float | None:
    price = options.get("price")
    assert price is None or isinstance(price, float)
    return price
