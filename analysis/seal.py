"""What happens to a store's hours as they age: sealed into one Parquet file, then expired.

Works on the files of wellfed.analysis.segments, on behalf of the store's only writer. guard: the writer's
append lock, held for moments, so that appends never wait for a merge. Readers need no lock: a sealed file
replaces its predecessor in one rename and names the last hot file it holds.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta

from wellfed.analysis.judged import STORED
from wellfed.analysis.schema import keys
from wellfed.analysis.segments import DAMAGE, Layout, encode_sealed, hour_name, hour_start, place, through
from wellfed.analysis.snapshot import Reader, Report, merge
from wellfed.collectors.catalog import Table

__all__ = ["expire", "finish", "quarantine", "seal_hour"]


def seal_hour(layout: Layout, table: Table, hour: str, guard: threading.Lock, report: Report) -> bool:
    """Merges the hour's hot files into its sealed file; True when there was something to merge.

    Damaged files go to the quarantine folder, so that the merge does not lose them. Raises OSError, and
    the hour is then as it was.
    """
    with guard:
        names = layout.hot_files(table.name, hour)
    if not names:
        return False
    damaged: list[str] = []

    def note(path: str, why: str) -> None:
        damaged.append(path)
        report(path, why)

    # A file appended from here on may be merged already but stays hot: readers take its rows once.
    view = Reader(layout, note).view(table, hour)
    try:
        for path in dict.fromkeys(damaged):
            quarantine(layout, path)
        if view.hot:
            rows = merge(table, view).collect(engine="streaming").sort(keys(table))
            place({layout.sealed(table.name, hour): encode_sealed(rows, names[-1].seq)}, layout.tmp)
    finally:
        view.close()
    finish(layout, table, hour, guard)
    return bool(view.hot)


def finish(layout: Layout, table: Table, hour: str, guard: threading.Lock) -> None:
    """Removes the hot files that the hour's sealed file holds; a killed writer may have left some."""
    folder = layout.hot(table.name, hour)
    with guard:
        try:
            with open(layout.sealed(table.name, hour), "rb") as file:
                done = through(file)
        except (*DAMAGE, ValueError):
            done = -1
        for name in layout.hot_files(table.name, hour):
            if name.seq <= done:
                os.unlink(os.path.join(folder, str(name)))
        if os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)


def quarantine(layout: Layout, path: str) -> str:
    """Moves a file out of the readers' sight, never over another; returns its new path."""
    target = os.path.join(layout.quarantine, layout.relative(path).replace(os.sep, "-"))
    os.makedirs(layout.quarantine, exist_ok=True)
    number = 1
    while os.path.exists(target):
        number += 1
        target = f"{target.removesuffix(f'.{number - 1}')}.{number}"
    os.replace(path, target)
    return target


def expire(
    layout: Layout, age: timedelta | None, size: int | None, now: datetime, guard: threading.Lock
) -> int:
    """Removes sealed hours, the oldest first and all tables of an hour together; returns how many files.

    An hour goes when it ended more than `age` before now, or while sealed and hot files together exceed
    `size` bytes. Hot files stay, and so does the hour of now.
    """
    sealed: dict[str, list[Table]] = {}
    total = 0
    for table in STORED.values():
        for hour in layout.sealed_hours(table.name):
            sealed.setdefault(hour, []).append(table)
            total += os.stat(layout.sealed(table.name, hour)).st_size
        for hour in layout.hot_hours(table.name):
            with os.scandir(layout.hot(table.name, hour)) as entries:
                total += sum(entry.stat().st_size for entry in entries)
    gone = 0
    for hour in sorted(sealed):
        old = age is not None and hour_start(hour) + timedelta(hours=1) < now - age
        if hour >= hour_name(now) or not (old or (size is not None and total > size)):
            continue
        for table in sealed[hour]:
            # Leftovers first: without the sealed file that names them they would count as rows again.
            finish(layout, table, hour, guard)
            path = layout.sealed(table.name, hour)
            total -= os.stat(path).st_size
            os.unlink(path)
            gone += 1
    return gone
