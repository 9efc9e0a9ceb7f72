"""Splits each window's lost seconds over causes: the certain, then the measured, then the inferred.

1. What throttling took, a job that stands still after a fault and a free GPU while jobs wait are certain. 2.
Where the loop timed its own parts, each (data, copies, peers, checkpoints, evaluation) takes the seconds by
which it exceeds the job's best windows, at most the loss. 3. Within each part, and for what no part explains,
the inferred causes share by score squared, with `unknown` taking part with max(0.1, 1 - best score). Shares
sum exactly to the loss.
"""

from __future__ import annotations

import polars as pl

from wellfed.analysis.causes import INSUFFICIENT, UNKNOWN
from wellfed.analysis.evidence import Signature, score
from wellfed.analysis.schema import TS
from wellfed.analysis.signatures import CERTAIN, LATE, SIGNATURES

__all__ = ["CAUSES_SPLIT", "SHARES", "amounts", "scored", "shares"]

#: Ranks that are slowed themselves also wait for the ones that are slowed more.
_INFERRED = tuple(s.cause for s in (*SIGNATURES, *CERTAIN))
#: Timed part of a step -> the causes that explain it; what is not here is in the rest, the loop's own work.
_INPUT = (
    "storage.read",
    "storage.remote",
    "storage.metadata",
    "storage.object",
    "cpu.preprocess",
    "cpu.quota",
    "memory.pressure",
)
_PART = {
    "x_data": _INPUT,
    "x_h2d": ("pcie.copy", "pcie.degraded"),
    # A rank that is late for want of data makes its peers wait in their reduction.
    "x_comm": (
        "fabric.collective",
        "fabric.link",
        "fabric.congested",
        "straggler",
        "hardware.fault",
        "throttle.thermal",
        "throttle.power",
        *_INPUT,
    ),
    "x_checkpoint": ("checkpoint",),
    "x_eval": ("phase.evaluation",),
}
#: What the loop does not time: its own work is slow, or it does not run.
_UNTIMED = (
    *(c for c in _INFERRED if not any(c in causes for causes in _PART.values())),
    # Short of CPU or memory, the main thread launches late as well.
    "cpu.preprocess",
    "cpu.quota",
    "memory.pressure",
)
#: Every cause that a loss can be booked to.
CAUSES_SPLIT = (*_INFERRED, UNKNOWN, INSUFFICIENT)
#: Columns of `shares`.
SHARES = pl.Schema(
    {
        "ts": TS, "host": pl.String(), "gpu": pl.String(), "job": pl.String(), "cause": pl.String(),
        "lost_seconds": pl.Float64(),
    }
)  # fmt: skip
#: One feature of each table that could tell why.
_AROUND = (
    "h_cpus",
    "psi_io",
    "j_cpu_used",
    "d_outstanding",
    "m_outstanding",
    "p_bps",
    "s_compute",
    "v_running",
)
#: Share of a loss from which the loop's own times are taken to be all of it.
NEARLY = 0.75
#: Score from which a slow rank is charged with its own slowness.
SURE = 0.6
#: What `unknown` weighs beside the surest of causes.
DOUBT = 0.1
#: A part this small says nothing.
_LEAST_PART = 0.02


def scored(windows: pl.DataFrame, stretch: float = 1.0) -> pl.DataFrame:
    """Adds one score column a cause, named by it. stretch: scales all thresholds (sensitivity tests)."""
    # A late peer of a rank that starves itself is the same problem, not a straggler.
    alike = 1 - pl.max_horizontal(*_INPUT)
    certain = pl.col("fault").cast(pl.Float64)
    return (
        windows.lazy()
        .with_columns(*(score(s, stretch) for s in (*SIGNATURES, *CERTAIN)))
        .with_columns(
            (pl.col("straggler") * alike).alias("straggler"),
            (_late(stretch) * alike).alias("_late"),
            pl.max_horizontal("hardware.fault", certain).alias("hardware.fault"),
        )
        .with_columns(_with_slow())
        .collect()
    )


def _late(stretch: float) -> pl.Expr:
    """How sure it is that this rank is the one for which the others wait: as a victim, but early."""
    same = Signature("_late", need=LATE.need, contra=LATE.contra)
    early = (pl.col("waits") < pl.col("g_middle")).fill_null(False)
    return score(same, stretch) * early


def _with_slow() -> list[pl.Expr]:
    """What a slow rank loses itself, though it is busy all the time: the time its peers wait for it."""
    sure = pl.col("_late") >= SURE
    slow = (pl.col("late_by") * pl.col("covered_seconds") - pl.col("lost_seconds")).clip(0, None)
    slow = pl.when(sure & pl.col("held")).then(slow).otherwise(0.0).fill_null(0.0)
    return [
        slow.alias("slow_seconds"),
        (pl.col("lost_seconds") + slow).alias("lost_seconds"),
        pl.when(sure & (slow > 0))
        .then(pl.max_horizontal("straggler", "_late"))
        .otherwise("straggler")
        .alias("straggler"),
    ]


def amounts(windows: pl.DataFrame) -> pl.DataFrame:
    """Seconds lost to each cause, a column a cause, for each of the scored windows; they sum to the loss."""
    lost, throttled, slow = (pl.col(f"{c}_seconds") for c in ("lost", "throttled", "slow"))
    again = pl.col("again_seconds")
    lost = lost - slow - again
    free = pl.col("queue_waits") > 0
    rest = pl.when(pl.col("fault") | free).then(0.0).otherwise(lost - throttled)
    parts = {
        part: pl.when(pl.col(part) >= _LEAST_PART)
        .then(pl.col(part) * pl.col("covered_seconds"))
        .otherwise(0.0)
        .fill_null(0.0)
        for part in _PART
    }
    timed = sum(parts.values(), start=pl.lit(0.0))
    # Loop and device measure the same wait a little differently: what nearly explains all explains all.
    whole = timed >= NEARLY * rest
    scale = pl.when((timed > 0) & whole).then(rest / timed).otherwise(1.0)
    columns: dict[str, pl.Expr] = {}
    for part, causes in _PART.items():
        _divide(columns, parts[part] * scale, causes)
    left = pl.when(whole).then(0.0).otherwise(rest - timed)
    told = pl.col("s_compute").is_not_null()
    _divide(columns, pl.when(told).then(left).otherwise(0.0), _UNTIMED)
    _divide(columns, pl.when(told).then(0.0).otherwise(left), _INFERRED)
    heat = pl.col("throttle.thermal") + pl.col("throttle.power")
    hot = pl.when(heat > 0).then(pl.col("throttle.thermal") / heat).otherwise(1.0)
    columns["throttle.thermal"] = columns["throttle.thermal"] + throttled * hot
    columns["throttle.power"] = columns["throttle.power"] + throttled * (1 - hot)
    for cause, certain in (("hardware.fault", pl.col("fault") & ~free), ("idle.gap", free)):
        columns[cause] = columns[cause] + pl.when(certain).then(lost - throttled).otherwise(0.0)
    columns["straggler"] = columns["straggler"] + slow
    columns["serve.kv_full"] = columns["serve.kv_full"] + again
    # Nothing but the GPU itself is measured: that is no mystery but a missing collector.
    blind = pl.all_horizontal(pl.col(c).is_null() for c in _AROUND)
    columns[INSUFFICIENT] = pl.when(blind).then(columns[UNKNOWN]).otherwise(0.0)
    columns[UNKNOWN] = pl.when(blind).then(0.0).otherwise(columns[UNKNOWN])
    return windows.lazy().select(*(columns[c].alias(c) for c in CAUSES_SPLIT)).collect()


def shares(windows: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
    """Long rows of ts, host, gpu, job, cause, lost_seconds where something was lost. lost: `amounts`."""
    key = ["ts", "host", "gpu", "job"]
    wide = pl.concat([windows.select(key), lost], how="horizontal").lazy()
    long = wide.filter(pl.sum_horizontal(CAUSES_SPLIT) > 0).unpivot(
        index=key, on=list(CAUSES_SPLIT), variable_name="cause", value_name="lost_seconds"
    )
    return long.filter(pl.col("lost_seconds") > 0).select(list(SHARES)).collect()


def _divide(columns: dict[str, pl.Expr], amount: pl.Expr, causes: tuple[str, ...]) -> None:
    """Adds amount to the causes' columns, by score squared, and to unknown."""
    unsure = pl.max_horizontal(pl.lit(DOUBT), 1 - pl.max_horizontal(*causes))
    weights = {**{c: pl.col(c) ** 2 for c in causes}, UNKNOWN: unsure**2}
    total = sum(weights.values(), start=pl.lit(0.0))
    for cause, weight in weights.items():
        share = amount * weight / total
        columns[cause] = columns[cause] + share if cause in columns else share
