"""Joins each GPU window with what surrounds it, and compares the ranks of a job within a window.

The unit of comparison is the job, or the GPU itself where nobody's job is known. What a rank waits for makes
everybody wait at the next reduction, so most evidence is the job's; what starves a host is that host's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from wellfed.analysis.features import GPU_PARTS, Baselines, gpu_features

__all__ = ["surrounded"]

#: XIDs that a bug in the application raises (NVIDIA, "XID Errors"): they end the job, not the GPU.
_USER_XIDS = (13.0, 31.0, 43.0, 45.0, 68.0)
#: Seconds for which a job that stands still does so because of a fault.
_RECENT = 7200
#: A rank without kernels for so much longer than in its best windows lacks something.
_STARVING = 0.03
#: Share of time in which a rank has no kernel, though no copy fills its link, or waits for data: now, so that
#: a fault shows at once, or lately, because ranks take turns.
_STARVE = pl.max_horizontal("starves", "wait_lately", "s_data")
#: Bytes a second that are written when state is saved, and hardly otherwise.
SAVE_BPS = 5e8
_WHO = ["_who", "ts"]


def surrounded(gpu: pl.DataFrame, hosts: Mapping[str, pl.DataFrame], baselines: Baselines) -> pl.DataFrame:
    """gpu: windows with reference and loss. hosts: of `features.on_hosts`."""
    on = ["host", "ts"]
    rows = (
        gpu.lazy()
        .with_columns(gpu_features())
        .join(hosts["host"].lazy(), on=on, how="left")
        .join(hosts["disk"].lazy(), on=on, how="left")
        .join(hosts["mount"].lazy(), on=on, how="left")
        .join(hosts["port"].lazy(), on=on, how="left")
        .join(hosts["server"].lazy(), on=on, how="left")
        .join(hosts["job"].lazy(), on=["host", "job", "ts"], how="left")
        .join(
            hosts["step"].lazy(),
            left_on=["host", "job", "gpu", "ts"],
            right_on=["host", "job", "s_gpu", "ts"],
            how="left",
        )
        .with_columns(_own())
        .collect()
    )
    rows = baselines.gpu.run(_with_events(rows))
    rows = _with_members(rows, baselines)
    return _with_group(rows.with_columns(_remembered()))


def _own() -> list[pl.Expr]:
    # A kernel is resident though few SMs work: the share of the window that its level does not explain.
    guessed = (pl.col("act") - pl.col("useful") / pl.col("reference")).clip(0, 1)
    many = (pl.len().over("job", "ts") > 1) & pl.col("job").is_not_null() & pl.col("sm").is_not_null()
    traffic = pl.max_horizontal("nvlink_bps", pl.col("p_bps") / 8)
    # While state is saved nobody waits for data or for a peer: not a window to compare ranks by.
    saves = (
        pl.max_horizontal(
            pl.max_horizontal("d_write", "m_write", "j_write") / SAVE_BPS, pl.col("s_checkpoint") / 0.05
        )
        >= 1
    )
    compared = ~saves.fill_null(False)
    waits = pl.when(many).then(pl.max_horizontal("spin", guessed)).otherwise("spin")
    return [
        pl.coalesce("spin", pl.when(many).then(guessed)).alias("spin"),
        pl.when(compared).then(waits).alias("waits_now"),
        # A rank that only its loop reports has no kernel in a reduction either; what it lacks is data.
        pl.when(compared)
        .then(pl.when(pl.col("gpu").str.starts_with("rank:")).then("s_data").otherwise("gap"))
        .alias("gap_now"),
        traffic.alias("traffic"),
        pl.coalesce("j_psi_cpu", "h_psi_cpu").alias("psi_cpu"),
        pl.coalesce("j_psi_io", "h_psi_io").alias("psi_io"),
        pl.coalesce("j_psi_memory", "h_psi_memory").alias("psi_memory"),
        pl.max_horizontal("h_cpu_busy", pl.col("j_cpu_used") / pl.col("j_cpu_limit")).alias("cpu_share"),
        pl.coalesce("job", pl.format("{}/{}", "host", "gpu")).alias("_who"),
    ]


def _with_events(rows: pl.DataFrame) -> pl.DataFrame:
    xid = (pl.col("xid_errors") > 0) & ~pl.col("xid_last").is_in(_USER_XIDS).fill_null(False)
    event = xid.fill_null(False) | (pl.col("ecc_uncorrected") > 0).fill_null(False)
    return rows.with_columns(
        event.any().over(_WHO).cast(pl.Float64).alias("fault_event"),
        (pl.col("useful") >= 0.5 * pl.col("reference")).cast(pl.Float64).alias("good"),
    )


def _with_members(rows: pl.DataFrame, baselines: Baselines) -> pl.DataFrame:
    """GPUs of the job that its hosts no longer report while they report others."""
    count = rows.filter(pl.col("job").is_not_null()).group_by("job", "host", "ts").agg(members=pl.len())
    known = baselines.members.run(count.with_columns(pl.col("members").cast(pl.Float64)))
    gone = known.group_by("job", "ts").agg(g_gone=(pl.col("members_usual") - pl.col("members")).sum())
    return rows.join(gone, on=["job", "ts"], how="left", maintain_order="left")


def _remembered() -> list[pl.Expr]:
    now = pl.col("ts").dt.epoch("ms")
    span = 1000 * pl.col("dt").fill_null(0)
    still = pl.col("last_good").is_null() | (pl.col("last_good") <= pl.col("last_fault") + span)
    recent = now - pl.col("last_fault") <= 1000 * _RECENT

    def best(quiet: str) -> pl.Expr:
        """What the best windows have of a part; a job that was never fed has no best windows."""
        never = pl.col("starved") | pl.col("chronic")
        return pl.when(never).then(pl.min_horizontal(quiet, pl.lit(0.05))).otherwise(pl.col(quiet))

    return [
        (still & recent).fill_null(False).alias("fault"),
        (pl.col("traffic") / pl.col("traffic_usual")).alias("traffic_share"),
        (
            pl.max_horizontal("gap_lately", "gap_now")
            - pl.min_horizontal("gap_floor", 0.05).fill_null(0)
            - pl.max_horizontal("pcie_rx_util", "pcie_tx_util").fill_null(0)
        )
        .clip(0, 1)
        .alias("starves"),
        *((pl.col(part) - best(f"q{part[1:]}")).clip(0, 1).alias("x" + part[1:]) for part in GPU_PARTS),
        # How long this rank waits for others, by the device or by the loop.
        pl.coalesce("waits_lately", "comm_lately").alias("waits"),
    ]


def _blocked(read: str) -> pl.Expr:
    """At least one read outstanding, by I/O pressure, where bytes move and nothing times the reads."""
    return pl.when(pl.col(read) > 1e6).then("psi_io")


def _with_group(rows: pl.DataFrame) -> pl.DataFrame:
    waits, middle = pl.col("waits"), (pl.col("waits").min() + pl.col("waits").max()) / 2
    victims, early = waits.filter(waits >= middle), waits.filter(waits < middle)
    spread = pl.max_horizontal(1.4826 * (victims - victims.median()).abs().median(), pl.lit(0.02))
    now = pl.col("spin")
    spread_now = pl.max_horizontal(1.4826 * (now - now.median()).abs().median(), pl.lit(0.02))
    slowed = pl.col("t_thermal").fill_null(0) + pl.col("t_power").fill_null(0)
    broken = pl.col("nvlink_down").fill_null(0) + pl.col("remap_failed").fill_null(0)
    group = (
        rows.lazy()
        .group_by(_WHO)
        .agg(
            g_size=pl.len(),
            g_spin=now.median(),
            g_low_spin=now.min(),
            g_middle=middle,
            # Ranks that wait and ranks that are waited for, in robust standard deviations and as a share.
            g_odd=(victims.median() - early.median()) / spread,
            g_gap=victims.median() - early.median(),
            g_wait_now=pl.col("waits_now").filter(waits >= middle).median(),
            g_odd_now=(now.median() - now.min()) / spread_now,
            g_starving=(_STARVE >= _STARVING).mean(),
            g_starves=_STARVE.max(),
            g_gaps=pl.col("gap").max(),
            g_data=pl.col("s_data").max(),
            g_slowest_read=pl.col("m_exec").max(),
            g_errors=pl.col("p_errors").max(),
            g_slow=pl.col("p_slow").max(),
            g_down=pl.col("p_down").max(),
            g_congestion=pl.col("p_congestion").max(),
            g_broken=broken.max(),
            g_throttled=slowed.max(),
            g_low=(pl.col("useful") < 0.5 * pl.col("reference")).mean(),
            g_kernels=pl.col("act").min(),
            g_traffic=pl.col("traffic_share").median(),
        )
    )
    on_host = rows.lazy().group_by("host", "ts").agg(n_starving=_STARVE.sum())
    # A rank that waits anywhere holds up all: the others' loaders are as late, but their queues fill up.
    starving = pl.max_horizontal("n_starving", "g_starves", pl.lit(0.01))
    return (
        rows.lazy()
        .join(group, on=_WHO, how="left", maintain_order="left")
        .join(on_host, on=["host", "ts"], how="left", maintain_order="left")
        .with_columns(
            (pl.coalesce(f"{kind}_outstanding", blocked) / starving).alias(f"{kind}_explains")
            for kind, blocked in (
                ("m", _blocked("m_read")),
                ("m_meta", pl.lit(None)),
                ("d", _blocked("d_read")),
            )
        )
        .with_columns((pl.col("g_wait_now") - pl.col("waits_now")).clip(0, 1).alias("late_by"))
        .collect()
    )
