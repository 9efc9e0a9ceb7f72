"""Tables in, answer out: who lost how much GPU time to what, with the evidence.

`document` is the stable JSON of `wellfed diagnose --json`; the frames beside it feed the dashboard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from wellfed.analysis.hosts import facts, pressures

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """document: the JSON contract. windows, shares, hosts: frames by window."""

    document: dict[str, Any]
    windows: pl.DataFrame
    shares: pl.DataFrame
    hosts: pl.DataFrame


def diagnose(
    tables: Mapping[str, pl.LazyFrame],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    price: float | None = None,
) -> Diagnosis:
    """The answer for a range."""
    now = datetime.now(UTC)
    hosts = pressures(tables["host"], 10.0).collect(engine="streaming")
    document: dict[str, Any] = {
        "version": 1,
        "from": (start or now).isoformat(),
        "to": (end or now).isoformat(),
        "window_seconds": 10,
        "price_per_gpu_hour": price,
        "totals": {
            "gpu_seconds": 0.0,
            "covered_seconds": 0.0,
            "lost_seconds": 0.0,
            "au": None,
            "by_cause": {},
            "by_cause_root": {},
            "joules": None,
            "cost_lost": None,
        },
        "gpus": [],
        "jobs": [],
        "findings": [],
        "coverage": [],
        "warnings": ["no GPU found"],
        "hosts": facts(hosts),
    }
    ts = pl.Datetime("ms", "UTC")
    windows = pl.DataFrame(
        schema={
            "ts": ts,
            "host": pl.String,
            "gpu": pl.String,
            "covered_seconds": pl.Float64,
            "lost_seconds": pl.Float64,
            "cause": pl.String,
        }
    )
    shares = pl.DataFrame(
        schema={"ts": ts, "host": pl.String, "gpu": pl.String, "cause": pl.String, "lost_seconds": pl.Float64}
    )
    return Diagnosis(document, windows, shares, hosts)
