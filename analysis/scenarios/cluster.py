"""Hosts, their GPUs and the jobs on them, advanced together: what a fleet's agents would have published.

Jobs are simulated one by one; on a host they share, CPU time, traffic and memory add up, and pressures
combine as independent chances. A GPU that nobody holds rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wellfed.analysis.scenarios.activities import activity
from wellfed.analysis.scenarios.frames import Counters, frame, stamps
from wellfed.analysis.scenarios.hosts import HostTables
from wellfed.analysis.scenarios.plan import JobPlan, Node
from wellfed.analysis.scenarios.session import resting_gpu
from wellfed.analysis.scenarios.truth import TRUTH, truth_rows
from wellfed.analysis.scenarios.usage import Activity, Loss, Usage
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES

__all__ = ["WINDOW", "Cluster", "ClusterPlan", "Gap"]

F = NDArray[np.float64]

#: Seconds of a window.
WINDOW = 10.0


@dataclass(frozen=True, slots=True)
class Gap:
    """GPUs of a host that stand empty between two jobs of a queue although work waits, from start to end."""

    host: int
    gpus: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """A cluster to simulate. arrays: the storage servers export their own metrics."""

    hosts: tuple[str, ...]
    jobs: tuple[JobPlan, ...]
    node: Node = field(default_factory=Node)
    gaps: tuple[Gap, ...] = ()
    arrays: bool = False


@dataclass(slots=True)
class _Running:
    """An activity with the counters of the things that live as long as it does."""

    plan: JobPlan
    activity: Activity
    job: Counters
    since: float
    steps: Counters
    servers: Counters


class Cluster:
    """State of a whole simulation; `advance` yields the next windows."""

    def __init__(self, plan: ClusterPlan, seed: int, epoch: float) -> None:
        self.plan, self.seed, self.epoch = plan, seed, epoch
        self.now = 0.0
        node = plan.node
        rng = np.random.default_rng([seed, 101])
        count = len(plan.hosts) * node.gpus
        self.gpus = [f"GPU-{UUID(bytes=rng.bytes(16), version=4)}" for _ in range(count)]
        self._gpu_counters = Counters("gpu", count, rng, 3e4)
        self._hosts = HostTables(plan.hosts, plan.jobs, node, rng, epoch, plan.arrays)
        self._running: dict[int, _Running] = {}
        self._cgroups: dict[str, tuple[Counters, float]] = {}
        self._ecc = 0.002 * rng.random(count) * (rng.random(count) < 0.05)

    def slots(self, job: JobPlan) -> NDArray[np.int64]:
        """Indices of a job's GPUs in the cluster, in the order of its ranks."""
        hosts = job.first_host + np.arange(job.hosts)[:, None]
        return (hosts * self.plan.node.gpus + job.first_gpu + np.arange(job.gpus_each)[None]).ravel()

    def host_of(self, slot: int) -> str:
        """Name of the host of a GPU."""
        return self.plan.hosts[slot // self.plan.node.gpus]

    def advance(self, windows: int) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
        """The next windows: every table of the catalog, and the truth."""
        edges: F = np.asarray(self.now + WINDOW * np.arange(windows + 1), dtype=np.float64)
        self.now = float(edges[-1])
        ts = stamps(edges, self.epoch)
        seconds = np.diff(edges)[:, None]
        count = len(self.gpus)
        gpu = resting_gpu(self.plan.node, seconds, count)
        gpu["observed_seconds"] = seconds * np.ones((1, count))
        gpu["allocated"] = np.zeros((windows, count))
        gpu = {name: values.copy() for name, values in gpu.items()}
        holder = np.full((windows, count), -1)
        absent = np.zeros((windows, count), dtype=bool)
        self._hosts.begin(edges)
        parts: dict[str, list[pl.DataFrame]] = {name: [] for name in TABLES}
        truth = [self._gaps(edges, ts)]
        for index, job in enumerate(self.plan.jobs):
            live = (edges[:-1] >= job.start - 1e-6) & (edges[1:] <= job.end + 1e-6)
            if not live.any():
                continue
            first, last = int(np.argmax(live)), windows - int(np.argmax(live[::-1]))
            running = self._running.get(index) or self._begin(index, job)
            usage = running.activity.advance(edges[first : last + 1])
            slots, span = self.slots(job), slice(first, last)
            for name, values in usage.gpu.items():
                gpu[name][span, slots] = values
            holder[span, slots] = index
            if usage.absent is not None:
                absent[span, slots] = usage.absent
            hosts = job.first_host + np.arange(job.hosts)
            self._hosts.add(usage, hosts, span, job)
            self._job_rows(parts, running, usage, ts[span], slots)
            truth.append(self._truth(usage.losses, job, slots, ts[span]))
        parts["gpu"].append(self._gpu_frame(ts, gpu, holder, absent))
        for name, table in self._hosts.finish(ts).items():
            parts[name].append(table)
        parts["host"] = [table.update(self._queued(edges, ts), on="ts") for table in parts["host"]]
        empty = {name: pl.DataFrame(schema=schema(table)) for name, table in TABLES.items()}
        tables = {name: pl.concat([empty[name], *found]) for name, found in parts.items()}
        return tables, pl.concat(truth)

    def _queued(self, edges: F, ts: NDArray[np.int64]) -> pl.DataFrame:
        """What the scheduler tells of its queue at the end of each window."""
        waiting = sum(
            (np.asarray((edges[1:] > g.start) & (edges[1:] <= g.end)) for g in self.plan.gaps),
            start=np.zeros(len(ts)),
        )
        return pl.DataFrame(
            {"ts": ts, "jobs_pending": 3.0 * waiting}, schema={"ts": pl.Int64, "jobs_pending": pl.Float64}
        ).cast({"ts": pl.Datetime("ms", "UTC")})

    def _begin(self, index: int, job: JobPlan) -> _Running:
        epoch_start = self.epoch + job.start
        fresh = job.startup > 0 or job.start > 0
        scale = 0.0 if fresh else 500.0
        rng = np.random.default_rng([self.seed, 103, index])
        doing = activity(job, self.plan.node, int(rng.integers(2**31)))
        ranks = job.hosts * job.gpus_each
        each = getattr(job.work, "gpus_each", 1)
        started = epoch_start if fresh else epoch_start - 86_400.0
        cgroup, since = self._cgroups.setdefault(
            job.identity.id, (Counters("job", job.hosts, rng, scale), started)
        )
        running = _Running(
            job,
            doing,
            cgroup,
            since,
            Counters("step", ranks, rng, scale),
            Counters("server", max(1, ranks // each), rng, scale),
        )
        self._running[index] = running
        return running

    def _gpu_frame(
        self, ts: NDArray[np.int64], gpu: dict[str, F], holder: NDArray[np.int64], absent: NDArray[np.bool_]
    ) -> pl.DataFrame:
        node, count = self.plan.node, len(self.gpus)
        ones = np.ones((len(ts), count))
        gpu["memory_total_bytes"] = node.gpu_memory * ones
        gpu["sm_clock_max_hertz"] = node.clock * ones
        gpu["pcie_gen_max"] = node.pcie_gen * ones
        gpu["pcie_width_max"] = node.pcie_width * ones
        gpu["ecc_corrected"] = WINDOW * self._ecc * ones
        gpu["remap_pending"] = 0.0 * ones
        local = [slot % node.gpus for slot in range(count)]
        texts = {
            "host": [self.host_of(slot) for slot in range(count)],
            "gpu": self.gpus,
            "index": [str(slot) for slot in local],
            "vendor": ["nvidia"] * count,
            "model": [node.model] * count,
            "pci_address": [f"0000:{0x19 + 0x11 * slot:02x}:00.0" for slot in local],
        }
        columns = self._gpu_counters.add(gpu)
        table = frame("gpu", ts, texts, columns)
        names = pl.Series([job.identity.id for job in self.plan.jobs], dtype=pl.String())
        held = pl.Series(holder.ravel())
        index = held.replace(-1, None)
        ranks = np.full((len(self.plan.jobs) + 1, count), -1)
        for number, job in enumerate(self.plan.jobs):
            slots = self.slots(job)
            ranks[number, slots] = np.arange(len(slots))
        rank = pl.Series(ranks[holder, np.arange(count)[None]].ravel()).replace(-1, None).cast(pl.String())
        jobs = (
            names.gather(index.cast(pl.UInt32))
            if len(names)
            else pl.Series([None] * len(table), dtype=pl.String())
        )
        table = table.with_columns(jobs.alias("job"), rank.alias("rank"))
        return table.filter(pl.Series(~absent.ravel())) if absent.any() else table

    def _job_rows(
        self,
        parts: dict[str, list[pl.DataFrame]],
        running: _Running,
        usage: Usage,
        ts: NDArray[np.int64],
        slots: NDArray[np.int64],
    ) -> None:
        job, who = running.plan, running.plan.identity
        hosts = [self.plan.hosts[job.first_host + index] for index in range(job.hosts)]
        ones = np.ones((len(ts), job.hosts))
        usage.job["gpus"] = job.gpus_each * ones
        usage.job["started_seconds"] = running.since * ones
        texts = {
            name: [getattr(who, name) or None] * job.hosts
            for name in ("kind", "name", "user", "namespace", "queue", "run")
        }
        texts |= {"host": list(hosts), "job": [who.id] * job.hosts}
        if not job.part:
            parts["job"].append(frame("job", ts, texts, running.job.add(usage.job)))
        gpus = [self.gpus[slot] for slot in slots]
        on = [self.host_of(int(slot)) for slot in slots]
        if usage.steps:
            rank = [str(index) for index in range(len(slots))]
            info = {
                "host": on,
                "job": [who.id] * len(slots),
                "rank": rank,
                "gpu": gpus,
                "run": [who.run or None] * len(slots),
            }
            parts["step"].append(frame("step", ts, info, running.steps.add(usage.steps)))
        if usage.servers:
            each = len(slots) // usage.servers["running"].shape[1]
            first = list(range(0, len(slots), each))
            engine, model = getattr(job.work, "engine", ""), getattr(job.work, "model", "")
            info = {
                "host": [on[slot] for slot in first],
                "server": [f"{who.name}-{number}:8000" for number in range(len(first))],
                "engine": [engine] * len(first),
                "model": [model] * len(first),
                "gpu": [gpus[slot] for slot in first],
            }
            parts["server"].append(frame("server", ts, info, running.servers.add(usage.servers)))

    def _truth(
        self, losses: Sequence[Loss], job: JobPlan, slots: NDArray[np.int64], ts: NDArray[np.int64]
    ) -> pl.DataFrame:
        hosts = np.array([self.host_of(int(slot)) for slot in slots])
        gpus = np.array([self.gpus[slot] for slot in slots])
        return truth_rows(losses, hosts, gpus, job.identity.id, ts, WINDOW)

    def _gaps(self, edges: F, ts: NDArray[np.int64]) -> pl.DataFrame:
        found = [pl.DataFrame(schema=TRUTH)]
        for gap in self.plan.gaps:
            lost = np.clip(np.minimum(edges[1:], gap.end) - np.maximum(edges[:-1], gap.start), 0.0, WINDOW)
            slots = gap.host * self.plan.node.gpus + np.arange(gap.gpus)
            hosts = np.array([self.host_of(int(slot)) for slot in slots])
            gpus = np.array([self.gpus[slot] for slot in slots])
            loss = Loss("idle.gap", "idle.gap", np.ones(len(slots), dtype=bool), lost)
            found.append(truth_rows([loss], hosts, gpus, None, ts, WINDOW))
        return pl.concat(found)
