"""Which job and rank hold each GPU, and what the holding processes use.

What: job, rank and allocated of `gpu`; run, gpus and main_thread_seconds of `job`; whole `job` rows for
processes outside every control group of a job (`process:<pid>`). Source: what drivers, schedulers and
training loops put on the board, and /proc. A scheduler's word comes before the processes', a process is named
by its cgroup, and nothing is ever matched by ordinal. Run and rank come from the loop itself, else from an
allow-list of the variables that the holding process was started with. Cost: 0.4 ms a read with 8 GPUs.
Privilege: none; in a container the host's process ids must be visible (hostPID), and variables of other
users' processes are readable for root alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from wellfed.collectors.cgroup import job_of
from wellfed.collectors.processes import Busiest, Stat, Usage, born, environment, launcher, owner, stat
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Holders"]

#: Reads after which a process is asked for its cgroup again: Slurm moves them after their start.
ASK_AGAIN = 10
_SCHEDULED = ("kubernetes:", "slurm:")
_WITH_CGROUP = {"kubernetes", "slurm", "docker", "systemd"}
#: Variables that name an experiment's run and a process's rank, the most specific first.
RUN = (
    "WELLFED_RUN",
    "MLFLOW_RUN_ID",
    "WANDB_RUN_ID",
    "COMET_EXPERIMENT_KEY",
    "NEPTUNE_CUSTOM_RUN_ID",
    "CLEARML_TASK_ID",
)
RANK = ("WELLFED_RANK", "RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "JAX_PROCESS_ID")


@dataclass(slots=True)
class _Job:
    """What runs of a job here. holders: its processes with a GPU; loops: those that report steps."""

    gpus: set[str] = field(default_factory=set)
    holders: set[int] = field(default_factory=set)
    loops: set[int] = field(default_factory=set)
    runs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Process:
    """A process with a GPU. run, rank: "" where its variables do not tell, or may not be read."""

    stat: Stat
    job: str
    run: str = ""
    rank: str = ""


@dataclass(slots=True)
class _Used:
    busiest: Busiest = field(default_factory=Busiest)
    usage: Usage = field(default_factory=Usage)
    #: The first process's start, in ticks after boot and as epoch.
    ticks: int | None = None
    started: float | None = None


@register
class Holders:
    """Joins what the board's writers know, by GPU and by job."""

    name = "holders"
    interval = 1.0
    deadline = 2.0
    tables = ("gpu", "job")

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._known: dict[int, _Process] = {}
        self._used: dict[str, _Used] = {}
        self._reads = 0

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a GPU that somebody holds or a scheduler manages, one a job."""
        board = roots.board
        held = {gpu: pids for source in list(board.held.values()) for gpu, pids in source.items()}
        granted = {gpu: jobs for source in list(board.granted.values()) for gpu, jobs in source.items()}
        processes = self._alive(roots, {pid for pids in held.values() for pid in pids})
        self._reads += 1
        names = {rank.found: rank.job for rank in board.ranks if rank.found not in ("", rank.job)}
        jobs: defaultdict[str, _Job] = defaultdict(_Job)
        rows = []
        for gpu in held.keys() | granted.keys():
            holding = {pid: processes[pid] for pid in held.get(gpu, ()) if pid in processes}
            rank = next((r for r in board.ranks if r.gpu == gpu or r.pid in holding), None)
            found = _first(holding)
            job = _owner(granted.get(gpu, ()), found, names) or (rank.found or rank.job if rank else "")
            job = names.get(job, job)
            allocated = float(bool(granted[gpu])) if gpu in granted else _scheduled(found)
            if job:
                jobs[job].gpus.add(gpu)
                jobs[job].holders |= holding.keys()
                jobs[job].runs += [p.run for p in holding.values() if p.run]
            if job or allocated is not None:
                ranks = [rank.rank] if rank else [p.rank for p in holding.values() if p.rank]
                info = {"job": job} | ({"rank": ranks[0]} if ranks else {})
                rows.append(Row("gpu", (gpu,), {"allocated": allocated}, info))
        for rank in board.ranks:
            jobs[rank.job].loops |= {rank.pid} if rank.pid else set()
            jobs[rank.job].runs[:0] = [rank.run] if rank.run else []
        board.names = names
        board.jobs = frozenset(jobs) | names.keys()
        self._used = {job: self._used.get(job) or _Used() for job in jobs}
        rows += [self._row(roots, job, jobs[job]) for job in jobs]
        self._explain(
            roots, bool(rows), [g for g, ps in held.items() if ps and not processes.keys() & set(ps)]
        )
        return rows

    def _explain(self, roots: Roots, any_rows: bool, unseen: list[str]) -> None:
        self.reason = "" if any_rows else "no process holds a GPU and no training loop reports"
        self.remedy = ""
        if unseen:
            self.reason = f"{len(unseen)} GPUs are held by processes that are not in {roots.proc}"
            self.remedy = "let the agent see the host's processes (hostPID: true, or --procfs of the host)"

    def _alive(self, roots: Roots, pids: set[int]) -> dict[int, _Process]:
        """Each process that still runs with its job, asked once a process and again now and then."""
        known, self._known = self._known, {}
        for pid in pids:
            found = stat(roots.proc, pid)
            if found is None:
                continue
            process = known.get(pid)
            if process is None or process.stat.started != found.started or self._reads % ASK_AGAIN == 0:
                process = _ask(roots, pid, found)
            self._known[pid] = process
        return self._known

    def _row(self, roots: Roots, job: str, found: _Job) -> Row:
        used = self._used[job]
        pids = found.holders or found.loops
        values: dict[str, float | None] = {"gpus": float(len(found.gpus))}
        # A job that was given a name is of the kind its cgroup tells.
        behind = {own for own, name in roots.board.names.items() if name == job} or {job}
        kinds = {own.partition(":")[0] for own in behind}
        info = {"run": found.runs[0]} if found.runs else {}
        if pids:
            used.busiest.update(roots.proc, pids)
            values["main_thread_seconds"] = used.busiest.seconds
            if kinds & {"process", "slurm"}:
                info["user"] = owner(roots.proc, min(pids))
            if not kinds & _WITH_CGROUP:
                first = stat(roots.proc, min(pids))
                plain = job.startswith("process:") and first is not None
                info |= {"kind": "process", "name": first.name if plain and first else job}
                if first and first.started != used.ticks:
                    used.ticks, used.started = first.started, born(roots.proc, first)
                values |= _tree(roots, used.usage, pids) | {"started_seconds": used.started}
        return Row("job", (job,), values, info | roots.board.info(job, behind))


def _ask(roots: Roots, pid: int, found: Stat) -> _Process:
    job = job_of(roots, pid) or f"process:{launcher(roots.proc, pid)}"
    variables = environment(roots.proc, pid, (*RUN, *RANK))
    run, rank = (next((variables[n] for n in names if n in variables), "") for names in (RUN, RANK))
    return _Process(found, job, run, rank)


def _owner(granted: tuple[str, ...], found: str, names: dict[str, str]) -> str:
    """The job of a GPU. Of several that share it the one whose process is on it, else the first by id.

    A pod whose uid nobody tells is `kubernetes:<namespace>/<pod>`: its process on the GPU gives it away.
    """
    if not granted:
        return found
    nameless = [job for job in granted if job.startswith("kubernetes:") and "/" in job]
    if len(granted) == len(nameless) == 1 and found.startswith("kubernetes:"):
        names.setdefault(found, nameless[0])
    return found if found in granted else granted[0]


def _first(holding: Mapping[int, _Process]) -> str:
    """The job of the process that came first, "" for none: several may share one GPU."""
    return min((p.stat.started, pid, p.job) for pid, p in holding.items())[2] if holding else ""


def _scheduled(job: str) -> float | None:
    """1 for a job that only a scheduler starts, None where nobody says."""
    return 1.0 if job.startswith(_SCHEDULED) else None


def _tree(roots: Roots, usage: Usage, pids: set[int]) -> dict[str, float | None]:
    usage.update(roots.proc, pids)
    return {
        "cpu_usage_seconds": usage.cpu_seconds,
        "io_read_bytes": usage.read_bytes,
        "io_write_bytes": usage.write_bytes,
        "memory_bytes": usage.memory_bytes,
        "processes": float(usage.processes),
    }
