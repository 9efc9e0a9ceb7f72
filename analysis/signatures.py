"""The rules: one signature a cause, and why it must hold.

Thresholds are physical and dimensionless where that is possible (shares of time, utilisation of a link or
device, outstanding requests for each rank that starves), with wide ramps; baselines are a thing's own quiet
tenth. Nothing here was fitted to one workload, and tests move all thresholds by 30 % both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from wellfed.analysis.evidence import Ramp, Signature
from wellfed.analysis.ramps import (
    BROKEN,
    BUSY,
    BY_EXCLUSION,
    COMM,
    CONGESTED,
    COPY_TIME,
    CPU,
    D_OUT,
    ERRORS,
    INGEST,
    IO,
    M_OUT,
    META,
    META_OUT,
    NO_KERNEL,
    OTHERS_CPU,
    OWN,
    SHRUNK,
    SLOW_PORT,
    SPIN,
    STARVED,
    STARVES,
    THROTTLED,
    UNEXPLAINED,
    WAITS,
    WORKERS,
    WRITES,
)

__all__ = ["CERTAIN", "LATE", "SIGNATURES", "by_cause"]

SIGNATURES: Sequence[Signature] = (
    Signature(
        "storage.read",
        why="A saturated device is busy nearly all the time with reads queued; CPU is idle meanwhile.",
        need=[STARVES, D_OUT],
        any_of=[
            [
                Ramp("disk utilisation", "d_util", 0.75, 0.95),
                Ramp("disk read time against its quiet tenth", "d_ratio", 1.8, 3.5),
                # A loader that reads one thing at a time never fills the device and yet waits for it.
                Ramp(
                    "time of disk reads over time lost",
                    pl.col("d_outstanding") * pl.col("covered_seconds") / pl.col("lost_seconds"),
                    0.25,
                    0.5,
                ),
            ],
        ],
        contra=[WORKERS, THROTTLED],
        support=[IO, WAITS],
    ),
    Signature(
        "storage.remote",
        why="Reads wait at the mount, and each takes longer than the server needs when it is quiet.",
        need=[STARVES, M_OUT],
        any_of=[
            [
                Ramp("mount read time against its quiet tenth", "m_ratio", 1.3, 2.5),
                Ramp("mount read time, s", "m_exec", 0.015, 0.05),
                Ramp(
                    "I/O pressure, where nothing times the reads",
                    pl.when(pl.col("m_exec").is_null() & (pl.col("m_read") > 1e6)).then("psi_io"),
                    0.2,
                    0.5,
                ),
                Ramp("retransmissions", "m_retrans", 0.0005, 0.003),
            ]
        ],
        contra=[
            WORKERS,
            THROTTLED,
            # One host reads slowly and all wait for it: the others' storage is not to blame.
            Ramp(
                "read time below that of the job's slowest host",
                1 - pl.col("m_exec") / pl.col("g_slowest_read"),
                0.5,
                0.8,
            ),
        ],
        support=[IO, WAITS, Ramp("client queue against round trip", "m_queue", 0.5, 2.0, 0.5)],
    ),
    Signature(
        "storage.metadata",
        why="Opening and listing, not bytes: most operations are metadata and they are what is outstanding.",
        need=[STARVES, META_OUT, META],
        contra=[WORKERS, THROTTLED],
        support=[
            Ramp(
                "time in metadata over time in reads",
                pl.col("m_meta_outstanding") / (pl.col("m_outstanding") + 0.05),
                0.5,
                1.5,
            ),
            WAITS,
        ],
    ),
    Signature(
        "storage.object",
        why="Samples come over the network without a mount; no disk, mount or CPU explains the wait.",
        need=[STARVES, Ramp("network ingest without a mount, B/s", INGEST, 3e7, 1.5e8)],
        contra=[
            Ramp("mount traffic over network traffic", pl.col("m_read") / pl.col("h_rx"), 0.3, 0.7),
            NO_KERNEL,
            BUSY,
            CPU,
            WORKERS,
            Ramp("storage outstanding for each starving rank", 1 - UNEXPLAINED, 0.3, 0.8),
            WRITES,
        ],
        support=[
            WAITS,
            Ramp("share of its starving that no mount or disk explains", UNEXPLAINED, 0.4, 0.8),
        ],
    ),
    Signature(
        "cpu.preprocess",
        why="Loader workers are runnable and not running, or use all they may.",
        need=[STARVES],
        any_of=[[BUSY, CPU, WORKERS, BY_EXCLUSION]],
        contra=[
            Ramp("memory pressure (full)", "psi_memory", 0.02, 0.08),
            THROTTLED,
            Ramp("I/O pressure far above CPU pressure", pl.col("psi_io") - pl.col("psi_cpu"), 0.15, 0.5),
            OTHERS_CPU,
        ],
        support=[WAITS],
    ),
    Signature(
        "cpu.quota",
        why="The kernel counts the time for which it stopped the cgroup.",
        need=[STARVES, Ramp("throttled by quota, s/s", SHRUNK, 0.05, 0.5)],
        support=[WAITS, Ramp("CPU pressure", "psi_cpu", 0.05, 0.3)],
    ),
    Signature(
        "memory.pressure",
        why="Tasks stall on reclaim or swap: everything on the host does, loaders first.",
        need=[STARVES],
        any_of=[
            [
                Ramp("memory pressure (full)", "psi_memory", 0.02, 0.08),
                Ramp("swap-in, B/s", "h_swap", 5e5, 5e6),
            ]
        ],
        support=[Ramp("major faults, 1/s", "h_faults", 20, 300), WAITS],
    ),
    Signature(
        "pcie.copy",
        why="Copies fill the link: nothing else can be copied meanwhile.",
        need=[
            Ramp(
                "PCIe utilisation of the trained link",
                pl.max_horizontal("pcie_rx_util", "pcie_tx_util"),
                0.05,
                0.2,
            ),
            COPY_TIME,
        ],
        contra=[SPIN, Ramp("link below its build", "pcie_short", 0.2, 0.5)],
        support=[Ramp("host-to-device copies in the loop", "s_h2d", 0.08, 0.25, 2.0)],
    ),
    Signature(
        "pcie.degraded",
        why="A link below its build matters when copies fill what is left of it.",
        need=[Ramp("link below its build", "pcie_short", 0.2, 0.5)],
        any_of=[
            [
                COPY_TIME,
                Ramp("host-to-device copies in the loop", "s_h2d", 0.08, 0.25),
            ]
        ],
    ),
    Signature(
        "fabric.link",
        why="A ring is as fast as its slowest link; the job's spinning says that it matters.",
        any_of=[
            [ERRORS, SLOW_PORT, Ramp("port down", "g_down", 0.5, 1.0)],
            [SPIN, COMM],
        ],
        contra=[STARVED],
    ),
    Signature(
        "fabric.congested",
        why="Senders without credit or told to slow down, and GPUs that wait in the collective for it.",
        need=[CONGESTED],
        any_of=[[SPIN, COMM]],
        contra=[STARVED, ERRORS, SLOW_PORT],
    ),
    Signature(
        "fabric.collective",
        why="Everybody spins alike and bytes move: communication itself is what takes the time.",
        need=[Ramp("ranks to compare", "g_size", 1, 2, 0.0)],
        any_of=[[SPIN, COMM]],
        contra=[
            Ramp("a throttled GPU in the job, s/s", "g_throttled", 0.02, 0.2),
            BROKEN,
            Ramp("a rank that spins far less in this window, robust z", "g_odd_now", 4, 8),
            STARVED,
            WRITES,
            Ramp("ranks that wait and ranks that are waited for, robust z", "g_odd", 4, 8),
            Ramp("traffic far below usual", 1 - pl.col("g_traffic"), 0.9, 0.98),
            CONGESTED,
            ERRORS,
            SLOW_PORT,
        ],
        support=[
            COMM,
            Ramp("fabric traffic, bit/s", "p_bps", 1e9, 2e10),
            Ramp("NVLink traffic, B/s", "nvlink_bps", 1e9, 2e10),
        ],
    ),
    Signature(
        "straggler",
        why="Peers wait while some compute: two groups of ranks, far apart and tight, for a minute.",
        need=[
            Ramp("this rank waits in the collective", pl.coalesce("waits_now", "s_comm"), 0.03, 0.09),
            Ramp("ranks that wait and ranks that are waited for, robust z", "g_odd", 3, 6),
            Ramp("their distance, share of time", "g_gap", 0.02, 0.07),
            Ramp("ranks to compare", "g_size", 3, 4, 0.0),
        ],
        contra=[
            Ramp("share of the ranks that wait for data", "g_starving", 0.6, 0.9),
            BROKEN,
            ERRORS,
            SLOW_PORT,
        ],
    ),
    Signature(
        "checkpoint",
        why="All ranks stop together while bytes leave.",
        any_of=[[Ramp("checkpoint in the loop", "s_checkpoint", 0.05, 0.2), WRITES]],
        support=[
            Ramp("share of the job's GPUs that stopped", "g_low", 0.4, 0.8),
            Ramp("PCIe out of the GPU", "pcie_tx_util", 0.05, 0.3),
        ],
    ),
    Signature(
        "host.launch",
        why="One thread issues kernels as fast as it can, and the GPU waits for it.",
        need=[Ramp("busiest thread of the job, s/s", "j_main", 0.8, 0.97)],
        contra=[
            WAITS,
            # A thread that waits for the GPU's copies spins, as busy as one that launches.
            COPY_TIME,
            Ramp("I/O pressure", "psi_io", 0.2, 0.5),
            # Small kernels fill and draw as little as a wait does: a guess cannot tell them apart.
            Ramp("spinning", pl.when("spin_told").then("spin"), 0.03, 0.12),
            Ramp("GPU without any kernel", "idle", 0.05, 0.2),
        ],
        any_of=[
            [
                Ramp("GPU engine not busy", "gap", 0.02, 0.1),
                Ramp("time with a kernel but few SMs", pl.col("act") - pl.col("sm"), 0.2, 0.5),
            ]
        ],
    ),
    Signature(
        "phase.evaluation",
        why="Kernels run on all ranks and nothing is exchanged: training exchanges gradients.",
        any_of=[
            [
                Ramp("evaluation in the loop", "s_eval", 0.05, 0.3),
                Ramp(
                    "kernels on all ranks while the usual exchange rests",
                    (1 - pl.col("g_traffic").clip(0, 1))
                    * (pl.col("traffic_usual") > 1e8)
                    * ((pl.col("g_kernels") - 0.5) / 0.3).clip(0, 1),
                    0.4,
                    0.8,
                ),
            ]
        ],
        contra=[SPIN, Ramp("a GPU of the job without any kernel", "g_starves", 0.15, 0.4), WRITES],
    ),
    Signature(
        "idle.startup",
        why="A young job without a kernel so far imports, loads weights or compiles.",
        need=[NO_KERNEL, Ramp("job younger than 20 min", 1 - pl.col("j_age") / 1200, 0.0, 0.05)],
        contra=[Ramp("it has been busy in this job before", "begun", 0.1, 0.3)],
    ),
    Signature(
        "idle.held",
        why="Nothing runs on the GPU for minutes, and the job uses no CPU, reads and serves nothing.",
        need=[NO_KERNEL],
        contra=[
            Ramp(
                "not begun, job younger than 20 min",
                (1 - pl.col("j_age") / 1200) * (pl.col("begun") < 0.3),
                0.0,
                0.05,
            ),
            Ramp("CPU used by the job, cores", pl.col("j_cpu_used") * OWN, 1.0, 4.0),
            Ramp("I/O of the job, B/s", pl.col("j_io") * OWN, 1e7, 1e8),
            Ramp("requests served", "v_room", 0.5, 1.0),
            Ramp("a loop reports steps", "s_compute", 0.0, 0.1),
        ],
    ),
    Signature(
        "idle.gap",
        why="The scheduler has the GPU free while it tells of jobs that wait.",
        need=[Ramp("free by its scheduler while jobs wait", "queue_waits", 0.0, 1.0)],
    ),
    Signature(
        "serve.kv_full",
        why="Requests wait or are put back because their context has no room.",
        need=[Ramp("requests waiting", "v_waiting", 0, 2)],
        any_of=[
            [Ramp("KV cache in use", "v_kv", 0.8, 0.92), Ramp("preemptions, 1/s", "v_preemptions", 0, 0.2)]
        ],
        support=[Ramp("share of its tokens computed again", "v_again", 0.0, 0.05)],
    ),
    Signature(
        "serve.no_traffic",
        why="The server itself says that it has nothing to do.",
        need=[
            Ramp(
                "no request running, waiting or finished",
                1 - (pl.col("v_running") + pl.col("v_waiting") + pl.col("v_requests").fill_null(0)),
                0.5,
                1.0,
            )
        ],
    ),
    Signature(
        "serve.low_load",
        why="The server has requests, none waits, and the GPU rests between them: there are too few.",
        need=[
            Ramp(
                "requests running, waiting or finished",
                pl.col("v_running") + pl.col("v_waiting") + pl.col("v_requests").fill_null(0),
                0.0,
                0.5,
            )
        ],
        contra=[Ramp("KV cache in use", "v_kv", 0.8, 0.92), Ramp("requests waiting", "v_waiting", 1, 4)],
    ),
    Signature(
        "hardware.fault",
        why="Broken links slow every collective; a GPU that went missing stops them all.",
        any_of=[
            [
                Ramp("the job stands still since an XID or an uncorrectable error", "fault", 0.0, 1.0),
                BROKEN,
                Ramp(
                    "GPUs of the job that no longer report, all others waiting",
                    pl.col("g_gone") * ((pl.col("g_low_spin") - 0.6) / 0.3).clip(0, 1),
                    0.0,
                    1.0,
                ),
            ]
        ],
        contra=[STARVED],
    ),
)


#: Booked by what the device itself counts, not by a share of the rest.
CERTAIN: Sequence[Signature] = (
    Signature(
        "throttle.thermal",
        why="Heat and a brake are never normal; what they took is in the clock.",
        need=[
            Ramp("slowed by heat, s/s", "t_thermal", 0.0, 0.02),
            Ramp("clock below its own or its peers', share", "clock_short", 0.01, 0.04),
        ],
    ),
    Signature(
        "throttle.power",
        why="A cap lowers every clock at full load; a limit that fell, or a clock below the peers', is more.",
        need=[
            Ramp("slowed by the power cap or a brake, s/s", "t_power", 0.01, 0.2),
            Ramp("clock below its own or its peers', share", "clock_short", 0.05, 0.1),
        ],
    ),
)


#: What a straggler needs that is not the victim's own waiting: the job's ranks fall in two groups.
_STRAGGLER = next(s for s in SIGNATURES if s.cause == "straggler")
LATE = Signature("straggler", need=_STRAGGLER.need[1:], contra=_STRAGGLER.contra)


def by_cause() -> Mapping[str, Signature]:
    """Signatures by cause."""
    return {s.cause: s for s in (*SIGNATURES, *CERTAIN)}
