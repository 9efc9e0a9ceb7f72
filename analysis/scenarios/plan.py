"""What is simulated: hardware, storage, workloads, faults and who runs where. Plain data, no behaviour.

Magnitudes are those of a node with eight H100 (80 GB, 700 W, PCIe 5 x16, 8 x 400 Gb/s, 112 cores, 2 TB).
Times are seconds since the start of the simulation, rates per second, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "A100",
    "GB",
    "KB",
    "MB",
    "Engine",
    "Fault",
    "Identity",
    "JobPlan",
    "Loader",
    "Node",
    "Session",
    "Storage",
    "Workload",
]

KB = 1e3
MB = 1e6
GB = 1e9


@dataclass(frozen=True, slots=True)
class Node:
    """One kind of machine."""

    gpus: int = 8
    cores: float = 112.0
    memory: float = 2.0e12
    model: str = "NVIDIA H100 80GB HBM3"
    gpu_memory: float = 85.52e9
    idle_watts: float = 72.0
    peak_watts: float = 730.0
    limit_watts: float = 700.0
    clock: float = 1.98e9
    ambient: float = 27.0
    kelvin_per_watt: float = 0.052
    throttle_celsius: float = 87.0
    pcie_gen: float = 5.0
    pcie_width: float = 16.0
    nvlink: float = 370e9
    ports: int = 8
    port_bps: float = 400e9
    link: str = "infiniband"
    ethernet_bps: float = 200e9
    local_disk: str = "nvme0n1"


#: The generation before: eight A100, PCIe 4, 200 Gb/s ports, 128 cores.
A100 = Node(
    cores=128.0, memory=2.0e12, model="NVIDIA A100-SXM4-80GB", idle_watts=58.0, peak_watts=415.0,
    limit_watts=400.0, clock=1.41e9, kelvin_per_watt=0.085, pcie_gen=4.0, nvlink=235e9, port_bps=200e9,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storage:
    """A place samples come from. All service times are those of an unloaded server.

    capacity: what the server gives this job, all its clients together. client: what one host can take.
    slots: requests one host may have at the server; more wait in the client. streams: requests that one
    reader keeps in flight (readahead). waits_as_io: share of the waiting that the kernel counts as I/O wait
    (page-cache reads do, sockets and RPC metadata calls do not).
    """

    name: str
    kind: Literal["disk", "nfs4", "lustre", "object"]
    server: str
    rtt: float
    request: float
    metadata_rtt: float
    capacity: float
    client: float
    metadata_capacity: float = 60_000.0
    slots: float = 1024.0
    streams: float = 2.0
    waits_as_io: float = 1.0
    metadata_per_file: float = 3.0


@dataclass(frozen=True, slots=True)
class Loader:
    """The input pipeline of one rank, as in a PyTorch DataLoader: `workers` make batches.

    cpu: seconds a sample. files: files a sample, 0 for packed records. cached: share of the dataset in the
    page cache at first. epoch: seconds after which the workers start anew with an empty queue, 0 for never.
    """

    workers: int = 8
    prefetch: int = 2
    sample: float = 110 * KB
    files: float = 0.0
    cpu: float = 0.002
    dataset: float = 4e12
    cached: float = 0.0
    epoch: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """One training step of one rank.

    compute: GPU seconds of forward, backward and optimizer at full clock, of which `clock_bound` scales with
    the SM clock. launch: seconds the host thread needs to issue the kernels. sm, occupancy, tensor, dram:
    activity while kernels run. reduce: bytes every rank reduces a step; up to `overlap` of the compute hides
    it, `exposed` of it never hides. spin_sync: the main thread burns CPU while it waits for the GPU.
    """

    batch: float
    compute: float
    launch: float
    copy: float
    sm: float
    occupancy: float
    tensor: float
    dram: float
    clock_bound: float = 0.8
    reduce: float = 0.0
    overlap: float = 0.6
    exposed: float = 0.05
    jitter: float = 0.012
    memory: float = 68e9
    host_memory: float = 30e9
    tokens: float = 0.0
    checkpoint: float = 0.0
    checkpoint_every: float = 0.0
    checkpoint_async: bool = False
    evaluation: float = 0.0
    evaluation_every: float = 0.0
    spin_sync: bool = True
    loader: Loader = field(default_factory=Loader)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, as changes of the mechanism's parameters (see `faults.NEUTRAL`).

    effects: parameter -> value at full strength. ramp: seconds to full strength. every: the fault comes back
    with this period and lasts `length` each time. ranks: who is hit, all when empty. straggles: the peers'
    waiting is booked as `straggler` with this cause as its root.
    """

    cause: str
    effects: Mapping[str, float]
    start: float
    end: float = float("inf")
    ramp: float = 0.0
    every: float = 0.0
    length: float = 0.0
    ranks: tuple[int, ...] = ()
    straggles: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a job is: `id` as in the `job` columns, the rest as in the `job` table."""

    id: str
    name: str
    user: str
    namespace: str
    kind: str
    queue: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A notebook or a forgotten process: it holds GPUs and computes now and then.

    bursts: mean seconds between executions, 0 for never. burst: mean seconds of one execution.
    """

    memory: float
    bursts: float = 0.0
    burst: float = 8.0
    processes: float = 1.0
    sm: float = 0.55
    lost: str = "idle.held"


@dataclass(frozen=True, slots=True)
class Engine:
    """An inference server on `gpus_each` GPUs: requests per second come in, continuous batching serves them.

    kv_tokens: capacity of the KV cache. step: seconds of one decode iteration with one request; each more
    adds `step_each`. day: relative swing of the traffic with period `period`. quiet: windows [start, end)
    without any arrivals. watermark: share of the KV cache up to which requests are
    admitted.
    """

    engine: str
    model: str
    rate: float
    prompt: float = 700.0
    output: float = 250.0
    kv_tokens: float = 420_000.0
    max_running: float = 256.0
    step: float = 0.016
    step_each: float = 0.00009
    prefill: float = 24_000.0
    watermark: float = 0.995
    gpus_each: int = 1
    day: float = 0.0
    period: float = 3600.0
    quiet: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job on hosts x gpus_each GPUs between start and end.

    work: what it does. startup: seconds from its start until the first step, 0 for a job that was already
    running. watch: its loop reports the `step` table. quota: CPU limit in cores per host, 0 for none.
    part: belongs to a job that another plan on the same host reports.
    """

    identity: Identity
    work: Workload | Session | Engine
    hosts: int = 1
    gpus_each: int = 8
    start: float = 0.0
    end: float = float("inf")
    storage: Storage | None = None
    checkpoints: Storage | None = None
    faults: tuple[Fault, ...] = ()
    startup: float = 0.0
    watch: bool = True
    quota: float = 0.0
    first_host: int = 0
    first_gpu: int = 0
    memory_limit: float = 0.0
    part: bool = False
