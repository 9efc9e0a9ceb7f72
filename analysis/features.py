"""What surrounds each GPU window: its job, its host, the host's disks, mounts and ports, its training loop.

One row a GPU and window with physically meaningful numbers: shares of time, latencies, outstanding requests,
utilisation of links. Ratios to a baseline use the same thing's own quiet tenth; absent tables leave nulls.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

__all__ = ["join"]

#: PCIe bytes a second and lane by generation, after encoding (PCI-SIG).
_LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
#: Of that, what large copies reach.
_PCIE_REACH = 0.85

_ERRORS = (
    "symbol_errors", "link_recovery", "link_downed", "rcv_errors", "integrity_errors", "packet_seq_errors",
    "out_of_sequence", "ack_timeouts", "xmit_discards", "buffer_overruns", "rnr_nak_retries",
)  # fmt: skip


def join(gpu: pl.LazyFrame, tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """The GPU windows with everything about them. tables: amounts on the same grid."""
    host = ["host", "ts"]
    rows = (
        gpu.with_columns(
            *_gpu_features(), _lasting("spin").alias("spin_lately"), _lasting("idle").alias("idle_lately")
        )
        .join(_host(tables["host"]), on=host, how="left")
        .join(_disks(tables["disk"]), on=host, how="left")
        .join(_mounts(tables["mount"]), on=host, how="left")
        .join(_ports(tables["port"]), on=host, how="left")
        .join(_jobs(tables["job"]), on=["host", "job", "ts"], how="left")
        .join(
            _steps(tables["step"]),
            left_on=["host", "job", "gpu", "ts"],
            right_on=["host", "job", "s_gpu", "ts"],
            how="left",
        )
        .join(_servers(tables["server"]), on=host, how="left")
    )
    per_job_gpu = pl.col("h_cpus") / pl.len().over("host", "ts")
    return rows.with_columns(
        _lasting("s_data").alias("data_lately"),
        psi_cpu=pl.coalesce("j_psi_cpu", "h_psi_cpu"),
        psi_io=pl.coalesce("j_psi_io", "h_psi_io"),
        psi_memory=pl.coalesce("j_psi_memory", "h_psi_memory"),
        cpu_share=pl.max_horizontal("h_cpu_busy", pl.col("j_cpu_used") / pl.col("j_cpu_limit")),
        cores=per_job_gpu,
    ).with_columns(**_group_features())


#: Windows over which ranks are compared.
LATELY = 12


def _lasting(column: str) -> pl.Expr:
    """A GPU's mean over the last two minutes."""
    return pl.col(column).rolling_mean(LATELY, min_samples=3).over(["job", "host", "gpu"], order_by="ts")


def _gpu_features() -> list[pl.Expr]:
    lanes = pl.col("pcie_gen").replace_strict(_LANE, default=None, return_dtype=pl.Float64) * pl.col(
        "pcie_width"
    )
    return [
        (pl.col("pcie_rx_bytes") / pl.col("dt") / (lanes * _PCIE_REACH)).alias("pcie_rx_util"),
        (pl.col("pcie_tx_bytes") / pl.col("dt") / (lanes * _PCIE_REACH)).alias("pcie_tx_util"),
        (
            1
            - (pl.col("pcie_width") / pl.col("pcie_width_max"))
            * pl.when(pl.col("act") >= 0.1)
            .then(pl.lit(2.0).pow(pl.col("pcie_gen") - pl.col("pcie_gen_max")))
            .otherwise(1.0)
        ).alias("pcie_short"),
        (
            (pl.col("nvlink_rx_bytes").fill_null(0) + pl.col("nvlink_tx_bytes").fill_null(0)) / pl.col("dt")
        ).alias("nvlink_bps"),
        (pl.col("throttle_thermal_seconds") / pl.col("dt")).alias("t_thermal"),
        (
            (pl.col("throttle_power_seconds").fill_null(0) + pl.col("throttle_brake_seconds").fill_null(0))
            / pl.col("dt")
        ).alias("t_power"),
        (pl.col("memory_used_bytes") / pl.col("memory_total_bytes")).alias("memory_share"),
    ]


def _rate(column: str) -> pl.Expr:
    return pl.col(column) / pl.col("dt")


#: XIDs that a bug in the application raises (NVIDIA, "XID Errors"): they end the job, not the GPU.
_USER_XIDS = (13.0, 31.0, 43.0, 45.0, 68.0)


def _fault() -> pl.Expr:
    """Whether the job stands still since one of its GPUs had an XID or an uncorrectable error."""
    who = ["job", "host", "gpu"]
    xid = (pl.col("xid_errors") > 0) & ~pl.col("xid_last").is_in(_USER_XIDS)
    event = xid.fill_null(False) | (pl.col("ecc_uncorrected") > 0).fill_null(False)
    mine = pl.when(event).then(pl.col("ts"))
    anyone = pl.coalesce(pl.when(pl.col("job").is_not_null()).then(mine.max().over("job", "ts")), mine)
    since = anyone.forward_fill().over(who, order_by="ts")
    good = (
        pl.when(pl.col("useful") >= 0.5 * pl.col("reference"))
        .then(pl.col("ts"))
        .forward_fill()
        .over(who, order_by="ts")
    )
    still = good.is_null() | (good <= since + pl.duration(seconds=pl.col("dt").fill_null(0)))
    recent = pl.col("ts") - since <= pl.duration(hours=2)
    return (since.is_not_null() & still & recent).fill_null(False)


#: Parts of a step that the loop itself timed.
PARTS = ("s_data", "s_h2d", "s_comm", "s_checkpoint", "s_eval")


def _measured() -> dict[str, pl.Expr]:
    """`x_*`: each timed part beyond what the job has in its best windows (at most 5 % of a step)."""
    who = ["job", "host", "gpu"]
    return {
        "x" + part[1:]: (
            pl.col(part) - pl.min_horizontal(pl.col(part).quantile(0.1).over(who), pl.lit(0.05))
        ).clip(0, 1)
        for part in PARTS
    }


def _host(host: pl.LazyFrame) -> pl.LazyFrame:
    return host.select(
        "host",
        "ts",
        h_psi_cpu=_rate("psi_cpu_some_seconds"),
        h_psi_io=_rate("psi_io_some_seconds"),
        h_psi_memory=_rate("psi_memory_full_seconds"),
        h_cpu_busy=_rate("cpu_busy_seconds") / pl.col("cpu_count"),
        h_iowait=_rate("cpu_iowait_seconds") / pl.col("cpu_count"),
        h_cpus="cpu_count",
        h_rx=_rate("net_rx_bytes"),
        h_retrans=pl.col("tcp_retransmits") / pl.col("tcp_segments_out"),
        h_faults=_rate("major_faults"),
        h_swap=_rate("swap_in_bytes"),
        h_free=pl.col("memory_available_bytes") / pl.col("memory_total_bytes"),
    )


def _quiet(column: str, by: list[str]) -> pl.Expr:
    """The quiet tenth of a thing's own history: its baseline."""
    return pl.col(column).quantile(0.1).over(by)


def _disks(disk: pl.LazyFrame) -> pl.LazyFrame:
    each = disk.with_columns(
        util=(_rate("busy_seconds")).clip(0, 1),
        read_bps=_rate("read_bytes"),
        write_bps=_rate("written_bytes"),
        wait=pl.when(pl.col("reads") >= 10).then(pl.col("read_seconds") / pl.col("reads")),
        outstanding=_rate("read_seconds"),
    )
    each = each.with_columns(ratio=pl.col("wait") / _quiet("wait", ["host", "device"]))
    return each.group_by("host", "ts").agg(
        d_util=pl.col("util").max(),
        d_read=pl.col("read_bps").sum(),
        d_write=pl.col("write_bps").sum(),
        d_wait=pl.col("wait").max(),
        d_ratio=pl.col("ratio").max(),
        d_outstanding=pl.col("outstanding").sum(),
        d_device=pl.col("device").sort_by("outstanding", descending=True).first(),
    )


def _mounts(mount: pl.LazyFrame) -> pl.LazyFrame:
    each = mount.with_columns(
        outstanding=_rate("read_exec_seconds"),
        meta_outstanding=_rate("metadata_exec_seconds"),
        rtt=pl.when(pl.col("reads") >= 5).then(pl.col("read_rtt_seconds") / pl.col("reads")),
        exec=pl.when(pl.col("reads") >= 5).then(pl.col("read_exec_seconds") / pl.col("reads")),
        meta_exec=pl.when(pl.col("metadata_ops") >= 20).then(
            pl.col("metadata_exec_seconds") / pl.col("metadata_ops")
        ),
        ops=pl.col("reads") + pl.col("writes") + pl.col("metadata_ops"),
    )
    each = each.with_columns(
        ratio=pl.col("exec") / _quiet("exec", ["mount", "server"]),
        meta_ratio=pl.col("meta_exec") / _quiet("meta_exec", ["mount", "server"]),
    )
    return each.group_by("host", "ts").agg(
        m_outstanding=pl.col("outstanding").max(),
        m_meta_outstanding=pl.col("meta_outstanding").max(),
        m_rtt=pl.col("rtt").max(),
        m_exec=pl.col("exec").max(),
        m_meta_exec=pl.col("meta_exec").max(),
        m_ratio=pl.col("ratio").max(),
        m_meta_ratio=pl.col("meta_ratio").max(),
        m_queue=(pl.col("exec") / pl.col("rtt") - 1).max(),
        m_retrans=(pl.col("retransmits").sum() / pl.col("ops").sum()),
        m_meta_share=(pl.col("metadata_ops").sum() / pl.col("ops").sum()),
        m_size=pl.col("read_bytes").sum() / pl.col("reads").sum(),
        m_read=_rate("read_bytes").sum(),
        m_write=_rate("written_bytes").sum(),
        m_mount=pl.col("mount").sort_by("outstanding", descending=True).first(),
    )


def _ports(port: pl.LazyFrame) -> pl.LazyFrame:
    errors = pl.sum_horizontal(pl.col(c).fill_null(0) for c in _ERRORS)
    marks = pl.sum_horizontal(pl.col(c).fill_null(0) for c in ("cnp_sent", "cnp_handled", "ecn_marked"))
    each = port.with_columns(
        errors=errors / pl.col("dt"),
        marks=marks / pl.col("dt"),
        wait=_rate("xmit_wait_ticks"),
        paused=_rate("pause_seconds"),
        bps=8 * (_rate("rx_bytes") + _rate("tx_bytes")) / 2,
        down=(pl.col("up") == 0).cast(pl.Float64),
    )
    best = pl.col("rate_bps").max().over("link")
    usual = pl.col("up").max().over("host", "port")
    each = each.with_columns(
        slow=(1 - pl.col("rate_bps") / best).fill_null(0),
        lost=(pl.col("down") * usual).fill_null(0),
        congestion=pl.max_horizontal(
            (pl.col("wait") / (10 * _quiet("wait", ["host", "port"]) + 1e5)).fill_null(0),
            (pl.col("marks") / (10 * _quiet("marks", ["host", "port"]) + 100)).fill_null(0),
            (pl.col("paused") / 0.05).fill_null(0),
        ),
        util=pl.col("bps") / pl.col("rate_bps"),
    )
    fabric = pl.col("link") != "ethernet"
    return each.group_by("host", "ts").agg(
        p_errors=pl.col("errors").max(),
        p_slow=pl.col("slow").filter(fabric).max(),
        p_down=pl.col("lost").max(),
        p_congestion=pl.col("congestion").max(),
        p_util=pl.col("util").filter(fabric).max(),
        p_bps=pl.col("bps").filter(fabric).sum(),
        p_eth_util=pl.col("util").filter(~fabric).max(),
        p_port=pl.col("port")
        .sort_by(pl.col("errors") + pl.col("slow") + pl.col("lost") + pl.col("congestion"), descending=True)
        .first(),
    )


def _jobs(job: pl.LazyFrame) -> pl.LazyFrame:
    return job.select(
        "host",
        "job",
        "ts",
        j_psi_cpu=_rate("psi_cpu_some_seconds"),
        j_psi_io=_rate("psi_io_some_seconds"),
        j_psi_memory=_rate("psi_memory_full_seconds"),
        j_cpu_used=_rate("cpu_usage_seconds"),
        j_cpu_limit="cpu_limit",
        j_cpu_growth=_rate("cpu_usage_seconds")
        / _rate("cpu_usage_seconds").quantile(0.2).over("host", "job"),
        j_throttled=_rate("cpu_throttled_seconds"),
        j_main=_rate("main_thread_seconds"),
        j_io=_rate("io_read_bytes") + _rate("io_write_bytes"),
        j_write=_rate("io_write_bytes"),
        j_memory=pl.col("memory_bytes") / pl.col("memory_limit_bytes"),
        j_age=pl.col("ts").dt.epoch("ms") / 1000 - pl.col("started_seconds"),
    )


def _steps(step: pl.LazyFrame) -> pl.LazyFrame:
    whole = pl.col("step_seconds")
    parts = {
        "s_data": "data_wait_seconds", "s_h2d": "h2d_seconds", "s_comm": "comm_seconds",
        "s_checkpoint": "checkpoint_seconds", "s_eval": "eval_seconds", "s_compute": "compute_seconds",
    }  # fmt: skip
    return step.filter(pl.col("gpu").is_not_null() & (whole > 0)).select(
        "host",
        "job",
        "ts",
        pl.col("gpu").alias("s_gpu"),
        *((pl.col(c) / whole).clip(0, 1).alias(name) for name, c in parts.items()),
        s_compute_step=pl.col("compute_seconds") / pl.col("steps"),
    )


def _servers(server: pl.LazyFrame) -> pl.LazyFrame:
    return server.group_by("host", "ts").agg(
        v_kv=pl.col("kv_usage").max(),
        v_waiting=pl.col("waiting").sum(),
        v_running=pl.col("running").sum(),
        v_room=pl.col("max_running").sum(),
        v_preemptions=pl.col("preemptions").sum(),
        v_requests=pl.col("requests").sum(),
    )


def _group_features() -> dict[str, pl.Expr]:
    """How the GPUs of one job compare within a window."""
    of_job = ["job", "ts"]
    alone = pl.col("job").is_null()
    # Ranks take turns in being last when they all wait for data; a straggler is last for minutes.
    lately = pl.col("spin_lately")
    middle = lately.median().over(of_job)
    spread = pl.max_horizontal(1.4826 * (lately - middle).abs().median().over(of_job), pl.lit(0.02))
    now = pl.col("spin")
    spread_now = pl.max_horizontal(
        1.4826 * (now - now.median().over(of_job)).abs().median().over(of_job), pl.lit(0.02)
    )
    gap = middle - lately.min().over(of_job)
    broken = pl.col("nvlink_down").fill_null(0) + pl.col("remap_failed").fill_null(0)
    return {
        "g_size": pl.len().over(of_job),
        "g_spin": pl.when(~alone).then(pl.col("spin").median().over(of_job)),
        # How far the rank that spins least is from the rest, in robust standard deviations and as a share.
        "g_odd": pl.when(~alone).then(gap / spread),
        "g_gap": pl.when(~alone).then(gap),
        "g_odd_now": pl.when(~alone).then(
            (pl.col("spin").median().over(of_job) - pl.col("spin").min().over(of_job)) / spread_now
        ),
        # Share of the ranks that waited for data within the last minutes.
        "g_starving": pl.when(~alone).then(
            (pl.max_horizontal("idle_lately", "data_lately") >= 0.02).mean().over(of_job)
        ),
        # Who waits for data makes everybody wait at the next reduction.
        "g_idle": pl.when(alone).then(pl.col("idle")).otherwise(pl.col("idle").max().over(of_job)),
        "g_gaps": pl.when(alone).then(1 - pl.col("act")).otherwise((1 - pl.col("act")).max().over(of_job)),
        "g_data": pl.when(alone).then(pl.col("s_data")).otherwise(pl.col("s_data").max().over(of_job)),
        "g_errors": pl.coalesce(pl.col("p_errors").max().over(of_job), "p_errors"),
        "g_slow": pl.coalesce(pl.col("p_slow").max().over(of_job), "p_slow"),
        "g_down": pl.coalesce(pl.col("p_down").max().over(of_job), "p_down"),
        "g_congestion": pl.coalesce(pl.col("p_congestion").max().over(of_job), "p_congestion"),
        "begun": pl.col("useful").fill_null(0).cum_max().over(["job", "host", "gpu"], order_by="ts"),
        "g_broken": pl.coalesce(broken.max().over(of_job), broken),
        "fault": _fault(),
        **_measured(),
        "g_low": pl.when(pl.col("job").is_not_null()).then(
            (pl.col("useful") < 0.5 * pl.col("reference")).mean().over(of_job)
        ),
    }
