"""Whose fault a slow remote file system is: the client's, the network's or the array's.

The client, when requests wait there for longer than they travel; the network, when requests are sent twice,
or when the array answers in far less time than the client sees; the array, when its own latency is most of a
round trip. Without the array's word (table `array`) a slow round trip is either's, and nobody is blamed.
Source of the thresholds: the signature of storage.remote (evidence.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from wellfed.analysis.windows import amounts
from wellfed.collectors.catalog import TABLES

__all__ = ["Blame", "blame", "with_blame"]

CAUSES = ("storage.remote", "storage.metadata")
#: Queueing in the client over its whole time; transmissions beyond one; the array's own part of a round trip.
QUEUE_SHARE, RETRANSMITTED, ARRAY_SHARE = 0.5, 0.001, 0.5

#: (side or None, evidence item or None).
Blame = tuple[str | None, Mapping[str, object] | None]


def blame(
    execution: float, round_trip: float, operations: float, retransmits: float, array: float | None
) -> Blame:
    """Who is to blame, and the number that says so.

    execution, round_trip: seconds of all operations in a time; array: mean latency that the array itself
    reports, in seconds, None where it does not.
    """
    # A mean below a nanosecond is no time that anything takes.
    if operations <= 0 or execution <= 0 or round_trip <= 1e-9 * operations:
        return None, None
    queued, twice = 1 - round_trip / execution, retransmits / operations
    if queued > QUEUE_SHARE:
        return "client", _item("time queued in the client, share of an operation's time", queued, QUEUE_SHARE)
    if twice > RETRANSMITTED:
        return "network", _item("transmissions beyond one an operation", twice, RETRANSMITTED)
    if array is None:
        return None, None
    share = array / (round_trip / operations)
    signal = "the array's own latency, share of the round trip"
    return ("array" if share >= ARRAY_SHARE else "network"), _item(signal, share, ARRAY_SHARE)


def _item(signal: str, value: float, expected: float) -> Mapping[str, object]:
    return {"signal": signal, "value": float(f"{value:.4g}"), "expected": expected, "weight": 1.0}


def with_blame(
    found: Sequence[dict[str, Any]], tables: Mapping[str, pl.LazyFrame], step: float
) -> list[dict[str, Any]]:
    """The findings with `blame`: client, network, array, or null where nobody is to blame or it is not known.
    What says so is their first evidence.
    """
    return [
        _blamed(finding, tables, step) if finding["cause"] in CAUSES else {**finding, "blame": None}
        for finding in found
    ]


def _blamed(finding: dict[str, Any], tables: Mapping[str, pl.LazyFrame], step: float) -> dict[str, Any]:
    reads = finding["cause"] == "storage.remote"
    kind, count = ("read", "reads") if reads else ("metadata", "metadata_ops")
    inside = _during(finding)
    mounts = amounts(tables["mount"], TABLES["mount"], step).filter(
        inside & pl.col("host").is_in(finding["scope"]["hosts"])
    )
    if finding["scope"]["resource"]:
        mounts = mounts.filter(pl.col("mount") == finding["scope"]["resource"])
    execution, round_trip, operations, sent, done, server = (
        mounts.select(
            pl.col(f"{kind}_exec_seconds").sum(),
            pl.col(f"{kind}_rtt_seconds").sum(),
            pl.col(count).sum(),
            pl.col("retransmits").sum(),
            pl.sum_horizontal(pl.col("reads", "writes", "metadata_ops").sum()).alias("all"),
            pl.col("server").drop_nulls().mode().first(),
        )
        .collect(engine="streaming")
        .row(0)
    )
    # Retransmissions are counted over all operations of a mount, not by kind.
    twice = sent / done * operations if done else 0.0
    latency = _latency(tables["array"].filter(inside), "read" if reads else "other", server)
    side, item = blame(execution, round_trip, operations, twice, latency)
    evidence = [item, *finding["evidence_for"]] if item else finding["evidence_for"]
    return {**finding, "evidence_for": evidence, "blame": side}


def _during(finding: Mapping[str, Any]) -> pl.Expr:
    inside = pl.col("ts") > datetime.fromisoformat(finding["start"])
    if finding["end"] is not None:
        inside = inside & (pl.col("ts") <= datetime.fromisoformat(finding["end"]))
    return inside


def _latency(array: pl.LazyFrame, kind: str, server: str | None) -> float | None:
    """Mean latency in the array that serves the mount: that of the server's name, else the slowest."""
    by_array = (
        array.filter(pl.col("protocol").is_in(["nfs", "all"]))
        .group_by("array", "protocol")
        .agg(pl.col(f"{kind}_latency_seconds").mean().alias("latency"))
        .drop_nulls("latency")
        .collect(engine="streaming")
    )
    of_server = by_array.filter(pl.col("array") == (server or ""))
    rows = by_array if of_server.is_empty() else of_server
    nfs = rows.filter(pl.col("protocol") == "nfs")
    slowest = (rows if nfs.is_empty() else nfs)["latency"].max()
    return slowest if isinstance(slowest, float) else None
