"""Splits each window's lost seconds over causes: the certain, then the measured, then the inferred.

1. What throttling took, a job that stands still after a fault and a free GPU while jobs wait are certain.
2. Where the loop timed its own parts, what it waited for (data, copies, peers, checkpoints, evaluation)
divides the rest in proportion. 3. Within each part, and for all of it without such times, the inferred causes
share by score squared, with `unknown` taking part with max(0.15, 1 - best score). Shares sum exactly to the
loss.
"""

from __future__ import annotations

import polars as pl

from wellfed.analysis.causes import UNKNOWN
from wellfed.analysis.evidence import SIGNATURES, score

__all__ = ["scored", "shares"]

_INFERRED = tuple(s.cause for s in SIGNATURES)
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
        *_INPUT,
    ),
    "x_checkpoint": ("checkpoint",),
    "x_eval": ("phase.evaluation",),
}
#: A part this small says nothing.
_LEAST_PART = 0.02


def scored(windows: pl.LazyFrame, stretch: float = 1.0) -> pl.LazyFrame:
    """Adds one score column a cause, named by it. stretch: scales all thresholds (sensitivity tests)."""
    # A late peer of a rank that starves itself is the same problem, not a straggler.
    alike = 1 - pl.max_horizontal(*_INPUT)
    certain = pl.col("fault").cast(pl.Float64)
    return windows.with_columns(*(score(s, stretch) for s in SIGNATURES)).with_columns(
        (pl.col("straggler") * alike).alias("straggler"),
        pl.max_horizontal("hardware.fault", certain).alias("hardware.fault"),
        (pl.col("t_thermal") / 0.02).clip(0, 1).fill_null(0).alias("throttle.thermal"),
        ((pl.col("t_power") - 0.01) / 0.2).clip(0, 1).fill_null(0).alias("throttle.power"),
    )


def shares(windows: pl.LazyFrame) -> pl.LazyFrame:
    """Long rows of ts, host, gpu, job, cause, lost_seconds for windows that lost something."""
    lost, throttled = pl.col("lost_seconds"), pl.col("throttled_seconds")
    free = pl.col("gap") > 0
    rest = pl.when(pl.col("fault") | free).then(0.0).otherwise(lost - throttled)
    parts = {part: pl.when(pl.col(part) >= _LEAST_PART).then(pl.col(part)).fill_null(0.0) for part in _PART}
    timed = sum(parts.values(), start=pl.lit(0.0))
    known = timed > 0
    columns: dict[str, pl.Expr] = {}
    for part, causes in _PART.items():
        mine = pl.when(known).then(rest * parts[part] / timed).otherwise(0.0)
        _divide(columns, mine, causes)
    _divide(columns, pl.when(known).then(0.0).otherwise(rest), _INFERRED)
    heat = pl.col("throttle.thermal") + pl.col("throttle.power")
    hot = pl.when(heat > 0).then(pl.col("throttle.thermal") / heat).otherwise(1.0)
    columns["throttle.thermal"] = throttled * hot
    columns["throttle.power"] = throttled * (1 - hot)
    for cause, certain in (("hardware.fault", pl.col("fault") & ~free), ("idle.gap", free)):
        columns[cause] = columns[cause] + pl.when(certain).then(lost - throttled).otherwise(0.0)
    key = ["ts", "host", "gpu", "job"]
    amounts = windows.filter(lost > 0).select(*key, *(e.alias(c) for c, e in columns.items()))
    long = amounts.unpivot(index=key, on=list(columns), variable_name="cause", value_name="lost_seconds")
    return long.filter(pl.col("lost_seconds") > 0)


def _divide(columns: dict[str, pl.Expr], amount: pl.Expr, causes: tuple[str, ...]) -> None:
    """Adds amount to the causes' columns, by score squared, and to unknown."""
    unsure = pl.max_horizontal(pl.lit(0.15), 1 - pl.max_horizontal(*causes))
    weights = {**{c: pl.col(c) ** 2 for c in causes}, UNKNOWN: unsure**2}
    total = sum(weights.values(), start=pl.lit(0.0))
    for cause, weight in weights.items():
        share = amount * weight / total
        columns[cause] = columns[cause] + share if cause in columns else share
