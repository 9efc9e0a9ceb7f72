"""Findings: a cause that held on for three windows, with scope, evidence and what to do.

On where a cause takes a tenth of a window and scores 0.6 for three windows; off after six windows below 0.4;
gaps under 30 s are bridged. One finding for all GPUs of a job, and one for a mount or port that several jobs
share. `detected` is the end of the third window: when a live hub would have said it, never earlier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from wellfed.analysis.causes import CAUSES, INSUFFICIENT, UNKNOWN
from wellfed.analysis.evidence import Ramp, by_cause

__all__ = ["episodes", "findings"]

ON_SCORE, OFF_SCORE = 0.6, 0.4
ON_SHARE = 0.1
ON_WINDOWS, OFF_WINDOWS = 3, 6
BRIDGE = timedelta(seconds=30)
#: Causes that come and go by nature: three windows within this many make one finding that spans them.
RECURRING = ("checkpoint", "phase.evaluation")
RECUR_WINDOWS = 90
#: Resource that names a finding's scope, by cause.
_RESOURCE = {
    "storage.remote": "m_mount",
    "storage.metadata": "m_mount",
    "storage.read": "d_device",
    "fabric.link": "p_port",
    "fabric.congested": "p_port",
}
#: What follows from others, and what is never an echo.
_SYMPTOMS = ("straggler", "fabric.collective", "unknown")
_CERTAIN = ("hardware.fault", "throttle.thermal", "throttle.power", "pcie.degraded", "fabric.link")
#: Minutes after which held but idle GPUs are a finding, a warning, critical.
_IDLE = {"info": 5, "warning": 15, "critical": 60}


def episodes(shares: pl.DataFrame, scores: pl.DataFrame, step: float) -> pl.DataFrame:
    """Rows of host, gpu, job, cause, ts that are inside an episode, with score and lost_seconds.

    shares: long. scores: wide, one row a GPU and window with covered_seconds and a column a cause.
    """
    key = ["host", "gpu", "job", "cause"]
    causes = [c for c in shares["cause"].unique().to_list() if c not in (UNKNOWN, INSUFFICIENT)]
    if not causes:
        return shares.with_columns(pl.lit(0.0).alias("score")).clear()
    wide = scores.select("ts", "host", "gpu", "job", "covered_seconds", *causes)
    long = wide.unpivot(
        index=["ts", "host", "gpu", "job", "covered_seconds"],
        on=causes,
        variable_name="cause",
        value_name="score",
    )
    seen = shares.select("host", "gpu", "job", "cause").unique()
    long = (
        long.join(seen, on=key, how="semi", nulls_equal=True)
        .join(shares, on=[*key, "ts"], how="left", nulls_equal=True)
        .with_columns(pl.col("lost_seconds").fill_null(0.0))
        .sort(*key, "ts")
    )
    share = pl.col("lost_seconds") / pl.col("covered_seconds")
    on = ((pl.col("score") >= ON_SCORE) & (share >= ON_SHARE)).fill_null(False)
    off = ((pl.col("score") <= OFF_SCORE) | (share < ON_SHARE / 2)).fill_null(True)
    seen_on, seen_off = on.cast(pl.Int16), off.cast(pl.Int16)
    again = pl.col("cause").is_in(RECURRING)
    began = (
        pl.when(again)
        .then((seen_on.rolling_sum(RECUR_WINDOWS, min_samples=1).over(key) >= ON_WINDOWS) & on)
        .otherwise(seen_on.rolling_sum(ON_WINDOWS, min_samples=ON_WINDOWS).over(key) == ON_WINDOWS)
    )
    patience = pl.when(again).then(
        seen_off.rolling_sum(RECUR_WINDOWS, min_samples=RECUR_WINDOWS).over(key) == RECUR_WINDOWS
    )
    ended = patience.otherwise(
        seen_off.rolling_sum(OFF_WINDOWS, min_samples=OFF_WINDOWS).over(key) == OFF_WINDOWS
    )
    state = pl.when(began).then(1).when(ended).then(0)
    marked = long.with_columns(state.alias("_mark"), on.alias("_on")).with_columns(
        pl.col("_mark").forward_fill().over(key).fill_null(0).alias("_state")
    )
    # The windows that made it begin belong to it.
    early = pl.max_horizontal(
        *(pl.col("_state").shift(-n).over(key).fill_null(0) for n in range(1, ON_WINDOWS))
    )
    inside = (pl.col("_state") == 1) | (pl.col("_on") & (early == 1))
    return marked.filter(inside).drop("_mark", "_state")


def findings(inside: pl.DataFrame, windows: pl.DataFrame, end: datetime, step: float) -> list[dict[str, Any]]:
    """Findings, the costliest first, without their cost. windows: the scored feature rows."""
    if inside.is_empty():
        return []
    resources = sorted(set(_RESOURCE.values()) & set(windows.columns))
    rows = inside.join(
        windows.select("ts", "host", "gpu", "rank", *resources), on=["ts", "host", "gpu"], how="left"
    )
    resource = pl.lit(None, dtype=pl.String)
    for cause, column in _RESOURCE.items():
        resource = pl.when(pl.col("cause") == cause).then(pl.col(column)).otherwise(resource)
    rows = rows.with_columns(resource.alias("resource"), _who().alias("_who"))
    shared = (
        rows.filter(pl.col("cause").is_in(["storage.remote", "storage.metadata"]))
        .group_by("cause", "resource")
        .agg(pl.col("_who").n_unique().alias("_users"))
    )
    rows = rows.join(shared, on=["cause", "resource"], how="left").with_columns(
        pl.when(pl.col("_users") > 1).then(pl.col("resource")).otherwise(pl.col("_who")).alias("_group")
    )
    found = []
    for (cause, _), part in rows.group_by(["cause", "_group"], maintain_order=True):
        for episode in _cut(part.sort("ts"), step):
            finding = _finding(str(cause), episode, windows, end, step)
            if finding is not None:
                found.append(finding)
    return sorted(_without_echoes(found), key=lambda f: (-f["lost_gpu_seconds"], f["id"]))


def _who() -> pl.Expr:
    """Whose finding it is: a job's, a GPU's own or, where free GPUs face a queue, the cluster's."""
    free = pl.col("cause") == "idle.gap"
    return pl.when(free).then(pl.lit("free")).otherwise(pl.coalesce("job", "gpu"))


def _without_echoes(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out findings that a far larger one of the same job explains.

    A job that starves also spins, and its ranks take turns in being late: a tenth of the loss beside a
    named cause is its echo. Certain causes are never echoes.
    """

    def echo(small: dict[str, Any], large: dict[str, Any]) -> bool:
        factor = 3.0 if small["cause"] in _SYMPTOMS and large["cause"] not in _SYMPTOMS else 10.0
        together = (small["end"] is None or small["end"] >= large["start"]) and (
            large["end"] is None or large["end"] >= small["start"]
        )
        same = small["scope"]["job"] is not None and small["scope"]["job"] == large["scope"]["job"]
        return same and together and large["lost_gpu_seconds"] >= factor * small["lost_gpu_seconds"]

    return [f for f in found if f["cause"] in _CERTAIN or not any(echo(f, g) for g in found if g is not f)]


def _cut(rows: pl.DataFrame, step: float) -> list[pl.DataFrame]:
    gap = rows["ts"].diff() > BRIDGE + timedelta(seconds=step)
    return rows.with_columns(gap.fill_null(False).cum_sum().alias("_part")).partition_by("_part")


def _finding(
    cause: str, rows: pl.DataFrame, windows: pl.DataFrame, end: datetime, step: float
) -> dict[str, Any] | None:
    stamps: list[datetime] = rows["ts"].unique().sort().to_list()
    if len(stamps) < ON_WINDOWS:
        return None
    width = timedelta(seconds=step)
    first, last = stamps[0] - width, stamps[-1]
    minutes = (last - first).total_seconds() / 60
    if cause == "idle.held" and minutes < _IDLE["info"]:
        return None
    # Between its bursts a recurring cause has no evidence to show.
    struck = rows.filter(pl.col("lost_seconds") >= ON_SHARE * pl.col("covered_seconds"))
    about = windows.join(struck.select("ts", "host", "gpu"), on=["ts", "host", "gpu"], how="semi")
    lost = float(rows["lost_seconds"].sum())
    jobs = rows["job"].drop_nulls().unique().sort().to_list()
    resource = rows["resource"].drop_nulls().mode().sort().to_list()
    scope: dict[str, Any] = {
        "hosts": rows["host"].unique().sort().to_list(),
        "gpus": rows["gpu"].unique().sort().to_list(),
        "ranks": rows["rank"].drop_nulls().unique().sort().to_list(),
        "job": jobs[0] if len(jobs) == 1 else None,
        "resource": resource[0] if resource else None,
    }
    told_for, told_against, missing = _evidence(cause, about)
    mean = float(struck["score"].mean() or 0.0)  # type: ignore[arg-type]
    open_ = last >= end - OFF_WINDOWS * width
    return {
        "id": hashlib.sha256(
            f"{cause}|{scope['job']}|{scope['resource']}|{scope['hosts'][0]}|{first.isoformat()}".encode()
        ).hexdigest()[:12],
        "cause": cause,
        "scope": scope,
        "start": first.isoformat(),
        "end": None if open_ else last.isoformat(),
        "detected": stamps[ON_WINDOWS - 1].isoformat(),
        "culprits": _culprits(cause, rows, windows),
        "severity": _severity(cause, lost, minutes, len(scope["gpus"])),
        "lost_gpu_seconds": lost,
        "cost": None,
        "confidence": _confidence(cause, mean, about, len(stamps)),
        "evidence_for": told_for,
        "evidence_against": told_against,
        "missing_signals": missing,
        "next_steps": _steps(cause, scope),
        "runbook": CAUSES[cause].runbook,
    }


def _steps(cause: str, scope: Mapping[str, Any]) -> list[str]:
    names = {
        "job": scope["job"] or "the job",
        "host": scope["hosts"][0],
        "gpu": scope["gpus"][0],
        "resource": scope["resource"] or "the device",
    }
    return [step.format(**names) for step in CAUSES[cause].next_steps]


def _evidence(
    cause: str, about: pl.DataFrame
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    signature = by_cause().get(cause)
    if signature is None:
        return _certain(cause, about), [], []
    told: list[dict[str, Any]] = []
    missing = []
    for ramp in signature.ramps:
        value, level = _mean(ramp, about)
        if value is None:
            missing.append(ramp.signal)
        elif level >= 0.25 and ramp.weight > 0:
            told.append(
                {
                    "signal": ramp.signal,
                    "value": value,
                    "expected": ramp.lo,
                    "weight": round(ramp.weight * level, 3),
                }
            )
    against: list[dict[str, Any]] = []
    for ramp in signature.contra:
        value, level = _mean(ramp, about)
        if value is not None and level >= 0.1:
            against.append(
                {"signal": ramp.signal, "value": value, "expected": ramp.lo, "weight": round(level, 3)}
            )
    told.sort(key=lambda item: -float(item["weight"]))
    return told, against, missing


def _certain(cause: str, about: pl.DataFrame) -> list[dict[str, Any]]:
    columns = {
        "throttle.thermal": (("slowed by heat, s/s", "t_thermal", 0.01),),
        "throttle.power": (("slowed by the power cap, s/s", "t_power", 0.2),),
        "hardware.fault": (
            ("XID events", "xid_errors", 0.0),
            ("uncorrected memory errors", "ecc_uncorrected", 0.0),
            ("inactive NVLinks", "nvlink_down", 0.0),
        ),
    }[cause]
    told = []
    for signal, column, expected in columns:
        value = about[column].mean()
        if isinstance(value, float) and value > expected:
            told.append({"signal": signal, "value": value, "expected": expected, "weight": 1.0})
    return told


def _mean(ramp: Ramp, about: pl.DataFrame) -> tuple[float | None, float]:
    value, level = about.select(
        ramp.value().cast(pl.Float64).fill_nan(None).mean().alias("v"),
        ramp.expr().cast(pl.Float64).mean().alias("l"),
    ).row(0)
    return (
        None if value is None or value in (float("inf"), float("-inf")) else float(f"{value:.4g}")
    ), level or 0.0


def _culprits(cause: str, rows: pl.DataFrame, windows: pl.DataFrame) -> dict[str, list[str]]:
    empty: dict[str, list[str]] = {"hosts": [], "gpus": [], "ranks": []}
    if cause in ("fabric.link", "pcie.degraded", "hardware.fault", "throttle.thermal", "throttle.power"):
        return {
            "hosts": rows["host"].unique().sort().to_list(),
            "gpus": rows["gpu"].unique().sort().to_list(),
            "ranks": [],
        }
    if cause != "straggler":
        return empty
    # The rank that spins least while its peers spin is the one they wait for.
    inside = windows.join(rows.select("job", "ts").unique(), on=["job", "ts"], how="semi")
    least = inside.group_by("host", "gpu", "rank").agg(pl.col("spin").mean()).sort("spin")
    low = least["spin"][0]
    median = least["spin"].median()
    if low is None or not isinstance(median, float) or median - low < 0.05:
        return empty
    guilty = least.filter(pl.col("spin") <= low + 0.25 * (median - low))
    return {
        "hosts": guilty["host"].unique().sort().to_list(),
        "gpus": guilty["gpu"].sort().to_list(),
        "ranks": guilty["rank"].drop_nulls().sort().to_list(),
    }


def _severity(cause: str, lost: float, minutes: float, gpus: int) -> str:
    if cause == "idle.held":
        return max((name for name, least in _IDLE.items() if minutes >= least), key=lambda n: _IDLE[n])
    if cause == "hardware.fault":
        return "critical"
    share = lost / (60 * minutes * gpus)
    if lost >= 36_000 or (share >= 0.5 and minutes >= 15):
        return "critical"
    return "warning" if minutes >= 5 or share >= 0.3 else "info"


def _confidence(cause: str, mean: float, about: pl.DataFrame, windows: int) -> float:
    """Score, margin to the second cause and persistence; a first formula, not calibrated."""
    others = [c for c in by_cause() if c != cause and c in about.columns]
    second = about.select(pl.max_horizontal(*others).mean()).item() or 0.0
    margin = max(0.0, min(1.0, 0.5 + 0.5 * (mean - second)))
    persistence = min(1.0, windows / 12)
    return round(min(0.99, max(0.05, 0.5 * mean + 0.35 * margin + 0.15 * persistence)), 3)
