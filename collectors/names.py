"""What other exporters call our columns: those of DCGM, node, nvidia_gpu and infiniband.

Plain data, both ways: `wellfed diagnose --prometheus` reads it from left to right, `--names` from right to
left. A name's `use` says how its samples become our column:

    value   ours = theirs x factor; several names of one column and rank are summed (a factor may be -1)
    level   a gauge whose integral is our counter: it grows by theirs x factor a second
    bits    a bit mask; our counter grows by the time in which any bit of `factor` is set
    change  our counter grows by one whenever theirs becomes another number than 0

Sources: dcgm-exporter's default-counters.csv and DCGM's field reference (fields in MiB, MHz, mJ and percent;
the PROF byte series are bytes a second whatever their name says), node_exporter's collectors,
nvidia_gpu_exporter's metric names, collectors/switch.go of treydock/infiniband_exporter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

__all__ = [
    "BLANK",
    "EXPORTER_POD",
    "GROUPS",
    "HOST_LABELS",
    "JOB_LABELS",
    "MEAN_FIELDS",
    "MIB",
    "VIRTUAL_DEVICES",
    "Group",
    "Name",
    "Use",
]

Use = Literal["value", "level", "bits", "change"]


def _none() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Name:
    """One foreign metric that fills one of our columns.

    metric: the Prometheus sample name. kind: theirs. where: label -> pattern (of RE2, so of PromQL and of
    Python's `re`) that its whole value matches, or does not where a `!` stands before it. rank: of several
    names for a column, the lowest rank that has a sample wins.
    """

    metric: str
    column: str
    kind: Literal["counter", "gauge"] = "gauge"
    factor: float = 1.0
    use: Use = "value"
    where: Mapping[str, str] = field(default_factory=_none)
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics of one exporter about one of our tables.

    labels: our key or info column -> their labels, whose values are joined by "/" (upper and lower case are
    the same). fixed: info columns that are the same for all. host: labels that name it, where they are not
    the usual ones.
    """

    family: str
    table: str
    labels: Mapping[str, tuple[str, ...]]
    names: tuple[Name, ...]
    fixed: Mapping[str, str] = field(default_factory=_none)
    host: tuple[str, ...] = ()


def _counters(**columns: str) -> tuple[Name, ...]:
    return tuple(Name(metric, column, "counter") for column, metric in columns.items())


def _gauges(**columns: str) -> tuple[Name, ...]:
    return tuple(Name(metric, column) for column, metric in columns.items())


MIB = float(1 << 20)
#: Bits of nvmlClocksEventReasons (nvml.h).
_THERMAL, _POWER, _BRAKE = float(0x20 | 0x40), float(0x04), float(0x80)
#: DCGM's int64 and fp64 values from here on mean "blank" (dcgm_structs.h).
BLANK = 140737488355328.0
#: A dcgm-exporter's own pod, where its name stands in for the host or the pod that holds the GPU.
EXPORTER_POD = r".*(dcgm|gpu|smi)-exporter.*"


def _dcgm(field_: str, column: str, factor: float = 1.0, use: Use = "value", rank: int = 0) -> Name:
    return Name(f"DCGM_FI_{field_}", column, "gauge", factor, use, rank=rank)


def _throttle(metric: str, rank: int) -> Iterable[Name]:
    for column, bits in (("thermal", _THERMAL), ("power", _POWER), ("brake", _BRAKE)):
        yield Name(metric, f"throttle_{column}_seconds", "gauge", bits, "bits", rank=rank)


#: Means over the exporter's own interval; everything else of DCGM is a reading of the moment.
MEAN_FIELDS = (
    _dcgm("PROF_GR_ENGINE_ACTIVE", "active_seconds", 1.0, "level"),
    _dcgm("PROF_SM_ACTIVE", "sm_active_seconds", 1.0, "level"),
    _dcgm("PROF_SM_OCCUPANCY", "sm_occupancy_seconds", 1.0, "level"),
    _dcgm("PROF_PIPE_TENSOR_ACTIVE", "tensor_active_seconds", 1.0, "level"),
    _dcgm("PROF_DRAM_ACTIVE", "dram_active_seconds", 1.0, "level"),
    _dcgm("PROF_PCIE_RX_BYTES", "pcie_rx_bytes", 1.0, "level"),
    _dcgm("PROF_PCIE_TX_BYTES", "pcie_tx_bytes", 1.0, "level"),
    _dcgm("PROF_NVLINK_RX_BYTES", "nvlink_rx_bytes", 1.0, "level"),
    _dcgm("PROF_NVLINK_TX_BYTES", "nvlink_tx_bytes", 1.0, "level"),
)

_DCGM = Group(
    "dcgm",
    "gpu",
    {"gpu": ("uuid",), "index": ("gpu",), "model": ("modelname",), "pci_address": ("pci_bus_id",)},
    (
        *MEAN_FIELDS,
        _dcgm("DEV_GPU_UTIL", "active_seconds", 0.01, "level", rank=1),
        _dcgm("DEV_GPU_TEMP", "temperature_celsius"),
        _dcgm("DEV_POWER_USAGE", "power_watts"),
        _dcgm("DEV_POWER_MGMT_LIMIT", "power_limit_watts"),
        _dcgm("DEV_SM_CLOCK", "sm_clock_hertz", 1e6),
        _dcgm("DEV_MAX_SM_CLOCK", "sm_clock_max_hertz", 1e6),
        _dcgm("DEV_FB_USED", "memory_used_bytes", MIB),
        _dcgm("DEV_FB_TOTAL", "memory_total_bytes", MIB),
        _dcgm("DEV_FB_USED", "memory_total_bytes", MIB, rank=1),
        _dcgm("DEV_FB_FREE", "memory_total_bytes", MIB, rank=1),
        _dcgm("DEV_FB_RESERVED", "memory_total_bytes", MIB, rank=1),
        _dcgm("DEV_XID_ERRORS", "xid_last"),
        _dcgm("DEV_XID_ERRORS", "xid_errors", 1.0, "change"),
        _dcgm("DEV_PCIE_LINK_GEN", "pcie_gen"),
        _dcgm("DEV_PCIE_MAX_LINK_GEN", "pcie_gen_max"),
        _dcgm("DEV_PCIE_LINK_WIDTH", "pcie_width"),
        _dcgm("DEV_PCIE_MAX_LINK_WIDTH", "pcie_width_max"),
        _dcgm("DEV_ROW_REMAP_PENDING", "remap_pending"),
        _dcgm("DEV_ROW_REMAP_FAILURE", "remap_failed"),
        *_throttle("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0),
        *_throttle("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 1),
        Name("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "energy_joules", "counter", 1e-3),
        Name("DCGM_FI_DEV_POWER_USAGE", "energy_joules", "gauge", 1.0, "level", rank=1),
        *_counters(
            pcie_replays="DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
            ecc_corrected="DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
            ecc_uncorrected="DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        ),
    ),
    {"vendor": "nvidia"},
)

_SMI = Group(
    "nvidia_smi",
    "gpu",
    {"gpu": ("uuid",), "model": ("name",)},
    (
        Name("nvidia_smi_gpu_info", "", "gauge"),
        Name("nvidia_smi_utilization_gpu_ratio", "active_seconds", "gauge", 1.0, "level"),
        Name("nvidia_smi_power_draw_watts", "energy_joules", "gauge", 1.0, "level"),
        *_gauges(
            power_watts="nvidia_smi_power_draw_watts",
            power_limit_watts="nvidia_smi_enforced_power_limit_watts",
            temperature_celsius="nvidia_smi_temperature_gpu",
            memory_used_bytes="nvidia_smi_memory_used_bytes",
            memory_total_bytes="nvidia_smi_memory_total_bytes",
            sm_clock_hertz="nvidia_smi_clocks_current_sm_clock_hz",
            sm_clock_max_hertz="nvidia_smi_clocks_max_sm_clock_hz",
            pcie_gen="nvidia_smi_pcie_link_gen_current",
            pcie_gen_max="nvidia_smi_pcie_link_gen_max",
            pcie_width="nvidia_smi_pcie_link_width_current",
            pcie_width_max="nvidia_smi_pcie_link_width_max",
        ),
        *_counters(
            ecc_corrected="nvidia_smi_ecc_errors_corrected_volatile_total",
            ecc_uncorrected="nvidia_smi_ecc_errors_uncorrected_volatile_total",
        ),
        *_throttle("nvidia_smi_clocks_event_reasons_active", 0),
        *_throttle("nvidia_smi_clocks_throttle_reasons_active", 1),
    ),
    {"vendor": "nvidia"},
)

_CPU = "node_cpu_seconds_total"
#: node_exporter names of interfaces that are not hardware.
VIRTUAL_DEVICES = (
    "lo|(veth|docker|br-|virbr|cni|flannel|cali|cilium|lxc|tun|tap|vxlan|geneve|dummy|bond|team|kube"
    r"|nodelocaldns|ifb|ib|sit|ovs).*|.*[.][0-9]+"
)

_HOST = Group(
    "node_exporter",
    "host",
    {},
    (
        Name(_CPU, "cpu_busy_seconds", "counter", where={"mode": "user|nice|system|irq|softirq"}),
        Name(_CPU, "cpu_iowait_seconds", "counter", where={"mode": "iowait"}),
        Name(_CPU, "cpu_count", "counter", where={"mode": "idle"}),
        *_counters(
            psi_cpu_some_seconds="node_pressure_cpu_waiting_seconds_total",
            psi_io_some_seconds="node_pressure_io_waiting_seconds_total",
            psi_io_full_seconds="node_pressure_io_stalled_seconds_total",
            psi_memory_some_seconds="node_pressure_memory_waiting_seconds_total",
            psi_memory_full_seconds="node_pressure_memory_stalled_seconds_total",
            major_faults="node_vmstat_pgmajfault",
            net_rx_bytes="node_network_receive_bytes_total",
            net_tx_bytes="node_network_transmit_bytes_total",
            tcp_segments_out="node_netstat_Tcp_OutSegs",
            tcp_retransmits="node_netstat_Tcp_RetransSegs",
        ),
        # In pages, which have 4 KiB on the machines that hold GPUs, but for some Arm ones.
        Name("node_vmstat_pswpin", "swap_in_bytes", "counter", 4096.0),
        *_gauges(
            load1="node_load1",
            boot_seconds="node_boot_time_seconds",
            memory_total_bytes="node_memory_MemTotal_bytes",
            memory_available_bytes="node_memory_MemAvailable_bytes",
        ),
        Name("node_memory_Cached_bytes", "page_cache_bytes"),
        Name("node_memory_Buffers_bytes", "page_cache_bytes"),
        Name("node_memory_Shmem_bytes", "page_cache_bytes", factor=-1.0),
    ),
)

_DISK = Group(
    "node_exporter",
    "disk",
    {"device": ("device",)},
    (
        *_counters(
            read_bytes="node_disk_read_bytes_total",
            written_bytes="node_disk_written_bytes_total",
            reads="node_disk_reads_completed_total",
            writes="node_disk_writes_completed_total",
            read_seconds="node_disk_read_time_seconds_total",
            write_seconds="node_disk_write_time_seconds_total",
            busy_seconds="node_disk_io_time_seconds_total",
            queue_seconds="node_disk_io_time_weighted_seconds_total",
        ),
        Name("node_disk_io_now", "inflight"),
    ),
)

_NFS = "node_mountstats_nfs_"
_METADATA = "!READ|WRITE|COMMIT|NULL"


def _operations() -> Iterable[Name]:
    for prefix, operation in (("read", "READ"), ("write", "WRITE"), ("metadata", _METADATA)):
        which = {"operation": operation}
        count = "metadata_ops" if prefix == "metadata" else f"{prefix}s"
        yield Name(f"{_NFS}operations_requests_total", count, "counter", where=which)
        for theirs, ours in (("response", "rtt"), ("request", "exec")):
            metric = f"{_NFS}operations_{theirs}_time_seconds_total"
            yield Name(metric, f"{prefix}_{ours}_seconds", "counter", where=which)


_MOUNT = Group(
    "node_exporter",
    "mount",
    # The mount point is not among its labels: the export stands for it.
    {"mount": ("export",), "server": ("mountaddr",)},
    (
        *_operations(),
        *_counters(
            read_bytes=f"{_NFS}total_read_bytes_total",
            written_bytes=f"{_NFS}total_write_bytes_total",
            timeouts=f"{_NFS}operations_major_timeouts_total",
            backlog=f"{_NFS}transport_backlog_queue_total",
        ),
        Name(
            f"{_NFS}operations_queue_time_seconds_total",
            "read_queue_seconds",
            "counter",
            where={"operation": "READ"},
        ),
        Name(f"{_NFS}operations_transmissions_total", "retransmits", "counter"),
        Name(f"{_NFS}operations_requests_total", "retransmits", "counter", -1.0),
    ),
    {"fstype": "nfs"},
)

_ETHERNET = Group(
    "node_exporter",
    "port",
    {"port": ("device",)},
    (
        *_counters(
            rx_bytes="node_network_receive_bytes_total",
            tx_bytes="node_network_transmit_bytes_total",
            rcv_errors="node_network_receive_errs_total",
            xmit_discards="node_network_transmit_drop_total",
            link_downed="node_network_carrier_down_changes_total",
        ),
        Name("node_network_speed_bytes", "rate_bps", factor=8.0),
        Name("node_network_up", "up"),
    ),
    {"link": "ethernet"},
)

_INFINIBAND = Group(
    "node_exporter",
    "port",
    {"port": ("device", "port")},
    (
        *_counters(
            rx_bytes="node_infiniband_port_data_received_bytes_total",
            tx_bytes="node_infiniband_port_data_transmitted_bytes_total",
            xmit_wait_ticks="node_infiniband_port_transmit_wait_total",
            symbol_errors="node_infiniband_symbol_error_total",
            link_downed="node_infiniband_link_downed_total",
            link_recovery="node_infiniband_link_error_recovery_total",
            rcv_errors="node_infiniband_port_errors_received_total",
            xmit_discards="node_infiniband_port_discards_transmitted_total",
            integrity_errors="node_infiniband_local_link_integrity_errors_total",
            buffer_overruns="node_infiniband_excessive_buffer_overrun_errors_total",
        ),
        Name("node_infiniband_rate_bytes_per_second", "rate_bps", factor=8.0),
        # 4 = active; the ids below and above it are states on the way there.
        Name("node_infiniband_state_id", "up", factor=0.25),
    ),
    {"link": "infiniband"},
)

_SWITCHES = Group(
    "infiniband_exporter",
    "port",
    {"port": ("port",)},
    _counters(
        rx_bytes="infiniband_switch_port_receive_data_bytes_total",
        tx_bytes="infiniband_switch_port_transmit_data_bytes_total",
        xmit_wait_ticks="infiniband_switch_port_transmit_wait_total",
        symbol_errors="infiniband_switch_port_symbol_error_total",
        link_downed="infiniband_switch_port_link_downed_total",
        link_recovery="infiniband_switch_port_link_error_recovery_total",
        rcv_errors="infiniband_switch_port_receive_errors_total",
        xmit_discards="infiniband_switch_port_transmit_discards_total",
        integrity_errors="infiniband_switch_port_local_link_integrity_errors_total",
        buffer_overruns="infiniband_switch_port_excessive_buffer_overrun_errors_total",
    ),
    {"link": "infiniband"},
    ("guid",),
)

#: Every group. A metric may be in several.
GROUPS: tuple[Group, ...] = (_DCGM, _SMI, _HOST, _DISK, _MOUNT, _ETHERNET, _INFINIBAND, _SWITCHES)

#: Labels that may carry the host's name, the most trustworthy first; `instance` is an address with a port.
HOST_LABELS = ("hostname", "host", "nodename", "node", "kubernetes_node", "exported_instance", "instance")

#: Kind of job -> labels that name it, joined by "/"; the first that are all there win.
JOB_LABELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("slurm", ("exported_hpc_job",)),
    ("slurm", ("hpc_job",)),
    ("slurm", ("slurm_job_id",)),
    ("kubernetes", ("exported_namespace", "exported_pod")),
    ("kubernetes", ("namespace", "pod")),
)
