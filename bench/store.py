"""What the store costs beside plain files of the same rows: bytes, append, seal, scan. It only prints.

    python -m bench.store [--gpus 256] [--hours 2] [--dir FOLDER]

One tick is one append of a 10 s window of all GPUs, every signal of the `gpu` table filled. A sample is one
signal of one GPU in one window. FOLDER should lie on the disk that is asked about: most of an append is
fsync.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from wellfed.analysis.schema import schema
from wellfed.analysis.store import Store
from wellfed.collectors.catalog import TABLES, Column

TABLE = TABLES["gpu"]
START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = timedelta(seconds=10)
TICKS_PER_HOUR = 360


def ticks(gpus: int, hours: int) -> list[pl.DataFrame]:
    """Counters that grow by a random part of 10 s, known to 10 ms; gauges of five values; constant text."""
    rows = gpus * hours * TICKS_PER_HOUR
    thousand = pl.int_range(1000, eager=True)
    number = pl.int_range(rows, eager=True)
    frame = pl.DataFrame({"gpu": number % gpus, "tick": number // gpus + 1})
    frame = frame.with_columns(
        thousand.sample(rows, with_replacement=True, seed=seed).alias(column.name)
        for seed, column in enumerate(TABLE.columns)
    )
    frame = frame.with_columns(_values(column) for column in TABLE.columns).with_columns(
        ts=(pl.lit(START) + pl.col("tick") * pl.duration(seconds=10)).cast(schema(TABLE)["ts"]),
        host=pl.format("node{}", pl.col("gpu") // 8),
        gpu=pl.format("GPU-{}", pl.col("gpu").hash(7)),
    )
    frame = frame.select(list(schema(TABLE)))
    return list(frame.iter_slices(gpus))


def _values(column: Column) -> pl.Expr:
    """The column's values from the random number below 1000 that stands in its place."""
    if column.kind == "info":
        return pl.lit(f"{column.name} of all").alias(column.name)
    number = pl.col(column.name)
    if column.kind == "counter":
        return (number.cum_sum().over("gpu") / 100).alias(column.name)
    return (number // 200 + 60).cast(pl.Float64)


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def best(action: Callable[[], object], times: int = 5) -> float:
    return min(timed(action) for _ in range(times))


def by_gpu(frame: pl.LazyFrame) -> pl.LazyFrame:
    """A query that decodes three columns."""
    signal = pl.col("sm_active_seconds", "active_seconds")
    return frame.group_by("gpu").agg(signal.max() - signal.min())


def size(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, default=256)
    parser.add_argument("--hours", type=int, default=2)
    parser.add_argument(
        "--dir", help="folder on the disk to measure (default: the system's temporary folder)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        measure(Path(folder), options.gpus, options.hours)


def measure(folder: Path, gpus: int, hours: int) -> None:
    frames = ticks(gpus, hours)
    samples = gpus * len(frames) * len(TABLE.signals)
    everything = pl.concat(frames)
    end = START + len(frames) * WINDOW
    print(f"{gpus} GPUs x {hours} h: {everything.height:,} rows, {samples:,} samples, {os.cpu_count()} cores")

    everything.write_parquet(folder / "plain.parquet")
    everything.write_ipc(folder / "plain.arrow", compression="lz4")
    plain, arrow = (folder / "plain.parquet").stat().st_size, (folder / "plain.arrow").stat().st_size
    store = Store(folder / "store")
    spent = [timed(lambda frame=frame: store.append({"gpu": frame})) for frame in frames]
    hot = size(folder, "*-*.arrow")
    last_minute = store.scan("gpu", end - timedelta(minutes=1))
    whole = by_gpu(store.scan("gpu"))
    hot_minute, hot_scan = (best(lambda q=q: q.collect(engine="streaming")) for q in (last_minute, whole))
    sealing = timed(lambda: store.seal(end + timedelta(hours=2)))
    sealed = size(folder / "store" / "gpu", "*.parquet")
    first_scan = timed(lambda: whole.collect(engine="streaming"))
    scan = best(lambda: whole.collect(engine="streaming"))
    direct = by_gpu(pl.scan_parquet(folder / "store" / "gpu" / "*.parquet"))
    direct_scan = best(lambda: direct.collect(engine="streaming"))
    checking = timed(store.check)
    store.close()

    print("bytes per sample        x sealed")
    for name, count in (("sealed", sealed), ("plain parquet", plain), ("plain lz4 ipc", arrow), ("hot", hot)):
        print(f"  {name:15}{count / samples:6.2f}{count / sealed:8.2f}")
    p50, p99 = statistics.median(spent), statistics.quantiles(spent, n=100)[-1]
    print(f"append, ms: p50 {p50:.2f}, p99 {p99:.2f}")
    print(f"seal, ms per hour: {sealing / hours:.0f} = {everything.height / sealing:,.0f} rows a ms")
    print(f"last minute while hot, ms: {hot_minute:.1f}; whole while hot: {hot_scan:.0f}")
    print(f"three columns of all sealed hours, ms: {scan:.1f}, with checksums (first time) {first_scan:.1f},")
    print(f"  plain scan_parquet of the same files {direct_scan:.1f}: x{scan / direct_scan:.2f}")
    print(f"check, ms per hour: {checking / hours:.0f}")


if __name__ == "__main__":
    main()
