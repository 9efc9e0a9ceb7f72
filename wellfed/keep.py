"""`wellfed store check|repair|export`: look after a store, or take tables out of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime

from wellfed.analysis.lake import is_url
from wellfed.analysis.store import Store, is_store
from wellfed.errors import UserError
from wellfed.options import DEFAULT_DATA
from wellfed.progress import progress

__all__ = ["store"]


def store(options: Mapping[str, object]) -> int:
    """Runs one action; `check` returns 1 when a file is damaged."""
    path = str(options.get("data") or DEFAULT_DATA)
    if not is_store(path):
        raise UserError(f"{path} holds no store; name one with --data")
    action = options["action"]
    if action == "check":
        return _check(path)
    if action == "repair":
        return _repair(path)
    return _export(path, options)


def _check(path: str) -> int:
    with progress(f"reading {path}"):
        damaged = Store(path, readonly=True).check()
    print("\n".join(damaged) if damaged else f"{path}: every file is whole")
    return 1 if damaged else 0


def _repair(path: str) -> int:
    with progress(f"reading {path}"), Store(path) as writable:
        moved = writable.repair()
    print("\n".join(moved) if moved else f"{path}: nothing to repair")
    return 0


def _export(path: str, options: Mapping[str, object]) -> int:
    target, start, end = options.get("out"), options.get("from"), options.get("to")
    if not target:
        raise UserError("wellfed store export needs --out DIR")
    assert start is None or isinstance(start, datetime)
    assert end is None or isinstance(end, datetime)
    folder = str(target)
    if not is_url(folder) and os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"{folder} is not empty; name a new folder with --out")
    with progress(f"exporting to {folder}"):
        written = Store(path, readonly=True).export(folder, start=start, end=end)
    for name, rows in written.items():
        print(f"{name}: {rows:,} rows")
    if not written:
        print("no rows in this range", file=sys.stderr)
    return 0
