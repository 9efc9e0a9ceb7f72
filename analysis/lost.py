"""Lost time: how much of each window a GPU spent less busy than it can be on this job.

useful = SM activity without its spinning share, or activity where SM is not measured; a window that keeps
device memory 60 % busy is productive. The reference is the 95th percentile of useful over the life of this
job on this GPU so far, so that a long fault is not forgotten, less what the best windows of a steady job owe
to chance. lost = covered x (1 - min(1, useful / reference)), plus the share of the clock that throttling
took. Nobody's GPU is capacity, not loss, unless jobs wait for one.
"""

from __future__ import annotations

import polars as pl

from wellfed.analysis.running import Quantile, Track

__all__ = [
    "LOW_REFERENCE",
    "draws",
    "gpu_windows",
    "levels",
    "with_gaps",
    "with_loss",
    "with_reference",
    "with_spin",
]

#: A reference below this is no healthy level: the job's other GPUs, else DEFAULT, stand in for it.
LOW_REFERENCE = 0.5
DEFAULT_REFERENCE = 0.8
#: Share of a window without any kernel in the best windows of a job that was never fed.
NEVER_FED = 0.15
#: A job that sustains this much is taken at its word.
FED_LEVEL = 0.7
#: SM activity of a GPU that only spins inside a collective: a few blocks a link.
SPIN_SM = 0.12
#: Device memory busy for this share of a window is productive whatever the SMs say.
DRAM_BOUND = 0.6
#: Below this a window says nothing about how busy the job can be.
RUNNING = 0.05
#: Share of its power limit that an idle GPU draws, and of the power above that, what a waiting one does.
IDLE_DRAW, SPIN_DRAW = 0.12, 0.3
#: Less waiting than this is the work's own change of power.
LEAST_SPIN = 0.1
#: Tensor activity of a prefill: large matrix products reach about half of the pipe.
PREFILL_TENSOR = 0.5
#: What sampling and whole steps in a window take from the reference by themselves: at least, at most.
NOISE, MOST_NOISE = 0.02, 0.03
#: Of the normal distribution: the mean lies twice as far below the 95th percentile as the 80th does; 97 % of
#: windows are above 2.3 times that distance below the mean.
TO_MEAN, TO_LEAST = 2.05, 2.3
#: What the best windows may owe to chance: a longer tail is not noise but the job itself.
MOST_LUCK = 0.03
#: Ranks whose clocks tell what is usual under their load; the share of what it was that makes a power limit a
#: lower one.
LEAST_PEERS, LOWERED = 4, 0.9
#: Share of a training step's kernel time that scales with the clock; the rest waits for device memory.
CLOCK_BOUND = 0.85

_FRACTIONS = {
    "act": "active_seconds",
    "sm": "sm_active_seconds",
    "tensor": "tensor_active_seconds",
    "dram": "dram_active_seconds",
    "idle": "idle_seconds",
    "spin": "spin_seconds",
}
_HEAT = ("throttle_thermal_seconds", "throttle_brake_seconds")
_SLOWED = (*_HEAT, "throttle_power_seconds")


def draws() -> Track:
    """What each GPU draws when this job keeps it busy."""
    return Track(["job", "host", "gpu"], {"_full": ("_draw", Quantile(0.95, 0, 2000, 400, least=6))})


def levels() -> Track:
    """What is remembered of each GPU's life in a job: its level, its gaps, its clock and its power limit."""
    return Track(
        ["job", "host", "gpu"],
        {
            "_own": ("_level", Quantile(0.95, 0, 1, 200, least=3)),
            "_high": ("_level", Quantile(0.8, 0, 1, 200, least=3)),
            "_while": ("_running_level", Quantile(0.8, 0, 1, 100, least=3)),
            "_floor": ("_worst_gap", Quantile(0.1, 0, 1, 100, least=3)),
            "_clock": ("_free_clock", Quantile(0.9, 2e8, 3.5e9, 165, least=3)),
            "_limit": ("power_limit_watts", Quantile(0.9, 0, 2000, 80, least=3)),
        },
    )


def gpu_windows(gpu: pl.DataFrame) -> pl.DataFrame:
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
    # Where nothing at all tells who holds it, whoever keeps it busy does.
    silent = pl.all_horizontal(pl.col("allocated", "job", "processes", "memory_used_bytes").is_null())
    held = held | (silent & (pl.max_horizontal("active_seconds", "sm_active_seconds") / observed >= RUNNING))
    held = held.fill_null(False)
    return (
        gpu.with_columns(*fractions, held.alias("held"))
        # Where only SM activity is measured, a kernel is resident at least as long.
        .with_columns(pl.coalesce("act", "sm").alias("act"))
        .with_columns(
            pl.when(measured & pl.col("dt").is_not_null())
            .then(pl.min_horizontal(observed, "dt"))
            .otherwise(0.0)
            .alias("covered_seconds"),
            pl.coalesce((pl.col("sm") - SPIN_SM * pl.col("spin").fill_null(0)).clip(0, 1), "act").alias(
                "useful"
            ),
        )
    )


def with_gaps(windows: pl.DataFrame, host: pl.DataFrame) -> pl.DataFrame:
    """Adds queue_waits: 1 where a scheduler has the GPU free while jobs wait anywhere in the cluster.

    One host that asks is enough; of several the one that knows of most counts.
    """
    queued = host.group_by("ts").agg(pl.col("jobs_pending").max().alias("queued"))
    free = ~pl.col("held") & (pl.col("allocated") == 0) & (pl.col("queued") > 0)
    return (
        windows.join(queued, on="ts", how="left", maintain_order="left")
        .with_columns(free.fill_null(False).cast(pl.Float64).alias("queue_waits"))
        .drop("queued")
    )


def with_spin(windows: pl.DataFrame, servers: pl.DataFrame, track: Track) -> pl.DataFrame:
    """windows with spin and useful by power, where SM activity is not measured and no clock is slowed.

    A kernel that waits in a collective draws about a third of what the job's work draws above idle, so
    (active - draw / full draw) is two thirds of the share that it waits. Only for ranks of a job: a lone GPU
    has no collective, and an inference server (servers: host, ts) draws what its traffic asks for.
    """
    watts = pl.coalesce(pl.col("energy_joules") / pl.col("dt"), "power_watts")
    heat = pl.sum_horizontal(pl.col(c).fill_null(0) for c in _HEAT) >= 0.01 * pl.col("dt")
    # Where a power cap holds a clock down for long, it and not a wait lowers the draw.
    slowed = heat | (pl.col("throttle_power_seconds") >= 0.2 * pl.col("dt")).fill_null(False)
    ranks = (
        pl.col("job").is_not_null() & (pl.len().over("job", "ts") > 1) & ~pl.col("_serves").fill_null(False)
    )
    blind = ranks & pl.col("sm").is_null() & pl.col("spin").is_null() & ~slowed
    serving = servers.select("host", "ts", pl.lit(True).alias("_serves")).unique()
    marked = windows.join(serving, on=["host", "ts"], how="left", maintain_order="left")
    known = track.run(
        marked.with_columns(pl.when(blind & (pl.col("act") >= RUNNING)).then(watts).alias("_draw"))
    )
    idle = IDLE_DRAW * pl.coalesce("power_limit_watts", "_full")
    drawn = ((watts - idle) / (pl.col("_full") - idle)).clip(0, 1)
    spin = ((pl.col("act") - drawn) / (1 - SPIN_DRAW)).clip(0, 1)
    spin = pl.min_horizontal(pl.when(spin >= LEAST_SPIN).then(spin).otherwise(0.0), "act")
    found = pl.when(blind & (pl.col("_full") > 2 * idle)).then(spin)
    return (
        known.with_columns(
            pl.coalesce("spin", found).alias("spin"),
            found.alias("_guess"),
            pl.col("spin").is_not_null().alias("spin_told"),
        )
        .with_columns((pl.col("useful") - pl.col("_guess").fill_null(0)).clip(0, 1).alias("useful"))
        .drop("_draw", "_full", "_guess", "_serves")
    )


def with_reference(windows: pl.DataFrame, track: Track) -> pl.DataFrame:
    """Adds reference (what useful reaches when this job is fed) and chronic (it never was)."""
    runs = pl.col("act") >= RUNNING
    kernels = (pl.col("act") - pl.col("spin").fill_null(0)).clip(0.1, 1)
    worst = (1 - pl.col("act")).max().over("job", "ts")
    slowed = pl.sum_horizontal(pl.col(c).fill_null(0) for c in _SLOWED) / pl.col("dt")
    learned = track.run(
        windows.with_columns(
            pl.when(runs).then("useful").alias("_level"),
            pl.when(runs).then((pl.col("useful") / kernels).clip(0, 1)).alias("_running_level"),
            pl.when(runs)
            .then(pl.when(pl.col("job").is_null()).then(1 - pl.col("act")).otherwise(worst))
            .alias("_worst_gap"),
            pl.when((pl.col("act") >= 0.3) & (slowed < 0.01)).then("sm_clock_hertz").alias("_free_clock"),
        )
    )
    # Some rank without kernels for a sixth of even the best windows: a job that was never fed. Its level is
    # that of the time in which kernels run and do not spin, for time without any kernel is never useful.
    starved = (pl.col("_floor") >= NEVER_FED) & (pl.col("_own") < FED_LEVEL)
    luck = pl.min_horizontal(TO_MEAN * (pl.col("_own") - pl.col("_high")), MOST_LUCK * pl.col("_own"))
    usual = pl.col("_own") - luck
    level = pl.when(starved).then(pl.max_horizontal("_own", "_while")).otherwise(usual)
    known = pl.when(level >= LOW_REFERENCE).then(level)
    peers = pl.when(pl.col("job").is_not_null()).then(pl.col("_known").median().over("job", "ts"))
    return (
        learned.with_columns(known.alias("_known"), starved.fill_null(False).alias("starved"))
        .with_columns(peers.alias("_peers"))
        .with_columns(
            pl.coalesce("_known", "_peers", pl.lit(DEFAULT_REFERENCE)).alias("reference"),
            (pl.col("_known").is_null() & pl.col("_peers").is_null()).alias("chronic"),
            (TO_LEAST * (1 - pl.col("_high") / pl.col("_own"))).clip(NOISE, MOST_NOISE).alias("noise"),
        )
        .drop("_level", "_running_level", "_worst_gap", "_free_clock", "_high", "_while", "_floor")
        .drop("_known", "_peers")
    )


def with_loss(windows: pl.DataFrame, servers: pl.DataFrame) -> pl.DataFrame:
    """Adds lost_seconds and, of it, throttled_seconds (what a slowed clock took) and again_seconds.

    servers: host, ts, v_again: the share of an inference server's tokens that it computed before. They are
    computed again by prefill, which is what keeps the tensor cores busy: again = tensor activity of the
    window over that of a prefill, times the share.
    """
    short = 1 - (pl.col("useful") / pl.col("reference")).clip(0, 1)
    short = pl.when(short < pl.col("noise").fill_null(NOISE)).then(0.0).otherwise(short)
    productive = (pl.col("dram") >= DRAM_BOUND).fill_null(False)
    idle = (
        pl.when(pl.col("queue_waits") > 0)
        .then(pl.col("covered_seconds"))
        .when(~pl.col("held") | productive)
        .then(0.0)
        .otherwise(short * pl.col("covered_seconds"))
        .fill_null(0.0)
    )
    # The clock it had while nothing slowed it, else that of peers that nothing slows, else what heat or a
    # brake keep it from. A power cap lowers every clock under full load, which says nothing beside that of a
    # light phase: unless the limit itself fell, peers under the same load tell.
    heat = pl.sum_horizontal(pl.col(c).fill_null(0) for c in _HEAT)
    slowed = pl.sum_horizontal(pl.col(c).fill_null(0) for c in _SLOWED)
    heated = heat >= 0.01 * pl.col("dt")
    free = pl.coalesce("_clock", pl.col("_clock").median().over("job", "ts"))
    clocks = pl.col("sm_clock_hertz")
    peers = pl.when(pl.col("job").is_not_null() & (clocks.count().over("job", "ts") >= LEAST_PEERS)).then(
        clocks.median().over("job", "ts")
    )
    normal = (
        pl.when(heated)
        .then(pl.coalesce(free, 0.9 * pl.col("sm_clock_max_hertz")))
        .when(pl.col("power_limit_watts") < LOWERED * pl.col("_limit"))
        .then(free)
        .otherwise(peers)
    )
    pace = (pl.col("sm_clock_hertz") / normal).clip(0.05, 1)
    # The same work takes CLOCK_BOUND / pace + 1 - CLOCK_BOUND as long.
    slow = 1 - 1 / (CLOCK_BOUND / pace + 1 - CLOCK_BOUND)
    hot = heated & (pace <= 0.98)
    capped = (slowed >= 0.01 * pl.col("dt")) & (pace <= 0.9)
    took = (
        pl.when((hot | capped) & pl.col("held"))
        .then(slow * (pl.col("covered_seconds") - idle))
        .fill_null(0.0)
    )
    again = (
        (pl.col("tensor") / PREFILL_TENSOR).clip(0, 1)
        * pl.col("v_again")
        * (pl.col("covered_seconds") - idle)
    )
    again = pl.when("held").then(again).otherwise(0.0).fill_nan(0.0).fill_null(0.0)
    return (
        windows.join(
            servers.select("host", "ts", "v_again"), on=["host", "ts"], how="left", maintain_order="left"
        )
        .with_columns(
            took.alias("throttled_seconds"),
            again.alias("again_seconds"),
            (idle + took + again).alias("lost_seconds"),
            (1 - pace).alias("clock_short"),
        )
        .drop("_clock", "_limit", "_own", "v_again")
    )
