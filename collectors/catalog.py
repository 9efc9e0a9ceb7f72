"""Every table and column Wellfed knows: the one contract between collectors, exports, store and analysis.

One table per kind of thing, one column per signal. A column's name, unit and kind are the same in the
store, in Prometheus and in the analysis code. Units are SI base units and part of the name. counter =
cumulative, gauge = value now, info = text. null = this machine cannot measure it; it is never 0.

Prometheus: `wellfed_<table>_<column>`, counters with `_total`; labels = key columns without `host`, plus
the info columns marked as label. OTLP: the semantic convention where one exists, else
`wellfed.<table>.<column>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from wellfed.collectors.columns import HOST, Column, Kind, Otlp, Table

__all__ = [
    "DERIVED_OTLP",
    "HOST",
    "KEY_ATTRIBUTES",
    "SCOPE",
    "TABLES",
    "Column",
    "Kind",
    "Otlp",
    "Table",
    "info_metric",
]

#: Instrumentation scope of what the agent sends by OTLP.
SCOPE = "wellfed"

#: A column before its table gives it an OTLP name: (name, kind, help, of, label, otlp).
_Spec = tuple[str, Kind, str, str, bool, Otlp | None]


def _counter(name: str, text: str, of: str = "", otlp: Otlp | None = None) -> _Spec:
    return (name, "counter", text, of, False, otlp)


def _gauge(name: str, text: str, of: str = "", otlp: Otlp | None = None) -> _Spec:
    return (name, "gauge", text, of, False, otlp)


def _info(name: str, text: str, label: bool = False) -> _Spec:
    return (name, "info", text, "", label, None)


def _otlp(name: str, **attributes: str) -> Otlp:
    return Otlp(name, MappingProxyType({k.replace("__", "."): v for k, v in attributes.items()}))


def _table(name: str, keys: str, text: str, *specs: _Spec) -> Table:
    columns = tuple(
        Column(column, kind, help_, otlp or Otlp(f"wellfed.{name}.{column}"), label, of)
        for column, kind, help_, of, label, otlp in specs
    )
    return Table(name, tuple(keys.split()), text, columns)


def _gpu_io(direction: str) -> Otlp:
    return _otlp("hw.gpu.io", network__io__direction=direction)


_GPU = _table(
    "gpu",
    "host gpu",
    "Accelerators, by the vendor's stable id (GPU-<uuid>, MIG-<uuid>); never by ordinal",
    _info("index", "Ordinal on its host", label=True),
    _info("vendor", "nvidia, amd, tpu or neuron"),
    _info("model", "Product name", label=True),
    _info("parent", "Parent GPU of a MIG slice"),
    _info("pci_address", "PCI address"),
    _info("job", "Job that holds it", label=True),
    _info("rank", "Its rank in that job"),
    _gauge("allocated", "1 while a scheduler has handed it to a job; absent where no scheduler says", "gpu"),
    _gauge("processes", "Processes with a context on it", "process"),
    _counter("observed_seconds", "Time covered by samples: the denominator of every activity"),
    _counter("active_seconds", "Time with some kernel resident"),
    _counter(
        "sm_active_seconds", "Integral of the fraction of streaming multiprocessors with a warp resident"
    ),
    _counter("sm_occupancy_seconds", "Integral of the fraction of warp slots in use"),
    _counter("tensor_active_seconds", "Integral of the fraction of cycles with the tensor pipe active"),
    _counter("dram_active_seconds", "Integral of the fraction of cycles with device memory busy"),
    _counter("idle_seconds", "Time in samples with activity below 5 %"),
    _counter("spin_seconds", "Time in samples that look like waiting inside a collective"),
    _gauge("memory_used_bytes", "Device memory in use", otlp=_otlp("hw.gpu.memory.usage")),
    _gauge("memory_total_bytes", "Device memory", otlp=_otlp("hw.gpu.memory.limit")),
    _gauge("power_watts", "Power drawn", otlp=_otlp("hw.power", hw__type="gpu")),
    _gauge("power_limit_watts", "Power cap in force"),
    _gauge("temperature_celsius", "Core temperature", otlp=_otlp("hw.temperature", hw__type="gpu")),
    _counter(
        "energy_joules",
        "Energy, by the device's counter and, since that was read, its power",
        otlp=_otlp("hw.energy", hw__type="gpu"),
    ),
    _gauge("sm_clock_hertz", "Mean SM clock over the window"),
    _gauge("sm_clock_max_hertz", "Highest SM clock"),
    _counter("throttle_thermal_seconds", "Time slowed by heat"),
    _counter("throttle_power_seconds", "Time slowed by the power cap"),
    _counter("throttle_brake_seconds", "Time slowed by an external power brake"),
    _counter("pcie_rx_bytes", "PCIe bytes into the GPU", otlp=_gpu_io("receive")),
    _counter("pcie_tx_bytes", "PCIe bytes out of the GPU", otlp=_gpu_io("transmit")),
    _counter("nvlink_rx_bytes", "NVLink bytes into the GPU"),
    _counter("nvlink_tx_bytes", "NVLink bytes out of the GPU"),
    _gauge("pcie_gen", "PCIe generation as trained", "generation"),
    _gauge("pcie_gen_max", "PCIe generation as built", "generation"),
    _gauge("pcie_width", "PCIe lanes as trained", "lane"),
    _gauge("pcie_width_max", "PCIe lanes as built", "lane"),
    _counter("pcie_replays", "PCIe replays", "replay"),
    _counter(
        "ecc_corrected",
        "Corrected memory errors",
        "error",
        _otlp("hw.errors", hw__type="gpu", error__type="corrected"),
    ),
    _counter(
        "ecc_uncorrected",
        "Uncorrected memory errors",
        "error",
        _otlp("hw.errors", hw__type="gpu", error__type="uncorrected"),
    ),
    _counter("xid_errors", "XID events", "error"),
    _gauge("xid_last", "Number of the last XID", "xid"),
    _gauge("remap_pending", "Row remappings that wait for a reset", "row"),
    _gauge("remap_failed", "1 after a row remapping failed", "failure"),
    _gauge("nvlink_down", "Inactive NVLink links", "link"),
)

_HOST = _table(
    "host",
    "host",
    "The machine as a whole",
    _gauge("cpu_count", "Logical CPUs", "cpu", _otlp("system.cpu.logical.count")),
    _gauge("load1", "Load average over one minute", "thread"),
    _counter(
        "cpu_busy_seconds",
        "CPU time of all CPUs in user, nice, system, irq and softirq (steal is not ours)",
        otlp=_otlp("system.cpu.time", cpu__mode="busy"),
    ),
    _counter(
        "cpu_iowait_seconds",
        "CPU time of all CPUs idle with I/O outstanding",
        otlp=_otlp("system.cpu.time", cpu__mode="iowait"),
    ),
    _counter("psi_cpu_some_seconds", "Time some task waited for a CPU"),
    _counter("psi_io_some_seconds", "Time some task waited for I/O"),
    _counter("psi_io_full_seconds", "Time all tasks waited for I/O"),
    _counter("psi_memory_some_seconds", "Time some task waited for memory"),
    _counter("psi_memory_full_seconds", "Time all tasks waited for memory"),
    _gauge("memory_total_bytes", "Usable memory", otlp=_otlp("system.memory.limit")),
    _gauge(
        "memory_available_bytes",
        "Memory available without swapping",
        otlp=_otlp("system.linux.memory.available"),
    ),
    _gauge(
        "page_cache_bytes",
        "Page cache: Cached + Buffers - Shmem",
        otlp=_otlp("system.memory.usage", system__memory__state="cached"),
    ),
    _counter("swap_in_bytes", "Bytes swapped in"),
    _counter("major_faults", "Major page faults", "fault"),
    _counter(
        "net_rx_bytes",
        "Bytes received by physical interfaces",
        otlp=_otlp("system.network.io", network__io__direction="receive"),
    ),
    _counter(
        "net_tx_bytes",
        "Bytes sent by physical interfaces",
        otlp=_otlp("system.network.io", network__io__direction="transmit"),
    ),
    _counter("tcp_segments_out", "TCP segments sent", "segment"),
    _counter("tcp_retransmits", "TCP segments sent again", "segment"),
    _gauge(
        "jobs_pending",
        "Jobs that wait in the cluster's queues, where this host was told to ask for them",
        "job",
    ),
    _gauge("boot_seconds", "Epoch of boot; a change starts a new segment of every counter of the host"),
)

_JOB = _table(
    "job",
    "host job",
    "Jobs: one row per job and host, from its cgroup",
    _info("kind", "kubernetes, slurm, docker, systemd or process"),
    _info("name", "Name the owner gave it", label=True),
    _info("user", "Owner", label=True),
    _info("namespace", "Kubernetes namespace or Slurm account", label=True),
    _info("queue", "Queue or partition"),
    _info("run", "Experiment run id"),
    _counter("cpu_usage_seconds", "CPU time"),
    _counter("cpu_throttled_seconds", "Time throttled by the CPU quota"),
    _counter("psi_cpu_some_seconds", "Time some task of the job waited for a CPU"),
    _counter("psi_io_some_seconds", "Time some task of the job waited for I/O"),
    _counter("psi_memory_full_seconds", "Time all tasks of the job waited for memory"),
    _counter("io_read_bytes", "Bytes read: block I/O of the cgroup, or the sum over its processes"),
    _counter("io_write_bytes", "Bytes written: block I/O of the cgroup, or the sum over its processes"),
    _counter("main_thread_seconds", "CPU time of the busiest thread of the processes that hold a GPU"),
    _gauge("cpu_limit", "CPU limit in cores", "cpu"),
    _gauge("memory_bytes", "Memory in use"),
    _gauge("memory_limit_bytes", "Memory limit"),
    _gauge("processes", "Processes", "process"),
    _gauge("gpus", "GPUs held", "gpu"),
    _gauge("started_seconds", "Epoch of its start"),
)


def _disk_otlp(name: str, direction: str) -> Otlp:
    return _otlp(f"system.disk.{name}", disk__io__direction=direction)


_DISK = _table(
    "disk",
    "host device",
    "Whole block devices: no partitions, loop or ram; device-mapper and md carry their name",
    _counter("read_bytes", "Bytes read", otlp=_disk_otlp("io", "read")),
    _counter("written_bytes", "Bytes written", otlp=_disk_otlp("io", "write")),
    _counter("reads", "Reads completed", "operation", _disk_otlp("operations", "read")),
    _counter("writes", "Writes completed", "operation", _disk_otlp("operations", "write")),
    _counter("read_seconds", "Time spent by all reads", otlp=_disk_otlp("operation_time", "read")),
    _counter("write_seconds", "Time spent by all writes", otlp=_disk_otlp("operation_time", "write")),
    _counter("busy_seconds", "Time with I/O in flight", otlp=_otlp("system.disk.io_time")),
    _counter("queue_seconds", "Time in flight, weighted by the number of requests"),
    _gauge("inflight", "Requests in flight", "operation"),
)

_MOUNT = _table(
    "mount",
    "host mount",
    "Network and parallel file systems, as this client sees them",
    _info("fstype", "nfs, nfs4 or lustre", label=True),
    _info("server", "Server or file system name", label=True),
    _counter("read_bytes", "Bytes that crossed from the server, direct I/O included"),
    _counter("written_bytes", "Bytes that crossed to the server, direct I/O included"),
    _counter("reads", "READ operations", "operation"),
    _counter("writes", "WRITE operations", "operation"),
    _counter("metadata_ops", "Operations other than READ, WRITE, COMMIT and NULL", "operation"),
    _counter("read_rtt_seconds", "Time from sending READs to their answers"),
    _counter("read_exec_seconds", "Time of READs from queueing to completion"),
    _counter("read_queue_seconds", "Time READs waited in the client before sending"),
    _counter("write_rtt_seconds", "Time from sending WRITEs to their answers"),
    _counter("write_exec_seconds", "Time of WRITEs from queueing to completion"),
    _counter("metadata_rtt_seconds", "Time from sending metadata operations to their answers"),
    _counter("metadata_exec_seconds", "Time of metadata operations from queueing to completion"),
    _counter(
        "retransmits",
        "Transmissions beyond one per operation",
        "request",
        _otlp("nfs.client.rpc.retransmit.count"),
    ),
    _counter("timeouts", "Major timeouts", "timeout"),
    _counter("backlog", "Backlog utilisation of the transport, summed at each send", "request"),
)

_PORT = _table(
    "port",
    "host port",
    "Fabric ports: mlx5_0/1, or the interface's name",
    _info("link", "infiniband, roce or ethernet", label=True),
    _counter("rx_bytes", "Bytes received"),
    _counter("tx_bytes", "Bytes sent"),
    _counter("xmit_wait_ticks", "Ticks with data to send and no credit to send it", "tick"),
    _counter("symbol_errors", "Minor link errors", "error"),
    _counter("link_downed", "Times the link went down", "event"),
    _counter("link_recovery", "Times the link retrained", "event"),
    _counter("rcv_errors", "Packets received with an error", "error"),
    _counter("xmit_discards", "Packets dropped before sending", "packet"),
    _counter("out_of_sequence", "Packets received out of sequence", "packet"),
    _counter("packet_seq_errors", "NAK sequence errors received", "error"),
    _counter("ack_timeouts", "Acknowledge timers expired", "timeout"),
    _counter("cnp_sent", "Congestion notification packets sent", "packet"),
    _counter("cnp_handled", "Congestion notification packets obeyed", "packet"),
    _counter("ecn_marked", "Packets received with congestion experienced", "packet"),
    _counter("pause_seconds", "Time the sender was paused"),
    _counter("buffer_overruns", "Receive buffer overruns", "error"),
    _counter("integrity_errors", "Local link integrity errors", "error"),
    _counter("rnr_nak_retries", "Receiver-not-ready retries exhausted", "error"),
    _gauge("rate_bps", "Link rate as trained"),
    _gauge("up", "1 while the link is active", "link"),
)

_STEP = _table(
    "step",
    "host job rank",
    "The training loop itself, from wellfed.watch",
    _info("gpu", "GPU of the rank"),
    _info("run", "Experiment run id"),
    _counter("steps", "Steps done", "step"),
    _counter("samples", "Samples consumed", "sample"),
    _counter("tokens", "Tokens consumed", "token"),
    _counter("step_seconds", "Wall time of steps, all parts together"),
    _counter("data_wait_seconds", "Time the loop waited for its next batch"),
    _counter("h2d_seconds", "Time of host-to-device copies on the critical path"),
    _counter("compute_seconds", "Time of forward, backward and optimizer"),
    _counter("comm_seconds", "Time of exposed communication"),
    _counter("checkpoint_seconds", "Time blocked by checkpoints"),
    _counter("eval_seconds", "Time of evaluation"),
    _counter("read_bytes", "Bytes of samples read"),
    _gauge("queue_depth", "Batches ready", "batch"),
)

_SERVER = _table(
    "server",
    "host server",
    "Inference servers, from their metrics endpoint",
    _info("engine", "vllm, sglang, triton, tgi or ray_serve", label=True),
    _info("model", "Model served", label=True),
    _info("gpu", "GPU it runs on"),
    _gauge("running", "Requests being decoded", "request"),
    _gauge("waiting", "Requests queued", "request"),
    _gauge("kv_usage", "Share of the KV cache in use", "share"),
    _gauge("max_running", "Most requests that run at once", "request"),
    _counter("requests", "Requests finished", "request"),
    _counter("prompt_tokens", "Prompt tokens", "token"),
    _counter("generation_tokens", "Generated tokens", "token"),
    _counter("preemptions", "Requests put back for want of KV cache", "request"),
    _counter("queue_seconds", "Time requests queued"),
    _counter("queue_count", "Requests in queue_seconds", "request"),
    _counter("ttft_seconds", "Time to first token, summed"),
    _counter("ttft_count", "Requests in ttft_seconds", "request"),
    _counter("itl_seconds", "Time between tokens, summed"),
    _counter("itl_count", "Gaps in itl_seconds", "token"),
)

_ARRAY = _table(
    "array",
    "array protocol",
    "Storage arrays, from their own exporter; no host",
    _gauge("read_latency_seconds", "Mean read latency"),
    _gauge("write_latency_seconds", "Mean write latency"),
    _gauge("other_latency_seconds", "Mean latency of other operations"),
    _gauge("read_bytes_per_second", "Read throughput"),
    _gauge("write_bytes_per_second", "Write throughput"),
    _gauge("read_ops_per_second", "Reads"),
    _gauge("write_ops_per_second", "Writes"),
    _gauge("other_ops_per_second", "Other operations"),
    _gauge("used_ratio", "Share of the capacity in use"),
)

_COLLECTOR = _table(
    "collector",
    "host collector",
    "The collectors themselves: can this telemetry be trusted?",
    _info("reason", "Why it yields nothing"),
    _gauge("success", "1 after a good read", "collector"),
    _gauge("duration_seconds", "Duration of the last read"),
    _gauge("last_success_seconds", "Epoch of the last good read"),
    _gauge("stuck", "1 while a read has overrun its deadline", "collector"),
    _counter("errors", "Failed reads", "error"),
)

#: Every table by name, in the order of the reference page.
TABLES: Mapping[str, Table] = MappingProxyType(
    {t.name: t for t in (_GPU, _HOST, _JOB, _DISK, _MOUNT, _PORT, _STEP, _SERVER, _ARRAY, _COLLECTOR)}
)

#: OTLP metrics computed from a column, sent beside it: the window's mean activity as a ratio.
DERIVED_OTLP: Mapping[tuple[str, str], Otlp] = MappingProxyType(
    {("gpu", "active_seconds"): _otlp("hw.gpu.utilization", hw__gpu__task="general")}
)

#: Key column -> attribute of the semantic conventions; other keys keep their name.
KEY_ATTRIBUTES: Mapping[tuple[str, str], str] = MappingProxyType(
    {("gpu", "gpu"): "hw.id", ("disk", "device"): "system.device"}
)


def info_metric(table: str) -> str:
    """OTLP name of the metric that carries a table's text columns."""
    return f"wellfed.{table}.info"
