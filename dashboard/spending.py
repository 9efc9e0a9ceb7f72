"""What the range cost, in money and energy, by team, user, job and cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from wellfed.analysis.windows import on_grid
from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import owners

__all__ = ["Spent", "by_cause", "by_owner", "capacity"]

_GAP = 3.5


@dataclass(frozen=True, slots=True)
class Spent:
    """GPU-seconds and joules of an owner or cause. joules: None where no GPU tells its energy."""

    name: str
    gpus: int
    covered: float
    lost: float
    joules: float | None
    joules_lost: float | None
    mostly: str


def _energy(answer: Answer) -> pl.DataFrame:
    """ts, host, gpu, joules of each window; a fall or a gap is left out."""
    window = float(answer.diagnosis.document["window_seconds"])
    ms = pl.col("ts").dt.epoch("ms")
    same = pl.col("_key") == pl.col("_key").shift()
    used, seconds = pl.col("energy_joules").diff(), ms.diff() / 1000
    return (
        answer.tables["gpu"]
        .select("ts", "host", "gpu", "energy_joules")
        .with_columns(pl.struct("host", "gpu").hash().alias("_key"))
        .sort("_key", "ts")
        .select(
            # The grid that the diagnosis puts windows on.
            on_grid(window).alias("ts"),
            "host",
            "gpu",
            pl.when(same & (seconds > 0) & (seconds <= _GAP * window) & (used >= 0))
            .then(used)
            .alias("joules"),
        )
        .drop_nulls("joules")
        .collect(engine="streaming")
    )


def _windows(answer: Answer) -> pl.DataFrame:
    """A row a job, host, GPU and job: covered and lost seconds, joules, and the joules of lost time."""
    burnt = pl.col("joules") * (pl.col("lost_seconds") / pl.col("covered_seconds")).clip(0, 1)
    return (
        answer.diagnosis.windows.lazy()
        .select("ts", "host", "gpu", "job", "covered_seconds", "lost_seconds")
        .join(answer.once(_energy).lazy(), on=["ts", "host", "gpu"], how="left")
        .with_columns(pl.when(pl.col("covered_seconds") > 0).then(burnt).alias("burnt"))
        .group_by("job", "host", "gpu")
        .agg(
            pl.col("covered_seconds", "lost_seconds", "burnt").sum(),
            pl.when(pl.col("joules").count() > 0).then(pl.col("joules").sum()).alias("joules"),
        )
        .collect(engine="streaming")
    )


def by_owner(answer: Answer, owner: str) -> list[Spent]:
    """By `namespace` (team), `user` or `job`, what lost most first; GPUs without a job are one of them."""
    named = answer.once(owners)
    if owner == "job":
        names = {job: of.get("name") or job for job, of in named.items()}
    else:
        names = {job: of.get(owner) or "not said" for job, of in named.items()}
    known = answer.once(_windows).with_columns(
        pl.col("job")
        .replace_strict(names, default=pl.col("job"), return_dtype=pl.String)
        .fill_null("no job")
        .alias("name")
    )
    summed = known.group_by("name").agg(
        pl.struct("host", "gpu").n_unique().alias("gpus"),
        pl.col("covered_seconds", "lost_seconds", "burnt").sum(),
        pl.when(pl.col("joules").count() > 0).then(pl.col("joules").sum()).alias("joules"),
    )
    causes = _mostly(answer, {job: str(name) for job, name in names.items()})
    rows = [
        Spent(
            r["name"],
            r["gpus"],
            r["covered_seconds"],
            r["lost_seconds"],
            r["joules"],
            None if r["joules"] is None else r["burnt"],
            causes.get(r["name"], ""),
        )
        for r in summed.iter_rows(named=True)
    ]
    return sorted(rows, key=lambda s: (-s.lost, s.name))


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
    """By cause, what lost most first; energy burnt while waiting for it."""
    shares = answer.diagnosis.shares
    if shares.is_empty():
        return []
    burnt = pl.col("joules") * (pl.col("lost_seconds") / pl.col("covered_seconds")).clip(0, 1)
    key = ["ts", "host", "gpu"]
    rows = (
        shares.lazy()
        .select(*key, "cause", "lost_seconds")
        .join(answer.diagnosis.windows.lazy().select(*key, "covered_seconds"), on=key, how="left")
        .join(answer.once(_energy).lazy(), on=key, how="left")
        .group_by("cause")
        .agg(
            pl.struct("host", "gpu").n_unique().alias("gpus"),
            pl.col("lost_seconds").sum(),
            pl.when(pl.col("joules").count() > 0).then(burnt.sum()).alias("burnt"),
        )
        .sort("lost_seconds", "cause", descending=[True, False])
        .collect(engine="streaming")
    )
    return [
        Spent(r["cause"], r["gpus"], 0.0, r["lost_seconds"], r["burnt"], r["burnt"], r["cause"])
        for r in rows.iter_rows(named=True)
    ]


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
