"""What surrounds each GPU window: its job, its host, the host's disks, mounts and ports, its training loop.

One row a GPU and window with physically meaningful numbers: shares of time, latencies, outstanding requests,
utilisation of links. Ratios to a baseline use the same thing's own quiet tenth so far; absent tables leave
nulls.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from wellfed.analysis.running import Event, Mean, Quantile, Top, Track

__all__ = ["GPU_PARTS", "Baselines", "gpu_features", "on_hosts"]

#: PCIe bytes a second and lane by generation, after encoding (PCI-SIG).
_LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
#: Of that, what large copies reach.
_PCIE_REACH = 0.85

_ERRORS = (
    "symbol_errors", "link_recovery", "link_downed", "rcv_errors", "integrity_errors", "packet_seq_errors",
    "out_of_sequence", "ack_timeouts", "xmit_discards", "buffer_overruns", "rnr_nak_retries",
)  # fmt: skip
#: Timed parts of a step.
GPU_PARTS = ("s_data", "s_h2d", "s_comm", "s_checkpoint", "s_eval")
#: Weight of a window in the means by which ranks are compared: a minute's memory.
LATELY = 1 / 6


def _seconds(low: float = 1e-5, high: float = 100.0, q: float = 0.1) -> Quantile:
    """Of latencies: eighty geometric bins, a fifth each."""
    return Quantile(q, low, high, 80, log=True, least=3)


class Baselines:
    """What is remembered of disks, mounts, ports, jobs and GPUs from window to window."""

    def __init__(self) -> None:
        self.disk = Track(["host", "device"], {"usual": ("wait", _seconds())})
        self.mount = Track(
            ["host", "mount"], {"usual": ("exec", _seconds()), "meta_usual": ("meta_exec", _seconds())}
        )
        self.port = Track(
            ["host", "port"],
            {
                "wait_usual": ("wait", _seconds(1e2, 1e11)),
                "marks_usual": ("marks", _seconds(1e-1, 1e8)),
                "rate_best": ("rate_bps", Top()),
                "up_best": ("up", Top()),
            },
        )
        self.job = Track(["host", "job"], {"cpu_usual": ("j_cpu_used", _seconds(1e-2, 1e4, 0.3))})
        self.gpu = Track(
            ["job", "host", "gpu"],
            {
                "waits_lately": ("waits_now", Mean(LATELY, 3)),
                "wait_lately": ("s_data", Mean(LATELY)),
                "gap_lately": ("gap_now", Mean(LATELY)),
                "comm_lately": ("s_comm", Mean(LATELY, 3)),
                "gap_floor": ("gap", Quantile(0.1, 0, 1, 100, least=3)),
                "begun": ("useful", Top()),
                "traffic_usual": ("traffic", _seconds(1e5, 1e13, 0.5)),
                "last_good": ("good", Event()),
                "last_fault": ("fault_event", Event()),
                **{f"q{part[1:]}": (part, Quantile(0.1, 0, 1, 100)) for part in GPU_PARTS},
            },
        )
        self.members = Track(["job", "host"], {"members_usual": ("members", Top())})


def gpu_features() -> list[pl.Expr]:
    """Of the GPU's own columns."""
    lanes = pl.col("pcie_gen").replace_strict(_LANE, default=None, return_dtype=pl.Float64) * pl.col(
        "pcie_width"
    )
    links = (pl.col("nvlink_rx_bytes") + pl.col("nvlink_tx_bytes")) / pl.col("dt")
    return [
        (1 - pl.col("act")).alias("gap"),
        (pl.col("pcie_rx_bytes") / pl.col("dt") / (lanes * _PCIE_REACH)).alias("pcie_rx_util"),
        (pl.col("pcie_tx_bytes") / pl.col("dt") / (lanes * _PCIE_REACH)).alias("pcie_tx_util"),
        (
            1
            - (pl.col("pcie_width") / pl.col("pcie_width_max"))
            * pl.when(pl.col("act") >= 0.1)
            .then(pl.lit(2.0).pow(pl.col("pcie_gen") - pl.col("pcie_gen_max")))
            .otherwise(1.0)
        ).alias("pcie_short"),
        links.alias("nvlink_bps"),
        (pl.col("throttle_thermal_seconds") / pl.col("dt")).alias("t_thermal"),
        (
            (pl.col("throttle_power_seconds").fill_null(0) + pl.col("throttle_brake_seconds").fill_null(0))
            / pl.col("dt")
        ).alias("t_power"),
    ]


def on_hosts(tables: Mapping[str, pl.DataFrame], baselines: Baselines) -> dict[str, pl.DataFrame]:
    """Features of the segment's hosts, disks, mounts, ports, jobs, loops and servers, by table.

    Keyed by host and ts; `job` by host, job, ts; `step` by host, job, s_gpu, ts.
    """
    return {
        "host": _host(tables["host"]),
        "disk": _disks(tables["disk"], baselines.disk),
        "mount": _mounts(tables["mount"], baselines.mount),
        "port": _ports(tables["port"], baselines.port),
        "job": _jobs(tables["job"], baselines.job),
        "step": _steps(tables["step"]),
        "server": _servers(tables["server"]),
    }


def _rate(column: str) -> pl.Expr:
    return pl.col(column) / pl.col("dt")


def _sum(column: str) -> pl.Expr:
    """A sum that is null where nothing was measured."""
    return pl.when(pl.col(column).is_not_null().any()).then(pl.col(column).sum())


def _host(host: pl.DataFrame) -> pl.DataFrame:
    return host.select(
        "host",
        "ts",
        h_psi_cpu=_rate("psi_cpu_some_seconds"),
        h_psi_io=_rate("psi_io_some_seconds"),
        h_psi_memory=_rate("psi_memory_full_seconds"),
        h_cpu_busy=_rate("cpu_busy_seconds") / pl.col("cpu_count"),
        h_cpus="cpu_count",
        h_rx=_rate("net_rx_bytes"),
        h_faults=_rate("major_faults"),
        h_swap=_rate("swap_in_bytes"),
    )


def _disks(disk: pl.DataFrame, track: Track) -> pl.DataFrame:
    each = disk.with_columns(
        util=(_rate("busy_seconds")).clip(0, 1),
        write_bps=_rate("written_bytes"),
        wait=pl.when(pl.col("reads") >= 10).then(pl.col("read_seconds") / pl.col("reads")),
        outstanding=_rate("read_seconds"),
    )
    each = track.run(each).with_columns(ratio=pl.col("wait") / pl.col("usual"))
    return each.group_by("host", "ts").agg(
        d_util=pl.col("util").max(),
        d_write=pl.col("write_bps").sum(),
        d_read=_rate("read_bytes").sum(),
        d_ratio=pl.col("ratio").max(),
        d_outstanding=_sum("outstanding"),
        d_device=pl.col("device").sort_by("outstanding", descending=True, nulls_last=True).first(),
    )


def _mounts(mount: pl.DataFrame, track: Track) -> pl.DataFrame:
    each = mount.with_columns(
        read_exec_seconds=pl.coalesce("read_exec_seconds", "read_rtt_seconds"),
        metadata_exec_seconds=pl.coalesce("metadata_exec_seconds", "metadata_rtt_seconds"),
    ).with_columns(
        outstanding=_rate("read_exec_seconds"),
        meta_outstanding=_rate("metadata_exec_seconds"),
        rtt=pl.when(pl.col("reads") >= 5).then(pl.col("read_rtt_seconds") / pl.col("reads")),
        exec=pl.when(pl.col("reads") >= 5).then(pl.col("read_exec_seconds") / pl.col("reads")),
        meta_exec=pl.when(pl.col("metadata_ops") >= 20).then(
            pl.col("metadata_exec_seconds") / pl.col("metadata_ops")
        ),
        ops=pl.sum_horizontal("reads", "writes", "metadata_ops"),
    )
    each = track.run(each).with_columns(ratio=pl.col("exec") / pl.col("usual"))
    return each.group_by("host", "ts").agg(
        m_outstanding=pl.col("outstanding").max(),
        m_meta_outstanding=pl.col("meta_outstanding").max(),
        m_exec=pl.col("exec").max(),
        m_ratio=pl.col("ratio").max(),
        m_queue=(pl.col("exec") / pl.col("rtt") - 1).max(),
        m_retrans=(pl.col("retransmits").sum() / pl.col("ops").sum()),
        m_meta_share=(pl.col("metadata_ops").sum() / pl.col("ops").sum()),
        m_read=_rate("read_bytes").sum(),
        m_write=_rate("written_bytes").sum(),
        m_mount=pl.col("mount")
        .sort_by(pl.max_horizontal("outstanding", "meta_outstanding"), descending=True, nulls_last=True)
        .first(),
        m_server=pl.col("server")
        .sort_by(pl.max_horizontal("outstanding", "meta_outstanding"), descending=True, nulls_last=True)
        .first(),
    )


def _ports(port: pl.DataFrame, track: Track) -> pl.DataFrame:
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
    each = track.run(each)
    # Its own best, or that of the ports beside it: a link that came up slow is below its neighbours.
    beside = pl.when(pl.col("link") != "ethernet").then(
        pl.col("rate_best").median().over("host", "link", "ts")
    )
    best = pl.max_horizontal("rate_best", beside)
    each = each.with_columns(
        slow=(1 - pl.col("rate_bps") / best).fill_null(0).fill_nan(0),
        lost=(pl.col("down") * pl.col("up_best")).fill_null(0),
        congestion=pl.max_horizontal(
            (pl.col("wait") / (10 * pl.col("wait_usual").fill_null(0) + 1e5)).fill_null(0),
            (pl.col("marks") / (10 * pl.col("marks_usual").fill_null(0) + 100)).fill_null(0),
            (pl.col("paused") / 0.05).fill_null(0),
        ),
    )
    fabric = pl.col("link") != "ethernet"
    bad = pl.col("errors").fill_null(0) + pl.col("slow") + pl.col("lost") + pl.col("congestion")
    return each.group_by("host", "ts").agg(
        p_errors=pl.col("errors").max(),
        p_slow=pl.col("slow").filter(fabric).max(),
        p_down=pl.col("lost").max(),
        p_congestion=pl.col("congestion").max(),
        p_bps=pl.col("bps").filter(fabric).sum(),
        p_port=pl.col("port").sort_by(bad, descending=True).first(),
    )


def _jobs(job: pl.DataFrame, track: Track) -> pl.DataFrame:
    each = job.select(
        "host",
        "job",
        "ts",
        j_psi_cpu=_rate("psi_cpu_some_seconds"),
        j_psi_io=_rate("psi_io_some_seconds"),
        j_psi_memory=_rate("psi_memory_full_seconds"),
        j_cpu_used=_rate("cpu_usage_seconds"),
        j_cpu_limit="cpu_limit",
        j_throttled=_rate("cpu_throttled_seconds"),
        j_main=_rate("main_thread_seconds"),
        j_io=_rate("io_read_bytes") + _rate("io_write_bytes"),
        j_write=_rate("io_write_bytes"),
        j_processes="processes",
        j_age=pl.col("ts").dt.epoch("ms") / 1000 - pl.col("started_seconds"),
    )
    return track.run(each).with_columns(j_cpu_growth=pl.col("j_cpu_used") / pl.col("cpu_usual"))


def _steps(step: pl.DataFrame) -> pl.DataFrame:
    whole = pl.col("step_seconds")
    parts = {
        "s_data": "data_wait_seconds", "s_h2d": "h2d_seconds", "s_comm": "comm_seconds",
        "s_checkpoint": "checkpoint_seconds", "s_eval": "eval_seconds", "s_compute": "compute_seconds",
    }  # fmt: skip
    return (
        step.filter(pl.col("gpu").is_not_null() & (whole > 0))
        .select(
            "host",
            "job",
            "ts",
            pl.col("gpu").alias("s_gpu"),
            *((pl.col(c) / whole).clip(0, 1).alias(name) for name, c in parts.items()),
        )
        .unique(["host", "job", "ts", "s_gpu"], keep="last", maintain_order=True)
    )


def _servers(server: pl.DataFrame) -> pl.DataFrame:
    # Tokens computed again: a request that was put back has its prompt and, on average, half its answer.
    context = (pl.col("prompt_tokens") + 0.5 * pl.col("generation_tokens")) / pl.col("requests")
    again = pl.col("preemptions").sum() * pl.when(pl.col("requests") > 0).then(context).mean()
    return server.group_by("host", "ts").agg(
        v_kv=pl.col("kv_usage").max(),
        v_waiting=pl.col("waiting").sum(),
        v_running=pl.col("running").sum(),
        v_room=pl.col("max_running").sum(),
        v_preemptions=_rate("preemptions").sum(),
        v_again=again / (again + (pl.col("prompt_tokens") + pl.col("generation_tokens")).sum()),
        v_requests=pl.col("requests").sum(),
    )
