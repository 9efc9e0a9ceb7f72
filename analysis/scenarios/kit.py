"""Parts from which scenarios are put together: workloads, storages, and the draw that varies them by seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from wellfed.analysis.scenarios.cluster import ClusterPlan
from wellfed.analysis.scenarios.plan import (
    A100,
    GB,
    KB,
    MB,
    Engine,
    Fault,
    Identity,
    JobPlan,
    Loader,
    Node,
    Session,
    Storage,
    Workload,
)

__all__ = [
    "CHAT",
    "LLM",
    "LUSTRE",
    "NFS",
    "NVME",
    "OBJECT",
    "SMALL",
    "VIDEO",
    "VISION",
    "Draw",
    "Scenario",
    "case",
    "host_names",
]

NFS = Storage(
    "/mnt/datasets", "nfs4", "filer01:/datasets", 1.1e-3, 1.05e6, 3.5e-4, 24 * GB, 6 * GB, slots=512.0
)
LUSTRE = Storage(
    "/lustre/proj", "lustre", "lfs01", 1.6e-3, 1.05e6, 4.5e-4, 60 * GB, 11 * GB, metadata_capacity=90_000.0
)
OBJECT = Storage(
    "s3://corpus", "object", "s3", 2.8e-2, 8 * MB, 1.5e-2, 40 * GB, 9 * GB, streams=4.0, waits_as_io=0.0,
    metadata_capacity=20_000.0,
)  # fmt: skip
NVME = Storage("nvme1n1", "disk", "", 1.2e-4, 256 * KB, 2e-5, 6.2 * GB, 6.2 * GB, slots=1024.0, streams=4.0,
    metadata_capacity=400_000.0, metadata_per_file=0.0)  # fmt: skip

#: A dense language model, sharded data parallel: tiny input, large reductions.
LLM = Workload(
    batch=4, compute=1.05, launch=0.33, copy=1 * MB, sm=0.91, occupancy=0.27, tensor=0.52, dram=0.41,
    reduce=14 * GB, memory=71e9, tokens=32_768, checkpoint=10.5e9, checkpoint_async=True, jitter=0.008,
    loader=Loader(workers=4, sample=33 * KB, cpu=0.002, dataset=2e12),
)  # fmt: skip
#: Image classification from packed records: decode and augmentation on the CPU.
VISION = Workload(
    batch=256, compute=0.31, launch=0.09, copy=77 * MB, sm=0.78, occupancy=0.38, tensor=0.21, dram=0.52,
    reduce=0.2 * GB, memory=42e9, loader=Loader(workers=12, sample=115 * KB, cpu=0.0055, dataset=6e12),
)  # fmt: skip
#: Video or multimodal training: many bytes a sample.
VIDEO = Workload(
    batch=24, compute=0.62, launch=0.16, copy=380 * MB, sm=0.84, occupancy=0.33, tensor=0.38, dram=0.46,
    reduce=2.4 * GB, memory=66e9, loader=Loader(workers=10, sample=5.5 * MB, cpu=0.075, dataset=60e12),
)  # fmt: skip
#: Many small files of a few tens of kilobytes, each opened by itself.
SMALL = Workload(
    batch=384, compute=0.42, launch=0.10, copy=30 * MB, sm=0.72, occupancy=0.35, tensor=0.18, dram=0.48,
    reduce=0.3 * GB, memory=38e9,
    loader=Loader(workers=12, sample=42 * KB, files=1.0, cpu=0.0025, dataset=4e12),
)  # fmt: skip

#: A chat model behind continuous batching.
CHAT = Engine("vllm", "llama-3.1-8b-instruct", rate=9.0)

_NAMES = (
    "llama-pretrain", "vit-sweep", "video-diffusion", "reranker", "mae-l16", "clip-b32", "whisper-ft",
    "moe-32e",
    "detr-tuning", "bert-distil", "dpo-run", "audio-codec", "seg-unet", "tts-v2", "retriever", "codegen-sft",
)  # fmt: skip
_USERS = ("aylin", "bruno", "chen", "dara", "emre", "farah", "goran", "hana", "ivo", "jun", "kofi", "lena")
_TEAMS = ("research", "vision", "speech", "platform", "ads", "robotics")


def host_names(count: int, per_rack: int = 4) -> tuple[str, ...]:
    """Hosts named after rack and place: r01-n01, r01-n02, ..."""
    return tuple(f"r{index // per_rack + 1:02d}-n{index % per_rack + 1:02d}" for index in range(count))


@dataclass(slots=True)
class Draw:
    """Everything about a scenario that depends on the seed.

    hosts: hosts of the main job. duration: seconds.
    """

    rng: np.random.Generator
    hosts: int
    duration: float
    jobs: int = 0

    def vary(self, value: float, by: float = 0.12) -> float:
        """The value, up or down by at most the share `by`."""
        return value * float(self.rng.uniform(1.0 - by, 1.0 + by))

    def pick(self, low: float, high: float) -> float:
        """A value between low and high."""
        return float(self.rng.uniform(low, high))

    def work(self, base: Workload, **changes: float | bool | Loader) -> Workload:
        """A workload of this kind: no two have the same pace."""
        scale = self.pick(0.9, 1.15)
        varied = replace(
            base,
            compute=base.compute * scale,
            launch=base.launch * scale,
            sm=min(0.96, self.vary(base.sm, 0.05)),
            tensor=self.vary(base.tensor, 0.1),
            dram=self.vary(base.dram, 0.08),
        )
        return replace(varied, **changes)  # type: ignore[arg-type]

    def fault(
        self, cause: str, ranks: tuple[int, ...] = (), straggles: bool = False, **effects: float
    ) -> Fault:
        """A fault over the middle of the simulation, from about a third to about four fifths."""
        start = self.pick(0.28, 0.4) * self.duration
        return Fault(
            cause, effects, start, self.pick(0.72, 0.85) * self.duration, ranks=ranks, straggles=straggles
        )

    def job(self, work: Workload | Session | Engine, *faults: Fault, **changes: object) -> JobPlan:
        """A job on the scenario's hosts, named like somebody's."""
        number, self.jobs = self.jobs, self.jobs + 1
        name, user = str(self.rng.choice(_NAMES)), str(self.rng.choice(_USERS))
        team = str(self.rng.choice(_TEAMS))
        if self.rng.random() < 0.5:
            who = Identity(
                f"slurm:{int(self.rng.integers(10_000, 99_999))}{number}",
                name,
                user,
                team,
                "slurm",
                "gpu",
                f"run-{number}",
            )
        else:
            pod = f"{name}-{number}"
            who = Identity(
                f"kubernetes:{team}/{pod}", pod, user, team, "kubernetes", f"{team}-queue", f"run-{number}"
            )
        plan = JobPlan(who, work, hosts=self.hosts, faults=faults)
        return replace(plan, **changes)  # type: ignore[arg-type]

    def ranks(self, host: int, gpus: int = 8) -> tuple[int, ...]:
        """The ranks on one host of the main job."""
        return tuple(range(host * gpus, (host + 1) * gpus))

    def any_rank(self, gpus: int = 8) -> int:
        """One rank of the main job."""
        return int(self.rng.integers(self.hosts * gpus))

    def any_host(self) -> int:
        """One host of the main job."""
        return int(self.rng.integers(self.hosts))

    def cluster(self, *jobs: JobPlan, **changes: object) -> ClusterPlan:
        """The jobs on as many hosts as they need; one time in four hosts of the generation before."""
        count = max(self.hosts, *(job.first_host + job.hosts for job in jobs))
        node = A100 if self.rng.random() < 0.25 else Node()
        return replace(ClusterPlan(host_names(count), jobs, node), **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A situation to simulate. causes: what a good diagnosis names; empty for a healthy one."""

    name: str
    title: str
    description: str
    causes: tuple[str, ...]
    gpus: int
    duration: float
    build: Callable[[Draw], ClusterPlan]

    @property
    def healthy(self) -> bool:
        """Nothing to find here."""
        return not self.causes


def case(
    scenarios: dict[str, Scenario],
    name: str,
    title: str,
    *causes: str,
    gpus: int = 16,
    duration: float = 3600.0,
) -> Callable[[Callable[[Draw], ClusterPlan]], Callable[[Draw], ClusterPlan]]:
    """Registers a builder under `name`; its docstring is the description."""

    def register(build: Callable[[Draw], ClusterPlan]) -> Callable[[Draw], ClusterPlan]:
        text = " ".join((build.__doc__ or "").split())
        scenarios[name] = Scenario(name, title, text, causes, gpus, duration, build)
        return build

    return register
