"""`wellfed diagnose`: reads a store or a folder of Parquet files and prints who was starved by what."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime

import polars as pl

from wellfed.analysis.diagnose import diagnose as answer
from wellfed.analysis.inputs import read_tables
from wellfed.analysis.report import render_text
from wellfed.errors import UserError
from wellfed.options import DEFAULT_DATA
from wellfed.progress import progress

__all__ = ["diagnose"]


def diagnose(options: Mapping[str, object]) -> int:
    """Prints the diagnosis as text, or as the JSON document with --json. Returns the exit status."""
    path = str(options.get("data") or DEFAULT_DATA)
    if not options.get("data") and not os.path.isdir(path):
        raise UserError(f"no local store at {path} yet: run `wellfed up`, or name a folder with --data")
    start, end, price = options.get("from"), options.get("to"), options.get("price")
    assert start is None or isinstance(start, datetime)
    assert end is None or isinstance(end, datetime)
    assert price is None or isinstance(price, float)
    if start and end and start >= end:
        raise UserError("--from is not before --to")
    with progress(f"reading {path}"):
        tables = read_tables(path, start, end)
    try:
        with progress("diagnosing"):
            diagnosis = answer(tables, start=start, end=end, price=price)
    except (OSError, pl.exceptions.ComputeError) as error:
        # Damage inside a file shows only when its rows are read.
        raise UserError(f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}") from error
    if options.get("json"):
        json.dump(diagnosis.document, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    else:
        width = min(120, shutil.get_terminal_size((100, 24)).columns)
        sys.stdout.write(render_text(diagnosis, width))
    return 0
