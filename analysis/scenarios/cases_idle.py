"""Scenarios of GPUs that hold no work, inference servers, and mixtures of causes."""

from __future__ import annotations

from dataclasses import replace

from wellfed.analysis.scenarios.cases_compute import TINY
from wellfed.analysis.scenarios.cluster import ClusterPlan, Gap
from wellfed.analysis.scenarios.kit import CHAT, LLM, LUSTRE, NFS, NVME, VIDEO, VISION, Draw, Scenario, case
from wellfed.analysis.scenarios.plan import Session

__all__ = ["IDLE", "MIXED", "SERVING"]

IDLE: dict[str, Scenario] = {}
SERVING: dict[str, Scenario] = {}
MIXED: dict[str, Scenario] = {}


@case(IDLE, "idle-held", "A notebook nobody uses", "idle.held", gpus=8)
def _held(draw: Draw) -> ClusterPlan:
    """A model was loaded this morning; since then the kernel has been idle."""
    quiet = draw.job(Session(memory=draw.pick(18e9, 60e9)), gpus_each=2)
    return draw.cluster(quiet, draw.job(draw.work(TINY), storage=NVME, first_gpu=2, gpus_each=1))


@case(IDLE, "idle-no-process", "Allocated and never used", "idle.held", gpus=8)
def _unused(draw: Draw) -> ClusterPlan:
    """Eight GPUs were requested, the script uses two; six have no process at all."""
    busy = draw.job(draw.work(VISION), storage=NFS, gpus_each=2)
    unused = draw.job(Session(memory=0.0, processes=0.0), gpus_each=6, first_gpu=2, part=True)
    return draw.cluster(busy, replace(unused, identity=busy.identity))


@case(IDLE, "idle-bursts", "A notebook in use now and then", "idle.held", gpus=8)
def _bursts(draw: Draw) -> ClusterPlan:
    """Somebody thinks for minutes and computes for seconds."""
    return draw.cluster(draw.job(Session(memory=24e9, bursts=draw.pick(500, 900), burst=15.0), gpus_each=1))


@case(IDLE, "idle-after-training", "Training ended, the process stayed", "idle.held", gpus=8)
def _stayed(draw: Draw) -> ClusterPlan:
    """The last epoch is done and the process waits for input with its memory still allocated."""
    end = round(draw.pick(0.3, 0.4) * draw.duration / 10.0) * 10.0
    first = draw.job(draw.work(VIDEO), storage=NVME, end=end)
    return draw.cluster(first, replace(draw.job(Session(memory=66e9), start=end), identity=first.identity))


@case(IDLE, "startup-long", "A job that takes long to start", "idle.startup", gpus=16)
def _startup(draw: Draw) -> ClusterPlan:
    """Image pull, weights and compilation take a quarter of an hour before the first step."""
    work = draw.work(LLM)
    return draw.cluster(draw.job(work, storage=LUSTRE, start=600.0, startup=draw.pick(700, 1000)))


@case(IDLE, "startup-restarts", "A job that restarts again and again", "idle.startup", gpus=8, duration=4200)
def _restarts(draw: Draw) -> ClusterPlan:
    """Each attempt starts for four minutes, trains for ten and is restarted."""
    work = draw.work(VIDEO)
    jobs = [
        draw.job(work, storage=NVME, start=start, end=start + 840.0, startup=draw.pick(200, 280))
        for start in (0.0, 840.0, 1680.0, 2520.0, 3360.0)
    ]
    return draw.cluster(*jobs)


@case(IDLE, "gap-between-jobs", "GPUs stand empty between queued jobs", "idle.gap", gpus=8)
def _gap(draw: Draw) -> ClusterPlan:
    """The queue is full, yet after each job the node is drained and cleaned for minutes."""
    stop = round(draw.pick(0.28, 0.34) * draw.duration / 10.0) * 10.0
    again = stop + round(draw.pick(420, 700) / 10.0) * 10.0
    first = draw.job(draw.work(VIDEO), storage=NVME, end=stop)
    second = draw.job(draw.work(VISION), storage=NVME, start=again, startup=40.0)
    second = replace(second, identity=replace(second.identity, queue=first.identity.queue))
    return draw.cluster(first, second, gaps=(Gap(0, 8, stop, again),))


@case(SERVING, "serve-no-traffic", "A server without any requests", "serve.no_traffic", gpus=8)
def _no_traffic(draw: Draw) -> ClusterPlan:
    """The route was switched away in the middle; the replicas wait with their weights loaded."""
    quiet = (draw.pick(0.25, 0.35) * draw.duration, draw.duration)
    return draw.cluster(draw.job(replace(CHAT, quiet=(quiet,)), gpus_each=4))


@case(SERVING, "serve-low-load", "Far more replicas than traffic", "serve.low_load", gpus=8)
def _low_load(draw: Draw) -> ClusterPlan:
    """A request every few seconds on each replica: mostly idle, never for long."""
    return draw.cluster(draw.job(replace(CHAT, rate=draw.pick(0.06, 0.11)), gpus_each=4))


@case(SERVING, "serve-kv-full", "The KV cache is too small", "serve.kv_full", gpus=8)
def _kv_full(draw: Draw) -> ClusterPlan:
    """Long contexts overrun the cache: requests queue, running ones are put back and computed again."""
    engine = replace(CHAT, rate=draw.pick(5.0, 6.5), prompt=1800.0, output=900.0, kv_tokens=110_000.0)
    return draw.cluster(draw.job(engine, gpus_each=4))


@case(
    MIXED,
    "storage-and-cpu",
    "A slow filer and heavy augmentation",
    "storage.remote",
    "cpu.preprocess",
    gpus=8,
)
def _storage_cpu(draw: Draw) -> ClusterPlan:
    """The filer slows first; later the transform becomes expensive too; they overlap."""
    first = draw.fault("storage.remote", capacity=draw.pick(0.012, 0.017))
    first = replace(first, start=0.2 * draw.duration, end=0.6 * draw.duration)
    second = replace(
        draw.fault("cpu.preprocess", cpu_cost=draw.pick(4.0, 5.0)),
        start=0.45 * draw.duration,
        end=0.85 * draw.duration,
    )
    return draw.cluster(draw.job(draw.work(VISION), first, second, storage=NFS))


@case(MIXED, "thermal-and-storage", "Heat and a slow disk", "throttle.thermal", "storage.read", gpus=8)
def _thermal_storage(draw: Draw) -> ClusterPlan:
    """The fans fail; while clocks are low, a backup takes the disk."""
    hot = replace(
        draw.fault("throttle.thermal", cooling=draw.pick(2.6, 3.0)),
        start=0.2 * draw.duration,
        end=0.6 * draw.duration,
    )
    slow = replace(
        draw.fault("storage.read", capacity=draw.pick(0.1, 0.14)),
        start=0.45 * draw.duration,
        end=0.85 * draw.duration,
    )
    return draw.cluster(draw.job(draw.work(VIDEO), hot, slow, storage=NVME))


@case(
    MIXED,
    "checkpoint-and-straggler",
    "Blocking checkpoints and one slow rank",
    "checkpoint",
    "straggler",
    gpus=16,
)
def _checkpoint_straggler(draw: Draw) -> ClusterPlan:
    """Minutes apart, a checkpoint stops everyone; in between everyone waits for one rank."""
    store = replace(NFS, name="/mnt/ckpt", server="filer02:/ckpt", client=2.4e9, capacity=9e9)
    work = draw.work(LLM, checkpoint=10.5e9, checkpoint_every=draw.pick(420, 500), checkpoint_async=False)
    fault = draw.fault("straggler", (draw.any_rank(),), True, compute=draw.pick(1.3, 1.5))
    return draw.cluster(draw.job(work, fault, storage=LUSTRE, checkpoints=store))


@case(MIXED, "quota-and-launch", "A CPU limit and slow launches", "cpu.quota", "host.launch", gpus=8)
def _quota_launch(draw: Draw) -> ClusterPlan:
    """First the limit throttles the loaders, later eager mode saturates the main thread."""
    first = replace(
        draw.fault("cpu.quota", quota=draw.pick(0.24, 0.3)),
        start=0.2 * draw.duration,
        end=0.5 * draw.duration,
    )
    second = replace(
        draw.fault("host.launch", launch=draw.pick(5.5, 7.0)),
        start=0.55 * draw.duration,
        end=0.85 * draw.duration,
    )
    return draw.cluster(draw.job(draw.work(VISION), first, second, storage=NFS, quota=104.0))


@case(MIXED, "link-and-storage", "A bad link and a slow filer", "fabric.link", "storage.remote", gpus=16)
def _link_storage(draw: Draw) -> ClusterPlan:
    """A link loses packets for the first half, the filer is slow in the second."""
    link = draw.fault("fabric.link", draw.ranks(draw.any_host()), link=0.12, link_errors=draw.pick(80, 200))
    link = replace(link, start=0.2 * draw.duration, end=0.5 * draw.duration)
    slow = replace(
        draw.fault("storage.remote", capacity=draw.pick(0.05, 0.07)),
        start=0.55 * draw.duration,
        end=0.88 * draw.duration,
    )
    return draw.cluster(draw.job(draw.work(VIDEO, reduce=24e9), link, slow, storage=NFS))


@case(MIXED, "two-jobs-one-starved", "Two jobs on a host, one of them starved", "storage.remote", gpus=8)
def _two_jobs(draw: Draw) -> ClusterPlan:
    """Four GPUs wait for the filer; the four beside them belong to a job that lacks nothing."""
    fault = draw.fault("storage.remote", capacity=draw.pick(0.011, 0.016))
    starved = draw.job(draw.work(VIDEO), fault, storage=NFS, gpus_each=4)
    fed = draw.job(draw.work(LLM), storage=LUSTRE, gpus_each=4, first_gpu=4)
    return draw.cluster(starved, fed)


@case(MIXED, "two-jobs-one-limited", "Two jobs on a host, one at its CPU limit", "cpu.quota", gpus=8)
def _two_limited(draw: Draw) -> ClusterPlan:
    """One pod is throttled by its own limit; its neighbour decodes just as much without one."""
    limited = draw.job(
        draw.work(VISION),
        draw.fault("cpu.quota", quota=draw.pick(0.24, 0.32)),
        storage=NFS,
        gpus_each=4,
        quota=48.0,
    )
    free = draw.job(draw.work(VISION), storage=NVME, gpus_each=4, first_gpu=4)
    return draw.cluster(limited, free)


@case(
    MIXED, "sweep-one-hot", "Eight one-GPU jobs, one of them hot", "throttle.thermal", gpus=8, duration=2400
)
def _sweep(draw: Draw) -> ClusterPlan:
    """A parameter sweep: independent jobs side by side, and only one GPU clocks down."""
    fault = draw.fault("throttle.thermal", cooling=draw.pick(2.8, 3.3))
    hot = int(draw.pick(0, 8))
    jobs = [
        draw.job(draw.work(LLM, reduce=0.0), *((fault,) if slot == hot else ()), gpus_each=1, first_gpu=slot)
        for slot in range(8)
    ]
    return draw.cluster(*(replace(job, storage=NVME) for job in jobs))
