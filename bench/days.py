"""What a page over many hours costs: `python -m bench.days [--gpus 1024] [--hours 24]`. It only prints.

One hour of a simulated fleet is judged as by a hub and laid out `hours` times, one after the other. A process
of its own then answers for the last hour and for all of them, as the first visitor of a page does: seconds,
peak memory, the step that the page shows.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

import polars as pl

from wellfed.analysis.judged import JUDGED
from wellfed.analysis.live import Live
from wellfed.analysis.scenarios import FleetStream
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.collectors.catalog import TABLES
from wellfed.dashboard.data import StoreSource
from wellfed.dashboard.ranges import parse_range

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
#: Windows that are judged at once: as many as a hub finds after a short pause.
TOGETHER = 24


def judged_hour(folder: str, gpus: int) -> dict[str, pl.DataFrame]:
    """All tables of one hour."""
    with Store(folder) as store:
        live = Live(store, Streaming(store))
        parts: list[dict[str, pl.DataFrame]] = []
        for number, window in enumerate(FleetStream(seed=1, gpus=gpus, start=START)):
            parts.append(window)
            if len(parts) == TOGETHER:
                store.append({name: pl.concat(p[name] for p in parts) for name in window})
                ends = window["host"]["ts"].max()
                assert isinstance(ends, datetime)
                live.update(ends)
                parts = []
            if number == 359:
                break
        return {name: store.scan(name).collect() for name in (*TABLES, *JUDGED)}


def later(rows: pl.DataFrame, by: timedelta) -> pl.DataFrame:
    """The same rows so much later."""
    stamps = [
        pl.col(name) + by.total_seconds() * 1000 for name in ("since", "confirmed") if name in rows.columns
    ]
    return rows.with_columns(pl.col("ts") + by, *stamps)


def ask(folder: str, hours: int, end: datetime) -> None:
    """Answers once and prints a row."""
    with Store(folder, readonly=True) as store:
        start = end - hours * HOUR
        began = time.perf_counter()
        answer = StoreSource(store).answer(parse_range(start.isoformat(), end.isoformat(), end))
        took = time.perf_counter() - began
    document = answer.diagnosis.document
    print(
        f"{hours:6}{took:10.2f}{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:8.2f}"
        f"{document['window_seconds']:8.0f}{answer.diagnosis.windows.height:10,}{len(document['findings']):10}"
        f"{document['totals']['lost_seconds'] / 3600:12.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1024)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--ask", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        folder, hours, end = options.ask
        ask(folder, int(hours), datetime.fromisoformat(end))
        return
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as all_:
        hour = judged_hour(one, options.gpus)
        with Store(all_) as store:
            for number in range(options.hours):
                store.append({name: later(rows, number * HOUR) for name, rows in hour.items()})
                store.seal(START + (number + 2) * HOUR)
        end = START + options.hours * HOUR
        print(f"{os.cpu_count()} cores, {options.gpus:,} GPUs")
        print(" hours   seconds     GiB    step   windows  findings  GPU-h lost")
        for hours in sorted({1, min(3, options.hours), options.hours}):
            command = [sys.executable, "-m", "bench.days", "--ask", all_, str(hours), end.isoformat()]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
