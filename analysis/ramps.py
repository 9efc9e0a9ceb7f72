"""Ramps that several rules share: what each measures, from where to where it matters."""

from __future__ import annotations

import polars as pl

from wellfed.analysis.evidence import Ramp

__all__ = [
    "BROKEN",
    "BUSY",
    "BY_EXCLUSION",
    "COMM",
    "CONGESTED",
    "COPY_TIME",
    "CPU",
    "D_OUT",
    "ERRORS",
    "INGEST",
    "IO",
    "META",
    "META_OUT",
    "M_OUT",
    "NO_KERNEL",
    "OTHERS_CPU",
    "OWN",
    "SHRUNK",
    "SLOW_PORT",
    "SPIN",
    "STARVED",
    "STARVES",
    "THROTTLED",
    "UNEXPLAINED",
    "WAITS",
    "WORKERS",
    "WRITES",
]

#: Shares of time in which tasks of the job were held up (psi.rst): lost time already, no baseline needed.
IO = Ramp("I/O pressure", "psi_io", 0.05, 0.25)
CPU = Ramp("CPU pressure", "psi_cpu", 0.15, 0.5)
BUSY = Ramp("CPU used of what it may use", "cpu_share", 0.75, 0.95)
WAITS = Ramp("data wait in the loop", "g_data", 0.03, 0.15, 2.0)
#: Whoever lacks data has no kernel to run, or says so. In a synchronous job it is the slowest loader's rank
#: that starves, and the others' queues fill up: who starves is the job's, why is this host's.
STARVES = Ramp("time in which a rank of the job has no kernel or waits for data", "g_starves", 0.03, 0.1, 0.5)
SPIN = Ramp("GPUs spinning in a collective", "g_spin", 0.03, 0.13)
COMM = Ramp("exposed communication beyond the best windows", "x_comm", 0.03, 0.1, 2.0)
#: Little's law: a rank that waits for a read has one outstanding all that time. What is outstanding against
#: the ranks that starve tells how much of the starving the storage can explain, whatever its speed.
M_OUT = Ramp("reads outstanding at the mount for each starving rank", "m_explains", 0.3, 0.8)
META_OUT = Ramp("metadata operations outstanding for each starving rank", "m_meta_explains", 0.3, 0.8)
#: What it waits beside its reads is the CPU work of reading, and time that other programs take from it.
D_OUT = Ramp("reads outstanding at the disk for each starving rank", "d_explains", 0.3, 0.6)
META = Ramp("share of metadata operations", "m_meta_share", 0.4, 0.7)
STARVED = Ramp("a GPU of the job without any kernel", "g_starves", 0.06, 0.2)
WRITES = Ramp(
    "write throughput, B/s",
    pl.max_horizontal(pl.col("d_write") + 0, pl.col("m_write") + 0, "j_write"),
    2e8,
    1e9,
)
NO_KERNEL = Ramp("GPU without any kernel", "gap", 0.9, 0.98)
ERRORS = Ramp("port errors, 1/s", "g_errors", 1, 20)
SLOW_PORT = Ramp("port rate below its neighbours", "g_slow", 0.2, 0.5)
CONGESTED = Ramp("congestion marks, pauses and waits against the quiet tenth", "g_congestion", 0.7, 2.0)
BROKEN = Ramp("inactive NVLinks or failed row remappings in the job", "g_broken", 0.0, 1.0)
COPY_TIME = Ramp(
    "time of copies over time lost",
    pl.max_horizontal("pcie_rx_util", "pcie_tx_util") * pl.col("covered_seconds") / pl.col("lost_seconds"),
    0.4,
    0.8,
)

#: A quota starves a job that uses no more CPU than usual; one that uses more outgrew it.
SHRUNK = pl.col("j_throttled") * (1 - ((pl.col("j_cpu_growth") - 1.15) / 0.25).clip(0, 1).fill_null(0))

#: Share of its starving that no read, write or download explains. Null where storage is not measured at all.
UNEXPLAINED = 1 - pl.max_horizontal("m_explains", "m_meta_explains", "d_explains").clip(0, 1)
#: A process that uses most of a core computes: it cannot be waiting for a read.
WORKERS = Ramp(
    "CPU used by each process of the job, cores", pl.col("j_cpu_used") / pl.col("j_processes"), 0.55, 0.8
)
#: A cgroup that is stopped by its quota does not wait for a device meanwhile.
THROTTLED = Ramp("throttled without using more CPU than before", SHRUNK, 0.05, 0.5)
INGEST = pl.col("h_rx") - pl.col("m_read").fill_null(0)

#: Where only the host's pressure is known it may be that of other programs: processes that hardly run while
#: their reads explain the wait are waiting for those.
OTHERS_CPU = Ramp(
    "reads that explain the wait, of processes that hardly run, the job's own pressure unknown",
    pl.when(pl.col("j_psi_cpu").is_null() & pl.col("h_psi_cpu").is_not_null()).then(
        (1 - UNEXPLAINED) * (1 - ((pl.col("j_cpu_used") / pl.col("j_processes") - 0.3) / 0.3).clip(0, 1))
    ),
    0.3,
    0.6,
)
#: A loop that waits for data which no disk, mount or network is delivering waits for its own workers.
BY_EXCLUSION = Ramp(
    "data wait in the loop while disks, mounts and network are quiet",
    pl.col("g_data") * UNEXPLAINED * (1 - ((INGEST - 1e7) / 9e7).clip(0, 1)),
    0.08,
    0.25,
)

#: What the job does says nothing about a GPU on which it has no process.
OWN = (pl.col("processes") > 0).fill_null(True).cast(pl.Float64)
