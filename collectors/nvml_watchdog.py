"""Keeps one NVML worker alive: starts it, watches its heartbeat, kills and replaces it when the driver hangs.

What: a worker silent for longer than a driver call may take is killed (SIGKILL) and its successor leaves out
the call on the GPU it hung in, for a minute, then two, up to an hour; everything else goes on. Restarts back
off from one second to a minute. A killed worker that the kernel cannot end is kept on a list; with three of
them no more are started until one goes. Nothing here waits. Cost: one waitpid and 16 bytes of shared memory a
read. Privilege: none.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping

import wellfed
from wellfed.collectors import nvml_page
from wellfed.collectors.nvml_page import OPENING, Snapshot
from wellfed.collectors.processes import stat
from wellfed.collectors.registry import Roots

__all__ = ["Watchdog"]

#: Exit code of a worker that wants to be started again at once (nvml_worker.REOPEN).
_REOPEN = 72
_LONGEST_BACKOFF = 60.0
_LONGEST_SKIP = 3600.0
_LONGEST_REOPEN = 600.0
_LONGEST_CLOSE = 0.5
_MOST_UNDEAD = 3
_HANG_REMEDY = "look for NVRM and Xid in dmesg; a hung GPU needs a reset or a reboot"


class _Process:
    """A worker and its page."""

    def __init__(self, settings: dict[str, object], environment: Mapping[str, str], now: float) -> None:
        root = os.path.dirname(os.path.dirname(os.path.abspath(wellfed.__file__)))
        path = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        page = nvml_page.create()
        try:
            argument = json.dumps(settings | {"page": page})
            # -P: whoever owns the current directory must not choose what a privileged agent imports.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wellfed.collectors.nvml_worker", argument],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(environment) | {"PYTHONPATH": path},
                pass_fds=(page,),
            )
            self.page = nvml_page.Reader(page)
        finally:
            os.close(page)
        self.started = now

    def end(self) -> bool:
        """Kills it, without waiting. False while the kernel still holds it."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        return self.process.poll() is not None


class Watchdog:
    """The worker of one collector.

    hang: seconds a driver call may take; opening: the same for calls that initialise a GPU (seconds each
    without persistence mode). tick, period: see nvml_worker. retry: factor on every back-off, for impatient
    tests.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        hang: float = 5.0,
        opening: float = 30.0,
        tick: float = 1.0,
        period: float = 0.11,
        retry: float = 1.0,
    ) -> None:
        self.reason = ""
        self.remedy = ""
        self.stuck = False
        #: Counts the workers started so far.
        self.generation = 0
        self._environment = environment
        self._hang = hang
        self._opening = opening
        self._tick = tick
        self._period = period
        self._retry = retry
        self._worker: _Process | None = None
        self._left: tuple[int, Snapshot] | None = None
        self._undead: list[_Process] = []
        self._skip: dict[tuple[int, str], tuple[float, float]] = {}
        self._backoff = retry
        self._reopen = 10.0 * retry
        self._next_start = 0.0
        self._looked_at = 0
        self._ended_seconds = self._worker_seconds = 0.0

    @property
    def running(self) -> bool:
        """Whether there is a worker now."""
        return self._worker is not None

    @property
    def starting(self) -> bool:
        """Whether a worker runs that has no rows yet."""
        return self._worker is not None and self._worker.page.snapshot() is None

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all workers so far, as far as it was looked at while they ran."""
        found = stat("/proc", self._worker.process.pid) if self._worker is not None else None
        if found is not None:
            if found.started != self._looked_at:
                self._ended_seconds += self._worker_seconds
                self._looked_at = found.started
            self._worker_seconds = found.cpu_seconds
        return self._ended_seconds + self._worker_seconds

    def snapshot(self) -> tuple[int, Snapshot] | None:
        """The newest rows and the worker they are from: the one that runs, or one that left by itself."""
        snapshot = self._worker.page.snapshot() if self._worker is not None else None
        if snapshot is None:
            return self._left
        self._left = None
        self.stuck = bool(self._undead)
        if not snapshot.text["broken"]:
            self._reopen = 10.0 * self._retry
        return self.generation, snapshot

    def supervise(self, roots: Roots, now: float) -> None:
        """Starts, checks, kills or buries the worker. now: time.monotonic()."""
        self._undead = [worker for worker in self._undead if not worker.end()]
        if self._worker is None:
            if now >= self._next_start:
                self._start(roots, now)
            return
        worker = self._worker
        code = worker.process.poll()
        if code is not None:
            self._ended(worker, code, now)
            return
        beat, number, call = worker.page.position()
        silent = now - max(beat, worker.started)
        if silent > (self._opening if call in OPENING else self._hang):
            self._hung(worker, number, call, now)
        elif now - worker.started > _LONGEST_BACKOFF * self._retry:
            self._backoff = self._retry
        elif silent > 1.0 or not beat:
            self.reason, self.remedy = f"the NVML worker is in {_where(number, call)} for {silent:.0f} s", ""

    def close(self) -> None:
        """Kills the worker and does not start another. Waits half a second at most for its end."""
        self._next_start = float("inf")
        deadline = time.monotonic() + _LONGEST_CLOSE
        for worker in [*self._undead, *filter(None, [self._worker])]:
            worker.end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        self._worker = None

    def _start(self, roots: Roots, now: float) -> None:
        if len(self._undead) >= _MOST_UNDEAD:
            self.reason = f"{len(self._undead)} workers hang in the NVIDIA driver and cannot be killed"
            self.remedy = _HANG_REMEDY
            return
        self._skip = {key: (until, wait) for key, (until, wait) in self._skip.items() if now < until + wait}
        settings: dict[str, object] = {
            "sys": roots.sys,
            "proc": roots.proc,
            "tick": self._tick,
            "period": self._period,
            "retry": self._retry,
            "reopen": self._reopen,
            "skip": [[*key, until - now] for key, (until, _) in self._skip.items() if now < until],
        }
        self._worker = _Process(settings, self._environment, now)
        self.generation += 1

    def _ended(self, worker: _Process, code: int, now: float) -> None:
        worker.end()
        self._worker = None
        if code == _REOPEN:
            last = worker.page.snapshot()
            self._left = (self.generation, last) if last is not None else None
            self._next_start = now
            self._reopen = min(self._reopen * 2, _LONGEST_REOPEN * self._retry)
            return
        problems = worker.page.text()["problems"]
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.reason, self.remedy = problems[0] if problems else (f"the NVML worker died: {cause}", "")
        self._back_off(now)

    def _hung(self, worker: _Process, number: int, call: str, now: float) -> None:
        self.stuck = True
        self._left = None
        self.reason = f"the NVIDIA driver hangs in {_where(number, call)}: worker killed"
        self.remedy = _HANG_REMEDY
        if number >= 0:
            _, before = self._skip.get((number, call), (0.0, 0.0))
            wait = min(max(before * 2, 60.0 * self._retry), _LONGEST_SKIP)
            self._skip[number, call] = (now + wait, wait)
        if not worker.end():
            self._undead.append(worker)
        self._worker = None
        self._back_off(now)

    def _back_off(self, now: float) -> None:
        self._next_start = now + self._backoff
        self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF * self._retry)


def _where(number: int, call: str) -> str:
    return call if number < 0 else f"{call} on GPU {number}"
