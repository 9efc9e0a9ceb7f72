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

__all__ = ["own_causes", "root_view"]

_STRAGGLER = "straggler"
#: Of what a victim lost, what a culprit must lose to its own cause for that to be the root.
LEAST = 0.1


#: What culprits lost to causes of their own: finding -> cause -> seconds.
Own = Mapping[str, Mapping[str, float]]


def own_causes(
    shares: pl.DataFrame, findings: Sequence[Mapping[str, Any]], earlier: Own | None = None
) -> dict[str, dict[str, float]]:
    """What the culprits of each straggler lose to a cause of their own, by the finding's id.

    shares: ts, host, gpu, job, cause, lost_seconds. earlier: the same of windows before these.
    """
    found = {}
    for finding in findings:
        culprits = finding["culprits"]["gpus"]
        if finding["cause"] != _STRAGGLER or not culprits:
            continue
        own = dict(earlier.get(finding["id"], {})) if earlier else {}
        mine = shares.filter(
            _inside(finding) & pl.col("gpu").is_in(culprits) & ~pl.col("cause").is_in([_STRAGGLER, UNKNOWN])
        )
        for cause, lost in mine.group_by("cause").agg(pl.col("lost_seconds").sum()).iter_rows():
            own[cause] = own.get(cause, 0.0) + lost
        found[finding["id"]] = own
    return found


def root_view(
    shares: pl.DataFrame, findings: Sequence[Mapping[str, Any]], own: Own | None = None
) -> pl.DataFrame:
    """shares (ts, host, gpu, job, cause, lost_seconds) with the causes of stragglers' victims replaced.

    own: of own_causes, where more is known than these shares tell.
    """
    known = own_causes(shares, findings) if own is None else own
    rooted = shares
    for finding in findings:
        lost = known.get(finding["id"]) if finding["cause"] == _STRAGGLER else None
        if not lost:
            continue
        root = max(sorted(lost), key=lost.__getitem__)
        if lost[root] < LEAST * finding["lost_gpu_seconds"] / len(finding["scope"]["gpus"]):
            continue
        victims = _inside(finding) & (pl.col("cause") == _STRAGGLER)
        victims = victims & pl.col("gpu").is_in(finding["scope"]["gpus"])
        rooted = rooted.with_columns(pl.when(victims).then(pl.lit(root)).otherwise("cause").alias("cause"))
    return rooted


def _inside(finding: Mapping[str, Any]) -> pl.Expr:
    inside = pl.col("ts") > datetime.fromisoformat(finding["start"])
    if finding["end"]:
        inside = inside & (pl.col("ts") <= datetime.fromisoformat(finding["end"]))
    return inside
