"""Partials of a lake added up and written as the document of `wellfed diagnose --json`.

Integers are added and divided once, at the end. A finding that reaches over a segment's edge is one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from wellfed.analysis.cost import USAGE, efficiency, mean_price, priced
from wellfed.analysis.history_partial import GPU, RATIOS, SUMS, UNITS, Partial
from wellfed.analysis.profile import WORK, profiles
from wellfed.errors import UserError
from wellfed.prices import Prices

__all__ = ["document"]

_SEVERITIES = ("info", "warning", "critical")
#: Findings whose ends are this close are one, as within a segment.
_BRIDGE = timedelta(seconds=30)


def document(partials: Sequence[Partial], prices: Prices | None = None) -> dict[str, Any]:
    """partials: by time, at least one. Raises UserError for none."""
    if not partials:
        raise UserError("there is nothing to add up")
    gpus = pl.concat([p.gpus for p in partials])
    causes = pl.concat([p.causes for p in partials])
    names = pl.concat([p.jobs for p in partials])
    totals = gpus.select(pl.col(SUMS).sum()).row(0, named=True)
    used = _usage(gpus)
    done = _work(partials)
    told = dict(done.select("job", "tokens").drop_nulls().iter_rows())
    local = causes.filter(~pl.col("root")).with_columns((pl.col("lost_us") / 1e6).alias("lost_seconds"))
    kinds = profiles(used, local, done)
    return {
        "version": 1,
        "from": min(p.first for p in partials).isoformat(),
        "to": max(p.last for p in partials).isoformat(),
        "window_seconds": max(p.step for p in partials),
        "price_per_gpu_hour": mean_price(prices, used),
        "totals": {
            "gpu_seconds": totals["gpu_seconds"] / 1e6,
            **_level(totals),
            "by_cause": _by_cause(causes, [], root=False).get((), {}),
            "by_cause_root": _by_cause(causes, [], root=True).get((), {}),
            **efficiency(used, sum(told.values()) or None, prices),
        },
        "gpus": _gpus(gpus, causes),
        "jobs": [
            {
                **job,
                **efficiency(used.filter(pl.col("job") == job["job"]), told.get(job["job"]), prices),
                "workload": kinds[job["job"]].document() if job["job"] in kinds else None,
            }
            for job in _jobs(gpus, causes, names)
        ],
        "findings": priced(_findings(partials), prices, used),
        "coverage": _coverage(partials),
        "warnings": list(dict.fromkeys(text for p in partials for text in p.warnings)),
        "hosts": _hosts(partials),
    }


def _usage(gpus: pl.DataFrame) -> pl.DataFrame:
    """The sums in the columns of wellfed.analysis.cost.USAGE."""
    summed = gpus.group_by(GPU, maintain_order=True).agg(
        pl.col("model").drop_nulls().last(),
        *(
            pl.when(pl.col(c).count() > 0).then(pl.col(c).sum() / UNITS[c]).alias(c)
            for c in SUMS
            if c in USAGE
        ),
    )
    return summed.select(list(USAGE))


def _work(partials: Sequence[Partial]) -> pl.DataFrame:
    """What each job did in all of them."""
    every = pl.concat([p.work for p in partials])
    numbers = [name for name, kind in WORK.items() if kind == pl.Float64]
    return every.group_by("job", maintain_order=True).agg(
        *(pl.when(pl.col(c).count() > 0).then(pl.col(c).sum()).alias(c) for c in numbers),
        pl.col("servers").list.explode().drop_nulls().unique().sort(),
    )


def _level(sums: dict[str, Any]) -> dict[str, Any]:
    covered, lost = sums["covered_seconds"] or 0, sums["lost_seconds"] or 0
    return {
        "covered_seconds": covered / 1e6,
        "lost_seconds": lost / 1e6,
        "au": 1 - lost / covered if covered else None,
    }


def _by_cause(causes: pl.DataFrame, by: list[str], *, root: bool) -> dict[tuple[Any, ...], dict[str, float]]:
    summed = (
        causes.filter(pl.col("root") == root)
        .group_by(*by, "cause")
        .agg(pl.col("lost_us").sum())
        .sort("lost_us", "cause", descending=[True, False])
    )
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in summed.iter_rows():
        found.setdefault(row[:-2], {})[row[-2]] = row[-1] / 1e6
    return found


def _gpus(gpus: pl.DataFrame, causes: pl.DataFrame) -> list[dict[str, Any]]:
    split = _by_cause(causes, ["host", "gpu"], root=False)
    summed = (
        gpus.sort("ts")
        .group_by("host", "gpu")
        .agg(pl.col("index", "job").drop_nulls().last(), pl.col(SUMS).sum())
        .sort("host", "index", "gpu")
    )
    return [
        {
            **{name: row[name] for name in ("host", "gpu", "index", "job")},
            **_level(row),
            "by_cause": split.get((row["host"], row["gpu"]), {}),
        }
        for row in summed.iter_rows(named=True)
    ]


def _jobs(gpus: pl.DataFrame, causes: pl.DataFrame, names: pl.DataFrame) -> list[dict[str, Any]]:
    held = causes.filter(pl.col("job").is_not_null())
    split, roots = (_by_cause(held, ["job"], root=root) for root in (False, True))
    called = names.group_by("job", maintain_order=True).agg(pl.col("name", "user").drop_nulls().last())
    summed = (
        gpus.filter(pl.col("job").is_not_null())
        .group_by("job")
        .agg(pl.struct("host", "gpu").n_unique().alias("gpus"), pl.col(SUMS).sum())
        .join(called, on="job", how="left")
        .sort("job")
    )
    return [
        {
            **{name: row[name] for name in ("job", "name", "user", "gpus")},
            **_level(row),
            "by_cause": split.get((row["job"],), {}),
            "by_cause_root": roots.get((row["job"],), {}),
        }
        for row in summed.iter_rows(named=True)
    ]


def _coverage(partials: Sequence[Partial]) -> list[dict[str, Any]]:
    summed = (
        pl.concat([p.coverage for p in partials])
        .group_by("table", "column", maintain_order=True)
        .agg(pl.col("filled", "rows").sum())
    )
    return [{"table": t, "column": c, "share": filled / rows} for t, c, filled, rows in summed.iter_rows()]


def _hosts(partials: Sequence[Partial]) -> list[dict[str, Any]]:
    summed = pl.concat([p.hosts for p in partials]).group_by("host").agg(pl.all().sum()).sort("host")
    return [
        {
            "host": row["host"],
            **{name: row[name] / 1e9 / row[f"{name}_n"] if row[f"{name}_n"] else None for name in RATIOS},
        }
        for row in summed.iter_rows(named=True)
    ]


def _findings(partials: Sequence[Partial]) -> list[dict[str, Any]]:
    """All findings, those that go on in the next segment as one; amounts in seconds again."""
    open_: dict[tuple[Any, ...], dict[str, Any]] = {}
    done: list[dict[str, Any]] = []
    for partial in partials:
        last = partial is partials[-1]
        reach = _BRIDGE + timedelta(seconds=partial.step)
        for finding in sorted(partial.findings, key=lambda f: (f["start"], f["id"])):
            who = _who(finding)
            before = open_.get(who)
            start = datetime.fromisoformat(finding["start"])
            if before is not None and start - datetime.fromisoformat(before["end"]) <= reach:
                found = _joined(before, finding)
            else:
                done += [before] if before is not None else []
                found = dict(finding)
            found["still"] = found["end"] is None and last
            found["end"] = found["end"] or partial.segment.end.isoformat()
            open_[who] = found
    done += open_.values()
    for finding in done:
        finding["end"] = None if finding.pop("still") else finding["end"]
        finding["lost_gpu_seconds"] /= 1e6
    return sorted(done, key=lambda f: (-f["lost_gpu_seconds"], f["id"]))


def _who(finding: dict[str, Any]) -> tuple[Any, ...]:
    scope = finding["scope"]
    where = scope["job"] or (tuple(scope["gpus"]) if scope["resource"] is None else None)
    return finding["cause"], where, scope["resource"]


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One finding out of two that follow each other; what explains it is that of the costlier part."""
    most = max(first, second, key=lambda f: f["lost_gpu_seconds"])
    return {
        **most,
        **{name: first[name] for name in ("id", "start", "detected")},
        "end": second["end"],
        "scope": _united(first["scope"], second["scope"]),
        "culprits": _united(first["culprits"], second["culprits"]),
        "severity": max(first["severity"], second["severity"], key=_SEVERITIES.index),
        "lost_gpu_seconds": first["lost_gpu_seconds"] + second["lost_gpu_seconds"],
    }


def _united(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {
        name: sorted({*value, *second[name]}) if isinstance(value, list) else value
        for name, value in first.items()
    }
