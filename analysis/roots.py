"""The root view: what a straggler's victims lost is booked to what made the straggler late.

Local view: what this GPU waited for. Root view: the cause that pays in the end. A culprit that loses nothing
to a cause of its own (it just computes slowly) keeps the loss as `straggler`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from wellfed.analysis.causes import UNKNOWN

__all__ = ["root_view"]

_STRAGGLER = "straggler"


def root_view(shares: pl.DataFrame, findings: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """shares (ts, host, gpu, job, cause, lost_seconds) with the causes of stragglers' victims replaced."""
    rooted = shares
    for finding in findings:
        culprits = finding["culprits"]["gpus"]
        if finding["cause"] != _STRAGGLER or not culprits:
            continue
        start = datetime.fromisoformat(finding["start"])
        end = datetime.fromisoformat(finding["end"]) if finding["end"] else None
        inside = (pl.col("ts") > start) & ((pl.col("ts") <= end) if end else pl.lit(True))
        own = (
            shares.filter(
                inside & pl.col("gpu").is_in(culprits) & ~pl.col("cause").is_in([_STRAGGLER, UNKNOWN])
            )
            .group_by("cause")
            .agg(pl.col("lost_seconds").sum())
            .sort("lost_seconds", descending=True)
        )
        if own.is_empty() or own["lost_seconds"][0] < 0.1 * finding["lost_gpu_seconds"] / len(
            finding["scope"]["gpus"]
        ):
            continue
        victims = inside & (pl.col("cause") == _STRAGGLER) & pl.col("gpu").is_in(finding["scope"]["gpus"])
        rooted = rooted.with_columns(
            pl.when(victims).then(pl.lit(own["cause"][0])).otherwise("cause").alias("cause")
        )
    return rooted
