"""What processes use, thread by thread: the sums of a tree, and the one thread that is busiest.

Source: /proc/<pid>/stat, task/<tid>/stat, task/<tid>/children, io and environ (proc(5)). Cost: one small
read a process a second and five for each one whose threads are followed; all threads are looked at every ten
seconds. Privilege: none; io and environ of other users' processes need CAP_SYS_PTRACE (root) and are null
without.
"""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from wellfed.collectors.files import count, read

__all__ = [
    "Busiest",
    "Stat",
    "Usage",
    "born",
    "children",
    "environment",
    "launcher",
    "owner",
    "parse_stat",
    "stat",
]

#: Reads between two looks at all threads and all children; and the threads of a process followed between.
LOOK_AGAIN = 10
FOLLOWED = 4
#: A tree larger than this is cut: nobody's loader has as many workers.
MAX_TREE = 2048
MAX_CLIMB = 8
_LAUNCHER = re.compile(
    r"python|pt_|torchrun|accelerate|deepspeed|mpirun|mpiexec|orted|orterun|prted|hydra|ray"
)

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Stat:
    """A process or a thread. started: clock ticks after boot, which with the pid names it for good."""

    name: str
    parent: int
    started: int
    cpu_seconds: float
    memory_bytes: float


def parse_stat(text: bytes) -> Stat:
    """One /proc/<pid>/stat line. The name may hold spaces and parentheses. Raises ValueError."""
    opened, closed = text.find(b"("), text.rfind(b")")
    fields = text[closed + 1 :].split()
    if opened < 0 or closed < opened or len(fields) < 22:
        raise ValueError(f"expected a stat line, found {text[:60]!r}")
    return Stat(
        text[opened + 1 : closed].decode("utf-8", "replace"),
        count(fields[1]),
        count(fields[19]),
        (count(fields[11]) + count(fields[12])) * _TICK,
        float(count(fields[21]) * _PAGE),
    )


def stat(proc: str, pid: int) -> Stat | None:
    """The process, or None when it is gone. Raises ValueError."""
    try:
        return parse_stat(read(f"{proc}/{pid}/stat"))
    except _GONE:
        return None


def launcher(proc: str, pid: int) -> int:
    """The process that started this one's whole job: torchrun, mpirun, a script with spawned workers.

    Climbs while the parent is such a launcher or a Python program, so that eight ranks are one job.
    """
    for _ in range(MAX_CLIMB):
        found = stat(proc, pid)
        parent = stat(proc, found.parent) if found and found.parent > 1 else None
        if found is None or parent is None or not _LAUNCHER.match(parent.name):
            break
        pid = found.parent
    return pid


def environment(proc: str, pid: int, wanted: Collection[str]) -> dict[str, str]:
    """The wanted variables as the process was started with them; none where it may not be looked into.

    Nothing else of an environment is kept: it may hold secrets. What a program sets later is not seen.
    """
    try:
        text = read(f"{proc}/{pid}/environ")
    except OSError:
        return {}
    pairs = (entry.decode("utf-8", "replace").partition("=") for entry in text.split(b"\0"))
    return {name: value[:200] for name, _, value in pairs if name in wanted and value}


def born(proc: str, process: Stat) -> float | None:
    """Epoch of a process's start, to the second; None where /proc/uptime does not tell."""
    try:
        uptime = float(read(f"{proc}/uptime").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return float(round(time.time() - uptime + process.started * _TICK))


def owner(proc: str, pid: int) -> str:
    """The user's name, its number where the name is not known here, "" when the process is gone."""
    try:
        return _user(os.stat(f"{proc}/{pid}").st_uid)
    except _GONE:
        return ""


@lru_cache(maxsize=256)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _numbers(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except _GONE:
        return []


def children(proc: str, pid: int) -> list[int]:
    """What a process started and still runs; none where it is gone or the kernel does not tell."""
    found: list[int] = []
    for thread in _numbers(f"{proc}/{pid}/task"):
        try:
            found += map(int, read(f"{proc}/{pid}/task/{thread}/children").split())
        except OSError:
            # The thread ended, or the kernel was built without the file.
            continue
    return found


def _tree(proc: str, roots: Iterable[int]) -> list[int]:
    found: dict[int, None] = {}
    pending = list(roots)
    while pending and len(found) < MAX_TREE:
        pid = pending.pop()
        if pid not in found:
            found[pid] = None
            pending += children(proc, pid)
    return list(found)


def _bytes(proc: str, pid: int) -> tuple[float, float] | None:
    try:
        pairs = dict(line.split(b": ", 1) for line in read(f"{proc}/{pid}/io").splitlines())
        return float(pairs[b"read_bytes"]), float(pairs[b"write_bytes"])
    except (OSError, KeyError, ValueError):
        return None


@dataclass(slots=True)
class Usage:
    """Sums over a process and all that it started; a worker that ends takes nothing away."""

    cpu_seconds: float = 0.0
    read_bytes: float | None = None
    write_bytes: float | None = None
    memory_bytes: float = 0.0
    processes: int = 0
    _pids: list[int] = field(default_factory=list)
    _cpu: dict[tuple[int, int], float] = field(default_factory=dict)
    _io: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    _reads: int = 0

    def update(self, proc: str, roots: Iterable[int]) -> None:
        """Adds what the tree below `roots` used since the last call. Raises ValueError."""
        if self._reads % LOOK_AGAIN == 0:
            self._pids = _tree(proc, roots)
        self._reads += 1
        cpu: dict[tuple[int, int], float] = {}
        io: dict[tuple[int, int], tuple[float, float]] = {}
        self.memory_bytes = 0.0
        for pid in self._pids:
            found = stat(proc, pid)
            if found is None:
                continue
            key = (pid, found.started)
            cpu[key] = found.cpu_seconds
            self.cpu_seconds += max(0.0, found.cpu_seconds - self._cpu.get(key, 0.0))
            self.memory_bytes += found.memory_bytes
            moved = _bytes(proc, pid)
            if moved is not None:
                io[key] = moved
                was = self._io.get(key, (0.0, 0.0))
                self.read_bytes = (self.read_bytes or 0.0) + max(0.0, moved[0] - was[0])
                self.write_bytes = (self.write_bytes or 0.0) + max(0.0, moved[1] - was[1])
        self.processes = len(cpu)
        self._cpu, self._io = cpu, io


_Thread = tuple[int, int, int]


@dataclass(slots=True)
class Busiest:
    """CPU seconds of whichever thread ran most, read by read: close to wall time means one thread is the
    limit, whatever the other threads do.

    Of each process the threads that ran most between two full looks are followed; one that becomes busy in
    between is missed until the next look.
    """

    seconds: float = 0.0
    _followed: dict[int, list[int]] = field(default_factory=dict)
    _last: dict[_Thread, float] = field(default_factory=dict)
    _base: dict[_Thread, float] = field(default_factory=dict)
    _reads: int = 0

    def update(self, proc: str, pids: Iterable[int]) -> None:
        """Adds the busiest thread's time since the last call. Raises ValueError."""
        everything = self._reads % LOOK_AGAIN == 0
        self._reads += 1
        pids = list(pids)
        now = {
            key: seconds
            for pid in pids
            for thread in (_numbers(f"{proc}/{pid}/task") if everything else self._followed.get(pid, [pid]))
            for key, seconds in _thread(proc, pid, thread)
        }
        self.seconds += max([0.0, *(now[key] - self._last[key] for key in now.keys() & self._last.keys())])
        self._last = now
        if everything:
            ran = sorted(now, key=lambda key: self._base.get(key, 0.0) - now[key])
            self._followed = {pid: [t for p, t, _ in ran if p == pid][:FOLLOWED] for pid in pids}
            followed = {(pid, thread) for pid, threads in self._followed.items() for thread in threads}
            self._last = {key: seconds for key, seconds in now.items() if key[:2] in followed}
            self._base = now


def _thread(proc: str, pid: int, thread: int) -> Iterator[tuple[_Thread, float]]:
    try:
        found = parse_stat(read(f"{proc}/{pid}/task/{thread}/stat"))
    except _GONE:
        return
    yield (pid, thread, found.started), found.cpu_seconds
