"""What Slurm's jobs on this node are called, who owns them, and on old control groups which GPUs they got.

What: name, user, namespace (account) and queue (partition) of `job`; allocated of `gpu`. Source: `squeue
--json`, where that fails `scontrol show job --json` (Slurm 21.08 and later), run only when a job appears on
this node or starts again; devices.list of the job's v1 control group, whose minor numbers the NVIDIA driver
maps to uuids. GRES indexes and CUDA_VISIBLE_DEVICES are ordinals and are never used: with v2 control groups
a job's GPUs are those that its processes hold. Cost: one call to slurmctld a new job, several new ones at
once in one. Privilege: none, but munge and slurm.conf must be there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from wellfed.collectors.devices import nvidia_minors
from wellfed.collectors.files import read
from wellfed.collectors.registry import Roots, Row, register
from wellfed.collectors.slurm_ask import PLACES, TIMEOUT, UnansweredError, ask

__all__ = ["Slurm", "jobs_of", "minors_of"]

#: Seconds before a job that nobody could tell about is asked for again, doubled each time.
_AGAIN, _LONGEST = 15.0, 600.0
_MAX_OUTPUT = 8 << 20
#: Jobs asked for in one call.
_AT_ONCE = 100

#: JSON of any version -> column.
_COLUMNS = {"name": "name", "user_name": "user", "account": "namespace", "partition": "queue"}
#: Character devices of NVIDIA's GPUs; higher minors of it are control devices.
_DEVICE = re.compile(rb"^c 195:(\d+) ", re.MULTILINE)
_CONTROL = 250
_EVERYTHING = re.compile(rb"^(?:a|c \*:\*|c 195:\*) ", re.MULTILINE)


def jobs_of(output: bytes) -> dict[str, dict[str, str]]:
    """Columns by job id, of what `squeue --json` or `scontrol show job --json` printed.

    Numbers are plain up to Slurm 22.05 and {"set", "infinite", "number"} later; user_name is missing where
    the user is unknown to the controller. Raises ValueError.
    """
    try:
        document = json.loads(output)
        listed = document["jobs"]
        found = {}
        for job in listed:
            number = _number(job["job_id"])
            told = {column: job.get(name) for name, column in _COLUMNS.items()}
            found[number] = {
                column: text[:200] for column, text in told.items() if isinstance(text, str) and text
            }
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"Slurm: unexpected JSON: {error!r}") from error
    return found


def _number(value: object) -> str:
    if isinstance(value, dict):
        value = value["number"]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"job_id {value!r}")
    return str(value)


def minors_of(devices: bytes) -> set[int] | None:
    """Minor numbers of the GPUs in a devices.list; None where the job is not confined to some."""
    if _EVERYTHING.search(devices):
        return None
    return {minor for minor in map(int, _DEVICE.findall(devices)) if minor < _CONTROL}


@register
class Slurm:
    """The collector. path: where to look for squeue and scontrol."""

    name = "slurm"
    interval = 5.0
    deadline = 2.5 * TIMEOUT
    tables: tuple[str, ...] = ("gpu", "job")

    def __init__(self, path: str | None = None, timeout: float = TIMEOUT) -> None:
        self.reason = ""
        self.remedy = ""
        self._path = f"{os.environ.get('PATH', os.defpath)}:{PLACES}" if path is None else path
        self._timeout = timeout
        self._about: dict[str, dict[str, str]] = {}
        self._tries: dict[str, tuple[int, float]] = {}
        self._groups: dict[str, int] = {}

    def read(self, roots: Roots, now: float) -> list[Row]:
        """One row a GPU of a job in a v1 device group; what jobs are called goes to the board."""
        root = f"{roots.sys}/fs/cgroup"
        board = roots.board
        here = {job for job in board.groups.keys() | board.jobs if re.fullmatch(r"slurm:\d+", job)}
        folders = _folders(f"{root}/devices")
        self._forget(here, board.groups)
        wanted = [job for job in sorted(here - self._about.keys()) if self._due(job)]
        if wanted:
            self._learn(wanted[:_AT_ONCE])
        elif here <= self._about.keys():
            self.reason = "" if here else "no Slurm job on this node"
            self.remedy = ""
        board.describe(self.name, self._about)
        granted = _granted(roots, folders)
        board.grant(self.name, granted)
        return [Row("gpu", (gpu,), {"allocated": float(bool(jobs))}) for gpu, jobs in granted.items()]

    def _forget(self, here: set[str], groups: Mapping[str, int]) -> None:
        """Drops what ended, and what was requeued under its old id: its control group is another one."""
        for job in self._about.keys() | self._tries.keys():
            if job not in here or groups.get(job) != self._groups.get(job, groups.get(job)):
                self._about.pop(job, None)
                self._tries.pop(job, None)
        self._groups = dict(groups)

    def _due(self, job: str) -> bool:
        tries, at = self._tries.get(job, (0, 0.0))
        return not tries or time.monotonic() - at >= min(_AGAIN * 2 ** (tries - 1), _LONGEST)

    def _learn(self, jobs: Sequence[str]) -> None:
        """Asks for jobs; those that stay unknown are asked for again later. Raises ValueError."""
        numbers = [job.partition(":")[2] for job in jobs]
        for job in jobs:
            self._tries[job] = (self._tries.get(job, (0, 0.0))[0] + 1, time.monotonic())
        found = self._run("squeue", "--json", f"--jobs={','.join(numbers)}")
        if found is None and "no answer" not in self.reason:
            found = self._run("scontrol", "show", "job", numbers[0], "--json") if len(numbers) == 1 else None
            found = found if found is not None else self._run("scontrol", "show", "job", "--json")
        if found is None:
            return
        told = {f"slurm:{number}": columns for number, columns in jobs_of(found).items()}
        self._about |= {job: told[job] for job in jobs if job in told}
        for job in jobs:
            if job in told:
                del self._tries[job]
        unknown = [job for job in jobs if job not in told]
        self.reason = f"Slurm knows nothing of job {unknown[0].partition(':')[2]}" if unknown else ""
        self.remedy = ""

    def _run(self, program: str, *arguments: str) -> bytes | None:
        """What a program printed, or None with the reason."""
        try:
            output = ask(self._path, self._timeout, program, *arguments)
        except UnansweredError as error:
            self.reason, self.remedy = str(error), error.remedy
            return None
        if len(output) > _MAX_OUTPUT or not output.lstrip().startswith(b"{"):
            self.reason = f"{program}: no JSON"
            self.remedy = f"run it by hand: {program} {' '.join(arguments)} (its JSON plugin may be missing)"
            return None
        return output


def _folders(root: str) -> dict[str, str]:
    """Job -> its folder below a v1 hierarchy."""
    found = {}
    with contextlib.suppress(OSError):
        for top in os.listdir(root):
            if top.startswith("slurm"):
                for user in _listed(f"{root}/{top}", "uid_"):
                    for job in _listed(user, "job_"):
                        found[f"slurm:{job.rpartition('_')[2]}"] = job
    return found


def _listed(folder: str, prefix: str) -> Iterable[str]:
    with contextlib.suppress(OSError):
        return [f"{folder}/{name}" for name in os.listdir(folder) if name.startswith(prefix)]
    return []


def _granted(roots: Roots, folders: Mapping[str, str]) -> dict[str, list[str]]:
    """GPU -> jobs whose device group lets them use it; empty where no job is confined."""
    confined: dict[str, set[int]] = {}
    for job, folder in folders.items():
        with contextlib.suppress(OSError):
            minors = minors_of(read(f"{folder}/devices.list"))
            if minors is not None:
                confined[job] = minors
    if not confined:
        return {}
    gpus = nvidia_minors(roots.proc)
    return {gpu: [job for job, own in confined.items() if minor in own] for minor, gpu in gpus.items()}
