"""History beyond one machine's memory: sealed hourly files in, partial sums and findings out, one answer.

`map_segment(segment) -> Partial` is the diagnosis of a run of hours, after WARM hours that only teach it what
is normal, or a hub's own verdicts where they lie beside the rows. It depends on its segment alone, so
segments run anywhere, in any order, and again after a crash. `combine(partials)` adds them up. Every amount
is a whole number of microseconds (energy: millijoules), so the sums are the same to the last one however
they are grouped. Source: `<url>/<table>/<hour>.parquet`, the store's sealed files, in a folder or in object
storage (s3://, gs://, az://; credentials by environment).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import polars as pl

from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.history_document import document
from wellfed.analysis.history_partial import GPU, RATIOS, SUMS, UNITS, Partial, Segment
from wellfed.analysis.judged import STORED, kept
from wellfed.analysis.roots import root_view
from wellfed.analysis.schema import keys, schema
from wellfed.analysis.segments import hour_name, hour_start
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError
from wellfed.prices import Prices

__all__ = ["Partial", "Segment", "combine", "map_segment", "plan"]

#: Hours before a segment that are read to learn what is normal there.
WARM = 2
#: Rows of `gpu` that a segment holds at most, unless it is one hour already.
ROWS = 3_000_000
#: Tables whose rows tell how much an hour holds.
_COUNTED = ("gpu", "step", "host")
_HOUR = timedelta(hours=1)
_TICK = timedelta(milliseconds=1)


def plan(*urls: str, start: datetime | None = None, end: datetime | None = None) -> list[Segment]:
    """The segments of a lake in (start, end], oldest first. Raises UserError where nothing can be read.

    urls: its folders, one a hub. Hours of the same name are one, so that jobs of several are judged whole and
    anew: a hub's own verdicts know its part alone.
    """
    held: dict[str, dict[str, tuple[tuple[str, ...], int]]] = {table: {} for table in STORED}
    folders = dict.fromkeys(url.rstrip("/") for url in urls)
    for url in folders:
        found = {table: _hours(url, table) for table in (STORED if len(folders) == 1 else TABLES)}
        if not any(found[table] for table in _COUNTED):
            raise UserError(f"no sealed hours in {url}: expected gpu/<YYYY-MM-DDTHH>.parquet and so on")
        for table, hours in found.items():
            for hour, (path, count) in hours.items():
                paths, before = held[table].get(hour, ((), 0))
                held[table][hour] = (*paths, path), before + count
    rows: dict[str, int] = {}
    for table in _COUNTED:
        for hour, (_, count) in held[table].items():
            rows[hour] = max(rows.get(hour, 0), count)
    wanted = [
        hour
        for hour in sorted(rows)
        if (start is None or hour_start(hour) + _HOUR > start) and (end is None or hour_start(hour) < end)
    ]
    if not wanted:
        raise UserError(
            f"{' and '.join(urls)} holds {min(rows)} to {max(rows)}, nothing of it in the range asked for"
        )
    groups: list[list[str]] = []
    for hour in wanted:
        last = groups[-1] if groups else []
        follows = bool(last) and hour_start(hour) - hour_start(last[-1]) == _HOUR
        if follows and sum(rows[one] for one in last) + rows[hour] <= ROWS:
            last.append(hour)
        else:
            groups.append([hour])
    return [_segment(group, held, start, end) for group in groups]


def _segment(
    hours: Sequence[str],
    held: Mapping[str, Mapping[str, tuple[tuple[str, ...], int]]],
    start: datetime | None,
    end: datetime | None,
) -> Segment:
    # An hour's file begins with the window that ends on the hour.
    first, last = hour_start(hours[0]) - _TICK, hour_start(hours[-1]) + _HOUR - _TICK
    every = [*(hour_name(hour_start(hours[0]) - n * _HOUR) for n in range(WARM, 0, -1)), *hours]
    files = {
        table: tuple(path for hour in every if hour in hours for path in hours[hour][0])
        for table, hours in held.items()
    }
    return Segment(
        tuple(hours), files, max(first, start) if start else first, min(last, end) if end else last
    )


def _hours(url: str, table: str) -> dict[str, tuple[str, int]]:
    """Hour -> path and rows of the table's sealed files."""
    try:
        every = pl.scan_parquet(
            f"{url}/{table}/*.parquet",
            include_file_paths="path",
            schema=schema(STORED[table]),
            missing_columns="insert",
            extra_columns="ignore",
        )
        files = every.group_by("path").len().collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        if "expanded" in str(error) or "No such file" in str(error):
            return {}
        raise UserError(f"cannot read {url}/{table}: {_reason(error)}") from error
    found = {}
    for path, count in files.iter_rows():
        hour = path.rpartition("/")[2].removesuffix(".parquet")
        try:
            hour_start(hour)
        except ValueError:
            continue
        found[hour] = path, count
    return found


def _reason(error: BaseException) -> str:
    """The first line, which in object storage holds a whole document."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _scan(segment: Segment, name: str, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
    """Rows of a table in (start, end], of the segment and of the hours it learns from."""
    want = schema(STORED[name])
    files = list(segment.files[name])
    rows = (
        pl.scan_parquet(files, schema=want, missing_columns="insert", extra_columns="ignore")
        if files
        else want.to_frame().lazy()
    )
    if len({path.rpartition("/")[2] for path in files}) < len(files):
        # What an agent sent to one hub, unacknowledged, and then to another is one row.
        rows = rows.unique(keys(STORED[name]))
    rows = rows.filter(pl.col("ts") > start) if start else rows
    return rows.filter(pl.col("ts") <= end) if end else rows


def map_segment(segment: Segment) -> Partial:
    """The diagnosis of a segment as what can be added. Raises UserError when a file cannot be read."""
    tables = {name: _scan(segment, name, None, segment.end) for name in TABLES}
    try:
        known = kept(partial(_scan, segment), segment.start, segment.end)
        judged = known.partial if known else None
        diagnosis = diagnose(tables, since=segment.start, judged=judged)
        coverage, bounds = _coverage(tables, segment)
        return Partial(
            segment,
            float(diagnosis.document["window_seconds"]),
            _gpus(diagnosis),
            _causes(diagnosis),
            tables["job"].group_by("job").agg(pl.col("name", "user").drop_nulls().last()).collect(),
            diagnosis.work,
            _hosts(diagnosis.hosts),
            coverage,
            *bounds,
            _findings(diagnosis, segment),
            diagnosis.document["warnings"],
        )
    except (OSError, pl.exceptions.ComputeError) as error:
        raise UserError(f"the lake's hour {segment.hours[0]} cannot be read: {_reason(error)}") from error


def _us(column: str) -> pl.Expr:
    return (pl.col(column) * 1e6).round().cast(pl.Int64)


def _gpus(diagnosis: Diagnosis) -> pl.DataFrame:
    seen = diagnosis.windows.group_by(GPU).agg(
        pl.col("index").drop_nulls().last(),
        pl.col("dt").round(6).sum().alias("gpu_seconds"),
        pl.col("ts").max(),
    )
    known = seen.join(diagnosis.usage, on=GPU, how="left", nulls_equal=True).sort(GPU)
    return known.select(
        *GPU, "index", "model", "ts", *((pl.col(c) * UNITS[c]).round().cast(pl.Int64) for c in SUMS)
    )


def _causes(diagnosis: Diagnosis) -> pl.DataFrame:
    shares = diagnosis.shares
    rooted = root_view(shares, diagnosis.document["findings"])
    both = pl.concat(
        [
            view.select(*GPU, "cause", _us("lost_seconds").alias("lost_us"), pl.lit(root).alias("root"))
            for root, view in ((False, shares), (True, rooted))
        ]
    )
    return both.group_by(*GPU, "cause", "root").agg(pl.col("lost_us").sum())


def _hosts(hosts: pl.DataFrame) -> pl.DataFrame:
    return hosts.group_by("host").agg(
        *((pl.col(name) * 1e9).round().cast(pl.Int64).sum().alias(name) for name in RATIOS),
        *(pl.col(name).count().cast(pl.Int64).alias(f"{name}_n") for name in RATIOS),
    )


def _coverage(
    tables: dict[str, pl.LazyFrame], segment: Segment
) -> tuple[pl.DataFrame, tuple[datetime, datetime]]:
    """How many rows each column fills, and the first and last `ts` of all."""
    parts = []
    bounds: list[datetime] = []
    for name, rows in tables.items():
        if name == "collector":
            continue
        signals = [c.name for c in TABLES[name].signals]
        mine = rows.filter(pl.col("ts") > segment.start)
        ts = (pl.col("ts").min().alias("_a"), pl.col("ts").max().alias("_b"))
        counted = mine.select(pl.len().alias("_n"), *ts, pl.col(signals).count()).collect(engine="streaming")
        found = counted.row(0, named=True)
        bounds += [moment for moment in (found["_a"], found["_b"]) if moment is not None]
        parts += [{"table": name, "column": c, "filled": found[c], "rows": found["_n"]} for c in signals]
    frame = pl.DataFrame(parts).filter(pl.col("rows") > 0)
    return frame, (min(bounds, default=segment.end), max(bounds, default=segment.end))


def _findings(diagnosis: Diagnosis, segment: Segment) -> list[dict[str, Any]]:
    """Those that reach into the segment, with what they took there."""
    kept = []
    for finding in diagnosis.document["findings"]:
        start = max(datetime.fromisoformat(finding["start"]), segment.start)
        end = datetime.fromisoformat(finding["end"]) if finding["end"] else segment.end
        if end <= start:
            continue
        taken = diagnosis.shares.filter(
            (pl.col("cause") == finding["cause"])
            & pl.col("gpu").is_in(finding["scope"]["gpus"])
            & (pl.col("ts") > start)
            & (pl.col("ts") <= end)
        )
        detected = max(finding["detected"], start.isoformat())
        lost = taken.select(_us("lost_seconds").sum()).item()
        clipped = {"start": start.isoformat(), "detected": detected, "lost_gpu_seconds": lost}
        kept.append({**finding, **clipped})
    return kept


def combine(partials: Iterable[Partial], price: Prices | None = None) -> dict[str, Any]:
    """The document of `wellfed diagnose --json` from all partials, in any order. UserError for none."""
    return document(sorted(partials, key=lambda partial: partial.segment.start), price)
