"""The same question to a Prometheus and a VictoriaMetrics that hold a slice, and their bytes on disk."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from bench.analysis import REFERENCE, SIGNALS, START, STARVED, TICKS, make, polars, side_by_side, timed
from wellfed.collectors.catalog import TABLES

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from programs import Programs, fetch, free_port, until

_TABLE = TABLES["gpu"]


def measure(folder: Path, gpus: int, hours: int, rounds: int) -> None:
    """Prints seconds and bytes a sample of each."""
    paths = make(folder / "gpu", gpus, hours)
    samples = gpus * hours * TICKS * len(SIGNALS)
    print(f"slice of {gpus} GPUs x {hours} h, {samples:,} samples")
    with ExitStack() as stack:
        running = Programs(folder)
        stack.callback(running.stop)
        servers = {
            "prometheus": _prometheus(running, folder, paths),
            "victoria-metrics": _victoria(running, folder, paths),
        }
        end = START.timestamp() + (hours * TICKS - 1) * 10
        took = side_by_side(rounds, files=lambda: polars(paths))
        print("starved runs + lost by job, s       x files")
        print(f"  {'files':20}{took['files']:10.3f}{1:10.2f}")
        lost = polars(paths)[3]
        for name, (url, _) in servers.items():
            answer = ask(url, START.timestamp() + 10, end)
            seconds = statistics.median(
                timed(lambda url=url: ask(url, START.timestamp() + 10, end)) for _ in range(rounds)
            )
            off = abs(answer[3] / lost - 1)
            print(f"  {name:20}{seconds:10.3f}{seconds / took['files']:10.2f}   (lost seconds {off:.1%} off)")
        running.stop()
    ours = sum(os.path.getsize(path) for path in paths) / samples
    print(f"bytes a sample\n  {'files':20}{ours:10.2f}{1:10.2f}")
    for name, (_, held) in servers.items():
        size = (
            sum(
                path.stat().st_size
                for path in held.rglob("*")
                if path.is_file() and "cache" not in path.parts
            )
            / samples
        )
        print(f"  {name:20}{size:10.2f}{size / ours:10.2f}")


def ask(url: str, start: float, end: float) -> tuple[int, float, int, float]:
    """What their users would do: useful activity by range query, the runs counted from its points."""
    useful = (
        "clamp_max((rate(wellfed_gpu_sm_active_seconds_total[20s]) - 0.12 * rate(wellfed_gpu_spin_seconds_total[20s]))"
        " / rate(wellfed_gpu_observed_seconds_total[20s]), 1)"
    )
    runs, run_lost = 0, 0.0
    jobs: dict[str, float] = {}
    for first in range(int(start), int(end) + 1, 36_000):
        fields = {
            "query": useful,
            "start": first,
            "end": min(first + 35_990, int(end)),
            "step": 10,
            "nocache": 1,
        }
        answer = json.loads(fetch(f"{url}/api/v1/query_range?{urllib.parse.urlencode(fields)}"))
        for series in answer["data"]["result"]:
            job, length, lost = series["metric"]["job"], 0, 0.0
            for _, text in [*series["values"], (0, "1")]:
                value = float(text)
                here = 10 * (1 - min(1.0, value / REFERENCE))
                jobs[job] = jobs.get(job, 0.0) + here
                if value < STARVED:
                    length, lost = length + 1, lost + here
                elif length:
                    runs, run_lost = runs + (length >= 3), run_lost + lost * (length >= 3)
                    length, lost = 0, 0.0
    return runs, run_lost, len(jobs), sum(jobs.values())


def _lines(paths: list[str], unit: int) -> Iterator[str]:
    """Exposition lines, series by series. unit: timestamps in so many a second."""
    frame = pl.scan_parquet(paths).sort("gpu", "ts").collect()
    for name in SIGNALS:
        metric = _TABLE.metric(_TABLE.column(name))
        told = frame.select(
            pl.concat_str(
                pl.lit(metric + '{instance="'), "host", pl.lit('",gpu="'), "gpu", pl.lit('",index="'), "index",
                pl.lit('",model="'), "model", pl.lit('",job="'), "job", pl.lit('"} '), name, pl.lit(" "),
                pl.col("ts").dt.epoch("ms") * unit // 1000,
            ).alias("line")
        )  # fmt: skip
        yield "\n".join(told["line"]) + "\n"


def _prometheus(running: Programs, folder: Path, paths: list[str]) -> tuple[str, Path]:
    source, data, config = folder / "samples.om", folder / "prometheus", folder / "empty.yml"
    config.write_text("{}\n")
    with source.open("w") as file:
        file.writelines(_lines(paths, 1))
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(data)]
    subprocess.run(command, check=True, capture_output=True)
    source.unlink()
    blocks = folder / "blocks"
    shutil.copytree(data, blocks)
    port = free_port()
    running.start(
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}", "--query.max-samples=500000000",
    )  # fmt: skip
    until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="Prometheus is ready")
    return f"http://127.0.0.1:{port}", blocks


def _victoria(running: Programs, folder: Path, paths: list[str]) -> tuple[str, Path]:
    port, data = free_port(), folder / "victoria"
    url = f"http://127.0.0.1:{port}"
    running.start(
        "victoria-metrics",
        f"-storageDataPath={data}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=100y",
    )
    until(lambda: fetch(f"{url}/health"), what="VictoriaMetrics is ready")
    for text in _lines(paths, 1000):
        with urllib.request.urlopen(
            f"{url}/api/v1/import/prometheus", data=text.encode(), timeout=300
        ) as answer:
            answer.read()
    fetch(f"{url}/internal/force_flush")
    fetch(f"{url}/internal/force_merge")
    time.sleep(10)
    return url, data
