"""Times a training loop from inside: what each step waited for, sent to the agent once a second.

    for batch in wellfed.watch(loader):
        with wellfed.step(samples=len(batch)):
            with wellfed.phase("h2d"):
                batch = batch.to(device)
            train(batch)

Works on any iterable and without torch. On a GPU, phases are timed by CUDA events from a pool that are
polled and never synchronised. Nothing here blocks or raises into the loop: a missing agent costs one failed
send a second on a background thread. A step costs below 5 us (bench/watch.py).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["PHASES", "Watched", "identity", "phase", "socket_paths", "spent", "step", "totals", "watch"]

#: Parts of a step that can be timed on their own. data_wait is timed by `watch`; the rest is compute.
PHASES = ("data_wait", "h2d", "comm", "checkpoint", "eval")
#: Seconds between two datagrams.
INTERVAL = 1.0
#: Most CUDA events kept; beyond it a phase is timed on the CPU's clock instead.
MAX_EVENTS = 512

#: Environment that tells a process its rank, most specific first.
_RANK = ("WELLFED_RANK", "RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "JAX_PROCESS_ID")
_RUN = ("WELLFED_RUN", "MLFLOW_RUN_ID", "WANDB_RUN_ID")

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


def socket_paths() -> list[str]:
    """Where the agent may listen, in the order in which they are tried."""
    named = os.environ.get("WELLFED_SOCKET")
    if named:
        return [named]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = os.path.join(runtime, "wellfed") if runtime else f"/tmp/wellfed-{os.getuid()}"  # noqa: S108
    return ["/run/wellfed/steps.sock", os.path.join(own, "steps.sock")]


class _Event(Protocol):
    def record(self) -> None: ...
    def query(self) -> bool: ...
    def elapsed_time(self, end: Any) -> float: ...


class _Recorder:
    """The totals of this process. The loop's thread writes them; the sender's thread only reads.

    Everything is cumulative. What is still open, a wait or a step of a minute, is added when a datagram is
    made, so a loop that hangs on its loader is seen while it hangs; and no total ever falls.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.compute = 0.0
        self.step_seconds = 0.0
        self.steps = 0
        self.samples = 0
        self.tokens = 0
        self.queue: Any = None
        self.open: tuple[str, float] | None = None
        self.last: float | None = None
        self.body: float | None = None
        self.inside = 0.0
        self.explicit = False
        self.gpu = ""
        self._highest: dict[str, float] = {}
        self._pending: deque[tuple[str, _Event, _Event]] = deque()
        self._pool: list[_Event] = []
        self._socket: socket.socket | None = None
        self._pid = 0

    def start(self) -> None:
        """Starts the sender once a process; a forked child starts its own."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            with contextlib.suppress(Exception):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
                atexit.register(self.send)
                threading.Thread(target=self._send_forever, name="wellfed-watch", daemon=True).start()

    def end_step(self, now: float, samples: int, tokens: int) -> None:
        self.steps += 1
        # The current device is the loop's thread's own: the sender's would be the first GPU.
        if not self.gpu and self.steps & (self.steps - 1) == 0:
            self.gpu = _gpu()
        self.samples += samples
        self.tokens += tokens
        if self.last is not None:
            self.step_seconds += now - self.last
        self.last = now

    def events(self) -> tuple[_Event, _Event] | None:
        """Two CUDA events, or None without CUDA or when the GPU is too far behind to time more."""
        torch = sys.modules.get("torch")
        if torch is None or len(self._pending) * 2 >= MAX_EVENTS:
            return None
        if not torch.cuda.is_initialized():
            return None
        while len(self._pool) < 2:
            self._pool.append(torch.cuda.Event(enable_timing=True))
        return self._pool.pop(), self._pool.pop()

    def pend(self, name: str, begin: _Event, end: _Event) -> None:
        self._pending.append((name, begin, end))
        while self._pending and self._pending[0][2].query():
            done, first, last = self._pending.popleft()
            self.seconds[done] += first.elapsed_time(last) / 1000.0
            self._pool += (first, last)

    def totals(self) -> dict[str, float | int | None]:
        """Cumulative columns of the `step` table, as of now."""
        seconds = {f"{name}_seconds": value for name, value in self.seconds.items()}
        opened, body, last, now = self.open, self.body, self.last, time.perf_counter()
        running = max(0.0, now - opened[1]) if opened is not None else 0.0
        if opened is not None:
            seconds[f"{opened[0]}_seconds"] += running
        seconds["compute_seconds"] = self.compute
        if body is not None:
            seconds["compute_seconds"] += max(0.0, now - body - self.inside - running)
        seconds["step_seconds"] = self.step_seconds
        if last is not None and (opened is not None or body is not None):
            seconds["step_seconds"] += max(0.0, now - last)
        # The loop goes on while this is read, and time outside of steps is theirs only with the next one.
        self._highest = {name: max(value, self._highest.get(name, 0.0)) for name, value in seconds.items()}
        depth = None
        with contextlib.suppress(Exception):
            depth = float(self.queue()) if self.queue is not None else None
        return {
            "steps": self.steps,
            "samples": self.samples,
            "tokens": self.tokens,
            **self._highest,
            "queue_depth": depth,
        }

    def _send_forever(self) -> None:
        wake = threading.Event()
        while True:
            wake.wait(INTERVAL)
            self.send()

    def send(self) -> None:
        """One datagram to the first agent found; nothing when there is none."""
        with contextlib.suppress(Exception):
            payload = json.dumps({**identity(), **self.totals()}).encode()
            for path in socket_paths():
                with contextlib.suppress(OSError):
                    assert self._socket is not None
                    self._socket.sendto(payload, path)
                    return


def identity() -> dict[str, str | int]:
    """What a datagram says beside the totals: version, pid, rank, and job, run and gpu where known."""
    environ = os.environ
    out: dict[str, str | int] = {"version": 1, "pid": os.getpid()}
    out["rank"] = next((environ[name] for name in _RANK if environ.get(name)), "0")
    if environ.get("WELLFED_JOB"):
        out["job"] = environ["WELLFED_JOB"]
    run = next((environ[name] for name in _RUN if environ.get(name)), "") or _active_run()
    if run:
        out["run"] = run
    if _recorder.gpu:
        out["gpu"] = _recorder.gpu
    return out


def _active_run() -> str:
    """The run that wandb or mlflow has open, if the loop uses one."""
    with contextlib.suppress(Exception):
        wandb: Any = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            return str(wandb.run.id)
        mlflow: Any = sys.modules.get("mlflow")
        if mlflow is not None and mlflow.active_run() is not None:
            return str(mlflow.active_run().info.run_id)
    return ""


def _gpu() -> str:
    """`GPU-<uuid>` of the current CUDA device, "" without one or where torch does not tell."""
    with contextlib.suppress(Exception):
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
            return f"GPU-{uuid}"
    return ""


_recorder = _Recorder()


class Watched(Generic[_T_co]):
    """An iterable that times how long its consumer waits for each item. len() and attributes pass through."""

    def __init__(self, iterable: Iterable[_T_co]) -> None:
        self._iterable = iterable

    def __iter__(self) -> Iterator[_T_co]:
        recorder = _recorder
        recorder.start()
        clock = time.perf_counter
        source = iter(self._iterable)
        recorder.last = recorder.last or clock()
        while True:
            if recorder.open is not None:
                # A loop inside a phase, such as an evaluation, is part of that phase.
                try:
                    item = next(source)
                except StopIteration:
                    return
                yield item
                continue
            begin = clock()
            recorder.open = ("data_wait", begin)
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                now = clock()
                recorder.seconds["data_wait"] += now - begin
                recorder.open = None
            recorder.explicit = False
            recorder.inside = 0.0
            recorder.body = now
            try:
                yield item
            finally:
                recorder.body = None
            if not recorder.explicit:
                end = clock()
                recorder.compute += end - now - recorder.inside
                recorder.end_step(end, 1, 0)

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterable, name)


def watch(iterable: Iterable[_T], queue_depth: Any = None) -> Watched[_T]:
    """Times the waits for each item of a loader, and each turn of the loop as one step.

    queue_depth: a callable that tells how many batches are ready, where the loader has one.
    """
    if queue_depth is not None:
        _recorder.queue = queue_depth
    return Watched(iterable)


class step:  # noqa: N801
    """One training step: `with wellfed.step(samples=256, tokens=0):`. What no phase covers is compute."""

    __slots__ = ("_begin", "_samples", "_tokens")

    def __init__(self, samples: int = 1, tokens: int = 0) -> None:
        self._samples = samples if samples.__class__ is int and samples >= 0 else _whole(samples)
        self._tokens = tokens if tokens.__class__ is int and tokens >= 0 else _whole(tokens)
        self._begin = 0.0

    def __enter__(self) -> None:
        recorder = _recorder
        if recorder.open is not None:
            self._begin = -1.0
            return
        recorder.start()
        recorder.explicit = True
        recorder.inside = 0.0
        self._begin = recorder.body = time.perf_counter()
        if recorder.last is None:
            recorder.last = self._begin

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begin < 0:
            return
        now = time.perf_counter()
        _recorder.body = None
        _recorder.compute += now - self._begin - _recorder.inside
        _recorder.end_step(now, self._samples, self._tokens)


def _whole(value: object) -> int:
    """A count that is not an int: numpy's, a tensor's on the CPU; never a read from a GPU."""
    with contextlib.suppress(Exception):
        if not getattr(value, "is_cuda", False):
            return max(0, int(value))  # type: ignore[call-overload, no-any-return]
    return 0


class phase:  # noqa: N801
    """A part of a step: `with wellfed.phase("h2d"):`, one of h2d, comm, checkpoint, eval or data_wait.

    On a GPU the time is the stream's own, by CUDA events; elsewhere it is wall time. An unknown name is
    timed as nothing rather than raised into the loop.
    """

    __slots__ = ("_begin", "_events", "_name")

    def __init__(self, name: str) -> None:
        self._name = name if name in PHASES else ""
        self._events: tuple[_Event, _Event] | None = None
        self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter()
        if not self._name or _recorder.open is not None:
            # Inside another phase all time is that one's.
            self._name = ""
            return
        _recorder.start()
        if self._name in ("h2d", "comm"):
            with contextlib.suppress(Exception):
                self._events = _recorder.events()
                if self._events is not None:
                    self._events[0].record()
                    return
        _recorder.open = (self._name, self._begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._name:
            return
        spent = time.perf_counter() - self._begin
        if self._events is None:
            _recorder.open = None
            _recorder.seconds[self._name] += spent
            _recorder.inside += spent
            return
        with contextlib.suppress(Exception):
            begin, end = self._events
            end.record()
            _recorder.pend(self._name, begin, end)


def spent(name: str, seconds: float) -> None:
    """Books time that a framework measured itself, such as a callback that only hears when something ended.

    name: one of PHASES; anything else, and a negative time, is ignored.
    """
    if name in PHASES and seconds > 0:
        _recorder.start()
        _recorder.seconds[name] += seconds


def totals() -> dict[str, float | int | None]:
    """Cumulative columns of the `step` table for this process: what the next datagram says."""
    return _recorder.totals()
