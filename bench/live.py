"""What judging one window costs, beside the window's ten seconds. It only prints.

    python -m bench.live [--gpus 1024 10240]

A simulated fleet fills a store with as much as one judgement looks at; then windows come one by one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta

from wellfed.analysis.live import LOOK_BACK, ROWS, SHORTEST, Live, LookBack
from wellfed.analysis.scenarios import FleetStream
from wellfed.analysis.store import Store
from wellfed.collectors.exposition import Exposition
from wellfed.verdicts import verdicts

START = datetime(2026, 3, 1, tzinfo=UTC)


def measure(gpus: int) -> None:
    """Fills a store, then times three windows and a scrape after them."""
    back = min(LOOK_BACK, max(SHORTEST, timedelta(seconds=10 * ROWS / gpus)))
    stream = FleetStream(seed=1, gpus=gpus, start=START)
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        for part in stream.history(int(back.total_seconds())):
            store.append(part)
        live = Live(store, LookBack(store))
        took = []
        for window in stream:
            store.append(window)
            ends = window["host"]["ts"].max()
            assert isinstance(ends, datetime)
            began = time.perf_counter()
            live.update(ends)
            took.append(time.perf_counter() - began)
            if len(took) == 4:
                break
        began = time.perf_counter()
        size = len(Exposition().render((), verdicts(live)))
        scrape = time.perf_counter() - began
    # The first update counts everything before it.
    print(
        f"{gpus:8,}{back.total_seconds() / 60:12.0f}{min(took[1:]):12.2f}{scrape:12.2f}{size / 2**20:10.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1024, 10240])
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores\n    GPUs  looks, min   window, s   scrape, s  page, MiB")
    for gpus in options.gpus:
        measure(gpus)


if __name__ == "__main__":
    main()
