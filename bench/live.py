"""What one live window costs: `Live.update` on a simulated fleet, and how its state grows.

Run as `python bench/live.py [GPUs]`; prints a table, asserts nothing. The fleet is one of 1,024 GPUs laid out
several times under other names, because simulating takes longer than diagnosing.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from itertools import islice
from time import perf_counter, process_time

import polars as pl

from wellfed.analysis.live import Live
from wellfed.analysis.scenarios import FleetStream

BASE = 1024
WINDOWS = 40
NAMES = ("host", "gpu", "job", "parent", "server", "mount")


def several(tables: Mapping[str, pl.DataFrame], copies: int) -> dict[str, pl.LazyFrame]:
    """The same hosts `copies` times, each under its own name."""
    found = {}
    for name, rows in tables.items():
        named = [c for c in NAMES if c in rows.columns and not (name == "mount" and c == "mount")]
        found[name] = pl.concat(
            rows.with_columns(pl.col(c) + f"-{copy}" for c in named) for copy in range(copies)
        ).lazy()
    return found


def main() -> None:
    """Milliseconds a window, p50 and worst, and bytes of state a GPU."""
    gpus = int(sys.argv[1]) if len(sys.argv) > 1 else 10_240
    base, copies = min(gpus, BASE), max(1, gpus // BASE)
    live, took, worked, sizes = Live(), [], [], []
    for index, window in enumerate(islice(FleetStream(gpus=base), WINDOWS)):
        tables = several(window, copies)
        began, busy = perf_counter(), process_time()
        verdict = live.update(tables)
        took.append(perf_counter() - began)
        worked.append(process_time() - busy)
        if index in (WINDOWS // 2, WINDOWS - 1):
            sizes.append(len(pickle.dumps((live.state.levels, live.state.baselines, live.state.debounce))))
    ordered = sorted(took[2:])
    print(f"{base * copies} GPUs, {WINDOWS} windows, {len(verdict.findings)} findings open at the end")
    print(f"one window     p50 {1e3 * ordered[len(ordered) // 2]:7.0f} ms, worst {1e3 * ordered[-1]:.0f} ms")
    cpu = sorted(worked[2:])
    print(
        f"of it CPU time p50 {1e3 * cpu[len(cpu) // 2]:7.0f} ms, worst {1e3 * cpu[-1]:.0f} ms, all cores together"
    )
    print(
        f"state          {sizes[-1] / gpus:7.0f} bytes a GPU, {sizes[-1] / sizes[0]:.3f} x that of half the windows"
    )


if __name__ == "__main__":
    main()
