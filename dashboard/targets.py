"""Where reads wait: mounts and disks with the parts of a read's time, and their latency over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from wellfed.dashboard.data import Answer
from wellfed.dashboard.derive import binned, grid_of
from wellfed.dashboard.figures import Array

__all__ = ["POINTS", "Slow", "Target", "slow_targets"]

#: Bins over the range.
POINTS = 120
#: Targets that are told.
TARGETS = 14
_MOUNT = (
    "read_bytes",
    "written_bytes",
    "reads",
    "metadata_ops",
    "read_rtt_seconds",
    "read_exec_seconds",
    "retransmits",
)
_DISK = ("read_bytes", "written_bytes", "reads", "read_seconds", "busy_seconds")


@dataclass(frozen=True, slots=True)
class Target:
    """A mount or a disk; seconds are of one read. worst: of its bins; array: the server's own latency.

    busy: share of time, disks only.
    """

    name: str
    clients: int
    read: float
    written: float
    latency: float | None
    best: float | None
    worst: float | None
    queue: float | None
    array: float | None
    small: float | None
    retransmits: float
    busy: float | None


@dataclass(frozen=True, slots=True)
class Slow:
    """Targets, the slowest first, with their latency over time in seconds: (targets, stamps)."""

    targets: Sequence[Target]
    stamps: Array
    latency: Array


def slow_targets(answer: Answer) -> Slow:
    several = pl.col("server").n_unique().over("mount") > 1
    told = pl.when(several).then(pl.format("{} ({})", "mount", "server")).otherwise("mount")
    mounts = binned(answer, "mount", _MOUNT, (), ("server",), points=POINTS).with_columns(
        told.alias("name"), pl.col("read_exec_seconds").alias("wait")
    )
    disks = binned(answer, "disk", _DISK, points=POINTS).with_columns(
        pl.format("{} {}", "host", "device").alias("name"), pl.col("read_seconds").alias("wait")
    )
    arrays = _arrays(answer)
    targets = [
        _mount(str(name), rows, arrays) for (name,), rows in mounts.group_by("name", maintain_order=True)
    ]
    targets += _disks(disks)
    targets.sort(key=lambda t: (t.busy is not None, -(t.worst or 0.0), -(t.busy or 0.0)))
    # A disk at rest says nothing.
    used = [t for t in targets if t.busy is None or t.busy >= 0.01 or t.read > 0]
    shown = (used or targets)[:TARGETS]
    timed = [t.name for t in shown if t.latency is not None]
    long = pl.concat([frame.select("at", "name", "wait", "reads") for frame in (mounts, disks)])
    latency = long.group_by("name", "at").agg(pl.col("wait", "reads").sum()).filter(pl.col("reads") > 0)
    latency = latency.select("at", "name", (pl.col("wait") / pl.col("reads")).alias("latency"))
    stamps, values = grid_of(latency, "name", "latency", timed)
    return Slow(shown, stamps, values)


def _arrays(answer: Answer) -> Mapping[str, float]:
    """array -> mean latency of its reads, by its own account."""
    rows = (
        answer.tables["array"]
        .filter((pl.col("read_ops_per_second") > 0) & (pl.col("read_latency_seconds") > 0))
        .group_by("array")
        .agg(
            (pl.col("read_latency_seconds") * pl.col("read_ops_per_second")).sum()
            / pl.col("read_ops_per_second").sum()
        )
        .collect(engine="streaming")
    )
    return dict(rows.iter_rows())


def _mount(name: str, rows: pl.DataFrame, arrays: Mapping[str, float]) -> Target:
    over = rows.group_by("at").agg(
        pl.col("reads", "read_exec_seconds", "read_bytes", "written_bytes").sum(), pl.col("seconds").max()
    )
    busy = over.filter(pl.col("reads") > 0).select(
        (pl.col("read_exec_seconds") / pl.col("reads")).alias("latency")
    )
    reads = float(rows["reads"].sum() or 0.0)
    exec_, rtt = (float(rows[c].sum() or 0.0) for c in ("read_exec_seconds", "read_rtt_seconds"))
    operations = reads + float(rows["metadata_ops"].sum() or 0.0)
    seconds = float(over["seconds"].sum() or 0.0) or 1.0
    server = next(iter(rows["server"].drop_nulls().to_list()), "")
    return Target(
        name=name,
        clients=rows["host"].n_unique(),
        read=float(over["read_bytes"].sum() or 0.0) / seconds,
        written=float(over["written_bytes"].sum() or 0.0) / seconds,
        latency=exec_ / reads if reads else None,
        best=_quantile(busy, 0.1),
        worst=_quantile(busy, 0.99),
        queue=max(0.0, exec_ - rtt) / reads if reads else None,
        array=arrays.get(server),
        small=1 - reads / operations if operations else None,
        retransmits=float(rows["retransmits"].sum() or 0.0),
        busy=None,
    )


def _quantile(rows: pl.DataFrame, at: float) -> float | None:
    return rows["latency"].quantile(at) if rows.height else None


def _disks(rows: pl.DataFrame) -> list[Target]:
    each = rows.with_columns(
        pl.when(pl.col("reads") > 0).then(pl.col("read_seconds") / pl.col("reads")).alias("latency")
    )
    summed = each.group_by("name").agg(
        pl.col("read_bytes", "written_bytes", "reads", "read_seconds", "busy_seconds", "seconds").sum(),
        pl.col("latency").quantile(0.1).alias("best"),
        pl.col("latency").quantile(0.99).alias("worst"),
    )
    return [
        Target(
            name=r["name"],
            clients=1,
            read=r["read_bytes"] / r["seconds"],
            written=r["written_bytes"] / r["seconds"],
            latency=r["read_seconds"] / r["reads"] if r["reads"] else None,
            best=r["best"],
            worst=r["worst"],
            queue=None,
            array=None,
            small=None,
            retransmits=0.0,
            busy=min(1.0, r["busy_seconds"] / r["seconds"]),
        )
        for r in summed.sort("busy_seconds", descending=True).head(2 * TARGETS).iter_rows(named=True)
    ]
