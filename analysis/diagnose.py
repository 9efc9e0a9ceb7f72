"""Tables in, answer out: who lost how much GPU time to what, with the evidence.

`document` is the stable JSON of `wellfed diagnose --json`; the frames beside it feed the dashboard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from wellfed.analysis.blame import with_blame
from wellfed.analysis.condensed import Condensed
from wellfed.analysis.cost import USAGE, efficiency, mean_price, priced, usage
from wellfed.analysis.hosts import facts, pressures
from wellfed.analysis.profile import Profile, profiles, work
from wellfed.analysis.roots import root_view
from wellfed.analysis.schema import TS
from wellfed.analysis.segment import Partial, State, combine, map_segments
from wellfed.analysis.split import SHARES
from wellfed.analysis.windows import amounts, boots, native_step
from wellfed.collectors.catalog import TABLES
from wellfed.prices import Prices

__all__ = ["Diagnosis", "diagnose"]

_WINDOWS = pl.Schema(
    {
        "ts": TS, "host": pl.String(), "gpu": pl.String(), "index": pl.String(), "job": pl.String(),
        "covered_seconds": pl.Float64(), "lost_seconds": pl.Float64(), "useful": pl.Float64(),
        "reference": pl.Float64(), "dt": pl.Float64(), "cause": pl.String(),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """document: the JSON contract.

    windows: a row a GPU and window (ts, host, gpu, index, job, covered_seconds, lost_seconds, useful,
    reference, dt: its seconds, cause: the one with the largest share, null below 5 % lost). shares: ts, host,
    gpu, job, cause, lost_seconds; sums to lost_seconds. hosts: a row a host and window
    (wellfed.analysis.hosts.pressures).
    usage: a row a GPU and job (wellfed.analysis.cost.USAGE).
    work: a row a job (wellfed.analysis.profile.WORK).
    """

    document: dict[str, Any]
    windows: pl.DataFrame
    shares: pl.DataFrame
    hosts: pl.DataFrame
    usage: pl.DataFrame
    work: pl.DataFrame


def diagnose(
    tables: Mapping[str, pl.LazyFrame],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    since: datetime | None = None,
    price: float | Prices | None = None,
    stretch: float = 1.0,
    judged: Partial | Condensed | None = None,
) -> Diagnosis:
    """The answer for a range of tables (all of the catalog's, empty where there is no data).

    start, end: what was asked for; the data's own bounds when None. since: windows up to then count for
    nothing, they only teach what is normal. price: money for one GPU-hour, of all models or by model.
    stretch: multiplies all thresholds of the evidence, to see how much hangs on them. judged: the verdicts of
    the range, where they are known already; in longer steps where condensed, with tables to match.
    """
    prices = Prices(price) if isinstance(price, float | int) else price
    step = judged.step if judged else native_step(tables)
    hosts = pressures(tables["host"], step).collect(engine="streaming")
    partials = []
    if isinstance(judged, Partial):
        partials = [judged]
    elif judged is None:
        partials = map_segments(tables, State(step, stretch))
    if isinstance(judged, Condensed):
        rows, split, used = judged.windows, judged.shares, judged.usage
        windows, found = _windows(rows, split), priced(judged.findings, prices, used)
    elif partials:
        rows, split, found = combine(partials, step)
        if since is not None:
            rows, split, hosts = (frame.filter(pl.col("ts") > since) for frame in (rows, split, hosts))
        windows = _windows(rows, split)
        used = usage(rows.lazy()).collect()
        found = priced(found, prices, used)
    else:
        rows, windows = pl.DataFrame(), pl.DataFrame(schema=_WINDOWS)
        split, found, used = SHARES.to_frame(), [], USAGE.to_frame()
    started = boots(tables["host"], step)
    sums = {name: amounts(tables[name], TABLES[name], step, started) for name in ("step", "server", "job")}
    if since is not None:
        tables, sums = (
            {name: frame.filter(pl.col("ts") > since) for name, frame in each.items()}
            for each in (tables, sums)
        )
    rooted = root_view(split, found)
    done = work(sums, used)
    told = dict(done.select("job", "tokens").drop_nulls().iter_rows())
    kinds = profiles(used, split, done)
    bounds = _bounds(tables)
    document: dict[str, Any] = {
        "version": 1,
        "from": _iso(start or bounds[0]),
        "to": _iso(end or bounds[1]),
        "window_seconds": step,
        "price_per_gpu_hour": mean_price(prices, used),
        "totals": _totals(rows, split, rooted, efficiency(used, sum(told.values()) or None, prices)),
        "gpus": _gpus(rows, split),
        "jobs": [
            {
                **job,
                **efficiency(used.filter(pl.col("job") == job["job"]), told.get(job["job"]), prices),
                "workload": _workload(kinds.get(job["job"])),
            }
            for job in _jobs(rows, split, rooted, tables["job"])
        ],
        "findings": with_blame(found, tables, step),
        "coverage": _coverage(tables),
        "warnings": _warnings(rows, hosts),
        "hosts": facts(hosts),
    }
    return Diagnosis(document, windows, split, hosts, used, done)


def _windows(rows: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    most = (
        split.sort("lost_seconds", descending=True)
        .unique(["ts", "host", "gpu"], keep="first", maintain_order=True)
        .select("ts", "host", "gpu", pl.col("cause"))
    )
    named = rows.select(*(c for c in _WINDOWS if c != "cause")).join(
        most, on=["ts", "host", "gpu"], how="left"
    )
    small = pl.col("lost_seconds") < 0.05 * pl.col("covered_seconds")
    return named.with_columns(pl.when(~small).then(pl.col("cause")).alias("cause")).sort("ts", "host", "gpu")


def _by_cause(split: pl.DataFrame, by: list[str]) -> dict[tuple[Any, ...], dict[str, float]]:
    out: dict[tuple[Any, ...], dict[str, float]] = {}
    summed = (
        split.group_by([*by, "cause"]).agg(pl.col("lost_seconds").sum()).sort("lost_seconds", descending=True)
    )
    for row in summed.iter_rows():
        out.setdefault(row[:-2], {})[row[-2]] = row[-1]
    return out


def _au(covered: float, lost: float) -> float | None:
    return 1 - lost / covered if covered > 0 else None


def _totals(
    rows: pl.DataFrame, split: pl.DataFrame, rooted: pl.DataFrame, spent: dict[str, Any]
) -> dict[str, Any]:
    gpu, covered, lost = (
        0.0 if rows.is_empty() else float(rows[c].sum()) for c in ("dt", "covered_seconds", "lost_seconds")
    )
    return {
        "gpu_seconds": gpu,
        "covered_seconds": covered,
        "lost_seconds": lost,
        "au": _au(covered, lost),
        "by_cause": _by_cause(split, []).get((), {}),
        "by_cause_root": _by_cause(rooted, []).get((), {}),
        **spent,
    }


def _workload(found: Profile | None) -> dict[str, Any] | None:
    return found.document() if found else None


def _gpus(rows: pl.DataFrame, split: pl.DataFrame) -> list[dict[str, Any]]:
    if rows.is_empty():
        return []
    causes = _by_cause(split, ["host", "gpu"])
    summed = (
        rows.sort("ts")
        .group_by("host", "gpu")
        .agg(
            pl.col("index").last(),
            pl.col("job").drop_nulls().last(),
            pl.col("covered_seconds").sum(),
            pl.col("lost_seconds").sum(),
        )
        .sort("host", "index", "gpu")
    )
    return [
        {
            **row,
            "au": _au(row["covered_seconds"], row["lost_seconds"]),
            "by_cause": causes.get((row["host"], row["gpu"]), {}),
        }
        for row in summed.iter_rows(named=True)
    ]


def _jobs(
    rows: pl.DataFrame, split: pl.DataFrame, rooted: pl.DataFrame, jobs: pl.LazyFrame
) -> list[dict[str, Any]]:
    if rows.is_empty():
        return []
    causes = _by_cause(split.filter(pl.col("job").is_not_null()), ["job"])
    roots = _by_cause(rooted.filter(pl.col("job").is_not_null()), ["job"])
    names = (
        jobs.group_by("job")
        .agg(pl.col("name").drop_nulls().last(), pl.col("user").drop_nulls().last())
        .collect()
    )
    summed = (
        rows.filter(pl.col("job").is_not_null())
        .group_by("job")
        .agg(
            pl.struct("host", "gpu").n_unique().alias("gpus"),
            pl.col("covered_seconds").sum(),
            pl.col("lost_seconds").sum(),
        )
        .join(names, on="job", how="left")
        .sort("job")
        .select("job", "name", "user", "gpus", "covered_seconds", "lost_seconds")
    )
    return [
        {
            **row,
            "au": _au(row["covered_seconds"], row["lost_seconds"]),
            "by_cause": causes.get((row["job"],), {}),
            "by_cause_root": roots.get((row["job"],), {}),
        }
        for row in summed.iter_rows(named=True)
    ]


def _coverage(tables: Mapping[str, pl.LazyFrame]) -> list[dict[str, Any]]:
    out = []
    for name, rows in tables.items():
        if name == "collector":
            continue
        table = TABLES[name]
        signals = [c.name for c in table.signals]
        counted = (
            rows.select(pl.len().alias("_n"), pl.col(signals).count())
            .collect(engine="streaming")
            .row(0, named=True)
        )
        if counted["_n"]:
            out += [{"table": name, "column": c, "share": counted[c] / counted["_n"]} for c in signals]
    return out


def _warnings(rows: pl.DataFrame, hosts: pl.DataFrame) -> list[str]:
    warnings = []
    if rows.is_empty():
        what = "reporting the hosts' pressures" if hosts.height else "no host either"
        warnings.append(f"no GPU found in this range; {what}")
    else:
        blind = rows.filter(pl.col("covered_seconds") == 0)["gpu"].n_unique()
        if blind:
            some = "1 GPU has" if blind == 1 else f"{blind} GPUs have"
            warnings.append(f"{some} windows without a measured activity: no verdict for those")
        if rows["sm"].is_null().all():
            warnings.append(
                "no SM activity (GPM or profiling metrics): verdicts rest on kernel activity alone"
            )
    return warnings


def _bounds(tables: Mapping[str, pl.LazyFrame]) -> tuple[datetime, datetime]:
    found = [
        rows.select(pl.col("ts").min().alias("a"), pl.col("ts").max().alias("b"))
        .collect(engine="streaming")
        .row(0)
        for rows in tables.values()
    ]
    known = [row for row in found if row[0] is not None]
    now = datetime.now(UTC)
    return (min(row[0] for row in known), max(row[1] for row in known)) if known else (now, now)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
