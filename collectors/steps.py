"""Training loops on this node, from the datagrams of `wellfed.watch`.

Source: a Unix datagram socket (wellfed.watch.socket_paths). The kernel tells the sender's process id, so a
job is found by its cgroup and cannot be forged. Cost: one recvmsg a rank a second. Privilege: write access
to the socket's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from wellfed.collectors.board import Rank
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.cgroup import job_of
from wellfed.collectors.processes import launcher
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Steps", "parse"]

#: Seconds after its last datagram at which a rank is gone.
EXPIRY = 30.0
#: Most ranks followed at once, and the longest datagram.
MAX_RANKS = 4096
MAX_BYTES = 4096

_SIGNALS = frozenset(c.name for c in TABLES["step"].signals)
_TEXTS = ("job", "rank", "gpu", "run")
_CREDENTIALS = struct.Struct("3i")


def parse(datagram: bytes) -> tuple[dict[str, str], dict[str, float]]:
    """Texts (job, rank, gpu, run) and columns of a datagram. Raises ValueError."""
    try:
        said = json.loads(datagram)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(said, dict) or said.get("version") != 1:
        raise ValueError("not a version 1 datagram")
    texts = {name: str(said[name])[:200] for name in _TEXTS if said.get(name) not in (None, "")}
    values = {}
    for name, value in said.items():
        if name in _SIGNALS and value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e300:
                raise ValueError(f"{name} is {value!r}, not a number")
            values[name] = float(value)
    return texts, values


@dataclass(slots=True)
class _Heard:
    row: Row
    at: float
    rank: Rank


@register
class Steps:
    """Fills `step`."""

    name = "steps"
    interval = 1.0
    deadline = 1.0
    tables = ("step",)

    def __init__(self, path: str | None = None) -> None:
        self.reason = ""
        self.remedy = ""
        self.path = path or _default_path()
        self.refused = 0
        self._socket: socket.socket | None = None
        self._ranks: dict[tuple[str, str, int], _Heard] = {}

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a rank heard lately."""
        if self._socket is None:
            try:
                self._socket = _bind(self.path)
            except OSError as error:
                self.reason = f"cannot listen on {self.path}: {error.strerror}"
                self.remedy = (
                    f"make {os.path.dirname(self.path)} writable for the agent, or set WELLFED_SOCKET"
                )
                return []
        for datagram, pid in _drain(self._socket):
            try:
                texts, values = parse(datagram)
            except ValueError:
                self.refused += 1
                continue
            self._keep(roots, texts, values, pid, now)
        for key in [key for key, rank in self._ranks.items() if now - rank.at > EXPIRY]:
            del self._ranks[key]
        roots.board.ranks = tuple(heard.rank for heard in self._ranks.values())
        self.reason = "" if self._ranks else f"no training loop reports to {self.path}"
        self.remedy = "" if self._ranks else "wrap the loader: for batch in wellfed.watch(loader)"
        return [rank.row for rank in self._ranks.values()]

    def close(self) -> None:
        """Removes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _keep(
        self, roots: Roots, texts: dict[str, str], values: dict[str, float], pid: int, now: float
    ) -> None:
        found = job_of(roots, pid) or f"process:{launcher(roots.proc, pid)}"
        job = texts.get("job") or roots.board.names.get(found, found)
        rank = texts.get("rank", "0")
        key = (job, rank, pid)
        for other in [k for k in self._ranks if k[:2] == key[:2] and k != key]:
            # The rank was restarted in another process.
            del self._ranks[other]
        if key not in self._ranks and len(self._ranks) >= MAX_RANKS:
            self.refused += 1
            return
        info = {name: text for name, text in texts.items() if name in ("gpu", "run")}
        held = [gpu for by in list(roots.board.held.values()) for gpu, pids in by.items() if pid in pids]
        if len(held) == 1:
            # The driver's word: a loop does not know its MIG slice, and one without torch no GPU at all.
            info["gpu"] = held[0]
        said = Rank(job, rank, info.get("gpu", ""), pid, found, info.get("run", ""))
        self._ranks[key] = _Heard(Row("step", (job, rank), dict(values), info), now, said)


def _default_path() -> str:
    from wellfed.watch import socket_paths

    paths = socket_paths()
    return next((p for p in paths if os.access(_existing(os.path.dirname(p)), os.W_OK)), paths[-1])


def _existing(folder: str) -> str:
    while folder not in ("", "/") and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _bind(path: str) -> socket.socket:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not _alive(path):
                os.unlink(path)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.bind(path)
        # Training jobs run as other users.
        os.chmod(path, 0o666)  # noqa: S103
    except OSError:
        listener.close()
        raise
    return listener


def _alive(path: str) -> bool:
    """Whether somebody listens there already."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
    return True


def _drain(listener: socket.socket) -> Iterable[tuple[bytes, int]]:
    space = socket.CMSG_SPACE(_CREDENTIALS.size)
    for _ in range(2 * MAX_RANKS):
        try:
            datagram, ancillary, flags, _address = listener.recvmsg(MAX_BYTES, space)
        except BlockingIOError:
            return
        pid = 0
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
        if not flags & socket.MSG_TRUNC:
            yield datagram, pid
