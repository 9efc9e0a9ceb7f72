"""What the answer costs over history: the store's files beside DuckDB, Ray, Prometheus and VictoriaMetrics.

    python -m bench.analysis [--gpus 1024] [--hours 24] [--scale 10] [--dir FOLDER]

It only prints. The question: lost seconds by job, and every run of three or more starved windows. The files are
sealed hours as the store writes them: a row a GPU and 10 s, 24 signals. A sample is one signal of one row. Numbers
of one run are to be compared with each other only; the servers answer for a slice, and so do the files then.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from wellfed.analysis.schema import TS, schema
from wellfed.analysis.segments import encode_sealed, hour_name
from wellfed.collectors.catalog import TABLES

START = datetime(2026, 3, 1, tzinfo=UTC)
TICKS = 360
#: Useful activity of a starved window, and what lost seconds are counted from.
STARVED, REFERENCE = 0.5, 0.8
COUNTERS = (
    "observed_seconds active_seconds sm_active_seconds sm_occupancy_seconds tensor_active_seconds "
    "dram_active_seconds idle_seconds spin_seconds energy_joules throttle_thermal_seconds throttle_power_seconds "
    "pcie_rx_bytes pcie_tx_bytes nvlink_rx_bytes nvlink_tx_bytes pcie_replays"
).split()
GAUGES = (
    "memory_used_bytes power_watts temperature_celsius sm_clock_hertz pcie_gen pcie_width processes allocated"
).split()
SIGNALS = [*COUNTERS, *GAUGES]
NEEDED = ["host", "gpu", "ts", "job", "observed_seconds", "sm_active_seconds", "spin_seconds"]


def hour(number: int, gpus: int, totals: np.ndarray) -> pl.DataFrame:
    """One hour of the fleet; totals (signals, gpus) move on. A tenth of the GPUs starve for a part of it."""
    rng = np.random.default_rng(number)
    starved = (rng.random(gpus) < 0.1)[:, None] & (
        np.arange(TICKS) // 60 == rng.integers(0, 6, gpus)[:, None]
    )
    busy = np.where(starved, 0.25, 0.9) + 0.02 * rng.standard_normal((gpus, TICKS))
    columns = {}
    for at, name in enumerate(COUNTERS):
        level = np.clip(busy * (0.4 + 0.6 * (at % 5) / 5) + 0.01 * rng.standard_normal(busy.shape), 0, 1)
        if name == "observed_seconds":
            level = np.ones_like(busy)
        if name in ("throttle_thermal_seconds", "throttle_power_seconds", "pcie_replays", "spin_seconds"):
            level = np.zeros_like(busy)
        # The agent's integrals are known to a hundredth of a second, bytes to a page, energy to a joule.
        unit = 4096.0 if name.endswith("bytes") else 1.0 if name.endswith("joules") else 0.01
        scale = {"bytes": 2e10, "joules": 7000.0}.get(name.rpartition("_")[2], 10.0)
        grown = np.cumsum(np.round(level * scale / unit), axis=1) + totals[at][:, None]
        totals[at] = grown[:, -1]
        columns[name] = grown * unit
    for at, name in enumerate(GAUGES):
        columns[name] = np.round(60 + (busy * 5 if at < 4 else 0 * busy)) * (1e6 if at in (0, 3) else 1)
    ts = int(START.timestamp() * 1000) + (number * TICKS + np.arange(TICKS)) * 10_000
    which = np.repeat(np.arange(gpus, dtype=np.uint32), TICKS)
    texts = {
        "host": pl.Series([f"node{n // 8:04}" for n in range(gpus)]),
        "gpu": pl.Series([f"GPU-{n:08x}-0000-4000-8000-{n:012x}" for n in range(gpus)]),
        "index": pl.Series([str(n % 8) for n in range(gpus)]),
        "model": pl.Series(["NVIDIA H100 80GB HBM3"] * gpus),
        # A job holds 64 GPUs for four hours.
        "job": pl.Series([f"slurm:{n // 64 + 1000 * (number // 4)}" for n in range(gpus)]),
    }
    frame = pl.DataFrame(
        {
            "ts": pl.Series(np.tile(ts, gpus)).cast(TS),
            **{name: known.gather(pl.Series(which)) for name, known in texts.items()},
            **{name: values.ravel() for name, values in columns.items()},
        }
    )
    want = schema(TABLES["gpu"])
    return frame.select(
        *(pl.col(c) if c in frame.columns else pl.lit(None, dtype=t).alias(c) for c, t in want.items())
    )


def make(folder: Path, gpus: int, hours: int) -> list[str]:
    """The sealed files of a fleet, one an hour."""
    folder.mkdir(parents=True)
    totals = np.zeros((len(COUNTERS), gpus))
    paths = []
    for number in range(hours):
        path = folder / f"{hour_name(START + timedelta(hours=number))}.parquet"
        path.write_bytes(encode_sealed(hour(number, gpus, totals), 0))
        paths.append(str(path))
    return paths


def windows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """useful and lost of each window; rows sorted by GPU and ts, as sealed files are."""
    same = (pl.col("gpu") == pl.col("gpu").shift()) & (pl.col("host") == pl.col("host").shift())
    observed, sm, spin = (
        pl.when(same & (pl.col(c).diff() >= 0)).then(pl.col(c).diff())
        for c in ("observed_seconds", "sm_active_seconds", "spin_seconds")
    )
    useful = ((sm - 0.12 * spin) / observed).clip(0, 1)
    return rows.select(
        "host", "gpu", "ts", "job", observed.alias("covered"), useful.alias("useful")
    ).with_columns((pl.col("covered") * (1 - (pl.col("useful") / REFERENCE).clip(0, 1))).alias("lost"))


Part = tuple[pl.DataFrame, pl.DataFrame]


def map_file(path: str) -> Part:
    """Starved windows, and sums by job, of one file."""
    found = windows(pl.scan_parquet(path).select(NEEDED))
    sick = found.filter(pl.col("useful") < STARVED).select("host", "gpu", "ts", "job", "lost")
    sums = found.group_by("job").agg(pl.col("covered", "lost").sum())
    return tuple(pl.collect_all([sick, sums], engine="streaming"))  # type: ignore[return-value]


def combine(parts: Iterable[Part]) -> tuple[int, float, int, float]:
    """Runs and their lost seconds; jobs and their lost seconds."""
    sick, sums = (pl.concat(column) for column in zip(*parts, strict=True))
    by = ["host", "gpu", "job"]
    new = (pl.col("ts").diff() != timedelta(seconds=10)) | pl.any_horizontal(
        pl.col(c) != pl.col(c).shift() for c in by
    )
    runs = (
        sick.lazy().sort("host", "gpu", "ts")
        .with_columns(new.fill_null(True).cum_sum().alias("run"))
        .group_by("run").agg(pl.len(), pl.col("lost").sum()).filter(pl.col("len") >= 3)
        .collect()
    )  # fmt: skip
    jobs = sums.group_by("job").agg(pl.col("covered", "lost").sum())
    return runs.height, runs["lost"].sum(), jobs.height, jobs["lost"].sum()


def polars(paths: list[str]) -> tuple[int, float, int, float]:
    return combine(map(map_file, paths))


def duck(paths: list[str]) -> tuple[int, float, int, float]:
    """The same in SQL: one table of windows, then both questions.

    Like `windows` it trusts the order of the files: with PARTITION BY and ORDER BY it sorts and takes twice as long.
    """
    same = "host = lag(host) OVER () AND gpu = lag(gpu) OVER ()"
    delta = f"CASE WHEN {same} AND {{0}} >= lag({{0}}) OVER () THEN {{0}} - lag({{0}}) OVER () END AS d_{{0}}"
    names = ", ".join(delta.format(column) for column in NEEDED[4:])
    connection = duckdb.connect()
    connection.execute(f"SET threads={os.cpu_count()}; SET enable_progress_bar=false")
    connection.execute(
        f"""CREATE TEMP TABLE win AS SELECT host, gpu, ts, job, covered, useful,
              covered * (1 - least(1, useful / {REFERENCE})) AS lost FROM (
            SELECT host, gpu, ts, job, d_observed_seconds AS covered,
              greatest(0, least(1, (d_sm_active_seconds - 0.12 * d_spin_seconds) / d_observed_seconds)) AS useful
            FROM (SELECT host, gpu, ts, job, {names} FROM read_parquet({paths!r})))"""
    )
    runs = connection.execute(
        f"""SELECT count(*), sum(lost) FROM (SELECT sum(lost) AS lost FROM (
              SELECT *, epoch_ms(ts) // 10000 - row_number() OVER (PARTITION BY host, gpu, job ORDER BY ts) AS run
              FROM win WHERE useful < {STARVED}) GROUP BY host, gpu, job, run HAVING count(*) >= 3)"""
    ).fetchall()[0]
    jobs = connection.execute(
        "SELECT count(*), sum(l) FROM (SELECT sum(lost) AS l FROM win GROUP BY job)"
    ).fetchall()[0]
    return (*runs, *jobs)


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def side_by_side(rounds: int, **engines: Callable[[], tuple[int, float, int, float]]) -> dict[str, float]:
    """Median seconds of each engine, taking turns; they have to agree."""
    answers = {name: engine() for name, engine in engines.items()}
    first = next(iter(answers.values()))
    for name, answer in answers.items():
        assert np.allclose(answer, first, rtol=1e-9), f"{name} answers {answer}, not {first}"
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            spent[name].append(timed(engine))
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def peak(paths: list[str], engine: str) -> float:
    """MB that an engine holds at most, in a process of its own."""
    # Not ru_maxrss: a child inherits its parent's.
    code = (
        "import sys; from bench import analysis as a\n"
        f"getattr(a, {engine!r})(sys.argv[1:])\n"
        "print([l for l in open('/proc/self/status') if l.startswith('VmHWM')][0].split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1024)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument(
        "--scale", type=int, default=1, help="this many times the hours: 10 for the large figures"
    )
    parser.add_argument("--slice-gpus", type=int, default=64, help="GPUs of the slice that the servers hold")
    parser.add_argument("--slice-hours", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--dir", help="folder on the disk to measure (default: the system's temporary folder)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="wellfed-bench-") as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    from bench import analysis_cluster, analysis_servers

    hours = options.hours * options.scale
    paths = make(folder / "lake" / "gpu", options.gpus, hours)
    rows = options.gpus * hours * TICKS
    size = sum(os.path.getsize(path) for path in paths)
    print(f"{options.gpus} GPUs x {hours} h = {rows:,} rows x {len(SIGNALS)} signals, {os.cpu_count()} cores")
    print(f"  sealed files: {size / 1e6:,.0f} MB, {size / rows / len(SIGNALS):.2f} bytes a sample")
    took = side_by_side(options.rounds, polars=lambda: polars(paths), duckdb=lambda: duck(paths))
    print("starved runs + lost by job, s       x files")
    for name, seconds in took.items():
        print(f"  {name:20}{seconds:10.2f}{seconds / took['polars']:10.2f}")
    for name in ("polars", "duck"):
        print(f"  peak RSS, {name}: {peak(paths, name):,.0f} MB")
    sys.stdout.flush()
    analysis_servers.measure(folder / "slice", options.slice_gpus, options.slice_hours, options.rounds)
    sys.stdout.flush()
    analysis_cluster.measure(folder / "cluster", rounds=1)


if __name__ == "__main__":
    main()
