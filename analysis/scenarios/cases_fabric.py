"""Scenarios between ranks: slow links, congestion, stragglers, checkpoints, evaluation, broken hardware."""

from __future__ import annotations

from dataclasses import replace

from wellfed.analysis.scenarios.cluster import ClusterPlan
from wellfed.analysis.scenarios.kit import LLM, LUSTRE, NFS, NVME, VIDEO, VISION, Draw, Scenario, case
from wellfed.analysis.scenarios.plan import Node

__all__ = ["FABRIC"]

FABRIC: dict[str, Scenario] = {}

ROCE = Node(link="roce")


@case(FABRIC, "link-trained-down", "One link runs at a quarter of its rate", "fabric.link", gpus=32)
def _down(draw: Draw) -> ClusterPlan:
    """One of 32 ports trained to 100 Gb/s: the ring is as slow as it, everywhere."""
    fault = draw.fault("fabric.link", draw.ranks(draw.any_host()), link=0.25, link_rate=0.25)
    return draw.cluster(draw.job(draw.work(LLM, reduce=58e9), fault, storage=LUSTRE))


@case(FABRIC, "link-errors", "A link with bit errors", "fabric.link", gpus=32)
def _errors(draw: Draw) -> ClusterPlan:
    """A dirty connector: symbol errors and retries take most of one port's throughput."""
    fault = draw.fault(
        "fabric.link", draw.ranks(draw.any_host()), link=draw.pick(0.2, 0.3), link_errors=draw.pick(60, 300)
    )
    return draw.cluster(draw.job(draw.work(LLM, reduce=58e9), fault, storage=LUSTRE))


@case(FABRIC, "fabric-congested", "Others congest the fabric", "fabric.congested", gpus=32)
def _congested(draw: Draw) -> ClusterPlan:
    """Another tenant's all-to-all fills the spine; every port of the job waits for credits."""
    fault = draw.fault("fabric.congested", congestion=draw.pick(0.65, 0.8))
    return draw.cluster(draw.job(draw.work(LLM, reduce=58e9), fault, storage=LUSTRE))


@case(FABRIC, "fabric-congested-leaf", "One leaf switch is congested", "fabric.congested", gpus=32)
def _leaf(draw: Draw) -> ClusterPlan:
    """The hosts below one leaf of a RoCE fabric get congestion notices; the ring waits for them."""
    first = 2 * (draw.any_host() // 2)
    hit = draw.ranks(first) + (draw.ranks(first + 1) if first + 1 < draw.hosts else ())
    fault = draw.fault("fabric.congested", hit, congestion=draw.pick(0.65, 0.8))
    return draw.cluster(draw.job(draw.work(LLM, reduce=58e9), fault, storage=LUSTRE), node=ROCE)


@case(FABRIC, "collective-one-rail", "The collective uses one of eight rails", "fabric.collective", gpus=32)
def _rail(draw: Draw) -> ClusterPlan:
    """A wrong variable pins all traffic to one port: communication dominates on all ranks, no link is bad."""
    return draw.cluster(
        draw.job(draw.work(LLM, reduce=30e9), draw.fault("fabric.collective", rails=0.125), storage=LUSTRE)
    )


@case(FABRIC, "collective-no-nvlink", "Peer access is off", "fabric.collective", gpus=8)
def _peer(draw: Draw) -> ClusterPlan:
    """Inside one host the collective falls back from NVLink to host memory."""
    return draw.cluster(
        draw.job(
            draw.work(LLM, reduce=40e9),
            draw.fault("fabric.collective", nvlink=draw.pick(0.05, 0.08)),
            storage=NVME,
        )
    )


@case(FABRIC, "collective-sync-often", "Reductions became six times larger", "fabric.collective", gpus=16)
def _often(draw: Draw) -> ClusterPlan:
    """Gradient accumulation was switched off by mistake: the reduced bytes a step multiply."""
    return draw.cluster(
        draw.job(
            draw.work(LLM, reduce=40e9),
            draw.fault("fabric.collective", reduce=draw.pick(5.5, 7.5)),
            storage=LUSTRE,
        )
    )


@case(FABRIC, "straggler-slow-gpu", "One GPU computes slower", "straggler", gpus=32)
def _slow(draw: Draw) -> ClusterPlan:
    """A quarter more time for the same work on one rank, without any sensor saying why."""
    fault = draw.fault("straggler", (draw.any_rank(),), True, compute=draw.pick(1.25, 1.5))
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=LUSTRE))


@case(FABRIC, "straggler-host-cpu", "One host's cores are taken", "cpu.preprocess", "straggler", gpus=32)
def _host_cpu(draw: Draw) -> ClusterPlan:
    """A runaway process on one host starves its eight loaders; the other ranks spin."""
    fault = draw.fault("cpu.preprocess", draw.ranks(draw.any_host()), True, tenant_cores=draw.pick(360, 460))
    return draw.cluster(draw.job(draw.work(VISION), fault, storage=NFS))


@case(FABRIC, "straggler-host-storage", "One host reads slowly", "storage.remote", "straggler", gpus=32)
def _host_storage(draw: Draw) -> ClusterPlan:
    """The storage interface of one host fell back to a tenth of its rate."""
    fault = draw.fault("storage.remote", draw.ranks(draw.any_host()), True, client=draw.pick(0.12, 0.18))
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NFS))


@case(FABRIC, "straggler-stage", "One pipeline stage has more work", "straggler", gpus=32)
def _stage(draw: Draw) -> ClusterPlan:
    """After a new split one whole stage computes longer than the rest: an imbalance, not one bad device."""
    stage = draw.any_host()
    fault = draw.fault("straggler", draw.ranks(stage), True, compute=draw.pick(1.25, 1.4))
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=LUSTRE))


@case(FABRIC, "straggler-recurring", "A straggler that comes and goes", "straggler", gpus=32)
def _recurring(draw: Draw) -> ClusterPlan:
    """One rank is slow for two and a half minutes of every eight."""
    fault = draw.fault("straggler", (draw.any_rank(),), True, compute=draw.pick(1.4, 1.7))
    fault = replace(fault, every=480.0, length=150.0)
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=LUSTRE))


@case(FABRIC, "checkpoint-heavy", "Checkpoints take too long", "checkpoint", gpus=16)
def _heavy(draw: Draw) -> ClusterPlan:
    """Blocking checkpoints of the whole optimizer state to a slow share, every eight minutes."""
    store = replace(
        NFS, name="/mnt/ckpt", server="filer02:/ckpt", client=draw.pick(1.6e9, 2.2e9), capacity=8e9
    )
    work = draw.work(LLM, checkpoint=10.5e9, checkpoint_every=draw.pick(420, 540), checkpoint_async=False)
    return draw.cluster(draw.job(work, storage=LUSTRE, checkpoints=store))


@case(FABRIC, "checkpoint-often", "Checkpoints too often", "checkpoint", gpus=8)
def _too_often(draw: Draw) -> ClusterPlan:
    """A short blocking checkpoint every minute and a half."""
    work = draw.work(VISION, checkpoint=3e9, checkpoint_every=draw.pick(75, 110), checkpoint_async=False)
    return draw.cluster(draw.job(work, storage=replace(NVME, client=2.2e9)))


@case(FABRIC, "checkpoint-slow-share", "The checkpoint share became slow", "checkpoint", gpus=16)
def _slow_share(draw: Draw) -> ClusterPlan:
    """Checkpoints took twelve seconds and now take a minute: the share's writes slowed down."""
    store = replace(NFS, name="/mnt/ckpt", server="filer02:/ckpt", client=7e9, capacity=60e9)
    work = draw.work(LLM, checkpoint=10.5e9, checkpoint_every=300.0, checkpoint_async=False)
    fault = draw.fault("checkpoint", checkpoint_write=draw.pick(0.15, 0.25))
    return draw.cluster(draw.job(work, fault, storage=LUSTRE, checkpoints=store))


@case(FABRIC, "evaluation-long", "Long evaluations", "phase.evaluation", gpus=16)
def _evaluation(draw: Draw) -> ClusterPlan:
    """A full evaluation at small batch size every ten minutes."""
    work = draw.work(LLM, evaluation=draw.pick(110, 160), evaluation_every=draw.pick(560, 640))
    return draw.cluster(draw.job(work, storage=LUSTRE))


@case(FABRIC, "xid-hang", "A GPU falls off the bus", "hardware.fault", gpus=16)
def _xid(draw: Draw) -> ClusterPlan:
    """XID 79: the device stops answering, the collective never ends, peers spin until a watchdog acts."""
    start = draw.pick(0.35, 0.5) * draw.duration
    rank = (draw.any_rank(),)
    fault = replace(
        draw.fault("hardware.fault", rank, hang=1.0, xid=79.0), start=start, end=start + draw.pick(580, 900)
    )
    return draw.cluster(draw.job(draw.work(LLM), fault, storage=LUSTRE))


@case(FABRIC, "ecc-uncorrectable", "Uncorrectable memory errors", "hardware.fault", gpus=8)
def _ecc(draw: Draw) -> ClusterPlan:
    """XID 48 and a failed row remapping: the process on the device dies, the others hang."""
    start = draw.pick(0.35, 0.5) * draw.duration
    end = start + draw.pick(400, 700)
    fault = replace(
        draw.fault("hardware.fault", (draw.any_rank(),), hang=1.0, xid=48.0, ecc=0.02, remap_failed=1.0),
        start=start,
        end=end,
    )
    return draw.cluster(draw.job(draw.work(VIDEO), fault, storage=NVME))


@case(FABRIC, "nvlink-down", "NVLink links of a GPU are down", "hardware.fault", gpus=8)
def _nvlink(draw: Draw) -> ClusterPlan:
    """XID 74: links of one GPU go inactive and the ring inside the host crawls."""
    fault = draw.fault("hardware.fault", (draw.any_rank(),), nvlink=0.06, nvlink_down=12.0, xid=74.0)
    return draw.cluster(draw.job(draw.work(LLM, reduce=45e9), fault, storage=NVME))
