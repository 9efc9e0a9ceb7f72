"""Inference servers with continuous batching: arrivals, a queue, running requests and a KV cache.

Short ticks for all servers of a job at once. A running request generates a token each iteration; an iteration
lasts longer the more requests run. A request is admitted while there is room for its prompt in the KV cache;
when running requests outgrow the cache, the newest are put back and their context is computed again later.

Lost is time without any iteration, and time spent computing a context again. An iteration with few requests
in it is not counted as lost: it reads all weights from memory, as a full one does. Without a request for two
minutes a server has no traffic, with pauses in between a low load.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.plan import Engine, JobPlan, Node
from wellfed.analysis.scenarios.session import resting_gpu
from wellfed.analysis.scenarios.usage import Columns, Loss, Usage

__all__ = ["ServingActivity"]

F = NDArray[np.float64]

TICK = 0.25
#: Seconds without work after which nobody is sending requests.
SILENCE = 120.0
#: Activity of a decode iteration with one request, and what a full batch adds; of a prefill.
DECODE_SM, DECODE_SM_FULL, DECODE_DRAM, PREFILL_SM, PREFILL_TENSOR = 0.55, 0.2, 0.78, 0.9, 0.55


class ServingActivity:
    """All replicas of one service: one server per `gpus_each` GPUs of the engine."""

    def __init__(self, plan: JobPlan, work: Engine, node: Node, seed: int) -> None:
        self.plan, self.work, self.node = plan, work, node
        self.ranks = plan.hosts * plan.gpus_each
        self.servers = self.ranks // work.gpus_each
        self._rng = np.random.default_rng([seed, 21])
        self._weight = 1.0 + 0.05 * self._rng.standard_normal(self.servers)
        zero = np.zeros(self.servers)
        self.waiting, self.running, self.context = zero.copy(), zero.copy(), zero.copy()
        self.returned, self.returned_context = zero.copy(), zero.copy()
        self.clock = plan.start
        self.rested = zero.copy()
        if work.rate > 0:
            self._settle()

    def _settle(self) -> None:
        """Runs a while before the start, so that servers are found in their usual state."""
        for tick in range(240):
            self._tick(self.plan.start - (240 - tick) * TICK)

    def _rate(self, now: float) -> float:
        if any(begin <= now < end for begin, end in self.work.quiet):
            return 0.0
        wave = float(np.sin(2 * np.pi * now / self.work.period))
        return self.work.rate * max(0.0, 1.0 + self.work.day * wave)

    def _tick(self, now: float) -> dict[str, F]:
        work, rng = self.work, self._rng
        arrived = rng.poisson(np.maximum(0.0, self._rate(now) * self._weight * TICK)).astype(np.float64)
        self.waiting += arrived
        room = np.maximum(0.0, (work.watermark * work.kv_tokens - self.context) / (work.prompt + 24.0))
        fresh = np.minimum(
            np.floor(room), np.minimum(self.waiting, np.maximum(0.0, work.max_running - self.running))
        )
        budget = np.floor(0.6 * TICK * work.prefill / work.prompt + rng.random(self.servers))
        fresh = np.minimum(fresh, budget)
        back = np.minimum(self.returned, fresh)
        repeated = np.where(back > 0, self.returned_context * back / np.maximum(self.returned, 1.0), 0.0)
        self.returned -= back
        self.returned_context -= repeated
        admitted = (fresh - back) * work.prompt + repeated
        prefill = np.minimum(0.9 * TICK, admitted / work.prefill)
        useless = np.minimum(prefill, repeated / work.prefill)
        self.waiting -= fresh
        self.running += fresh
        self.context += admitted
        iteration = work.step + work.step_each * self.running
        decode = np.where(self.running > 0, TICK - prefill, 0.0)
        each = decode / iteration
        tokens = each * self.running
        finished = rng.binomial(self.running.astype(np.int64), np.minimum(1.0, each / work.output)).astype(
            np.float64
        )
        mean = np.where(self.running > 0, self.context / np.maximum(self.running, 1.0), 0.0)
        self.context = np.maximum(0.0, self.context + tokens - finished * mean)
        self.running -= finished
        over = np.maximum(0.0, self.context - work.kv_tokens)
        mean = np.where(self.running > 0, self.context / np.maximum(self.running, 1.0), 0.0)
        evicted = np.minimum(self.running, np.ceil(over / np.maximum(mean, 1.0)))
        self.running -= evicted
        self.waiting += evicted
        self.context = np.where(self.running > 0, self.context - evicted * mean, 0.0)
        self.returned += evicted
        self.returned_context += evicted * mean
        return {
            "arrived": arrived,
            "prefill": prefill,
            "useless": useless,
            "decode": decode,
            "full": decode * np.minimum(1.0, self.running / 128.0),
            "tokens": tokens,
            "finished": finished,
            "evicted": evicted,
            "fresh": fresh,
            "queued": self.waiting * TICK,
            "first": fresh * (0.02 + prefill) + self.waiting * TICK,
            "between": decode * self.running,
        }

    def advance(self, edges: F) -> Usage:
        """The service's windows."""
        totals: list[dict[str, F]] = []
        gauges: list[tuple[F, F, F]] = []
        for edge in edges[1:]:
            total: dict[str, F] = {}
            while self.clock < edge - 1e-9:
                for name, value in self._tick(self.clock).items():
                    total[name] = total.get(name, 0.0) + value
                self.clock += TICK
            totals.append(total)
            gauges.append((self.running.copy(), self.waiting.copy(), self.context / self.work.kv_tokens))
        done = {name: np.stack([total[name] for total in totals]) for name in totals[0]}
        running, waiting, usage = (np.stack(values) for values in zip(*gauges, strict=True))
        seconds = np.diff(edges)[:, None]
        servers: Columns = {
            "running": running,
            "waiting": waiting,
            "kv_usage": np.minimum(1.0, usage),
            "max_running": np.full_like(running, self.work.max_running),
            "requests": done["finished"],
            "prompt_tokens": done["fresh"] * self.work.prompt,
            "generation_tokens": done["tokens"],
            "preemptions": done["evicted"],
            "queue_seconds": done["queued"],
            "queue_count": done["fresh"],
            "ttft_seconds": done["first"],
            "ttft_count": done["fresh"],
            "itl_seconds": done["between"],
            "itl_count": done["tokens"],
        }
        gpu = self._gpu(done, seconds)
        host, job = self._hosts(done, seconds)
        return Usage(gpu=gpu, host=host, job=job, servers=servers, losses=self._losses(done, seconds))

    def _gpu(self, done: dict[str, F], seconds: F) -> Columns:
        node, each = self.node, self.work.gpus_each

        def spread(values: F) -> F:
            return np.repeat(values, each, axis=1)

        prefill, decode, full = spread(done["prefill"]), spread(done["decode"]), spread(done["full"])
        gpu = resting_gpu(node, seconds, self.ranks)
        busy = np.minimum(seconds, prefill + decode)
        drawn = 0.77 * prefill + 0.45 * decode + 0.12 * full
        power = node.idle_watts + node.peak_watts * (0.06 + drawn / seconds)
        return gpu | {
            "allocated": np.ones_like(busy),
            "processes": np.ones_like(busy),
            "active_seconds": 0.985 * busy,
            "sm_active_seconds": PREFILL_SM * prefill + DECODE_SM * decode + DECODE_SM_FULL * full,
            "sm_occupancy_seconds": 0.4 * prefill + 0.2 * decode,
            "tensor_active_seconds": PREFILL_TENSOR * prefill + 0.03 * decode + 0.12 * full,
            "dram_active_seconds": 0.35 * prefill + DECODE_DRAM * decode + 0.08 * full,
            "idle_seconds": np.maximum(0.0, seconds - busy - 1e-9),
            "pcie_rx_bytes": 3e7 * busy,
            "pcie_tx_bytes": 3e7 * busy,
            "nvlink_rx_bytes": (8e9 * decode + 9e10 * prefill) * (each > 1),
            "nvlink_tx_bytes": (8e9 * decode + 9e10 * prefill) * (each > 1),
            "memory_used_bytes": np.full_like(busy, 0.91 * node.gpu_memory),
            "power_watts": power,
            "energy_joules": power * seconds,
            "temperature_celsius": np.round(node.ambient + node.kelvin_per_watt * power),
            "sm_clock_hertz": np.full_like(busy, node.clock),
            "pcie_gen": np.where(busy > 0, node.pcie_gen, 1.0),
        }

    def _hosts(self, done: dict[str, F], seconds: F) -> tuple[Columns, Columns]:
        hosts = self.plan.hosts

        def summed(values: F) -> F:
            return np.asarray(values.reshape(len(values), hosts, -1).sum(axis=2))

        busy = summed(done["prefill"] + done["decode"])
        ones = np.ones((len(seconds), hosts))
        cpu = 1.1 * busy + 0.02 * seconds * ones
        per_server = (done["prefill"] + done["decode"]).reshape(len(seconds), hosts, -1).max(axis=2)
        job: Columns = {
            "cpu_usage_seconds": cpu,
            "main_thread_seconds": 0.72 * per_server,
            "psi_cpu_some_seconds": 0.003 * seconds * ones,
            "psi_io_some_seconds": 0.0 * ones,
            "psi_memory_full_seconds": 0.0 * ones,
            "cpu_throttled_seconds": 0.0 * ones,
            "io_read_bytes": 0.0 * ones,
            "io_write_bytes": 1e4 * seconds * ones,
            "memory_bytes": 4e10 * ones,
            "memory_limit_bytes": 4e11 * ones,
            "processes": 3.0 * self.servers / hosts * ones,
            "cpu_limit": (self.plan.quota or self.node.cores) * ones,
        }
        net = summed(done["fresh"]) * 4e3 + 1e5 * seconds
        host: Columns = {
            "cpu_busy_seconds": cpu,
            "memory_used": 4e10 * ones,
            "net_rx_bytes": net,
            "net_tx_bytes": net + 6.0 * summed(done["tokens"]),
            "threads": 1.1 * busy / seconds,
        }
        return host, job

    def _losses(self, done: dict[str, F], seconds: F) -> list[Loss]:
        found = []
        busy = np.minimum(seconds, done["prefill"] + done["decode"])
        idle = seconds - busy
        empty = np.zeros(busy.shape, dtype=bool)
        for row, used in enumerate(busy > 0):
            self.rested = np.where(used, 0.0, self.rested + seconds[row])
            empty[row] = self.rested > SILENCE
        for server in range(self.servers):
            ranks = np.arange(self.ranks) // self.work.gpus_each == server
            for cause, lost in (
                ("serve.no_traffic", np.where(empty[:, server], idle[:, server], 0.0)),
                ("serve.low_load", np.where(empty[:, server], 0.0, idle[:, server])),
                ("serve.kv_full", np.minimum(busy, done["useless"])[:, server]),
            ):
                if lost.any():
                    found.append(Loss(cause, cause, ranks, lost))
        return found
