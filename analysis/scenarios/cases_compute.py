"""Scenarios in which the host starves the GPU (cores, limits, memory, launches, PCIe) or its clock is low."""

from __future__ import annotations

from dataclasses import replace

from wellfed.analysis.scenarios.cluster import ClusterPlan
from wellfed.analysis.scenarios.kit import LLM, LUSTRE, NFS, NVME, VIDEO, VISION, Draw, Scenario, case
from wellfed.analysis.scenarios.plan import Loader, Workload

__all__ = ["COMPUTE", "TINY"]

COMPUTE: dict[str, Scenario] = {}

#: Reinforcement learning or a small model: many tiny kernels.
TINY = Workload(
    batch=64, compute=0.24, launch=0.15, copy=4e6, sm=0.58, occupancy=0.2, tensor=0.12, dram=0.35,
    memory=22e9, spin_sync=False, loader=Loader(workers=4, sample=30e3, cpu=0.001, dataset=1e11),
)  # fmt: skip


@case(COMPUTE, "cpu-augmentation", "Augmentation became too expensive", "cpu.preprocess", gpus=8)
def _augmentation(draw: Draw) -> ClusterPlan:
    """A new transform multiplies the CPU time of a sample; the loader workers fill all cores."""
    loader = replace(VISION.loader, workers=20)
    fault = draw.fault("cpu.preprocess", cpu_cost=draw.pick(4.5, 6.0))
    return draw.cluster(draw.job(draw.work(VISION, loader=loader), fault, storage=NFS))


@case(COMPUTE, "cpu-few-workers", "Two loader workers for a GPU", "cpu.preprocess", gpus=8)
def _few_workers(draw: Draw) -> ClusterPlan:
    """Each worker saturates its own core while the machine has cores to spare: no pressure at all."""
    loader = Loader(workers=2, sample=115e3, cpu=0.0016, dataset=6e12)
    return draw.cluster(
        draw.job(
            draw.work(VISION, loader=loader),
            draw.fault("cpu.preprocess", cpu_cost=draw.pick(2.2, 3.0)),
            storage=NFS,
        )
    )


@case(COMPUTE, "cpu-neighbour", "A neighbour takes the cores", "cpu.preprocess", gpus=8)
def _neighbour(draw: Draw) -> ClusterPlan:
    """Somebody's CPU job on the same host wants more cores than it has; loaders and launches wait in line."""
    fault = draw.fault("cpu.preprocess", tenant_cores=draw.pick(360, 460))
    return draw.cluster(draw.job(draw.work(VISION), fault, storage=NFS))


@case(COMPUTE, "cpu-chronic", "Too few cores from the start", "cpu.preprocess", gpus=8, duration=2400)
def _chronic(draw: Draw) -> ClusterPlan:
    """The pipeline never kept up; the counterfactual has a cheaper transform."""
    fault = replace(draw.fault("cpu.preprocess", cpu_cost=draw.pick(4.0, 5.0)), start=0.0, end=float("inf"))
    return draw.cluster(draw.job(draw.work(VISION), fault, storage=NVME))


@case(COMPUTE, "cpu-quota", "A CPU limit that is too low", "cpu.quota", gpus=8)
def _quota(draw: Draw) -> ClusterPlan:
    """The pod's limit is cut to a third in place; its processes are throttled while the host is idle."""
    return draw.cluster(
        draw.job(
            draw.work(VISION), draw.fault("cpu.quota", quota=draw.pick(0.24, 0.32)), storage=NFS, quota=104.0
        )
    )


@case(COMPUTE, "cpu-quota-chronic", "A pod limited from the start", "cpu.quota", gpus=8, duration=2400)
def _quota_chronic(draw: Draw) -> ClusterPlan:
    """Limits copied from a smaller node; the counterfactual has no limit."""
    fault = replace(draw.fault("cpu.quota", quota=draw.pick(0.22, 0.3)), start=0.0, end=float("inf"))
    return draw.cluster(draw.job(draw.work(VISION), fault, storage=NVME, quota=104.0))


@case(COMPUTE, "memory-leak", "Memory leaks until the host swaps", "memory.pressure", gpus=8)
def _leak(draw: Draw) -> ClusterPlan:
    """A leaking worker eats the page cache, then everything else; reclaim and swap slow all processes."""
    start = 0.25 * draw.duration
    rate = 1.75e12 / (draw.pick(0.1, 0.16) * draw.duration)
    fault = replace(draw.fault("memory.pressure", leak=rate), start=start)
    return draw.cluster(draw.job(draw.work(VISION), fault, storage=NFS))


@case(COMPUTE, "memory-limit", "A cgroup at its memory limit", "memory.pressure", gpus=8)
def _limit(draw: Draw) -> ClusterPlan:
    """The job grows into its own memory limit while the host has plenty."""
    fault = draw.fault("memory.pressure", leak=draw.pick(0.5e9, 0.8e9))
    return draw.cluster(draw.job(draw.work(VISION), fault, storage=NFS, memory_limit=3.6e11))


@case(COMPUTE, "launch-small-kernels", "The host thread cannot launch fast enough", "host.launch", gpus=8)
def _launch(draw: Draw) -> ClusterPlan:
    """Debug hooks split each kernel: one saturated thread, a GPU that waits microseconds at a time."""
    return draw.cluster(
        draw.job(draw.work(TINY), draw.fault("host.launch", launch=draw.pick(3.2, 4.5)), storage=NVME)
    )


@case(COMPUTE, "launch-llm-eager", "Compilation fell back to eager", "host.launch", gpus=16)
def _eager(draw: Draw) -> ClusterPlan:
    """Graph breaks after a new layer: thousands of small launches a step on every rank."""
    return draw.cluster(
        draw.job(draw.work(LLM), draw.fault("host.launch", launch=draw.pick(5.0, 6.5)), storage=LUSTRE)
    )


@case(COMPUTE, "launch-chronic", "Launch-bound from the start", "host.launch", gpus=8, duration=2400)
def _launch_chronic(draw: Draw) -> ClusterPlan:
    """A single-GPU run that has always been limited by Python; the counterfactual launches fast enough."""
    fault = replace(draw.fault("host.launch", launch=draw.pick(2.8, 3.8)), start=0.0, end=float("inf"))
    return draw.cluster(draw.job(draw.work(TINY), fault, storage=NVME, gpus_each=1))


@case(COMPUTE, "pcie-offload", "Copies saturate the PCIe link", "pcie.copy", gpus=8)
def _offload(draw: Draw) -> ClusterPlan:
    """Optimizer state moved to host memory: tens of gigabytes cross the link each step."""
    return draw.cluster(
        draw.job(
            draw.work(LLM, overlap=0.6), draw.fault("pcie.copy", copy=draw.pick(90e3, 180e3)), storage=NVME
        )
    )


@case(COMPUTE, "pcie-raw-frames", "Uncompressed frames cross PCIe", "pcie.copy", gpus=8)
def _frames(draw: Draw) -> ClusterPlan:
    """Decoding moved to the CPU in full resolution; batches are twenty times larger."""
    return draw.cluster(
        draw.job(draw.work(VIDEO), draw.fault("pcie.copy", copy=draw.pick(60, 90)), storage=NVME)
    )


@case(COMPUTE, "pcie-degraded-gpu", "One GPU's link trained down", "pcie.degraded", "straggler", gpus=16)
def _degraded(draw: Draw) -> ClusterPlan:
    """A riser lost lanes: one GPU copies at a fraction of the others' speed and holds all of them up."""
    fault = draw.fault(
        "pcie.degraded",
        (draw.any_rank(),),
        True,
        pcie_width=0.125,
        pcie_gen=draw.pick(1.6, 2.4) // 1,
        pcie_replays=draw.pick(0.5, 3),
    )
    return draw.cluster(draw.job(draw.work(VIDEO, copy=1.2e9), fault, storage=NVME))


@case(COMPUTE, "pcie-degraded-host", "All links of a host trained down", "pcie.degraded", gpus=8)
def _degraded_host(draw: Draw) -> ClusterPlan:
    """After a firmware update every GPU of the host runs on a generation 2 link."""
    return draw.cluster(
        draw.job(draw.work(VIDEO, copy=2.6e9), draw.fault("pcie.degraded", pcie_gen=3.0), storage=NVME)
    )


@case(COMPUTE, "throttle-fan", "A host without cooling", "throttle.thermal", gpus=8)
def _fan(draw: Draw) -> ClusterPlan:
    """Two fans stop; all GPUs of the host get hot and clock down together."""
    return draw.cluster(
        draw.job(draw.work(LLM), draw.fault("throttle.thermal", cooling=draw.pick(2.3, 2.9)), storage=NVME)
    )


@case(COMPUTE, "throttle-one-gpu", "One hot GPU slows the job", "throttle.thermal", "straggler", gpus=16)
def _hot(draw: Draw) -> ClusterPlan:
    """Dried thermal paste on one GPU; its peers wait for it in each reduction."""
    fault = draw.fault("throttle.thermal", (draw.any_rank(),), True, cooling=draw.pick(2.6, 3.3))
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=LUSTRE))


@case(COMPUTE, "throttle-power-cap", "The power limit was lowered", "throttle.power", gpus=16)
def _cap(draw: Draw) -> ClusterPlan:
    """The data centre caps all boards far below their default."""
    return draw.cluster(
        draw.job(draw.work(LLM), draw.fault("throttle.power", power=draw.pick(0.45, 0.58)), storage=LUSTRE)
    )


@case(
    COMPUTE,
    "throttle-power-host",
    "One host capped by its power supply",
    "throttle.power",
    "straggler",
    gpus=32,
)
def _cap_host(draw: Draw) -> ClusterPlan:
    """A power supply failed: one host's boards are limited, the other hosts wait for it."""
    fault = draw.fault("throttle.power", draw.ranks(draw.any_host()), True, power=draw.pick(0.42, 0.52))
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=LUSTRE))


@case(COMPUTE, "throttle-brake", "An external power brake", "throttle.power", gpus=8)
def _brake(draw: Draw) -> ClusterPlan:
    """The chassis pulls the power brake: clocks at half, though neither heat nor cap say why."""
    return draw.cluster(
        draw.job(draw.work(LLM), draw.fault("throttle.power", brake=draw.pick(0.35, 0.55)), storage=NVME)
    )
