"""What can starve a GPU: the taxonomy every other part speaks of, with what to do about each cause.

A cause has a stable id (`storage.remote`), one family (which gives the dashboard its colour and two-letter
code), one sentence of meaning, the next steps a tired operator can run (most effective first; `{job}`,
`{host}`, `{gpu}`, `{resource}` are filled in by the finding) and its runbook: a page of the repository.
A GPU that nobody holds and nobody queues for is UNALLOCATED: capacity, never loss, so it is not a cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CAUSES", "FAMILIES", "INSUFFICIENT", "UNALLOCATED", "UNKNOWN", "Cause", "Family", "family_of"]

UNKNOWN = "unknown"
INSUFFICIENT = "insufficient"
UNALLOCATED = "unallocated"


@dataclass(frozen=True, slots=True)
class Family:
    """A group of causes that the same team fixes: id, two-letter code, title."""

    id: str
    code: str
    title: str


@dataclass(frozen=True, slots=True)
class Cause:
    """One way to lose GPU time."""

    id: str
    family: str
    title: str
    meaning: str
    next_steps: tuple[str, ...]
    runbook: str


#: Family id -> family, in the order legends list them.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        f.id: f
        for f in (
            Family("storage", "ST", "Storage"),
            Family("cpu", "CP", "CPU and memory of the host"),
            Family("pcie", "PC", "PCIe"),
            Family("network", "NW", "Fabric"),
            Family("straggler", "SG", "Straggler"),
            Family("checkpoint", "CK", "Checkpoint"),
            Family("launch", "LB", "Launch bound"),
            Family("throttle", "TH", "Throttled"),
            Family("hardware", "HW", "Hardware fault"),
            Family("idle", "ID", "Idle"),
            Family("serving", "SV", "Serving"),
            Family("unknown", "UN", "Unknown"),
        )
    }
)


def _cause(id_: str, family: str, title: str, meaning: str, *next_steps: str) -> Cause:
    return Cause(id_, family, title, meaning, next_steps, f"docs/causes.md#{id_.replace('.', '-')}")


_STORAGE = (
    _cause(
        "storage.read",
        "storage",
        "Local disk saturated by reads",
        "The job waits for a local device that already delivers all it can.",
        "Confirm on {host}: iostat -x 5 {resource} (util near 100 %, r_await above its usual)",
        "Cut what is read: larger sequential records (WebDataset, TFRecord, Parquet), decode once, cache",
        "Stage the data set on faster or striped local NVMe, or keep it in page cache if it fits in memory",
        "Raise the loader's prefetch only after the device has headroom; more workers on a full disk hurt",
    ),
    _cause(
        "storage.remote",
        "storage",
        "Remote file system slow",
        "Reads cross the network to a server that answers late, or queue in the client before they are sent.",
        "Confirm on {host}: nfsiostat 5 {resource} (rtt = server and network, exe - rtt = client queue)",
        "Compare the latency with other clients of the same server: all slow = server, one slow = this host",
        "Client queue: mount with nconnect=8 or more, raise sunrpc.tcp_max_slot_table_entries",
        "Server slow: move the data set to a faster tier or spread it; stage it on local NVMe at job start",
        "Retransmits: look for loss on the path (ethtool -S, switch port errors)",
    ),
    _cause(
        "storage.metadata",
        "storage",
        "Many small files",
        "Most operations open, stat or list files instead of reading data; latency, not bandwidth, limits.",
        "Confirm on {host}: nfsstat -c, or mountstats {resource} (LOOKUP, GETATTR, OPEN dominate)",
        "Pack samples into shards (WebDataset, TFRecord, Parquet, squashfs) of 100 MB or more",
        "Cache the listing at start; avoid os.walk, glob and stat per sample",
        "For read-only data mount with nocto, actimeo=600, noatime",
    ),
    _cause(
        "storage.object",
        "storage",
        "Ingest over the network",
        "Samples stream over the network without a mount (object store), slower than they are used.",
        "Confirm on {host}: sar -n DEV 5 against the link rate, and nstat -az TcpRetransSegs",
        "Keep more and larger requests in flight (ranged GETs of 8 MB or more, more workers, prefetch)",
        "Cache on local NVMe over the first epoch; place the bucket in the same region and zone",
        "Add wellfed.watch to the training loop: data wait then is measured, not inferred",
    ),
)

_CPU = (
    _cause(
        "cpu.preprocess",
        "cpu",
        "Preprocessing saturates the CPU",
        "Decoding and augmenting samples needs more CPU than the job has, while storage still has headroom.",
        "Confirm on {host}: pidstat -u -t 5 (loader workers at 100 %), and the job's CPU pressure",
        "Give the job more cores per GPU, or loader workers equal to the cores it already has",
        "Move decode and augmentation to the GPU (NVIDIA DALI, nvImageCodec) or preprocess once, offline",
        "Use faster decoders (libjpeg-turbo, pillow-simd); check OMP_NUM_THREADS is 1 in workers",
    ),
    _cause(
        "cpu.quota",
        "cpu",
        "Throttled by its CPU quota",
        "The job's cgroup has used up its CPU quota and is stopped until the next period.",
        "Confirm on {host}: nr_throttled and throttled_usec in the cpu.stat of the cgroup of {job}",
        "Raise the CPU limit (Kubernetes: resources.limits.cpu) or drop the limit and keep the request",
        "Match loader workers and thread pools to the limit, not to the number of cores of the machine",
    ),
    _cause(
        "memory.pressure",
        "cpu",
        "Memory pressure",
        "Tasks stall on reclaim, page-ins or swap, because the job or the host is short of memory.",
        "Confirm on {host}: cat /proc/pressure/memory; vmstat 5 (si); memory.events of the cgroup of {job}",
        "Raise the memory limit or run fewer loader workers (each holds its own copies and prefetch)",
        "Use shared memory or memory-mapped data instead of per-worker copies; turn swap off on GPU hosts",
    ),
)

_DEVICE = (
    _cause(
        "pcie.copy",
        "pcie",
        "Host-device copies fill the PCIe link",
        "Copies between host and GPU run at the link's rate, so the GPU waits for its own input.",
        "Confirm: PCIe receive of {gpu} against the rate of the link as trained (nvidia-smi -q -d PCIE)",
        "Send less: uint8 or bf16 instead of float32, decode and augment on the GPU, keep data resident",
        "Overlap: pinned memory, non_blocking=True, a prefetch stream",
        "Offloaded optimiser or KV cache: offload less, or use a machine with a faster link",
    ),
    _cause(
        "pcie.degraded",
        "pcie",
        "PCIe link trained below its build",
        "Under load the link runs at a lower generation or fewer lanes than the hardware has.",
        "Confirm under load: nvidia-smi -q -d PCIE -i {gpu}; lspci -vv (LnkSta against LnkCap)",
        "Drain {host}, reseat the GPU or riser, update firmware; check the slot's BIOS settings",
        "Open a hardware ticket if it comes back after a cold start",
    ),
    _cause(
        "host.launch",
        "launch",
        "Launch bound",
        "One host thread submits many small kernels and cannot keep the GPU full.",
        "Confirm: py-spy dump on the rank's main thread; a profile with gaps between short kernels",
        "Use CUDA graphs or torch.compile(mode='reduce-overhead')",
        "Larger batches, fused optimisers and kernels, fewer .item() and synchronisations per step",
        "Pin ranks to the CPUs of the GPU's NUMA node; check the CPU frequency governor",
    ),
    _cause(
        "throttle.thermal",
        "throttle",
        "Slowed by heat",
        "The clock is held down because the GPU, its memory or the power supply is too hot or braked.",
        "Confirm: nvidia-smi -q -d PERFORMANCE,TEMPERATURE -i {gpu}",
        "Check fans, air flow, inlet temperature and dust on {host}; compare with its neighbours",
        "Cordon {host} if it stays hot; the whole job runs at the speed of its slowest GPU",
    ),
    _cause(
        "throttle.power",
        "throttle",
        "Clock held down by the power cap",
        "The power cap holds the clock below that of the job's other GPUs.",
        "Confirm: nvidia-smi -q -d POWER,CLOCK -i {gpu}; compare the cap with the other GPUs of {job}",
        "Set the same cap on all GPUs of a job (nvidia-smi -pl), or raise it if the rack allows",
        "Same cap but lower clock: the board draws more for the same work; report it to the vendor",
    ),
    _cause(
        "hardware.fault",
        "hardware",
        "Hardware fault",
        "The GPU or its links report errors after which work stops or is repeated.",
        "Look: dmesg -T | grep -i xid; nvidia-smi -q -d ECC,ROW_REMAPPER -i {gpu}; nvidia-smi nvlink -s",
        "Cordon {host} and restart the job from its last checkpoint",
        "Reset the GPU when remapping is pending; run dcgmi diag -r 3; replace it when remapping failed",
    ),
)

_FABRIC = (
    _cause(
        "fabric.collective",
        "network",
        "Communication takes much of the step",
        "All ranks spend a large part of the step in collectives, with no single slow link or rank.",
        "Confirm with NCCL_DEBUG=INFO (rings, transport) and nccl-tests at the job's message size",
        "Overlap: larger gradient buckets, FSDP prefetch, gradient accumulation, fewer synchronisations",
        "Map tensor parallelism inside NVLink, data parallelism across nodes; check GPUDirect RDMA is on",
    ),
    _cause(
        "fabric.link",
        "network",
        "A bad or slow link",
        "One port has errors, flaps or runs below its rate, and the collective runs at its speed.",
        "Confirm on {host}: ibstat or ethtool {resource}; perfquery -x; mlxlink -d {resource} -c",
        "Clean or replace cable and transceiver of {resource}; move the job off {host} until then",
        "Check that rate and width equal those of its neighbours",
    ),
    _cause(
        "fabric.congested",
        "network",
        "Fabric congested",
        "Ports wait for credit or are told to slow down, because flows collide in the network.",
        "Confirm: xmit_wait, pause frames and CNPs of {resource} against the job's other ports",
        "Find who shares the leaf: incast of storage or another job; spread the job over fewer leaves",
        "Check adaptive routing, ECN and PFC settings; use rail-optimised placement",
    ),
    _cause(
        "straggler",
        "straggler",
        "Waiting for a slow rank",
        "The GPU has done its part and spins in the collective until the slowest rank arrives.",
        "Look at the culprit named here, not at the victims: its own cause is in the root view",
        "Same code and data on a slow rank: drain its host and run dcgmi diag -r 3 there",
        "Uneven work: balance sequence lengths or pipeline stages",
    ),
)

_PHASES = (
    _cause(
        "checkpoint",
        "checkpoint",
        "Blocked by a checkpoint",
        "All ranks stop while the state of the training is written.",
        "Confirm: write rate and the recurring dips of all ranks together",
        "Write asynchronously (torch.distributed.checkpoint.async_save) or to local NVMe, then upload",
        "Shard the checkpoint over all ranks; save less often (interval = sqrt(2 x write time x MTBF))",
    ),
    _cause(
        "phase.evaluation",
        "idle",
        "Evaluation phase",
        "The job recurrently runs a lighter phase (validation, sampling) that uses less of the GPU.",
        "Evaluate less often or on fewer samples, with a larger batch and torch.inference_mode()",
        "Evaluate a checkpoint in a separate, smaller job",
    ),
    _cause(
        "idle.held",
        "idle",
        "Held but idle",
        "A job or process holds the GPU and nothing runs on it.",
        "Ask the owner of {job}; processes: nvidia-smi --query-compute-apps=pid,name --format=csv",
        "Close forgotten notebooks: idle culling (JupyterHub cull_idle_servers), a time limit for sessions",
        "A hung job: py-spy dump --pid PID shows where; restart from the last checkpoint",
    ),
    _cause(
        "idle.startup",
        "idle",
        "Starting up",
        "The job has just started: it imports, loads weights, compiles or builds its data index.",
        "Cache compiled artefacts (TORCHINDUCTOR_CACHE_DIR, XLA cache) and container images on the node",
        "Load weights from local NVMe, sharded; build the data index once",
    ),
    _cause(
        "idle.gap",
        "idle",
        "Not allocated while work queues",
        "Nobody holds the GPU although jobs wait in the queue.",
        "Slurm: squeue --start, sinfo -R; Kubernetes: kubectl get events (FailedScheduling), cordoned nodes",
        "Look at fragmentation: jobs that want whole nodes, half-used nodes; backfill and time limits",
    ),
    _cause(
        "serve.no_traffic",
        "serving",
        "Server without requests",
        "The inference server is up and holds the GPU, but no request runs or waits.",
        "Scale to zero or share the GPU (MIG, several models per GPU) for models with rare traffic",
        "Check that the router sends traffic to {host}",
    ),
    _cause(
        "serve.low_load",
        "serving",
        "Server with small batches",
        "Requests run, but too few at once to fill the GPU.",
        "Consolidate replicas: fewer, fuller servers; scale on running requests instead of GPU utilisation",
        "Raise the client's concurrency, or use a smaller GPU or MIG slice",
    ),
    _cause(
        "serve.kv_full",
        "serving",
        "KV cache full",
        "Requests wait or are preempted because the KV cache has no room.",
        "Give the cache more room: gpu_memory_utilization, quantised weights or KV (fp8), tensor parallelism",
        "Limit max_model_len or max_num_seqs; add a replica; turn on prefix caching",
    ),
    _cause(
        UNKNOWN,
        "unknown",
        "Unknown",
        "Time was lost, and no cause has evidence strong enough to name it.",
        "Add wellfed.watch to the training loop: it measures data wait, copies, communication, checkpoints",
        "Take a short profile of {job} on {host} (torch.profiler, Nsight Systems) in this time range",
    ),
    _cause(
        INSUFFICIENT,
        "unknown",
        "Signals missing",
        "Time was lost, and the signals that would tell why are not measured here.",
        "Run wellfed doctor on {host}: it names what is not measured and how to enable it",
    ),
)

#: Cause id -> cause, grouped by family.
CAUSES: Mapping[str, Cause] = MappingProxyType(
    {c.id: c for c in (*_STORAGE, *_CPU, *_DEVICE, *_FABRIC, *_PHASES)}
)


def family_of(cause: str) -> str:
    """Family id of a cause id. Raises KeyError."""
    return CAUSES[cause].family
