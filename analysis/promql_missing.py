"""What a server did not hold, and which verdicts that costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

__all__ = ["costs"]


@dataclass(frozen=True, slots=True)
class _Need:
    """One of these columns of a table has to hold something, or the causes cannot be named."""

    table: str
    columns: tuple[str, ...]
    lost: str
    remedy: str


_NEEDS = (
    _Need(
        "gpu",
        ("active_seconds", "sm_active_seconds"),
        "no GPU activity: there is no verdict on any GPU",
        "scrape dcgm-exporter, nvidia_gpu_exporter or wellfed agent",
    ),
    _Need(
        "gpu",
        ("job",),
        "no label says which job holds a GPU: ranks are not compared, so straggler and fabric.collective "
        "cannot be named",
        "dcgm-exporter with DCGM_EXPORTER_KUBERNETES=true, or its HPC job mapping under Slurm",
    ),
    _Need(
        "gpu",
        ("sm_active_seconds",),
        "no SM activity: waiting inside a collective looks like work, so straggler and fabric.* are hidden",
        "DCGM_FI_PROF_* in dcgm-exporter's counters file",
    ),
    _Need(
        "gpu",
        ("throttle_thermal_seconds", "throttle_power_seconds"),
        "no throttle reasons: throttle.* cannot be named",
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS in dcgm-exporter's counters file",
    ),
    _Need(
        "gpu",
        ("pcie_gen", "pcie_width"),
        "no PCIe link state: pcie.copy and pcie.degraded cannot be named",
        "DCGM_FI_DEV_PCIE_LINK_GEN, _WIDTH and their MAX in dcgm-exporter's counters file",
    ),
    _Need(
        "host",
        ("cpu_busy_seconds",),
        "no host metrics: no cause outside the GPU can be named",
        "node_exporter or wellfed agent on every node",
    ),
    _Need(
        "host",
        ("psi_io_some_seconds", "psi_cpu_some_seconds"),
        "no pressure stall information: memory.pressure is blunt, storage and CPU rest on utilisation alone",
        "a kernel with psi=1 and node_exporter's pressure collector",
    ),
    _Need("disk", ("busy_seconds",), "no disks: storage.read cannot be named", "node_exporter's diskstats"),
    _Need(
        "mount",
        ("read_exec_seconds",),
        "no mounts: storage.remote and storage.metadata cannot be named",
        "node_exporter --collector.mountstats; wellfed agent for Lustre",
    ),
    _Need(
        "port",
        ("rx_bytes",),
        "no fabric ports: fabric.link and fabric.congested cannot be named",
        "node_exporter's infiniband collector",
    ),
    _Need(
        "job",
        ("cpu_usage_seconds",),
        "no counters of the jobs' cgroups: cpu.quota and host.launch cannot be named, idle.held is weaker",
        "wellfed agent",
    ),
    _Need(
        "step",
        ("step_seconds",),
        "no training loop reports its steps: its waits are inferred, and phase.evaluation cannot be named",
        "wellfed.watch in the loop",
    ),
)


def costs(tables: Mapping[str, pl.LazyFrame], gauges: Collection[tuple[str, str]]) -> list[str]:
    """One line for each kind of signal that is missing, then one for those that were read from gauges."""
    lines = [
        f"{need.lost} ({need.remedy})" for need in _NEEDS if not _holds(tables[need.table], need.columns)
    ]
    by_table: dict[str, list[str]] = {}
    for table, column in sorted(gauges):
        by_table.setdefault(table, []).append(column)
    lines += [
        f"lower fidelity: {', '.join(columns)} of {table} are integrals of gauges, which say nothing between "
        "two samples: waits shorter than a scrape interval are blurred or missed"
        for table, columns in by_table.items()
    ]
    return lines


def _holds(rows: pl.LazyFrame, columns: Collection[str]) -> bool:
    found = rows.select(pl.any_horizontal(pl.col(columns).is_not_null().any())).collect(engine="streaming")
    return bool(found.item())
