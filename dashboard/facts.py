"""Facts that several pages show, derived once from an answer (`answer.once`).

Everything per GPU and window is summed here by the engine; pages only see what they draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from wellfed.dashboard.data import Answer
from wellfed.dashboard.words import family

__all__ = [
    "RECENT",
    "STARVED",
    "Recent",
    "by_window",
    "gpus_by_host",
    "job_names",
    "lost_over_time",
    "owners",
    "recent",
    "reporting",
    "step_for",
]

#: A GPU is starved when it loses more than this share of a window (the MLPerf Storage bands).
STARVED = 0.3
#: What a heat map shows as now.
RECENT = timedelta(minutes=5)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recent:
    """A GPU in the last minutes. family: what cost most, "" productive; lost, sm: shares of covered time."""

    family: str
    lost: float
    sm: float | None
    seconds: float


def reporting(answer: Answer) -> tuple[int, int]:
    """(hosts of this range, hosts that reported in its newest three windows)."""
    hosts = answer.diagnosis.hosts
    if hosts.is_empty() or answer.last is None:
        return 0, 0
    near = answer.last - timedelta(seconds=2.5 * float(answer.diagnosis.document["window_seconds"]))
    return hosts["host"].n_unique(), hosts.filter(pl.col("ts") >= near)["host"].n_unique()


def by_window(answer: Answer) -> pl.DataFrame:
    """ts, covered_seconds, lost_seconds, starved, gpus: the fleet window by window."""
    return (
        answer.diagnosis.windows.lazy()
        .group_by("ts")
        .agg(
            pl.col("covered_seconds").sum(),
            pl.col("lost_seconds").sum(),
            (pl.col("lost_seconds") > STARVED * pl.col("covered_seconds")).sum().alias("starved"),
            (pl.col("covered_seconds") > 0).sum().alias("gpus"),
        )
        .sort("ts")
        .collect(engine="streaming")
    )


def recent(answer: Answer) -> Mapping[tuple[str, str], Recent]:
    """(host, gpu) -> its last minutes; a GPU without data is left out."""
    windows = answer.diagnosis.windows
    if windows.is_empty():
        return {}
    since = windows["ts"].max() - RECENT  # type: ignore[operator]
    key = ["host", "gpu"]
    now = windows.lazy().filter(pl.col("ts") > since)
    covered = now.group_by(key).agg(
        pl.col("covered_seconds").sum(),
        pl.col("lost_seconds").sum(),
        pl.col("useful").mean(),
    )
    top = (
        answer.diagnosis.shares.lazy()
        .filter(pl.col("ts") > since)
        .group_by(*key, "cause")
        .agg(pl.col("lost_seconds").sum().alias("most"))
        .group_by(key)
        .agg(pl.col("cause").sort_by("most").last())
    )
    joined = covered.join(top, on=key, how="left").filter(pl.col("covered_seconds") > 0)
    rows = joined.select(*key, "covered_seconds", "lost_seconds", "useful", "cause").collect(
        engine="streaming"
    )
    return {
        (host, gpu): Recent(family(cause) if cause and lost >= 0.1 * cov else "", lost / cov, useful, lost)
        for host, gpu, cov, lost, useful, cause in rows.iter_rows()
    }


def step_for(answer: Answer, points: int = 96) -> float:
    """Seconds of a bin: at most `points` over the range, in whole windows."""
    window = float(answer.diagnosis.document["window_seconds"])
    first, last = _extent(answer)
    return window * max(1, math.ceil((last - first) / window / points))


def _extent(answer: Answer) -> tuple[float, float]:
    """Seconds of the first and last window in the range, which may be shorter than what was asked for."""
    hosts = answer.diagnosis.hosts
    if hosts.is_empty():
        return answer.range.start.timestamp(), answer.range.end.timestamp()
    stamps = hosts["ts"]
    return stamps.min().timestamp(), stamps.max().timestamp()  # type: ignore[union-attr]


def lost_over_time(answer: Answer) -> tuple[Floats, Mapping[str, Floats], float]:
    """Milliseconds of each bin, GPU-hours lost in it by cause, seconds of a bin."""
    step = step_for(answer)
    shares = answer.diagnosis.shares
    if shares.is_empty():
        return np.array([]), {}, step
    every = timedelta(seconds=step)
    wide = (
        shares.lazy()
        .group_by(pl.col("ts").dt.truncate(every).alias("at"), "cause")
        .agg(pl.col("lost_seconds").sum() / 3600)
        .collect(engine="streaming")
        .pivot("cause", index="at", values="lost_seconds")
        .sort("at")
        .upsample("at", every=every)
        .fill_null(0.0)
    )
    stamps = wide["at"].dt.epoch("ms").to_numpy().astype(np.float64)
    return stamps, {c: wide[c].to_numpy() for c in wide.columns if c != "at"}, step


def gpus_by_host(answer: Answer) -> Mapping[str, list[Mapping[str, Any]]]:
    """host -> its GPUs of the document."""
    out: dict[str, list[Mapping[str, Any]]] = {}
    for gpu in answer.diagnosis.document["gpus"]:
        out.setdefault(gpu["host"], []).append(gpu)
    return out


def job_names(answer: Answer) -> Mapping[str, str]:
    """job -> the name its owner gave it, or its id."""
    return {job["job"]: job["name"] or job["job"] for job in answer.diagnosis.document["jobs"]}


def owners(answer: Answer) -> Mapping[str, Mapping[str, str | None]]:
    """job -> its name, user and namespace."""
    rows = (
        answer.tables["job"]
        .group_by("job")
        .agg(pl.col("name", "user", "namespace").drop_nulls().last())
        .collect(engine="streaming")
    )
    return {row["job"]: row for row in rows.iter_rows(named=True)}
