"""Work that waits for GPUs: Slurm's pending jobs, so that a free GPU can be told from one nobody wants.

What: jobs_pending of `host`: jobs and array tasks that ask for GPUs and wait, whatever for. Source: `squeue
--states=PENDING --array --Format=tres-alloc`, which for a job that waits prints what it asks for; only where
--slurm-pending says so, because a question from each node of a cluster would be many for its controller, and
the answer counts for all. Cost: one call every 30 s. Privilege: none, but munge and slurm.conf must be there,
and a cluster with PrivateData=jobs shows its users' jobs to operators alone.
Source: the manual page of squeue.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from wellfed.collectors.registry import Roots, Row, register
from wellfed.collectors.slurm_ask import PLACES, TIMEOUT, UnansweredError, ask

__all__ = ["SlurmQueue", "waiting"]

_ARGUMENTS = ("--states=PENDING", "--array", "--noheader", "--Format=tres-alloc:256")


def waiting(lines: bytes) -> int:
    """How many of those that wait ask for GPUs: a line each, `cpu=8,mem=64G,node=1,gres/gpu:h100=4`. Raises
    ValueError for what is no such line.
    """
    count = 0
    for line in lines.decode("utf-8", "replace").splitlines():
        asked = [part.partition("=")[0] for part in line.strip().split(",")]
        if line.strip() and line.strip() != "N/A" and "cpu" not in asked and "node" not in asked:
            raise ValueError(f"squeue: expected `cpu=8,node=1,...`, found {line.strip()[:80]!r}")
        count += any(part.partition(":")[0] == "gres/gpu" for part in asked)
    return count


@register
class SlurmQueue:
    """The collector. path: where to look for squeue."""

    name = "slurm_queue"
    interval = 30.0
    deadline = 2.0 * TIMEOUT
    tables: tuple[str, ...] = ("host",)

    def __init__(self, path: str | None = None, timeout: float = TIMEOUT) -> None:
        self.reason = ""
        self.remedy = ""
        self._path = f"{os.environ.get('PATH', os.defpath)}:{PLACES}" if path is None else path
        self._timeout = timeout

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """The host's row, or none where nobody told to ask or nothing answers. Raises ValueError."""
        if not roots.endpoints.slurm_pending:
            self.reason, self.remedy = "not told to ask for Slurm's pending jobs", ""
            return []
        try:
            count = waiting(ask(self._path, self._timeout, "squeue", *_ARGUMENTS))
        except UnansweredError as error:
            self.reason, self.remedy = str(error), error.remedy
            return []
        self.reason = self.remedy = ""
        return [Row("host", (), {"jobs_pending": float(count)})]
