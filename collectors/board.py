"""What the sources of one agent tell each other about who holds which device.

Drivers know processes, a scheduler knows what it granted, training loops name their rank and GPU; each writes
its own entry, whole, and `holders` reads them all. No entry is ever changed in place, so no lock is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Board", "Levels", "Rank"]


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank of a training loop as it told itself. gpu, run: "" where it did not say; pid: 0 where unknown;
    found: the job by its process, which differs from `job` where the loop was given a name (WELLFED_JOB).
    """

    job: str
    rank: str
    gpu: str
    pid: int
    found: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class Levels:
    """What another program says of the activity inside GPUs. taken: CLOCK_MONOTONIC. by_gpu: what a counter
    of `gpu` grows by in a second, by column.
    """

    taken: float = 0.0
    by_gpu: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Board:
    """One agent's. held: pids by GPU, by source. granted: jobs by GPU (none = free), by scheduler. about:
    info columns by job, by scheduler. ranks: of the loops heard lately. groups: inode of the control group
    by job; a job that starts again has another. jobs: every job that holds a GPU or reports steps. names:
    what a job is called instead of what was found. devices: (GPU, GPU instance or "") of every GPU and slice
    that the NVIDIA driver knows. unseen: those inside which it cannot look. levels: what a dcgm-exporter says
    of those.
    """

    held: dict[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    granted: dict[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    about: dict[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    ranks: tuple[Rank, ...] = ()
    groups: Mapping[str, int] = field(default_factory=dict)
    jobs: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()
    levels: Levels = field(default_factory=Levels)

    def hold(self, source: str, holders: Mapping[str, Iterable[int]]) -> None:
        """Replaces what one source knows: the processes with a context, by GPU (none is known too)."""
        self.held[source] = {gpu: tuple(pids) for gpu, pids in holders.items()}

    def grant(self, scheduler: str, jobs: Mapping[str, Iterable[str]]) -> None:
        """Replaces what one scheduler says: the jobs of each GPU it manages, several where it is shared."""
        self.granted[scheduler] = {gpu: tuple(sorted(set(found))) for gpu, found in jobs.items()}

    def describe(self, scheduler: str, jobs: Mapping[str, Mapping[str, str]]) -> None:
        """Replaces what one scheduler tells about its jobs: name, user, namespace, queue."""
        self.about[scheduler] = {job: dict(info) for job, info in jobs.items()}

    def info(self, job: str, behind: Iterable[str] = ()) -> dict[str, str]:
        """What schedulers tell about a job. behind: the ids it was found under; a loop's own name is kept."""
        told: dict[str, str] = {}
        for found in (*sorted(behind), job):
            for known in list(self.about.values()):
                told |= known.get(found, {})
        own = any(job in known for known in list(self.about.values()))
        return told if own or not told or job in behind else told | {"name": job}
