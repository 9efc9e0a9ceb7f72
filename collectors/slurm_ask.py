"""Asking Slurm's client commands, which wait for minutes when their controller is down.

Source: squeue and scontrol. Cost: one process and a question to slurmctld each. Privilege: none, but munge
and slurm.conf must be there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess

__all__ = ["PLACES", "TIMEOUT", "UnansweredError", "ask"]

#: Where Slurm is installed besides PATH.
PLACES = "/usr/bin:/usr/local/bin:/opt/slurm/bin:/cm/shared/apps/slurm/current/bin"
#: Seconds a call may take.
TIMEOUT = 4.0


class UnansweredError(Exception):
    """Why there is no answer, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def ask(places: str, timeout: float, program: str, *arguments: str) -> bytes:
    """What a program of that search path printed. Raises UnansweredError."""
    path = shutil.which(program, path=places)
    if path is None:
        raise UnansweredError(
            f"{program} is not found",
            "install Slurm's client commands with munge and slurm.conf, or put them on PATH",
        )
    # Its own session: a wrapper script must not leave the real program behind.
    process = subprocess.Popen(
        [path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise UnansweredError(
            f"{program}: no answer in {timeout:g} s", "look at the controller: scontrol ping"
        ) from None
    if process.returncode:
        said = errors.decode("utf-8", "replace").strip().splitlines()
        raise UnansweredError(
            f"{program}: {said[-1][:120] if said else f'status {process.returncode}'}",
            f"run it by hand: {program} {' '.join(arguments)}",
        )
    return output
