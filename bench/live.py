"""What judging one window costs, beside the window's ten seconds; and a range of them later. It only prints.

    python -m bench.live [--gpus 1024 10240] [--windows 24]

Windows of a simulated fleet come one by one into a store; after each, `Live.update` says what it lost: reads,
judges, counts, and writes its state and its verdicts. Then all windows are asked for as one range, from the kept
verdicts and diagnosed anew. Fleets above 1,024 GPUs are that many laid out several times under other
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

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.judged import kept
from wellfed.analysis.live import Live
from wellfed.analysis.scenarios import FleetStream
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.collectors.catalog import TABLES
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
        answers = [asked(store, anew) for anew in (False, True)]
        state = judge.state
        assert state is not None
        state_bytes = len(pickle.dumps((state.draws, state.levels, state.baselines, state.debounce)))
        print(
            f"{base * copies:8,}{_middle(took[2:]):10.2f}{max(took[2:]):10.2f}{_middle(worked[2:]):10.2f}"
            f"{scrape:10.2f}{size / 2**20:10.1f}{state_bytes / (base * copies):10.0f}{len(live.findings):10}"
            f"{answers[0]:10.2f}{answers[1]:10.2f}",
            flush=True,
        )


def asked(store: Store, anew: bool) -> float:
    """Seconds that an answer over all windows takes: from the kept verdicts, or diagnosed anew."""
    began = time.perf_counter()
    known = None if anew else kept(store.scan, None, None)
    assert anew or known
    tables = {name: store.scan(name).collect(engine="streaming").lazy() for name in TABLES}
    diagnose(tables, judged=known.partial if known else None)
    return time.perf_counter() - began


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1024, 10240])
    parser.add_argument("--windows", type=int, default=24)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; seconds")
    print("    GPUs    median     worst       CPU    scrape page, MiB  B a GPU  findings      kept      anew")
    for gpus in options.gpus:
        measure(gpus, options.windows)


if __name__ == "__main__":
    main()
