"""What a job is and what bounds it, from its signals alone: never from its name.

Kind: a server's metrics make it inference and a timed loop makes it training or evaluation, because they say
so themselves. Without them: ranks that exchange data and use tensor pipes steadily train; device memory busy
with tensor pipes idle is token-by-token decoding; CPU and I/O at work while the GPU rests prepares data;
short bursts in a long rest is a person at a notebook. Bound: what takes most of the time in which it runs
(input, peers, device memory, arithmetic). Both abstain when nothing stands out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite

import polars as pl

from wellfed.analysis.cost import tokens

__all__ = ["WORK", "Profile", "profiles", "work"]

#: Causes in which the GPU waits for its input.
INPUT = (
    "storage.read", "storage.remote", "storage.metadata", "storage.object", "cpu.preprocess", "cpu.quota",
    "memory.pressure", "pcie.copy", "pcie.degraded",
)  # fmt: skip
PEERS = ("fabric.collective", "fabric.link", "fabric.congested", "straggler")
#: Share of the covered time from which a wait bounds the job.
BOUND = 0.2
#: A kind or bound less likely than this is not named.
LEAST = 0.4
WORK = pl.Schema(
    {
        "job": pl.String(), "steps": pl.Float64(), "step_seconds": pl.Float64(), "eval_seconds": pl.Float64(),
        "cpu_seconds": pl.Float64(), "io_bytes": pl.Float64(), "cgroup_seconds": pl.Float64(),
        "tokens": pl.Float64(), "servers": pl.List(pl.String()),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """kind: preprocessing, training, inference, evaluation, notebook, or None. bound: input, communication,
    memory, compute, or None. confidence: 0..1, of the kind. signals: what it was read from, shares of time
    unless their name says otherwise.
    """

    kind: str | None
    bound: str | None
    confidence: float
    signals: Mapping[str, float]

    def document(self) -> dict[str, object]:
        """As in the JSON document."""
        return asdict(self)


def work(amounts: Mapping[str, pl.LazyFrame], used: pl.DataFrame) -> pl.DataFrame:
    """What each job did, in columns of WORK: all of it can be added up over time.

    amounts: the tables step, server and job on the grid. used: wellfed.analysis.cost.usage.
    """
    loops = (
        amounts["step"]
        .filter(pl.col("job").is_not_null())
        .group_by("job")
        .agg(
            pl.col("steps").sum(),
            *(pl.col(f"{c}_seconds").sum() for c in ("step", "eval")),
        )
    )
    works = (
        amounts["job"]
        .filter(pl.col("job").is_not_null())
        .group_by("job")
        .agg(
            pl.col("cpu_usage_seconds").sum().alias("cpu_seconds"),
            pl.sum_horizontal("io_read_bytes", "io_write_bytes")
            .round()
            .cast(pl.Int64, strict=False)
            .sum()
            .alias("io_bytes"),
            pl.col("dt").sum().alias("cgroup_seconds"),
        )
    )
    told = tokens(amounts["step"], amounts["server"], used.lazy())
    served = _served(amounts["server"], used.lazy()).filter(pl.col("job").is_not_null())
    found = loops
    for part in (works, told, served):
        found = found.join(part, on="job", how="full", coalesce=True)
    # Whole thousandths: what the order of a sum changes is far below.
    thousandths = pl.selectors.float().round(3)
    return (
        found.select(list(WORK)).cast(WORK).with_columns(thousandths).sort("job").collect(engine="streaming")
    )


def profiles(used: pl.DataFrame, split: pl.DataFrame, done: pl.DataFrame) -> Mapping[str, Profile]:
    """The profile of each job. used: wellfed.analysis.cost.usage; split: lost_seconds by job and cause;
    done: of work.
    """
    seconds = (
        used.filter(pl.col("job").is_not_null())
        .group_by("job")
        .agg(
            pl.len().alias("gpus"),
            pl.col("covered_seconds").sum(),
            *(
                pl.when(pl.col(f"{name}_seconds").count() > 0)
                .then(pl.col(f"{name}_seconds").sum() / pl.col("observed_seconds").sum())
                .alias(name)
                for name in ("active", "sm", "tensor", "dram", "idle", "spin")
            ),
        )
    )
    # Whole microseconds: their sum does not depend on the order of rows.
    lost = (1e6 * pl.col("lost_seconds")).round().cast(pl.Int64)
    waits = split.group_by("job").agg(
        (lost.filter(pl.col("cause").is_in(causes)).sum() / 1e6).alias(name)
        for name, causes in (("input_wait", INPUT), ("peer_wait", PEERS))
    )
    rows = (
        seconds.join(waits, on="job", how="left")
        .join(done, on="job", how="left")
        .with_columns(
            *((pl.col(c).fill_null(0) / pl.col("covered_seconds")) for c in ("input_wait", "peer_wait")),
            (pl.col("eval_seconds") / pl.col("step_seconds")).alias("evaluating"),
            (pl.col("cpu_seconds") / pl.col("cgroup_seconds")).alias("cpu_cores"),
            (pl.col("io_bytes") / pl.col("cgroup_seconds")).alias("io_bytes_per_second"),
            pl.col("servers").list.len().alias("servers"),
        )
        .sort("job")
    )
    return {row["job"]: _profile(row) for row in rows.iter_rows(named=True)}


def _served(server: pl.LazyFrame, used: pl.LazyFrame) -> pl.LazyFrame:
    """job and servers: the endpoints that run on a GPU of it, or on a host that is its alone."""
    holders = used.filter(pl.col("job").is_not_null()).select("host", "gpu", "job")
    alone = holders.group_by("host").agg(pl.col("job").unique()).filter(pl.col("job").list.len() == 1)
    return (
        server.select("host", "server", "gpu")
        .unique()
        .join(holders, on=["host", "gpu"], how="left")
        .join(alone.select("host", pl.col("job").list.first().alias("_alone")), on="host", how="left")
        .group_by(pl.coalesce("job", "_alone").alias("job"))
        .agg(pl.format("{} {}", "host", "server").unique().sort().alias("servers"))
    )


def _profile(row: Mapping[str, float | None]) -> Profile:
    names = (
        "active", "sm", "tensor", "dram", "idle", "spin", "input_wait", "peer_wait", "evaluating",
        "cpu_cores", "io_bytes_per_second", "gpus", "steps", "servers",
    )  # fmt: skip
    known = {name: float(value) for name in names if (value := row[name]) is not None and isfinite(value)}
    kinds = sorted(_kinds(known).items(), key=lambda item: -item[1])
    (kind, best), (_, second) = kinds[0], kinds[1]
    if best < LEAST:
        return Profile(None, _bound(known), 0.0, known)
    return Profile(kind, _bound(known), round(best * (1 - second / (best + second)), 3), known)


def _ramp(value: float | None, low: float, high: float) -> float:
    return 0.0 if value is None else min(1.0, max(0.0, (value - low) / (high - low)))


def _kinds(known: Mapping[str, float]) -> dict[str, float]:
    """How likely each kind is, 0..1, not normalised."""
    idle, active, tensor, dram = (known.get(name) for name in ("idle", "active", "tensor", "dram"))
    cores, gpus = known.get("cpu_cores"), known.get("gpus", 1)
    told = known.get("steps", 0) > 0
    served = known.get("servers", 0) > 0
    silent = not told and not served
    evaluating = _ramp(known.get("evaluating"), 0.4, 0.6) if told else 0.0
    # Tensor pipes that work for a tenth of the time do matrix products; who also waits for peers trains.
    matrix = _ramp(tensor, 0.03, 0.12) if tensor is not None else _ramp(active, 0.3, 0.7) * 0.6
    working = max(_ramp(cores, 1.0, 4.0), _ramp(known.get("io_bytes_per_second"), 2e7, 2e8))
    loading = max(
        _ramp((cores or 0.0) / gpus, 1.5, 3.0), _ramp(known.get("io_bytes_per_second", 0.0) / gpus, 5e6, 2e7)
    )
    exchanging = 1.0 if gpus > 1 and known.get("spin", 0.0) >= 0.005 else 0.0
    together = max(0.6, exchanging, loading)
    # Decoding reads all weights for each token: memory is busy while the tensor pipes wait for it. It loads
    # nothing else: who streams samples in beside it trains a small model.
    decoding = _ramp(dram, 0.25, 0.5) * (1 - _ramp(tensor, 0.15, 0.35)) if dram is not None else 0.0
    decoding *= (1 - loading) * (1 - 0.5 * exchanging)
    resting = _ramp(idle, 0.6, 0.85)
    starving = _ramp(known.get("input_wait"), 0.3, 0.6)
    return {
        "training": 0.95 * (1 - evaluating) if told else 0.75 * matrix * together * silent * (1 - decoding),
        "evaluation": 0.95 * evaluating,
        "inference": 0.95 if served else 0.6 * decoding * silent,
        # A GPU that rests while CPU and I/O work: data is made, not consumed. A loop that starves says steps.
        "preprocessing": 0.7 * _ramp(idle, 0.5, 0.8) * working * (1 - starving) * silent,
        # Never quite at rest for good: who computes nothing at all has forgotten the GPU.
        "notebook": 0.7 * resting * (1 - working) * _ramp(active, 0.0, 0.01) * silent,
    }


def _bound(known: Mapping[str, float]) -> str | None:
    """What takes most of the time in which it runs."""
    if max(known.get("input_wait", 0.0), known.get("peer_wait", 0.0)) >= BOUND:
        return "input" if known["input_wait"] >= known["peer_wait"] else "communication"
    active = known.get("active", 0.0)
    if active < LEAST or "dram" not in known:
        return None
    # Shares of the time with a kernel. 60 % DRAM activity is near what hardware sustains; below a third of
    # the tensor peak, half of it already limits before arithmetic does.
    dram, tensor, sm = (min(1.0, known.get(name, 0.0) / active) for name in ("dram", "tensor", "sm"))
    if dram >= 0.6 or (dram >= 0.45 and tensor < 0.33):
        return "memory"
    if known.get("spin", 0.0) / active >= BOUND:
        return "communication"
    return "compute" if sm >= 0.6 else None
