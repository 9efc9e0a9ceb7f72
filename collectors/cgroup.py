"""Jobs on this node by their control groups: who they are, and what they use and wait for.

Source: /proc/<pid>/cgroup for the path, /sys/fs/cgroup for the numbers
(Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/). Cost: a listing every ten seconds and five small reads
a job a second. Privilege: none; other users' environments are not read here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from wellfed.collectors.board import Board
from wellfed.collectors.files import read
from wellfed.collectors.pressure import parse as parse_pressure
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Cgroup", "Identity", "identify", "job_of", "parse_membership"]

#: Seconds between two walks of the tree for new and ended jobs.
WALK_INTERVAL = 10.0
#: Folders deeper than this belong to a job already found.
MAX_DEPTH = 8
MAX_JOBS = 2000

_POD = re.compile(r"(?:^|[/-])pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
#: Several slurmd on one machine put the node's name into their roots.
_SLURM = re.compile(
    r"/(?:[^/]+_slurmstepd\.scope|slurm(?:stepd\.scope|_[^/]+)?)(?:/uid_\d+)?/job_(\d+)(?:/step_([^/]+))?"
)
_DOCKER = re.compile(r"(?:/docker/|/docker-)([0-9a-f]{64})")
_UNIT = re.compile(r"/([^/]+\.(?:service|scope))(?=/|$)")
#: systemd units that hold the machine or a login, not a job.
_SYSTEM = re.compile(r"^(init|session-.*|user@\d+|slurmstepd|systemd-.*|dbus.*|user-runtime-dir@.*)\.")


@dataclass(frozen=True, slots=True)
class Identity:
    """A job: its id (`kubernetes:<pod uid>`, `slurm:<job>`), its kind, and the cgroup that is all of it."""

    job: str
    kind: str
    path: str


def identify(path: str) -> Identity | None:
    """Who a cgroup path belongs to, or None for the machine's own.

    Understands cgroupfs and systemd drivers of containerd, CRI-O and Docker, Slurm's v1 and v2 trees, plain
    Docker and systemd units. A container of a pod belongs to the pod.
    """
    slurm = _SLURM.search(path)
    if slurm is not None:
        end = slurm.end() if slurm[2] is None else slurm.start(2) - len("/step_")
        return Identity(f"slurm:{slurm[1]}", "slurm", path[:end])
    pod = _POD.search(path)
    if pod is not None:
        end = path.find("/", pod.end())
        return Identity(
            f"kubernetes:{pod[1].replace('_', '-')}", "kubernetes", path if end < 0 else path[:end]
        )
    docker = _DOCKER.search(path)
    if docker is not None:
        end = path.find("/", docker.end())
        return Identity(f"docker:{docker[1][:12]}", "docker", path if end < 0 else path[:end])
    for unit in reversed(list(_UNIT.finditer(path))):
        if not _SYSTEM.match(unit[1]):
            return Identity(f"systemd:{unit[1]}", "systemd", path[: unit.end()])
    return None


def parse_membership(text: bytes) -> str | None:
    """The path of a process from /proc/<pid>/cgroup: v2's, else v1's cpu or memory one. Raises ValueError."""
    v1 = None
    for line in text.decode("utf-8", "replace").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            raise ValueError(f"expected `id:controllers:path`, found {line[:60]!r}")
        if parts[1] == "" and parts[2] != "/":
            return parts[2]
        if {"cpu", "memory", "devices"} & set(parts[1].split(",")) and parts[2] != "/":
            v1 = v1 or parts[2]
    return v1


def job_of(roots: Roots, pid: int) -> str | None:
    """The job of a process, or None: not in one, or gone. Raises ValueError on a broken file."""
    try:
        path = parse_membership(read(f"{roots.proc}/{pid}/cgroup"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    identity = identify(path) if path else None
    return identity.job if identity else None


@dataclass(slots=True)
class _Job:
    identity: Identity
    inode: int = 0
    folders: dict[str, str] = field(default_factory=dict)
    started: float = 0.0


@register
class Cgroup:
    """Fills `job` for every job with a cgroup of its own."""

    name = "cgroup"
    interval = 1.0
    deadline = 2.0
    tables = ("job",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._jobs: Mapping[str, _Job] = {}
        self._walked = float("-inf")

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a job."""
        root = f"{roots.sys}/fs/cgroup"
        if time.monotonic() - self._walked >= WALK_INTERVAL:
            self._jobs = _walk(root, roots.board.jobs)
            self._walked = time.monotonic()
            roots.board.groups = {job: found.inode for job, found in self._jobs.items()}
        rows = [row for job in self._jobs.values() if (row := _row(job, roots.board)) is not None]
        self.reason = (
            "" if rows else f"no job below {root}: no pod, Slurm job, container or service unit of its own"
        )
        self.remedy = "" if rows or os.path.isdir(root) else f"mount the host's cgroup tree at {root}"
        return rows


def _walk(root: str, wanted: Set[str]) -> dict[str, _Job]:
    """All jobs below root; of systemd's units only the wanted ones, the rest runs the machine."""
    jobs: dict[str, _Job] = {}
    unified = os.path.exists(f"{root}/cgroup.controllers")
    trees = (
        {"": root}
        if unified
        else {c: f"{root}/{c}" for c in ("cpu", "memory", "blkio") if os.path.isdir(f"{root}/{c}")}
    )
    for controller, tree in trees.items():
        pending = [("", 0)]
        while pending and len(jobs) < MAX_JOBS:
            path, depth = pending.pop()
            identity = identify(path) if path else None
            if identity is not None and identity.path == path:
                if identity.kind != "systemd" or identity.job in wanted:
                    job = jobs.setdefault(identity.job, _Job(identity, _inode(tree + path)))
                    job.folders.setdefault(controller, tree + path)
                continue
            if depth < MAX_DEPTH:
                pending += [(f"{path}/{name}", depth + 1) for name in _folders(tree + path)]
    return jobs


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _row(job: _Job, board: Board) -> Row | None:
    values: dict[str, float | None] = {}
    for controller, folder in job.folders.items():
        try:
            values |= _unified(folder) if controller == "" else _legacy(controller, folder)
            if not job.started:
                job.started = os.stat(folder).st_ctime
        except (FileNotFoundError, NotADirectoryError):
            # The job ended between the walk and now.
            return None
    if not values:
        return None
    values["started_seconds"] = job.started
    identity = job.identity
    job_id = board.names.get(identity.job, identity.job)
    info = {"kind": identity.kind, "name": job_id.partition(":")[2] or job_id}
    return Row("job", (job_id,), values, info | board.info(job_id, {identity.job}))


def _unified(folder: str) -> dict[str, float | None]:
    cpu = _pairs(read(f"{folder}/cpu.stat"), folder)
    values: dict[str, float | None] = {"cpu_usage_seconds": cpu.get("usage_usec", 0) / 1e6}
    if "throttled_usec" in cpu:
        values["cpu_throttled_seconds"] = cpu["throttled_usec"] / 1e6
    values["cpu_limit"] = _quota(_optional(f"{folder}/cpu.max"))
    values["memory_bytes"] = _number(_optional(f"{folder}/memory.current"))
    values["memory_limit_bytes"] = _number(_optional(f"{folder}/memory.max"))
    values["processes"] = _number(_optional(f"{folder}/pids.current"))
    for resource, line in (("cpu", "some"), ("io", "some"), ("memory", "full")):
        text = _optional(f"{folder}/{resource}.pressure")
        if text:
            values[f"psi_{resource}_{line}_seconds"] = parse_pressure(text).get(line)
    io = _optional(f"{folder}/io.stat")
    if io is not None:
        values["io_read_bytes"], values["io_write_bytes"] = _io(io)
    return values


def _legacy(controller: str, folder: str) -> dict[str, float | None]:
    if controller == "cpu":
        values: dict[str, float | None] = {}
        usage = _number(_optional(f"{folder}/cpuacct.usage"))
        values["cpu_usage_seconds"] = None if usage is None else usage / 1e9
        stat = _pairs(_optional(f"{folder}/cpu.stat") or b"", folder)
        if "throttled_time" in stat:
            values["cpu_throttled_seconds"] = stat["throttled_time"] / 1e9
        quota, period = (_number(_optional(f"{folder}/cpu.cfs_{x}_us")) for x in ("quota", "period"))
        values["cpu_limit"] = quota / period if quota and period and quota > 0 else None
        return values
    if controller == "memory":
        limit = _number(_optional(f"{folder}/memory.limit_in_bytes"))
        return {
            "memory_bytes": _number(_optional(f"{folder}/memory.usage_in_bytes")),
            # "No limit" is the largest page-aligned 63-bit number.
            "memory_limit_bytes": limit if limit is not None and limit < 2**60 else None,
        }
    read_bytes = written = 0.0
    text = _optional(f"{folder}/blkio.throttle.io_service_bytes_recursive")
    if text is None:
        return {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in (b"Read", b"Write"):
            if fields[1] == b"Read":
                read_bytes += int(fields[2])
            else:
                written += int(fields[2])
    return {"io_read_bytes": read_bytes, "io_write_bytes": written}


def _optional(path: str) -> bytes | None:
    try:
        return read(path)
    except OSError:
        # Not every controller is enabled for every job, and PSI may be off (EOPNOTSUPP).
        return None


def _pairs(text: bytes, where: str) -> dict[str, int]:
    try:
        return {
            name.decode(): int(value)
            for name, _, value in (line.partition(b" ") for line in text.splitlines())
        }
    except ValueError as error:
        raise ValueError(f"{where}/cpu.stat: {error}") from error


def _number(text: bytes | None) -> float | None:
    stripped = (text or b"").strip()
    return float(stripped) if stripped.lstrip(b"-").isdigit() else None


def _quota(text: bytes | None) -> float | None:
    quota, _, period = (text or b"").strip().partition(b" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _io(text: bytes) -> tuple[float, float]:
    read_bytes = written = 0.0
    for line in text.splitlines():
        for pair in line.split()[1:]:
            name, _, value = pair.partition(b"=")
            if name == b"rbytes":
                read_bytes += int(value)
            elif name == b"wbytes":
                written += int(value)
    return read_bytes, written
