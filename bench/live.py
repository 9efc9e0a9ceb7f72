"""What judging one window costs, beside the window's ten seconds. It only prints.

    python -m bench.live [--gpus 1024 10240] [--windows 24]

Windows of a simulated fleet come one by one into a store; after each, `Live.update` says what it lost: reads,
judges, counts, and writes its state. Fleets above 1,024 GPUs are that many laid out several times under other
names, because simulating takes longer than judging.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice

import polars as pl

from wellfed.analysis.live import Live
from wellfed.analysis.scenarios import FleetStream
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.collectors.exposition import Exposition
from wellfed.verdicts import verdicts

START = datetime(2026, 3, 1, tzinfo=UTC)
BASE = 1024
NAMES = ("host", "gpu", "job", "parent", "server")


def several(tables: Mapping[str, pl.DataFrame], copies: int) -> dict[str, pl.DataFrame]:
    """The same hosts `copies` times, each under its own name."""
    return {
        name: pl.concat(
            rows.with_columns(pl.col(c) + f"-{copy}" for c in NAMES if c in rows.columns)
            for copy in range(copies)
        )
        for name, rows in tables.items()
    }


def measure(gpus: int, windows: int) -> None:
    """Prints a row: seconds an update (median and worst, without the first two), a scrape, and the state."""
    base, copies = min(gpus, BASE), max(1, gpus // BASE)
    took, worked = [], []
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        judge = Streaming(store)
        live = Live(store, judge)
        for window in islice(FleetStream(seed=1, gpus=base, start=START), windows):
            store.append(several(window, copies))
            ends = window["host"]["ts"].max()
            assert isinstance(ends, datetime)
            began, busy = time.perf_counter(), time.process_time()
            live.update(ends)
            took.append(time.perf_counter() - began)
            worked.append(time.process_time() - busy)
        began = time.perf_counter()
        size = len(Exposition().render((), verdicts(live)))
        scrape = time.perf_counter() - began
        state = judge.state
        assert state is not None
        kept = len(pickle.dumps((state.draws, state.levels, state.baselines, state.debounce)))
        print(
            f"{base * copies:8,}{_middle(took[2:]):10.2f}{max(took[2:]):10.2f}{_middle(worked[2:]):10.2f}"
            f"{scrape:10.2f}{size / 2**20:10.1f}{kept / (base * copies):10.0f}{len(live.findings):10}",
            flush=True,
        )


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1024, 10240])
    parser.add_argument("--windows", type=int, default=24)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; seconds")
    print("    GPUs    median     worst       CPU    scrape page, MiB  B a GPU  findings")
    for gpus in options.gpus:
        measure(gpus, options.windows)


if __name__ == "__main__":
    main()
