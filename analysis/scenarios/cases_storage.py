"""Scenarios in which samples come too slowly from where they are kept."""

from __future__ import annotations

from dataclasses import replace

from wellfed.analysis.scenarios.cluster import ClusterPlan
from wellfed.analysis.scenarios.kit import LUSTRE, NFS, NVME, OBJECT, SMALL, VIDEO, VISION, Draw, Scenario, case
from wellfed.analysis.scenarios.plan import Loader

__all__ = ["STORAGE"]

STORAGE: dict[str, Scenario] = {}


@case(STORAGE, "nfs-slow-server", "The filer answers slowly", "storage.remote", gpus=32)
def _nfs_slow(draw: Draw) -> ClusterPlan:
    """A rebuild on the filer multiplies its service time; every read of every host takes that much longer."""
    fault = draw.fault("storage.remote", service=draw.pick(35, 60), capacity=draw.pick(0.12, 0.2))
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NFS))


@case(STORAGE, "nfs-contended", "Other clients take the filer's throughput", "storage.remote")
def _nfs_contended(draw: Draw) -> ClusterPlan:
    """Somebody else's backup takes most of the filer; requests queue in it though each is served as fast as ever."""
    return draw.cluster(draw.job(draw.work(VIDEO), draw.fault("storage.remote", capacity=draw.pick(0.05, 0.08)), storage=NFS), arrays=True)


@case(STORAGE, "nfs-client-queue", "Too few request slots to the filer", "storage.remote")
def _nfs_slots(draw: Draw) -> ClusterPlan:
    """After a remount with one connection and few slots the requests wait in the client; the server is idle."""
    store = replace(NFS, rtt=3.2e-3)
    return draw.cluster(draw.job(draw.work(VIDEO), draw.fault("storage.remote", slots=draw.pick(0.005, 0.008)), storage=store))
