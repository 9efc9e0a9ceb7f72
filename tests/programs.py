"""Starting real programs in tests: free ports, waiting for an answer, ending them with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


_T = TypeVar("_T")


def until(probe: Callable[[], _T], seconds: float = 30.0, what: str = "") -> _T:
    """The first truthy answer of probe, asked again and again. Fails after `seconds`."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, KeyError, IndexError):
            if answer := probe():
                return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what or probe}")
        pause.wait(0.05)


def fetch(url: str) -> bytes:
    """The body of a GET on loopback."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


class Programs:
    """Starts programs and ends them with the test."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        """Runs a command with its output in a log file of the test's folder."""
        log = self._logs / f"{Path(command[0]).name}-{len(self._running)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environ}, cwd=self._logs
            )
        process.log = log  # type: ignore[attr-defined]
        self._running.append(process)
        return process

    def wellfed(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        """Runs the `wellfed` command of this checkout."""
        path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
        return self.start(sys.executable, "-m", "wellfed", *arguments, PYTHONPATH=path, **environ)

    def stop(self) -> None:
        """Ends what still runs."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
