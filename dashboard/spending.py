"""What the range cost, in money and energy, by team, user, job and cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import owners

__all__ = ["Spent", "by_cause", "by_owner", "capacity"]


@dataclass(frozen=True, slots=True)
class Spent:
    """GPU-seconds, joules and money of an owner or cause; None where it is not known."""

    name: str
    gpus: int
    covered: float
    lost: float
    joules: float | None
    joules_lost: float | None
    cost: float | None
    cost_lost: float | None
    mostly: str


def _used(answer: Answer) -> pl.DataFrame:
    """The diagnosis' usage by GPU and job, with its price."""
    used, prices = answer.diagnosis.usage, answer.prices
    known = {model: prices.of(model) if prices else None for model in used["model"].unique().to_list()}
    price = pl.Series("price", [known[model] for model in used["model"].to_list()], dtype=pl.Float64)
    return used.with_columns(price / 3600)


def _summed() -> list[pl.Expr]:
    cost, cost_lost = (pl.col("price") * pl.col(c) for c in ("covered_seconds", "lost_seconds"))
    known = {
        "joules": pl.col("joules"),
        "joules_lost": pl.col("joules_lost"),
        "cost": cost,
        "cost_lost": cost_lost,
    }
    return [
        pl.struct("host", "gpu").n_unique().alias("gpus"),
        pl.col("covered_seconds", "lost_seconds").sum(),
        *(pl.when(e.count() > 0).then(e.sum()).alias(name) for name, e in known.items()),
    ]


def by_owner(answer: Answer, owner: str) -> list[Spent]:
    """By `namespace` (team), `user` or `job`, what lost most first; GPUs without a job are one of them."""
    named = answer.once(owners)
    if owner == "job":
        names = {job: of.get("name") or job for job, of in named.items()}
    else:
        names = {job: of.get(owner) or "not said" for job, of in named.items()}
    who = pl.col("job").replace_strict(names, default=pl.col("job"), return_dtype=pl.String)
    rows = answer.once(_used).group_by(who.fill_null("no job").alias("name")).agg(_summed())
    causes = _mostly(answer, {job: str(name) for job, name in names.items()})
    return _spent(rows, causes)


def _spent(rows: pl.DataFrame, causes: Mapping[str, str]) -> list[Spent]:
    found = [
        Spent(
            r["name"],
            r["gpus"],
            r["covered_seconds"] or 0.0,
            r["lost_seconds"] or 0.0,
            r["joules"],
            r["joules_lost"],
            r["cost"],
            r["cost_lost"],
            causes.get(r["name"], ""),
        )
        for r in rows.iter_rows(named=True)
    ]
    return sorted(found, key=lambda s: (-s.lost, s.name))


def _mostly(answer: Answer, names: dict[str, str]) -> dict[str, str]:
    """Owner -> the cause that it lost most to."""
    sums: dict[str, dict[str, float]] = {}
    for job in answer.diagnosis.document["jobs"]:
        into = sums.setdefault(names.get(job["job"], job["job"]), {})
        for cause, seconds in job["by_cause"].items():
            into[cause] = into.get(cause, 0.0) + seconds
    return {
        name: max(causes, key=lambda c: causes[c]) for name, causes in sums.items() if any(causes.values())
    }


def by_cause(answer: Answer) -> list[Spent]:
    """By cause, what lost most first; a GPU's lost energy goes to its causes by the time they took."""
    key = ["host", "gpu", "job"]
    part = pl.col("lost_seconds") / pl.col("lost_seconds").sum().over(key)
    used = answer.once(_used).select(*key, "joules_lost", "price")
    rows = (
        answer.diagnosis.shares.group_by(*key, "cause")
        .agg(pl.col("lost_seconds").sum())
        .with_columns(part.alias("part"))
        .join(used, on=key, how="left", nulls_equal=True)
        .with_columns(
            (pl.col("joules_lost") * pl.col("part")).alias("joules_lost"),
            pl.lit(None, dtype=pl.Float64).alias("joules"),
            pl.lit(0.0).alias("covered_seconds"),
            pl.col("cause").alias("name"),
        )
        .group_by("name")
        .agg(_summed())
    )
    return _spent(rows, {name: name for name in rows["name"].to_list()})


def capacity(answer: Answer) -> Sequence[tuple[str, float]]:
    """(what, GPU-seconds): all GPUs over the windows, those without data, without a measured activity."""
    totals = answer.diagnosis.document["totals"]
    windows = answer.diagnosis.windows
    step = float(answer.diagnosis.document["window_seconds"])
    whole = (
        step * windows["ts"].n_unique() * len(answer.diagnosis.document["gpus"]) if windows.height else 0.0
    )
    whole = max(whole, totals["gpu_seconds"])
    unseen = whole - totals["gpu_seconds"]
    blind = max(0.0, totals["gpu_seconds"] - totals["covered_seconds"])
    return (("capacity", whole), ("no data", unseen), ("activity not measured", blind))
