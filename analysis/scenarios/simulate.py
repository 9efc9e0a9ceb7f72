"""Runs a scenario: its tables, what really happened, and who was to blame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zlib import crc32

import numpy as np
import polars as pl

from wellfed.analysis.scenarios.artefacts import Artefacts, apply
from wellfed.analysis.scenarios.cluster import WINDOW, Cluster, ClusterPlan
from wellfed.analysis.scenarios.faults import Parameters
from wellfed.analysis.scenarios.kit import Draw, Scenario
from wellfed.analysis.scenarios.truth import CULPRITS, TRUTH
from wellfed.analysis.schema import TS

__all__ = ["END", "Simulation", "culprits", "run", "simulate_plan"]

#: End of a simulation when nobody says otherwise.
END = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
#: Windows simulated at a time; bounds memory.
CHUNK = 60


@dataclass(frozen=True, slots=True)
class Simulation:
    """tables: the catalog's tables by name. truth and culprits: see `truth`. start, end: of the windows."""

    tables: dict[str, pl.DataFrame]
    truth: pl.DataFrame
    culprits: pl.DataFrame
    start: datetime
    end: datetime


def run(
    scenario: Scenario,
    *,
    seed: int,
    gpus: int | None,
    duration: float | None,
    end: datetime | None,
    artefacts: Artefacts | None,
) -> Simulation:
    """One scenario under one seed. gpus: of the main job, in eights."""
    seconds = scenario.duration if duration is None else duration
    hosts = max(1, (scenario.gpus if gpus is None else gpus) // 8)
    mixed = [seed, crc32(scenario.name.encode())]
    draw = Draw(np.random.default_rng(mixed), hosts, seconds)
    plan = scenario.build(draw)
    inner = int(np.random.default_rng([*mixed, 1]).integers(2**31))
    simulation = simulate_plan(plan, inner, seconds, end or END)
    if artefacts is None:
        return simulation
    tables = apply(simulation.tables, artefacts, inner)
    return replace(simulation, tables=tables)


def simulate_plan(plan: ClusterPlan, seed: int, duration: float, end: datetime) -> Simulation:
    """All windows of a cluster at once. end: of the last window, on a multiple of ten seconds."""
    last = np.floor(end.timestamp() / WINDOW) * WINDOW
    windows = int(duration // WINDOW)
    epoch = float(last) - windows * WINDOW
    cluster = Cluster(plan, seed, epoch)
    tables: list[dict[str, pl.DataFrame]] = []
    truths = [pl.DataFrame(schema=TRUTH)]
    for first in range(0, windows, CHUNK):
        found, truth = cluster.advance(min(CHUNK, windows - first))
        tables.append(found)
        truths.append(truth)
    whole = {name: pl.concat([part[name] for part in tables]) for name in tables[0]}
    blamed = culprits(cluster, epoch, windows * WINDOW)
    begin, close = (datetime.fromtimestamp(at, UTC) for at in (epoch, float(last)))
    return Simulation(whole, pl.concat(truths), blamed, begin, close)


def culprits(cluster: Cluster, epoch: float, duration: float) -> pl.DataFrame:
    """The GPUs each fault that hits only some of a job's ranks is to be blamed on."""
    rows: list[dict[str, object]] = []
    for job in cluster.plan.jobs:
        parameters = Parameters(job.faults, job.hosts, job.gpus_each)
        slots = cluster.slots(job)
        for index, fault in enumerate(job.faults):
            hit = parameters.hit(index)
            if hit.all() or fault.start >= duration:
                continue
            for rank in np.flatnonzero(hit):
                rows.append(
                    {
                        "job": job.identity.id,
                        "cause": "straggler" if fault.straggles else fault.cause,
                        "root": fault.cause,
                        "host": cluster.host_of(int(slots[rank])),
                        "gpu": cluster.gpus[int(slots[rank])],
                        "rank": str(rank),
                        "start": (epoch + fault.start) * 1e3,
                        "end": (epoch + min(fault.end, duration, job.end)) * 1e3,
                    }
                )
    if not rows:
        return pl.DataFrame(schema=CULPRITS)
    frame = pl.DataFrame(rows).with_columns(pl.col("start", "end").round().cast(pl.Int64).cast(TS))
    return frame.select(pl.col(name).cast(dtype) for name, dtype in CULPRITS.items())
