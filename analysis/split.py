"""Splits each window's lost seconds over causes: first what is certain, then what was measured, then inferred.

1. What throttling took and what a fault explains is deterministic. 2. Parts that the loop itself timed cap
their causes. 3. The rest goes to the inferred causes by score squared, `unknown` taking part with
max(0.15, 1 - best score). Shares sum exactly to the loss.
"""

from __future__ import annotations

import polars as pl

from wellfed.analysis.causes import UNKNOWN
from wellfed.analysis.evidence import SIGNATURES, score

__all__ = ["CAUSE_COLUMNS", "scored", "shares"]

_INFERRED = tuple(s.cause for s in SIGNATURES)
_CERTAIN = ("throttle.thermal", "throttle.power", "hardware.fault")
CAUSE_COLUMNS = (*_CERTAIN, *_INFERRED, UNKNOWN)


def scored(windows: pl.LazyFrame, stretch: float = 1.0) -> pl.LazyFrame:
    """Adds one score column a cause, named by it."""
    fault = (
        (pl.col("xid_errors").fill_null(0) > 0)
        | (pl.col("ecc_uncorrected").fill_null(0) > 0)
        | (pl.col("remap_failed").fill_null(0) > 0)
        | (pl.col("nvlink_down").fill_null(0) > 0)
    )
    return windows.with_columns(
        *(score(s, stretch) for s in SIGNATURES),
        fault.cast(pl.Float64).alias("hardware.fault"),
        (pl.col("t_thermal") / 0.02).clip(0, 1).fill_null(0).alias("throttle.thermal"),
        ((pl.col("t_power") - 0.01) / 0.2).clip(0, 1).fill_null(0).alias("throttle.power"),
    )


def shares(windows: pl.LazyFrame) -> pl.LazyFrame:
    """Long rows of ts, host, gpu, job, cause, lost_seconds and score for windows that lost something."""
    lost, throttled = pl.col("lost_seconds"), pl.col("throttled_seconds")
    fault = pl.col("hardware.fault") > 0
    weights = {c: pl.col(c) ** 2 for c in _INFERRED}
    best = pl.max_horizontal(*_INFERRED)
    weights[UNKNOWN] = pl.max_horizontal(pl.lit(0.15), 1 - best) ** 2
    total = sum(weights.values(), start=pl.lit(0.0))
    rest = pl.when(fault).then(0.0).otherwise(lost - throttled)
    heat = (
        pl.when(pl.col("throttle.thermal") + pl.col("throttle.power") > 0)
        .then(pl.col("throttle.thermal") / (pl.col("throttle.thermal") + pl.col("throttle.power")))
        .otherwise(1.0)
    )
    columns = {
        "hardware.fault": pl.when(fault).then(lost - throttled).otherwise(0.0),
        "throttle.thermal": throttled * heat,
        "throttle.power": throttled * (1 - heat),
        **{c: rest * w / total for c, w in weights.items()},
    }
    key = ["ts", "host", "gpu", "job"]
    amounts = windows.filter(lost > 0).select(*key, *(e.alias(c) for c, e in columns.items()))
    long = amounts.unpivot(index=key, on=list(columns), variable_name="cause", value_name="lost_seconds")
    return long.filter(pl.col("lost_seconds") > 0)
