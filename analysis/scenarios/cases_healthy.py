"""Scenarios without anything to find, some of which look as if there were."""

from __future__ import annotations

from dataclasses import replace

from wellfed.analysis.scenarios.cases_compute import TINY
from wellfed.analysis.scenarios.cluster import ClusterPlan
from wellfed.analysis.scenarios.kit import (
    CHAT,
    LLM,
    LUSTRE,
    NFS,
    NVME,
    OBJECT,
    SMALL,
    VIDEO,
    VISION,
    Draw,
    Scenario,
    case,
)
from wellfed.analysis.scenarios.plan import Fault, Loader

__all__ = ["HEALTHY"]

HEALTHY: dict[str, Scenario] = {}


@case(HEALTHY, "healthy-llm", "A well-fed language model", gpus=32)
def _llm(draw: Draw) -> ClusterPlan:
    """Compute-bound, steady, asynchronous checkpoints."""
    return draw.cluster(draw.job(draw.work(LLM, checkpoint_every=900.0), storage=LUSTRE))


@case(HEALTHY, "healthy-heavy-io", "Heavy reads that hide behind compute", gpus=8)
def _heavy_io(draw: Draw) -> ClusterPlan:
    """Loader processes always wait for reads, I/O pressure is always high, and the queue is always full."""
    loader = Loader(workers=10, sample=9e6, cpu=0.03, dataset=60e12)
    return draw.cluster(draw.job(draw.work(VIDEO, loader=loader), storage=replace(NFS, rtt=5e-3)))


@case(HEALTHY, "healthy-disk-busy", "A busy disk that keeps up", gpus=8)
def _disk_busy(draw: Draw) -> ClusterPlan:
    """The device is busy nine tenths of the time and delivers."""
    return draw.cluster(
        draw.job(draw.work(VIDEO), storage=replace(NVME, rtt=8e-4, capacity=3.2e9, client=3.2e9))
    )


@case(HEALTHY, "healthy-cpu-busy", "Loaders that use most cores and keep up", gpus=8)
def _cpu_busy(draw: Draw) -> ClusterPlan:
    """Three quarters of the cores decode images; no batch is ever late."""
    loader = Loader(workers=16, sample=115e3, cpu=0.0088, dataset=6e12)
    return draw.cluster(draw.job(draw.work(VISION, loader=loader), storage=NFS))


@case(HEALTHY, "healthy-power-cap", "At the power limit all day", gpus=16)
def _power(draw: Draw) -> ClusterPlan:
    """A dense model draws what the limit allows; the clock is a little below its maximum on all GPUs."""
    return draw.cluster(draw.job(replace(draw.work(LLM), tensor=0.68, dram=0.55, sm=0.95), storage=LUSTRE))


@case(HEALTHY, "healthy-communication", "Communication-heavy by nature", gpus=32)
def _communication(draw: Draw) -> ClusterPlan:
    """A mixture of experts spends a quarter of each step in exposed communication, always."""
    return draw.cluster(draw.job(draw.work(LLM, reduce=95e9, exposed=0.4), storage=LUSTRE))


@case(HEALTHY, "healthy-checkpoints", "Short blocking checkpoints", gpus=16)
def _checkpoints(draw: Draw) -> ClusterPlan:
    """Three seconds every ten minutes."""
    work = draw.work(LLM, checkpoint=2e9, checkpoint_every=600.0, checkpoint_async=False)
    return draw.cluster(draw.job(work, storage=replace(LUSTRE, client=6e9)))


@case(HEALTHY, "healthy-decode", "A server that saturates memory", gpus=8)
def _decode(draw: Draw) -> ClusterPlan:
    """Decoding keeps device memory busy while tensor cores look idle."""
    return draw.cluster(draw.job(replace(CHAT, rate=draw.pick(6.0, 9.0)), gpus_each=8))


@case(HEALTHY, "healthy-decode-waves", "Traffic in waves", gpus=8)
def _waves(draw: Draw) -> ClusterPlan:
    """The traffic doubles and halves; there is always something to decode."""
    return draw.cluster(
        draw.job(replace(CHAT, rate=draw.pick(5.0, 7.0), day=0.5, period=1800.0), gpus_each=4)
    )


@case(HEALTHY, "healthy-neighbour", "A busy neighbour that does no harm", gpus=8)
def _neighbour(draw: Draw) -> ClusterPlan:
    """Somebody else's processes fill the remaining cores of the host; the job has what it needs."""
    fault = replace(draw.fault("neighbour", tenant_cores=draw.pick(70, 85)), cause="unknown")
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=NVME))


@case(HEALTHY, "healthy-latency-hidden", "A slower filer that nobody notices", gpus=16)
def _hidden(draw: Draw) -> ClusterPlan:
    """The filer's latency triples, but the read-ahead is deep enough: no GPU waits."""
    fault = Fault("unknown", {"service": draw.pick(2.5, 4.0)}, 0.35 * draw.duration, 0.8 * draw.duration)
    return draw.cluster(draw.job(draw.work(VISION), fault, storage=NFS))


@case(HEALTHY, "healthy-vision-cached", "A dataset in the page cache", gpus=8)
def _cached(draw: Draw) -> ClusterPlan:
    """After the first epoch almost no read reaches the filer."""
    loader = Loader(workers=12, sample=115e3, cpu=0.0055, dataset=2.4e11, cached=0.2)
    return draw.cluster(draw.job(draw.work(VISION, loader=loader), storage=NFS))


@case(HEALTHY, "healthy-small-model", "A small model that is launched in time", gpus=8)
def _small(draw: Draw) -> ClusterPlan:
    """Modest activity and a busy main thread, and yet the GPU is never without a kernel."""
    return draw.cluster(draw.job(draw.work(TINY, spin_sync=True), storage=NVME, gpus_each=1))


@case(HEALTHY, "healthy-small-files", "Small files that are fast enough", gpus=8)
def _small_files(draw: Draw) -> ClusterPlan:
    """Tens of thousands of opens a second against a fast metadata server."""
    return draw.cluster(draw.job(draw.work(SMALL), storage=NFS))


@case(HEALTHY, "healthy-object", "Streaming from the object store", gpus=16)
def _object(draw: Draw) -> ClusterPlan:
    """The network carries gigabytes a second and no batch is late."""
    return draw.cluster(draw.job(draw.work(VIDEO), storage=OBJECT))


@case(HEALTHY, "healthy-unallocated", "Free GPUs beside a busy one", gpus=8)
def _free(draw: Draw) -> ClusterPlan:
    """Half of the host belongs to nobody and nobody waits: capacity, not loss; idle links train down."""
    return draw.cluster(draw.job(draw.work(VIDEO), storage=NVME, gpus_each=4))


@case(HEALTHY, "healthy-user-xid", "An application's own XID", gpus=8)
def _xid(draw: Draw) -> ClusterPlan:
    """XID 31 from a bug in somebody's kernel: reported once, nothing slows down."""
    fault = Fault(
        "unknown", {"xid": 31.0}, 0.4 * draw.duration, 0.41 * draw.duration, ranks=(draw.any_rank(),)
    )
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NVME))


@case(HEALTHY, "healthy-warm-room", "A warm aisle", gpus=16)
def _warm(draw: Draw) -> ClusterPlan:
    """The GPUs are ten degrees warmer than usual and still below their limit."""
    fault = Fault("unknown", {"cooling": 1.3}, 0.35 * draw.duration, 0.8 * draw.duration)
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=LUSTRE))


@case(HEALTHY, "healthy-epochs", "A short stall at each epoch", gpus=8)
def _epochs(draw: Draw) -> ClusterPlan:
    """Every six minutes the loader's workers start anew and the first batches come late."""
    loader = replace(VISION.loader, epoch=draw.pick(330, 420))
    return draw.cluster(draw.job(draw.work(VISION, loader=loader), storage=NFS))
