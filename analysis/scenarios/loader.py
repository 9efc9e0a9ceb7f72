"""The input pipeline: workers make batches in order, at most workers x prefetch ahead of the loop.

Batch k belongs to worker k mod W; it starts when that worker is free and batch k - W x prefetch has been
taken. Its time is the storage's answer for what the page cache does not hold, then CPU time stretched by
whoever else wants the cores, the CPU limit and the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.faults import Parameters
from wellfed.analysis.scenarios.plan import JobPlan, Node, Storage, Workload
from wellfed.analysis.scenarios.storage import Answer, respond

__all__ = ["Batch", "Pipeline"]

F = NDArray[np.float64]

#: Weight of the newest step in the running means.
SMOOTH = 0.25
#: Seconds until new worker processes have imported everything and made a batch.
RESPAWN = 2.5


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of every rank in the factual run, shape (hosts, gpus); requests per host and their seconds.

    From `start` to `ready`; `data`, `lookup`, `cpu` are the worker's seconds in each, without contention for
    `cpu`. missed: bytes that crossed from the storage.
    """

    start: F
    ready: F
    data: F
    lookup: F
    cpu: F
    reads: F
    lookups: F
    missed: F
    rtt: F
    execution: F
    metadata: F


class Pipeline:
    """Loader state of one job in all variants, shape (variants, hosts, gpus)."""

    def __init__(self, plan: JobPlan, work: Workload, node: Node, parameters: Parameters, now: float) -> None:
        self.work, self.node, self.parameters = work, node, parameters
        self.loader = work.loader
        self.store: Storage | None = plan.storage
        self.quota = plan.quota if plan.quota > 0 else node.cores
        self.memory_limit = plan.memory_limit or node.memory
        self.shape = parameters["service"].shape
        self.depth = max(1, self.loader.workers * self.loader.prefetch)
        self.ring: F = np.full((self.depth, *self.shape), now)
        self.slot = 0
        per_host = (self.shape[0], self.shape[1], 1)
        self.cached: F = np.full(per_host, self.loader.cached * self.loader.dataset)
        self.leaked: F = np.zeros(per_host)
        self.pace: F = np.full(self.shape[0], work.compute)
        self.spent: F = np.zeros((3, *self.shape))
        self.busy: F = np.zeros(self.shape)
        self.data_share: F = np.zeros(self.shape)
        self.lookup_share: F = np.zeros(self.shape)
        self.slow: F = np.ones(per_host)
        self.thrash: F = np.ones(per_host)
        self._refreshed = -1.0
        self.answer: Answer | None = None
        self.tick(0.0)

    def tick(self, elapsed: float) -> None:
        """Moves memory by `elapsed` seconds and reads the parameters anew."""
        value, loader, work = self.parameters, self.loader, self.work
        gpus = self.shape[2]
        limit = min(self.memory_limit, self.node.memory)
        self.leaked = np.minimum(self.leaked + value["leak"][:, :, :1] * elapsed, limit * 1.06)
        self.leaked = np.where(value["leak"][:, :, :1] > 0, self.leaked, 0.0)
        self.used: F = work.host_memory * gpus + self.leaked
        over = np.maximum(0.0, self.used / limit - 0.94)
        self.thrash = 1.0 + np.minimum(11.0, 150.0 * over)
        self.cached = np.minimum(self.cached, np.maximum(0.0, 0.9 * limit - self.used))
        self.size: F = np.full(self.slow.shape, 1.0)
        batch = work.batch * loader.sample * value["sample"][:, :, :1]
        hit = np.minimum(1.0, self.cached / loader.dataset) * (1.0 - value["cold"][:, :, :1])
        self.missed: F = batch * (1.0 - hit)
        files = work.batch * loader.files * value["files"][:, :, :1]
        if self.store is not None:
            self.reads: F = np.maximum(self.missed / self.store.request, files * (1.0 - hit))
            self.size = np.where(
                self.reads > 0, self.missed / np.maximum(self.reads, 1e-9), self.store.request
            )
            self.lookups: F = files * self.store.metadata_per_file
            self.streams: F = np.where(files >= 0.5 * work.batch, 1.0, self.store.streams)
        self.cpu: F = work.batch * loader.cpu * value["cpu_cost"]
        self._refreshed = -1.0

    def refresh(self, now: F) -> None:
        """Who is busy, how long the storage takes and how far the cores are oversubscribed.

        Busy workers by Little's law: a batch's seconds over the seconds between batches.
        """
        if self._refreshed >= 0 and now[0] - self._refreshed < 0.5:
            return
        self._refreshed = float(now[0])
        total = np.maximum(self.spent.sum(axis=0), 1e-9)
        self.busy = np.minimum(total / self.pace[:, None, None], float(self.loader.workers))
        self.data_share, self.lookup_share = self.spent[0] / total, self.spent[1] / total
        if self.store is not None:
            reading = (self.busy * self.data_share).sum(axis=2, keepdims=True) * self.streams
            looking = (self.busy * self.lookup_share).sum(axis=2, keepdims=True)
            self.answer = respond(self.store, reading, looking, self.size, self.parameters)
        computing = self.busy * np.maximum(0.0, 1.0 - self.data_share - self.lookup_share)
        mains = self.shape[2] * (0.95 if self.work.spin_sync else 0.45)
        own = computing.sum(axis=2, keepdims=True) + mains
        tenant = self.parameters["tenant_cores"][:, :, :1]
        host = (own + tenant) / self.node.cores
        quota = own / (self.quota * self.parameters["quota"][:, :, :1])
        slow = np.maximum(1.0, np.maximum(host, quota))
        self.slow = 0.5 * self.slow + 0.5 * slow

    def passed(self, seconds: F) -> None:
        """A step took this long, per variant."""
        self.pace = (1.0 - SMOOTH) * self.pace + SMOOTH * seconds

    def restart(self, now: F) -> None:
        """A new epoch: the workers start anew, one after another, and nothing is ready."""
        started = now[None, :, None, None] + RESPAWN + 0.1 * np.arange(self.depth)[:, None, None, None]
        self.ring = np.roll(np.broadcast_to(started, self.ring.shape), self.slot, axis=0).copy()

    def take(self, now: F, storage_noise: F, cpu_noise: F) -> tuple[F, Batch]:
        """Takes the next batch at `now` (variants,): when each rank has it, and the batch started instead."""
        at = now[:, None, None]
        got = np.maximum(self.ring[self.slot], at)
        before = self.ring[(self.slot - self.loader.workers) % self.depth]
        start = np.maximum(got, before)
        cpu = self.cpu * cpu_noise
        worked = cpu * self.slow * self.thrash
        zero = np.zeros((self.shape[1], 1))
        if self.store is None or self.answer is None:
            data = lookup = np.zeros(self.shape)
            counts = (zero, zero, zero, zero, zero, zero)
        else:
            answer = self.answer
            data = self.reads * answer.execution / self.streams * storage_noise
            lookup = self.lookups * answer.metadata * storage_noise
            counts = (
                self.reads[0],
                self.lookups[0],
                self.missed[0],
                answer.rtt[0],
                answer.execution[0],
                answer.metadata[0],
            )
            if self.store.kind != "object" and self.loader.dataset > 0:
                fill = self.missed * self.shape[2]
                room = np.maximum(0.0, 0.9 * min(self.memory_limit, self.node.memory) - self.used)
                self.cached = np.minimum(np.minimum(self.cached + fill, room), self.loader.dataset)
        total = data + lookup + worked
        self.ring[self.slot] = start + total
        self.spent = (1.0 - SMOOTH) * self.spent + SMOOTH * np.stack(
            [np.broadcast_to(part, self.shape) for part in (data, lookup, worked)]
        )
        self.slot = (self.slot + 1) % self.depth
        noise = storage_noise
        batch = Batch(
            start[0],
            start[0] + total[0],
            data[0] + zero,
            lookup[0] + zero,
            cpu[0],
            counts[0] + zero,
            counts[1] + zero,
            counts[2] + zero,
            counts[3] * noise,
            counts[4] * noise,
            counts[5] * noise,
        )
        return got, batch
