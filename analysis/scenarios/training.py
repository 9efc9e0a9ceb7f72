"""A synchronous training job: fetch, copy, compute, wait for the slowest rank, reduce; at times save or test.

One step is one event for all ranks. All variants (see `faults`) advance in lockstep; only the factual one is
logged, beside the length of every step in every variant, from which the truth follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.clocks import Clocks, activity_power
from wellfed.analysis.scenarios.faults import Parameters
from wellfed.analysis.scenarios.loader import Batch, Pipeline
from wellfed.analysis.scenarios.plan import Fault, JobPlan, Node, Workload
from wellfed.analysis.scenarios.timeline import Phase

__all__ = ["Log", "Tick", "Training"]

F = NDArray[np.float64]

#: Seconds between two updates of parameters, clocks and memory.
TICK = 10.0
#: Steps for which random numbers are drawn at a time.
BLOCK = 256
#: Bytes a second of a lane and generation step: PCIe 5 x16 moves about 56 GB/s of payload.
LANE = 56e9 / 16 / 2**4
#: Bytes a second from device memory to pinned host memory during a checkpoint.
SAVE = 22e9
#: What the collective library reaches of a port's rate.
PORT = 0.88
#: Seconds in which a restarted job finds its place again.
RESTART = 90.0


@dataclass(frozen=True, slots=True)
class Tick:
    """State that changes slowly, in the factual run: per rank (hosts, gpus) or per host (hosts, 1)."""

    at: float
    values: dict[str, F]


@dataclass(slots=True)
class Log:
    """What happened, event by event; batches and ticks beside it.

    tag: -1 for a step, else an index into `tags` (cause, root, share of the time that is lost).
    """

    start: list[float] = field(default_factory=list)
    phases: list[F] = field(default_factory=list)
    kernel: list[F] = field(default_factory=list)
    lengths: list[F] = field(default_factory=list)
    tag: list[int] = field(default_factory=list)
    tick: list[int] = field(default_factory=list)
    busy: list[F] = field(default_factory=list)
    computing: list[F] = field(default_factory=list)
    reading: list[F] = field(default_factory=list)
    slow: list[F] = field(default_factory=list)
    ready: list[F] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    writes: list[tuple[float, F, F]] = field(default_factory=list)
    tags: list[tuple[str, str, float]] = field(default_factory=list)


class Training:
    """The job's state; `readout` turns its log into windows."""

    def __init__(self, plan: JobPlan, work: Workload, node: Node, seed: int) -> None:
        self.plan, self.work, self.node, self.seed = plan, work, node, seed
        self.ranks = plan.hosts * plan.gpus_each
        self.parameters = Parameters(plan.faults, plan.hosts, plan.gpus_each)
        self.parameters.update(plan.start)
        self.shape = self.parameters["service"].shape
        self.time: F = np.full(self.shape[0], plan.start)
        self.pipeline = Pipeline(plan, work, node, self.parameters, plan.start)
        rng = np.random.default_rng([seed, 1])
        self.speed: F = 1.0 + 0.004 * rng.standard_normal(self.shape[1:])
        self.bias: F = 2.0 * rng.standard_normal(self.shape[1:]) + np.linspace(-3, 3, plan.gpus_each)
        draw = float(activity_power(work.sm, work.tensor, work.dram))
        self.clocks = Clocks.at_rest(node, self.shape, draw, self.bias)
        self.clock: F = np.ones(self.shape)
        self.log = Log()
        self.step = 0
        self.computed: F = np.zeros(self.shape)
        self.ticked = plan.start
        self.saved = self.evaluated = plan.start + float(rng.uniform(0.0, 0.3)) * max(
            work.checkpoint_every, work.evaluation_every, 1.0
        )
        self.hung: set[int] = set()
        self.epoch = plan.start
        self._tick()
        if plan.startup > 0:
            self._start(plan.startup, "idle.startup", "idle.startup")

    def run(self, until: float) -> None:
        """Simulates until the factual run is past `until`."""
        while self.time[0] <= until:
            self._next()

    def _next(self) -> None:
        now = float(self.time[0])
        if now - self.ticked >= TICK:
            self._tick()
        hang = self._hang(now)
        if hang is not None:
            self._die(hang, now)
        elif self._due(
            self.saved, self.work.checkpoint_every * float(self.parameters.factual("checkpoint_every")[0, 0])
        ):
            self.saved = now
            self._save()
        elif self._due(self.evaluated, self.work.evaluation_every):
            self.evaluated = now
            self._evaluate()
        else:
            if self._due(self.epoch, self.work.loader.epoch):
                self.epoch = now
                self.pipeline.restart(self.time)
            self._step()

    def _due(self, last: float, every: float) -> bool:
        return every > 0 and float(self.time[0]) - last >= every

    def _tick(self) -> None:
        now = float(self.time[0])
        elapsed = now - self.ticked
        self.ticked = now
        self.parameters.update(now)
        value = self.parameters
        if elapsed > 0:
            duty = np.minimum(1.0, self.computed / elapsed)
            self.computed = np.zeros(self.shape)
            self.clock = self.clocks.advance(
                elapsed, duty, value["cooling"], value["power"], value["brake"], self.bias
            )
        self.pipeline.tick(elapsed)
        work = self.work
        slowed = work.clock_bound / self.clock + 1.0 - work.clock_bound
        self.kernel: F = work.compute * value["compute"] * self.speed * slowed
        generation = np.maximum(1.0, self.node.pcie_gen - value["pcie_gen"])
        lanes = np.maximum(1.0, self.node.pcie_width * value["pcie_width"])
        self.link: F = LANE * 2.0 ** (generation - 1.0) * lanes
        self.copy: F = work.copy * value["copy"] / self.link
        self.traffic = self._collective()
        self.log.ticks.append(
            Tick(
                now,
                {
                    "clock": self.clock[0],
                    "capped": self.clocks.capped[0] + 0 * self.clock[0],
                    "thermal": self.clocks.thermal[0],
                    "temperature": self.clocks.temperature[0],
                    "brake": value.factual("brake"),
                    "power": value.factual("power"),
                    "generation": generation[0],
                    "lanes": lanes[0],
                    "link": self.link[0],
                    "replays": value.factual("pcie_replays"),
                    "copied": work.copy * value.factual("copy"),
                    "reduced": work.reduce * value.factual("reduce"),
                    "rails": value.factual("rails"),
                    "port": value.factual("link"),
                    "port_rate": value.factual("link_rate"),
                    "port_errors": value.factual("link_errors"),
                    "congestion": value.factual("congestion"),
                    "nvlink_down": value.factual("nvlink_down"),
                    "tenant": value.factual("tenant_cores")[:, :1],
                    "loss": value.factual("loss")[:, :1],
                    "capacity": value.factual("capacity")[:, :1],
                    "thrash": self.pipeline.thrash[0] + 0 * self.bias[:, :1],
                    "used": self.pipeline.used[0] + 0 * self.bias[:, :1],
                    "cached": self.pipeline.cached[0],
                    "quota": value.factual("quota")[:, :1],
                    "ecc": value.factual("ecc"),
                    "remap_failed": value.factual("remap_failed"),
                    "launch": work.launch * value.factual("launch"),
                },
            )
        )

    def _collective(self) -> F:
        """Seconds of one step's reduction when nothing hides it, per variant."""
        value, node = self.parameters, self.node
        size = self.work.reduce * value["reduce"].max(axis=(1, 2))
        hosts, gpus = self.shape[1], self.shape[2]
        if self.ranks == 1:
            return np.zeros(self.shape[0])
        inside = 2.0 * (gpus - 1) / gpus * size / (node.nvlink * value["nvlink"].min(axis=(1, 2)))
        if hosts == 1:
            return np.asarray(inside)
        rails = np.maximum(1.0, np.round(gpus * value["rails"].min(axis=(1, 2))))
        slowest = (value["link"] * (1.0 - value["congestion"])).min(axis=(1, 2))
        between = 2.0 * (hosts - 1) / hosts * size
        between = between / (rails * node.port_bps / 8 * PORT * slowest)
        return np.asarray(np.maximum(inside, between) + 0.2 * np.minimum(inside, between))

    def _draw(self) -> None:
        rng = np.random.default_rng([self.seed, 2, self.step // BLOCK])
        shape = (BLOCK, *self.shape[1:])
        self.compute_noise: F = np.exp(self.work.jitter * rng.standard_normal(shape))
        self.launch_noise: F = np.exp(0.02 * rng.standard_normal(shape))
        shared = 0.16 * rng.standard_normal((BLOCK, 1, 1))
        self.storage_noise: F = np.exp(shared + 0.06 * rng.standard_normal(shape) - 0.015)
        self.cpu_noise: F = np.exp(0.04 * rng.standard_normal(shape) - 0.001)
        self.comm_noise: F = np.exp(0.03 * rng.standard_normal(BLOCK))

    def _step(self) -> None:
        index = self.step % BLOCK
        if index == 0:
            self._draw()
        pipe, work = self.pipeline, self.work
        pipe.refresh(self.time)
        begun = self.time
        at = begun[:, None, None]
        got, batch = pipe.take(begun, self.storage_noise[index], self.cpu_noise[index])
        kernel = self.kernel * self.compute_noise[index]
        stretch = pipe.slow * (1.0 + 0.3 * (pipe.thrash - 1.0))
        launch = work.launch * self.parameters["launch"] * stretch * self.launch_noise[index]
        compute = np.maximum(kernel, launch)
        arrive = got + self.copy + compute
        gate = arrive.max(axis=(1, 2))
        hidden = work.overlap * work.compute
        traffic = self.traffic * self.comm_noise[index]
        reduce = traffic * work.exposed + np.maximum(0.0, traffic * (1.0 - work.exposed) - hidden)
        self.time = gate + reduce
        pipe.passed(self.time - begun)
        self.computed += kernel
        self.step += 1
        phases = np.zeros((len(Phase), *self.shape[1:]))
        phases[Phase.FETCH] = got[0] - at[0]
        phases[Phase.COPY] = self.copy[0]
        phases[Phase.COMPUTE] = compute[0]
        phases[Phase.WAIT] = gate[0] - arrive[0]
        phases[Phase.REDUCE] = reduce[0]
        self._record(begun, phases, kernel[0] / compute[0], self.time - begun, -1)
        self.log.batches.append(batch)

    def _record(self, begun: F, phases: F, kernel: F, lengths: F, tag: int) -> None:
        log, pipe = self.log, self.pipeline
        log.start.append(float(begun[0]))
        log.phases.append(phases)
        log.kernel.append(kernel)
        log.lengths.append(lengths)
        log.tag.append(tag)
        log.tick.append(len(log.ticks) - 1)
        working = pipe.busy[0] if tag < 0 else np.zeros(self.shape[1:])
        log.busy.append(working)
        waiting = pipe.data_share[0] + pipe.lookup_share[0]
        log.computing.append(working * np.maximum(0.0, 1.0 - waiting))
        log.reading.append(working * pipe.data_share[0])
        log.slow.append(pipe.slow[0] + 0 * self.bias[:, :1])
        log.ready.append((pipe.ring[:, 0] <= begun[0]).sum(axis=0).astype(np.float64))

    def _event(self, phases: F, cause: str, root: str, lost: float) -> None:
        """An event that takes as long in every variant, on all ranks `phases` summing to the same length."""
        length = float(phases[:, 0, 0].sum())
        begun = self.time
        self.time = begun + length
        entry = (cause, root, lost)
        if entry not in self.log.tags:
            self.log.tags.append(entry)
        kernel = np.ones(self.shape[1:])
        self._record(begun, phases, kernel, self.time - begun, self.log.tags.index(entry))

    def _start(self, length: float, cause: str, root: str) -> None:
        phases = np.zeros((len(Phase), *self.shape[1:]))
        phases[Phase.START] = length
        self._event(phases, cause, root, 1.0)

    def _save(self) -> None:
        value = self.parameters
        rng = np.random.default_rng([self.seed, 3, self.step])
        size = self.work.checkpoint * value.factual("checkpoint")
        store = self.plan.checkpoints or self.plan.storage
        phases = np.zeros((len(Phase), *self.shape[1:]))
        phases[Phase.SAVE_COPY] = size / np.minimum(SAVE, 0.9 * self.link[0])
        client, capacity = (3e9, 3e9) if store is None else (store.client, store.capacity)
        rate = min(client, capacity / self.shape[1]) * value.factual("checkpoint_write")[:, :1]
        written = size.sum(axis=1, keepdims=True)
        seconds = written / rate * np.exp(0.06 * rng.standard_normal(size.shape))
        copied = phases[Phase.SAVE_COPY].max()
        self.log.writes.append((float(self.time[0]) + float(copied), seconds.max(axis=1), written[:, 0]))
        if not self.work.checkpoint_async:
            phases[Phase.SAVE_WRITE] = seconds
        total = phases.sum(axis=0)
        phases[Phase.WAIT] = total.max() - total
        self._event(phases, "checkpoint", "checkpoint", 1.0)

    def _evaluate(self) -> None:
        work = self.work
        length = work.evaluation * float(self.parameters.factual("evaluation")[0, 0])
        phases = np.zeros((len(Phase), *self.shape[1:]))
        rng = np.random.default_rng([self.seed, 4, self.step])
        phases[Phase.EVALUATE] = length * (1.0 - 0.04 * rng.random(self.shape[1:]))
        phases[Phase.WAIT] = length - phases[Phase.EVALUATE]
        self._event(phases, "phase.evaluation", "phase.evaluation", 1.0 - EVALUATION)

    def _hang(self, now: float) -> tuple[int, Fault] | None:
        for index, fault in enumerate(self.plan.faults):
            if "hang" in fault.effects and index not in self.hung and fault.start <= now:
                return index, fault
        return None

    def _die(self, which: tuple[int, Fault], now: float) -> None:
        index, fault = which
        self.hung.add(index)
        self.parameters.update(fault.start)
        self._tick()
        phases = np.zeros((len(Phase), *self.shape[1:]))
        hit = self.parameters.hit(index).reshape(self.shape[1:])
        length = max(1.0, fault.end - now)
        phases[Phase.DEAD] = np.where(hit, length, 0.0)
        phases[Phase.WAIT] = np.where(hit, 0.0, length)
        self._event(phases, fault.cause, fault.cause, 1.0)
        self._tick()
        self._start(RESTART, "idle.startup", fault.cause)


#: Share of a training step's activity that an evaluation reaches: forward passes at small batches.
EVALUATION = 0.55
