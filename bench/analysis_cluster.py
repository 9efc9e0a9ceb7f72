"""The whole diagnosis of a lake, hour by hour: one process beside Ray with as many cores."""

from __future__ import annotations

import json
import os
import statistics
import time
from datetime import timedelta
from pathlib import Path

from wellfed.analysis import cluster, history
from wellfed.analysis.history import combine, plan
from wellfed.analysis.scenarios import FleetStream
from wellfed.analysis.store import Store

GPUS, HOURS = 80, 3


def measure(folder: Path, rounds: int) -> None:
    """Prints seconds of both; they have to give the same document."""
    import ray

    with Store(folder) as store:
        stream = FleetStream(gpus=GPUS)
        last = None
        for part in stream.history(HOURS * 3600.0):
            store.append(part)
            last = part["host"]["ts"].max()
        store.seal(last + timedelta(hours=2))  # type: ignore[operator]
    history.ROWS = 1
    segments = plan(str(folder))
    begin = time.perf_counter()
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}},
    )
    started = time.perf_counter() - begin
    spent: dict[str | None, list[float]] = {None: [], "local": []}
    documents = set()
    for _ in range(rounds + 1):
        for where, seconds in spent.items():
            begin = time.perf_counter()
            documents.add(json.dumps(combine(cluster.run(segments, where))))
            seconds.append(time.perf_counter() - begin)
    ray.shutdown()
    assert len(documents) == 1, "Ray and one process do not agree"
    one, many = (statistics.median(seconds[1:]) for seconds in spent.values())
    print(f"diagnosis of {GPUS} GPUs x {HOURS} h, {len(segments)} segments, one process: {one:.1f} s")
    print(f"  Ray, {os.cpu_count()} CPUs: {many:.1f} s, x{many / one:.2f} (its start once: {started:.1f} s)")
