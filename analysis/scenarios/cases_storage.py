"""Scenarios in which samples come too slowly from where they are kept."""

from __future__ import annotations

from dataclasses import replace

from wellfed.analysis.scenarios.cluster import ClusterPlan
from wellfed.analysis.scenarios.kit import (
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
from wellfed.analysis.scenarios.plan import Loader

__all__ = ["STORAGE"]

STORAGE: dict[str, Scenario] = {}


@case(STORAGE, "nfs-slow-server", "The filer answers slowly", "storage.remote", gpus=32)
def _nfs_slow(draw: Draw) -> ClusterPlan:
    """A rebuild on the filer multiplies its service time; every read of every host takes that much longer."""
    fault = draw.fault("storage.remote", service=draw.pick(35, 60), speed=draw.pick(0.12, 0.2))
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NFS))


@case(STORAGE, "nfs-contended", "Other clients take the filer's throughput", "storage.remote")
def _nfs_contended(draw: Draw) -> ClusterPlan:
    """Somebody else's backup takes most of the filer; requests queue, each is served as fast as ever."""
    return draw.cluster(
        draw.job(draw.work(VIDEO), draw.fault("storage.remote", capacity=draw.pick(0.05, 0.08)), storage=NFS),
        arrays=True,
    )


@case(STORAGE, "nfs-client-queue", "Too few request slots to the filer", "storage.remote")
def _nfs_slots(draw: Draw) -> ClusterPlan:
    """After a remount with one connection and few slots requests wait in the client; the server is idle."""
    store = replace(NFS, rtt=3.2e-3)
    return draw.cluster(
        draw.job(draw.work(VIDEO), draw.fault("storage.remote", slots=draw.pick(0.005, 0.008)), storage=store)
    )


@case(STORAGE, "nfs-packet-loss", "Packets to the filer get lost", "storage.remote")
def _nfs_loss(draw: Draw) -> ClusterPlan:
    """A bad cable towards the filer: lost segments are sent again after a timeout, reads stall."""
    return draw.cluster(
        draw.job(draw.work(VIDEO), draw.fault("storage.remote", loss=draw.pick(0.01, 0.02)), storage=NFS)
    )


@case(
    STORAGE, "nfs-chronic", "A filer too small from the first minute", "storage.remote", gpus=8, duration=2400
)
def _nfs_chronic(draw: Draw) -> ClusterPlan:
    """The filer never was fast enough: there is no healthy past to compare with."""
    fault = replace(draw.fault("storage.remote", speed=draw.pick(0.04, 0.05)), start=0.0, end=float("inf"))
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NFS))


@case(STORAGE, "nfs-recurring", "The filer slows down every ten minutes", "storage.remote")
def _nfs_recurring(draw: Draw) -> ClusterPlan:
    """Snapshots make the filer slow for two minutes, again and again."""
    fault = replace(draw.fault("storage.remote", capacity=draw.pick(0.04, 0.06)), every=600.0, length=130.0)
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NFS))


@case(STORAGE, "nfs-single-gpu", "One GPU, one slow mount", "storage.remote", gpus=8, duration=2400)
def _nfs_single(draw: Draw) -> ClusterPlan:
    """A one-GPU job: nobody to compare with and no collective to spin in, the device is simply idle."""
    work = draw.work(VIDEO, reduce=0.0)
    fault = draw.fault("storage.remote", service=draw.pick(150, 250))
    return draw.cluster(draw.job(work, fault, storage=NFS, gpus_each=1, quota=14.0))


@case(STORAGE, "lustre-slow", "Lustre object servers are overloaded", "storage.remote")
def _lustre(draw: Draw) -> ClusterPlan:
    """The object servers have a long queue; latency rises on all clients."""
    return draw.cluster(
        draw.job(
            draw.work(VIDEO), draw.fault("storage.remote", capacity=draw.pick(0.018, 0.028)), storage=LUSTRE
        )
    )


@case(STORAGE, "disk-shared", "Another process takes the local disk", "storage.read", gpus=8)
def _disk_shared(draw: Draw) -> ClusterPlan:
    """A copy job on the same NVMe device takes most of its throughput."""
    return draw.cluster(
        draw.job(draw.work(VIDEO), draw.fault("storage.read", capacity=draw.pick(0.1, 0.17)), storage=NVME)
    )


@case(STORAGE, "disk-degraded", "The local disk became slow", "storage.read", gpus=8)
def _disk_degraded(draw: Draw) -> ClusterPlan:
    """The device hangs in garbage collection: each read takes many times longer, throughput is low."""
    fault = draw.fault("storage.read", service=draw.pick(120, 200), speed=draw.pick(0.09, 0.13))
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NVME))


@case(STORAGE, "disk-cold-cache", "The page cache was dropped", "storage.read", gpus=8)
def _disk_cold(draw: Draw) -> ClusterPlan:
    """The dataset was served from memory until something evicted it; the disk cannot keep up."""
    loader = Loader(workers=10, sample=5.5e6, cpu=0.05, dataset=1.1e12, cached=1.0)
    store = replace(NVME, capacity=1.1e9, client=1.1e9)
    return draw.cluster(
        draw.job(draw.work(VIDEO, loader=loader), draw.fault("storage.read", cold=1.0), storage=store)
    )


@case(STORAGE, "disk-chronic", "A disk too slow for its GPUs", "storage.read", gpus=8, duration=2400)
def _disk_chronic(draw: Draw) -> ClusterPlan:
    """A network disk of 1 GB/s below eight GPUs, from the start; the rerun has six times its throughput."""
    fault = replace(draw.fault("storage.read", speed=draw.pick(0.14, 0.2)), start=0.0, end=float("inf"))
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NVME))


@case(STORAGE, "small-files-slow-metadata", "Many small files, slow metadata", "storage.metadata")
def _metadata(draw: Draw) -> ClusterPlan:
    """The metadata server is busy with somebody's recursive delete; each open outlasts the read."""
    fault = draw.fault("storage.metadata", metadata_service=draw.pick(14, 24), metadata_capacity=0.4)
    return draw.cluster(draw.job(draw.work(SMALL), fault, storage=NFS))


@case(STORAGE, "small-files-lustre", "A metadata storm on Lustre", "storage.metadata")
def _metadata_lustre(draw: Draw) -> ClusterPlan:
    """The job moved from packed records to one file a sample and overruns the metadata server."""
    loader = Loader(workers=12, sample=42e3, files=0.02, cpu=0.0025, dataset=4e12)
    fault = draw.fault("storage.metadata", files=50.0, metadata_capacity=draw.pick(0.2, 0.28))
    return draw.cluster(draw.job(draw.work(SMALL, loader=loader), fault, storage=LUSTRE))


@case(STORAGE, "object-throttled", "The object store throttles", "storage.object")
def _object(draw: Draw) -> ClusterPlan:
    """The store answers slower and slower to this account; nothing waits in the kernel's I/O accounting."""
    fault = draw.fault("storage.object", capacity=draw.pick(0.035, 0.05), service=2.0)
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=OBJECT))


@case(STORAGE, "object-packet-loss", "Loss on the way to the object store", "storage.object")
def _object_loss(draw: Draw) -> ClusterPlan:
    """A lossy path: TCP retransmits rise and downloads crawl."""
    fault = draw.fault("storage.object", loss=draw.pick(0.006, 0.01), service=draw.pick(65, 95))
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=OBJECT))


@case(STORAGE, "shared-filer", "One slow filer, three jobs", "storage.remote", gpus=16)
def _shared(draw: Draw) -> ClusterPlan:
    """Three jobs of different owners read from one filer; when it slows down it is one finding, not three."""
    left = draw.pick(0.02, 0.03)
    fault = draw.fault("storage.remote", capacity=left * draw.hosts, service=draw.pick(6, 9))
    # A saturated filer serves its clients alike, so a job on one host gets one host's share.
    alone = replace(fault, effects={**fault.effects, "capacity": left})
    first = draw.job(draw.work(VIDEO), fault, storage=NFS)
    second = draw.job(draw.work(VIDEO), alone, storage=NFS, hosts=1, first_host=draw.hosts)
    third = draw.job(draw.work(VISION), alone, storage=NFS, hosts=1, first_host=draw.hosts + 1)
    return draw.cluster(first, second, third, arrays=True)
