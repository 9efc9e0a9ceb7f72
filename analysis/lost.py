"""Lost time: how much of each window a GPU spent less busy than it can be on this job.

useful = SM activity without its spinning share, or activity where SM is not measured; a window that keeps
device memory 60 % busy is productive. The reference is the 95th percentile of useful of this job on this GPU
(a fixed histogram of 200 bins). lost = covered x (1 - min(1, useful / reference)), plus the share of the
clock that throttling took. Nobody's GPU is capacity, not loss, unless jobs wait for one.
"""

from __future__ import annotations

import polars as pl

__all__ = ["BINS", "LOW_REFERENCE", "gpu_windows", "with_gaps", "with_loss", "with_reference"]

#: Bins of the histogram that the reference is read from.
BINS = 200
#: A reference below this is no healthy level: the job's other GPUs, else DEFAULT, stand in for it.
LOW_REFERENCE = 0.5
DEFAULT_REFERENCE = 0.8
#: Windows over which a level counts as sustained.
SUSTAINED = 6
#: Share without any kernel in the best windows of a job that was never fed.
NEVER_FED = 0.15
#: A job that sustains this much is taken at its word.
FED_LEVEL = 0.65
#: SM activity of a GPU that only spins inside a collective: a few blocks a link.
SPIN_SM = 0.12
#: Device memory busy for this share of a window is productive whatever the SMs say.
DRAM_BOUND = 0.6

_FRACTIONS = {
    "act": "active_seconds",
    "sm": "sm_active_seconds",
    "tensor": "tensor_active_seconds",
    "dram": "dram_active_seconds",
    "idle": "idle_seconds",
    "spin": "spin_seconds",
}


def gpu_windows(gpu: pl.LazyFrame, step: float) -> pl.LazyFrame:
    """The `gpu` table's amounts as fractions of observed time, with held and covered_seconds.

    Adds act, sm, tensor, dram, idle, spin (0..1 or null), held (somebody has it), covered_seconds (0 where no
    activity was measured), useful.
    """
    observed = pl.coalesce("observed_seconds", "dt")
    measured = pl.any_horizontal(pl.col("active_seconds", "sm_active_seconds").is_not_null())
    fractions = [
        pl.when(observed > 0).then(pl.col(c) / observed).clip(0, 1).alias(name)
        for name, c in _FRACTIONS.items()
    ]
    held = (
        (pl.col("allocated") > 0)
        | pl.col("job").is_not_null()
        | (pl.col("processes") > 0)
        | (pl.col("processes").is_null() & (pl.col("memory_used_bytes") > 2e9))
    ).fill_null(False)
    return gpu.with_columns(*fractions, held.alias("held")).with_columns(
        pl.when(measured & pl.col("dt").is_not_null())
        .then(pl.min_horizontal(observed, "dt"))
        .otherwise(0.0)
        .alias("covered_seconds"),
        pl.coalesce((pl.col("sm") - SPIN_SM * pl.col("spin").fill_null(0)).clip(0, 1), "act").alias("useful"),
    )


def with_gaps(windows: pl.LazyFrame, host: pl.LazyFrame) -> pl.LazyFrame:
    """Adds queued (jobs that wait anywhere in the cluster) and gap (1 where a scheduler has the GPU free).

    One host that asks is enough; of several the one that knows of most counts.
    """
    queued = host.group_by("ts").agg(pl.col("jobs_pending").max().alias("queued"))
    gap = ~pl.col("held") & (pl.col("allocated") == 0) & (pl.col("queued") > 0)
    return windows.join(queued, on="ts", how="left").with_columns(
        gap.fill_null(False).cast(pl.Float64).alias("gap")
    )


def with_reference(windows: pl.LazyFrame) -> pl.LazyFrame:
    """Adds reference (what useful reaches when this job is fed) and chronic (it never was)."""
    who = ["job", "host", "gpu"]
    # A minute's mean: the level that the job sustains, not the luckiest ten seconds.
    sustained = pl.col("useful").rolling_mean(SUSTAINED, min_samples=1).over(who, order_by="ts")
    own = pl.col("_bin").quantile(0.95, interpolation="higher").over(who)
    # Some rank without kernels for a sixth of even the best windows: a job that was never fed. Its level is
    # that of the time in which kernels run and do not spin.
    running = pl.col("act") - pl.col("spin").fill_null(0)
    while_running = (pl.col("useful") / running.clip(0.1, 1)).clip(0, 1).quantile(0.8).over(who)
    gaps = 1 - pl.col("act")
    worst = pl.when(pl.col("job").is_null()).then(gaps).otherwise(gaps.max().over("job", "ts"))
    starved = ((worst.quantile(0.1).over(who) >= NEVER_FED) & ((own + 0.5) / BINS < FED_LEVEL)).fill_null(
        False
    )
    level = (
        pl.when(starved)
        .then(pl.max_horizontal((own + 0.5) / BINS, while_running))
        .otherwise((own + 0.5) / BINS)
    )
    known = pl.when(level >= LOW_REFERENCE).then(level)
    peers = pl.when(pl.col("job").is_not_null()).then(known.median().over("job"))
    return (
        windows.with_columns(((sustained * BINS).floor().clip(0, BINS - 1)).alias("_bin"))
        .with_columns(known.alias("_own"), peers.alias("_peers"))
        .with_columns(
            pl.coalesce("_own", "_peers", pl.lit(DEFAULT_REFERENCE)).alias("reference"),
            (pl.col("_own").is_null() & pl.col("_peers").is_null()).alias("chronic"),
        )
        .drop("_bin", "_own", "_peers")
    )


def with_loss(windows: pl.LazyFrame) -> pl.LazyFrame:
    """Adds lost_seconds and, of it, throttled_seconds: what a slowed clock took."""
    short = 1 - (pl.col("useful") / pl.col("reference")).clip(0, 1)
    productive = (pl.col("dram") >= DRAM_BOUND).fill_null(False)
    lost = (
        pl.when(pl.col("gap") > 0)
        .then(pl.col("covered_seconds"))
        .when(~pl.col("held"))
        .then(0.0)
        .when(productive)
        .then(0.0)
        .otherwise(short * pl.col("covered_seconds"))
    )
    normal = pl.col("sm_clock_hertz").quantile(0.9).over("job", "model")
    slow = (1 - pl.col("sm_clock_hertz") / normal).clip(0, 1).fill_null(0)
    slowed = sum(
        (
            pl.col(c).fill_null(0)
            for c in ("throttle_thermal_seconds", "throttle_power_seconds", "throttle_brake_seconds")
        ),
        start=pl.lit(0.0),
    )
    took = pl.when((slowed >= 0.01 * pl.col("dt")) & (slow >= 0.1) & pl.col("held")).then(
        slow * (pl.col("covered_seconds") - pl.col("_idle"))
    )
    return (
        windows.with_columns(lost.fill_null(0.0).alias("_idle"))
        .with_columns(took.fill_null(0.0).alias("throttled_seconds"))
        .with_columns((pl.col("_idle") + pl.col("throttled_seconds")).alias("lost_seconds"))
        .drop("_idle")
    )
