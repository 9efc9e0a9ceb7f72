"""A mixed cluster to show: healthy jobs beside one of each common trouble, at once or window by window.

The troubles come and go with periods of an hour or two, so that a live view moves for as long as one watches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl

from wellfed.analysis.scenarios.cluster import WINDOW, Cluster, ClusterPlan
from wellfed.analysis.scenarios.kit import (
    CHAT,
    LLM,
    LUSTRE,
    NFS,
    NVME,
    VIDEO,
    VISION,
    Draw,
    host_names,
)
from wellfed.analysis.scenarios.plan import Fault, Identity, JobPlan, Session
from wellfed.analysis.scenarios.simulate import CHUNK, END, Simulation, simulate_plan
from wellfed.errors import UserError

__all__ = ["FleetStream", "fleet", "fleet_plan"]

#: Smallest cluster that has room for one of each.
LEAST = 80
#: Windows simulated ahead of a live view: a pause of a few tens of milliseconds a minute.
AHEAD = 6
_SPINDLE = replace(NFS, name="/mnt/ckpt", server="filer02:/ckpt", client=1.9e9, capacity=9e9)


class _Layout:
    """Hands out hosts from the first on."""

    def __init__(self, hosts: int) -> None:
        self.left, self.next = hosts, 0

    def take(self, share: float, total: int) -> tuple[int, int]:
        """(first host, hosts): a share of the cluster, at least one host."""
        count = max(1, min(self.left, round(share * total)))
        first, self.next, self.left = self.next, self.next + count, self.left - count
        return first, count


def _recurring(
    cause: str, offset: float, every: float, length: float, ranks: tuple[int, ...] = (), **effects: float
) -> Fault:
    """A trouble that is there for `length` of every `every` seconds, first at `offset`."""
    return Fault(
        cause, effects, offset, every=every, length=length, ramp=30.0, ranks=ranks, straggles=bool(ranks)
    )


def fleet_plan(seed: int, gpus: int) -> ClusterPlan:
    """The cluster of a demonstration. gpus: in eights, at least 80."""
    if gpus < LEAST:
        raise UserError(f"a simulated fleet has at least {LEAST} GPUs, not {gpus}")
    total = gpus // 8
    draw = Draw(np.random.default_rng([seed, 301]), 1, 3600.0)
    layout = _Layout(total)
    jobs: list[JobPlan] = []

    def place(share: float, name: str, user: str, namespace: str, job: JobPlan) -> JobPlan:
        first, count = layout.take(share, total)
        slurm = job.identity.kind == "slurm"
        key = job.identity.id if slurm else f"kubernetes:{namespace}/{name}"
        who = Identity(key, name, user, namespace, job.identity.kind, f"{namespace}-queue", f"{name}-1")
        placed = replace(job, identity=who, hosts=count, first_host=first)
        jobs.append(placed)
        return placed

    filer = _recurring("storage.remote", 500.0, 5400.0, 2500.0, capacity=0.055, service=5.0)
    place(0.22, "multimodal-pretrain", "aylin", "research", draw.job(draw.work(VIDEO), filer, storage=NFS))
    hot = _recurring("throttle.thermal", 300.0, 4800.0, 2700.0, ranks=(int(draw.pick(0, 8)),), cooling=3.0)
    place(
        0.18,
        "llama-70b-pretrain",
        "bruno",
        "research",
        draw.job(draw.work(LLM, checkpoint_every=1500.0), hot, storage=LUSTRE),
    )
    saves = draw.work(LLM, checkpoint_every=560.0, checkpoint_async=False)
    place(0.09, "moe-32e", "chen", "platform", draw.job(saves, storage=LUSTRE, checkpoints=_SPINDLE))
    heavy = _recurring("cpu.preprocess", 200.0, 7200.0, 5000.0, cpu_cost=4.6)
    place(1 / total, "vit-augment", "dara", "vision", draw.job(draw.work(VISION), heavy, storage=NFS))
    link = Fault("fabric.congested", {"congestion": 0.8}, 900.0, every=6000.0, length=2100.0, ramp=60.0)
    place(0.13, "dense-40b", "emre", "speech", draw.job(draw.work(LLM, reduce=90e9), link, storage=LUSTRE))
    fan = _recurring("throttle.thermal", 1200.0, 6600.0, 1800.0, cooling=2.6)
    place(1 / total, "tts-v2", "farah", "speech", draw.job(draw.work(VIDEO), fan, storage=NVME))
    chat = place(1 / total, "chat-8b", "goran", "platform", draw.job(replace(CHAT, rate=7.0), gpus_each=4))
    quiet = replace(CHAT, model="qwen2.5-7b-instruct", rate=0.08)
    idle = draw.job(quiet, gpus_each=4, first_host=chat.first_host, first_gpu=4)
    jobs.append(
        replace(
            idle,
            identity=Identity("kubernetes:ads/rank-8b", "rank-8b", "hana", "ads", "kubernetes", "ads-queue"),
        )
    )
    notebooks = layout.take(1 / total, total)[0]
    people = (("ivo", 0.0), ("jun", 0.0), ("kofi", 500.0), ("lena", 0.0))
    for slot, (user, bursts) in enumerate(people):
        held = draw.job(
            Session(memory=draw.pick(12e9, 55e9), bursts=bursts, burst=20.0), gpus_each=1 + (slot == 0)
        )
        who = Identity(
            f"kubernetes:notebooks/{user}", f"notebook-{user}", user, "notebooks", "kubernetes", "interactive"
        )
        jobs.append(replace(held, identity=who, first_host=notebooks, first_gpu=slot + (slot > 0)))
    number = 0
    while layout.left > 0:
        kind = (LLM, VIDEO, LLM)[number % 3]
        share = draw.pick(0.06, 0.16)
        name = ("codegen-sft", "detr-tuning", "dpo-run", "retriever", "bert-distil", "seg-unet")[number % 6]
        job = draw.job(draw.work(kind, checkpoint_every=900.0 if kind is LLM else 0.0), storage=LUSTRE)
        place(share, f"{name}-{number}", ("jun", "kofi", "lena", "aylin")[number % 4], "research", job)
        number += 1
    return ClusterPlan(host_names(total), tuple(jobs), arrays=True)


def fleet(
    *, seed: int = 0, gpus: int = 128, duration: float = 3600.0, end: datetime | None = None
) -> Simulation:
    """A demonstration cluster's tables and truth, all at once. duration: seconds."""
    return simulate_plan(fleet_plan(seed, gpus), seed, duration, end or END)


class FleetStream:
    """The same cluster without an end: its past at once, then one window after another.

    start: end of the window before the first. Deterministic by seed and by the calls made.
    """

    def __init__(self, *, seed: int = 0, gpus: int = 128, start: datetime | None = None) -> None:
        first = np.floor((start or END).timestamp() / WINDOW) * WINDOW
        self._cluster = Cluster(fleet_plan(seed, gpus), seed, float(first))

    @property
    def now(self) -> datetime:
        """End of the last window simulated."""
        return datetime.fromtimestamp(self._cluster.epoch + self._cluster.now, UTC)

    def history(self, duration: float) -> Iterator[dict[str, pl.DataFrame]]:
        """The next `duration` seconds in pieces of ten minutes, to fill a store before going live."""
        windows = int(duration // WINDOW)
        for first in range(0, windows, CHUNK):
            yield self._cluster.advance(min(CHUNK, windows - first))[0]

    def __iter__(self) -> Iterator[dict[str, pl.DataFrame]]:
        """One dict of tables for each ten-second window, for ever; every table of the catalog is present."""
        while True:
            tables, _ = self._cluster.advance(AHEAD)
            parts = {name: table.partition_by("ts", as_dict=True) for name, table in tables.items()}
            for (ts,) in sorted(parts["host"]):
                yield {name: part.get((ts,), tables[name].clear()) for name, part in parts.items()}
