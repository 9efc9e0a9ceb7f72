"""A training job's log as columns of the host, job, mount, disk and port tables.

Pressures follow from who waits for what: a loader process inside a page-cache read waits for I/O, one that is
runnable while all cores are taken waits for a CPU, one whose memory was reclaimed waits for memory. Metadata
calls and sockets wait too, but the kernel does not count them as I/O.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.storage import SEGMENT
from wellfed.analysis.scenarios.timeline import Phase
from wellfed.analysis.scenarios.trace import Trace
from wellfed.analysis.scenarios.training import Training
from wellfed.analysis.scenarios.usage import Columns, Traffic, Usage

__all__ = ["host_columns", "job_columns", "port_columns", "storage_traffic"]

F = NDArray[np.float64]

#: Ticks a second in which a port with data to send and no credit counts.
TICKS = 2.5e8
#: Requests in flight while a checkpoint is written.
WRITERS = 16.0
#: Bytes of one write request.
WRITE = 1.0e6


def _main_usage(job: Training, trace: Trace) -> F:
    """CPU seconds of every rank's main thread per window: (windows, ranks)."""
    line, spins = trace.line, 1.0 if job.work.spin_sync else 0.0
    compute = trace.phases[:, Phase.COMPUTE]
    issue = np.minimum(1.0, trace.rank("launch") / np.maximum(compute, 1e-9))
    slow = np.repeat(np.stack(job.log.slow)[:, :, 0], job.plan.gpus_each, axis=1)
    used = line.phase([Phase.COMPUTE], np.maximum(issue, 0.97 * spins / slow))
    used += line.phase([Phase.WAIT, Phase.REDUCE, Phase.COPY], max(0.97 * spins, 0.06) / slow)
    used += 0.03 * line.phase([Phase.FETCH]) + 0.5 * line.phase([Phase.SAVE_WRITE])
    used += 0.8 * line.phase([Phase.EVALUATE]) + 0.35 * line.phase([Phase.START])
    return used


def _normal_tail(z: F) -> F:
    return np.asarray(1.0 / (1.0 + np.exp(-1.702 * np.clip(z, -30.0, 30.0))))


def _threads(job: Training, trace: Trace) -> tuple[F, F]:
    """Runnable threads per host at every event: the job's own, and all."""
    spins = 0.95 if job.work.spin_sync else 0.45
    own = trace.host_sum(job.log.computing) + spins * job.plan.gpus_each
    return own, own + trace.host("tenant")


def _throttled(job: Training, trace: Trace) -> F:
    """Share of the time in which the CPU limit stops the whole job, per event and host."""
    own, _ = _threads(job, trace)
    limit = job.pipeline.quota * trace.host("quota")
    return np.asarray(np.maximum(0.0, 1.0 - limit / np.maximum(own, 1e-9)))


def _cpu_pressure(job: Training, trace: Trace) -> tuple[F, F]:
    """Chance that some task waits for a CPU, of the host and of the job, per event and host."""
    own, runnable = _threads(job, trace)
    cores = job.node.cores
    spread = np.sqrt(0.25 * runnable + 1.0)
    contended = _normal_tail((runnable - 0.97 * cores) / spread)
    wait = np.maximum(0.0, 1.0 - cores / np.maximum(runnable, 1e-9))
    hit = contended * (1.0 - np.exp(-own * np.maximum(wait, 0.02)))
    limited = _throttled(job, trace)
    floor = 0.002 + 0.03 * np.minimum(1.0, runnable / cores) ** 2
    together = 1.0 - (1.0 - contended) * (1.0 - limited)
    return np.maximum(floor, together), np.maximum(0.5 * floor, 1.0 - (1.0 - hit) * (1.0 - limited))


def _saving(job: Training) -> float:
    """Share of the time a checkpoint is being written that counts as waiting for I/O."""
    saves = job.plan.checkpoints or job.plan.storage
    return 0.0 if saves is None else saves.waits_as_io


def _io_pressure(job: Training, trace: Trace) -> tuple[F, F]:
    """Chance that some task waits for I/O, and that nothing else runs meanwhile, per event and host."""
    store = job.plan.storage
    counted = 0.0 if store is None else store.waits_as_io
    busy = np.stack(job.log.busy)
    reading = np.stack(job.log.reading) * counted
    chance = np.clip(reading / np.maximum(busy, 1e-9), 0.0, 0.999)
    nobody = np.exp((busy * np.log1p(-chance)).sum(axis=2))
    some = 1.0 - nobody
    main_idle = trace.phases[:, Phase.FETCH].reshape(trace.events, job.plan.hosts, -1).min(axis=2)
    saves = _saving(job)
    writing = trace.phases[:, Phase.SAVE_WRITE].reshape(trace.events, job.plan.hosts, -1).mean(axis=2)
    some = np.maximum(some, 0.6 * saves * writing / np.maximum(trace.line.length[:, None], 1e-9))
    asleep = main_idle / np.maximum(trace.line.length[:, None], 1e-9)
    computing = trace.host_sum(job.log.computing)
    return some, some * asleep * np.exp(-computing)


def _memory_stall(trace: Trace) -> tuple[F, F]:
    """Share of a thread's time lost to reclaim, and chance that some thread is in it, per event and host."""
    stall = 1.0 - 1.0 / trace.host("thrash")
    return stall, 1.0 - (1.0 - stall) ** 6


def _loader_cpu(trace: Trace) -> F:
    return trace.batches(lambda batch: batch.cpu, lambda batch: batch.ready)


def _starting(job: Training, trace: Trace) -> F:
    """Seconds of start-up per window and host: unpacking, importing, compiling."""
    started = trace.line.phase([Phase.START])
    return np.asarray(started.reshape(len(started), job.plan.hosts, -1).mean(axis=2))


def host_columns(job: Training, trace: Trace) -> Columns:
    """What the job adds to its hosts, (windows, hosts); pressures as seconds of the window."""
    plan, line = job.plan, trace.line
    mains = _main_usage(job, trace).reshape(len(trace.edges) - 1, plan.hosts, -1).sum(axis=2)
    starting = _starting(job, trace)
    stall, stalled = _memory_stall(trace)
    cpu_host, _ = _cpu_pressure(job, trace)
    io_some, io_full = _io_pressure(job, trace)
    own, runnable = _threads(job, trace)
    counted = 0.0 if plan.storage is None else plan.storage.waits_as_io
    blocked = trace.host_sum(job.log.reading)
    idle_cores = np.maximum(0.0, job.node.cores - runnable)
    tenants = trace.host("tenant") * np.minimum(1.0, job.node.cores / np.maximum(runnable, 1e-9))
    faults = stall * 4000.0 * np.minimum(own, 32.0)
    proxies = 0.12 * plan.gpus_each * (plan.hosts > 1) * trace.window_seconds
    return {
        "cpu_busy_seconds": mains + _loader_cpu(trace) + 6.0 * starting + line.span(tenants) + proxies,
        "cpu_iowait_seconds": line.span(np.minimum(blocked * counted, idle_cores)),
        "psi_cpu_some_seconds": line.span(cpu_host),
        "psi_io_some_seconds": line.span(np.maximum(io_some, 0.5 * stalled)),
        "psi_io_full_seconds": line.span(io_full),
        "psi_memory_some_seconds": line.span(stalled),
        "psi_memory_full_seconds": line.span(stalled * stall),
        "memory_used": trace.last(trace.host("used")),
        "page_cache_bytes": trace.last(trace.host("cached")),
        "swap_in_bytes": line.span(faults * 16384.0),
        "major_faults": line.span(faults),
        "threads": trace.mean(np.minimum(runnable, 4 * job.node.cores) + trace.host_sum(job.log.reading)),
        "loss": trace.mean(trace.host("loss")),
    }


def job_columns(job: Training, trace: Trace) -> Columns:
    """The job's own cgroup, (windows, hosts)."""
    plan, line = job.plan, trace.line
    main = _main_usage(job, trace).reshape(len(trace.edges) - 1, plan.hosts, -1)
    _, cpu = _cpu_pressure(job, trace)
    own, _ = _threads(job, trace)
    stall, stalled = _memory_stall(trace)
    io_some, _ = _io_pressure(job, trace)
    ones = np.ones((len(trace.edges) - 1, plan.hosts))
    limited = plan.quota > 0
    memory = trace.last(trace.host("used"))
    columns: Columns = {
        "cpu_usage_seconds": main.sum(axis=2) + _loader_cpu(trace) + 6.0 * _starting(job, trace),
        "psi_cpu_some_seconds": line.span(cpu),
        "psi_io_some_seconds": line.span(np.maximum(io_some, 0.5 * stalled)),
        "psi_memory_full_seconds": line.span(stalled * stall),
        "main_thread_seconds": main.max(axis=2),
        "memory_bytes": memory,
        "memory_limit_bytes": ones * job.pipeline.memory_limit,
        "processes": ones * plan.gpus_each * (1 + job.work.loader.workers),
        "cpu_limit": trace.last(job.pipeline.quota * trace.host("quota"))
        if limited
        else ones * job.node.cores,
        "cpu_throttled_seconds": line.span(_throttled(job, trace) * np.minimum(own, job.node.cores)),
    }
    return columns


def storage_traffic(job: Training, trace: Trace, usage: Usage) -> None:
    """Adds mounts, disks, network bytes and the job's own I/O to `usage`."""
    plan = job.plan
    store, saves = plan.storage, plan.checkpoints or plan.storage
    read = np.zeros((len(trace.edges) - 1, plan.hosts))
    columns: Columns = {}
    if store is not None:
        ended = {"data": lambda b: b.start + b.data, "look": lambda b: b.start + b.data + b.lookup}
        read = trace.batches(lambda b: b.missed + 0 * b.start, ended["data"])
        columns = {
            "read_bytes": read,
            "reads": trace.batches(lambda b: b.reads + 0 * b.start, ended["data"]),
            "read_rtt_seconds": trace.batches(lambda b: b.reads * b.rtt, ended["data"]),
            "read_exec_seconds": trace.batches(lambda b: b.reads * b.execution, ended["data"]),
            "metadata_ops": trace.batches(lambda b: b.lookups + 0 * b.start, ended["look"]),
            "metadata_rtt_seconds": trace.batches(lambda b: b.lookups * b.metadata, ended["look"]),
        }
        waited = np.maximum(0.0, columns["read_exec_seconds"] - columns["read_rtt_seconds"])
        columns["read_queue_seconds"] = waited
        columns["metadata_exec_seconds"] = 1.04 * columns["metadata_rtt_seconds"]
        columns["backlog"] = waited / np.maximum(columns["read_rtt_seconds"], 1e-9) * columns["reads"]
        lost = usage.host["loss"] * read / SEGMENT
        columns["retransmits"] = 0.002 * lost
        columns["timeouts"] = 0.0 * lost
    write = trace.writes(lambda seconds, size: size)
    written: Columns = {
        "written_bytes": write,
        "writes": write / WRITE,
        "write_rtt_seconds": trace.writes(lambda seconds, size: seconds * WRITERS),
    }
    written["write_exec_seconds"] = 1.05 * written["write_rtt_seconds"]
    both = store is not None and saves is not None and store.name == saves.name
    if store is not None:
        _deposit(usage, job, trace, store.kind, store.name, store.server, columns | (written if both else {}))
    if saves is not None and not both and job.work.checkpoint > 0:
        _deposit(usage, job, trace, saves.kind, saves.name, saves.server, written)
    sockets = store is not None and store.kind == "object"
    usage.job["io_read_bytes"] = 0.0 * read if sockets else read
    usage.job["io_write_bytes"] = write


def _deposit(
    usage: Usage, job: Training, trace: Trace, kind: str, name: str, server: str, c: Columns
) -> None:
    zero = np.zeros((len(trace.edges) - 1, job.plan.hosts))
    read, write = c.get("read_bytes", zero), c.get("written_bytes", zero)
    if kind == "disk":
        usage.disks.append(Traffic(name, "", "", _disk(job, trace, c, zero)))
        return
    if kind != "object":
        usage.mounts.append(Traffic(name, kind, server, c))
    if kind == "lustre" and usage.ports:
        usage.ports["rx_bytes"] = (
            usage.ports["rx_bytes"] + np.repeat(read, job.node.ports, axis=1) / job.node.ports
        )
        return
    usage.host["net_rx_bytes"] = usage.host.get("net_rx_bytes", zero) + 1.03 * read
    usage.host["net_tx_bytes"] = usage.host.get("net_tx_bytes", zero) + 1.03 * write + 0.01 * read


def _disk(job: Training, trace: Trace, c: Columns, zero: F) -> Columns:
    """Block-device counters; what other tenants of the device read is in them too."""
    store = job.plan.storage
    capacity = 3e9 if store is None else store.capacity
    size = 1e6
    others = capacity * trace.line.span(1.0 - np.minimum(1.0, trace.host("capacity")))
    own_reads = c.get("reads", zero)
    each = c.get("read_exec_seconds", zero) / np.maximum(own_reads, 1e-9)
    reads = own_reads + others / size
    read_seconds = c.get("read_exec_seconds", zero) + others / size * each
    write_seconds = c.get("write_exec_seconds", zero)
    queue = read_seconds + write_seconds
    return {
        "read_bytes": c.get("read_bytes", zero) + others,
        "written_bytes": c.get("written_bytes", zero),
        "reads": reads,
        "writes": c.get("writes", zero),
        "read_seconds": read_seconds,
        "write_seconds": write_seconds,
        "busy_seconds": trace.window_seconds * (1.0 - np.exp(-queue / trace.window_seconds)),
        "queue_seconds": queue,
        "inflight": np.round(queue / trace.window_seconds),
    }


def port_columns(job: Training, trace: Trace) -> Columns:
    """The fabric's ports, (windows, hosts x ports), port by port of each host."""
    plan, node, line = job.plan, job.node, trace.line
    steps = trace.tag[:, None] < 0
    per_host = trace.phases.reshape(trace.events, len(Phase), plan.hosts, plan.gpus_each)[:, :, :, 0]
    rails = np.maximum(1.0, np.round(plan.gpus_each * trace.host("rails")))
    moved = np.where(steps, 2.0 * (plan.hosts - 1) / plan.hosts * trace.host("reduced"), 0.0) / rails
    used = np.arange(node.ports)[None, None] - plan.first_gpu
    on = (used >= 0) & (used < rails[:, :, None])
    moving = per_host[:, Phase.COMPUTE] + per_host[:, Phase.REDUCE]
    expand = plan.hosts * node.ports

    def spread(per_port: F) -> F:
        """(events, hosts, ports) rates during the moving phases, per window."""
        rate = per_port / np.maximum(moving, 1e-9)[:, :, None]
        share = moving / np.maximum(line.length[:, None], 1e-9)
        return line.span((rate * share[:, :, None]).reshape(trace.events, expand))

    first = np.arange(node.ports)[None, None] == plan.first_gpu
    bytes_moved = spread(moved[:, :, None] * on)
    congestion = trace.host("congestion")
    busy = moved / (node.port_bps / 8.0)
    slowest = trace.host("port").min(axis=1, keepdims=True)
    upstream = np.roll(trace.host("port"), -1, axis=1) if plan.hosts > 1 else trace.host("port")
    blocked = busy * (
        0.01
        + congestion / np.maximum(0.05, 1.0 - congestion)
        + (1.0 / upstream - 1.0) * (upstream <= slowest)
    )
    waited = np.minimum(blocked, 0.9 * line.length[:, None])
    errors = line.span((trace.host("port_errors")[:, :, None] * first).reshape(trace.events, expand))
    packets = bytes_moved / 4096.0
    marked = spread((moved * congestion)[:, :, None] * on) / 4096.0
    lossless = node.link == "infiniband"
    rate = np.where(first, trace.last(trace.host("port_rate"))[:, :, None], 1.0) * node.port_bps
    return {
        "rx_bytes": bytes_moved,
        "tx_bytes": bytes_moved,
        "xmit_wait_ticks": TICKS * spread(waited[:, :, None] * on),
        "symbol_errors": errors,
        "rcv_errors": 0.3 * errors,
        "integrity_errors": 0.05 * errors,
        "link_recovery": np.floor(errors / 400.0),
        "out_of_sequence": 0.2 * errors + (0.0 if lossless else 1e-7) * packets,
        "packet_seq_errors": 0.1 * errors,
        "ack_timeouts": 0.002 * errors,
        "ecn_marked": 0.0 * marked if lossless else 0.05 * marked,
        "cnp_sent": 0.0 * marked if lossless else 0.03 * marked,
        "cnp_handled": 0.0 * marked if lossless else 0.03 * marked,
        "pause_seconds": 0.0 * bytes_moved if lossless else spread((0.2 * waited)[:, :, None] * on),
        "rate_bps": rate.reshape(len(rate), expand),
    }
