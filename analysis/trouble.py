"""The trouble behind findings: what stays the same when a range moves on or another range is diagnosed.

A finding's id belongs to one diagnosis of one range: its first window moves with the range. The trouble is
the cause and whom it concerns: a job, else a mount or port, else the GPUs themselves. It may come back: an
episode is the trouble in one stretch of time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from wellfed.analysis.episodes import RECUR_WINDOWS, RECURRING

__all__ = ["Episode", "Handle", "episode_of", "find", "key", "trouble"]

#: Two diagnoses of one episode differ in its ends by less than this: of what comes and goes, by a pause.
SLACK, PAUSE = timedelta(minutes=2), timedelta(seconds=10 * RECUR_WINDOWS)
#: Names that an episode without a job or resource keeps.
_NAMES = 512
_STAMP = "%Y%m%dT%H%M%SZ"


#: (cause, kind, name)
Handle = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Episode:
    """A finding as far as another diagnosis would find it again. end: None while it was open.

    hosts, gpus: only where neither job nor resource tells whose it is.
    """

    cause: str
    job: str | None
    resource: str | None
    hosts: tuple[str, ...]
    gpus: tuple[str, ...]
    start: datetime
    end: datetime | None

    def concerns(self, other: Episode) -> bool:
        """Whether both are the same trouble, whenever it was."""
        if self.cause != other.cause:
            return False
        if self.job is not None and other.job is not None:
            return self.job == other.job
        if self.resource is not None and other.resource is not None:
            return self.resource == other.resource
        return bool(set(self.gpus) & set(other.gpus)) and bool(set(self.hosts) & set(other.hosts))

    @property
    def slack(self) -> timedelta:
        """By how much another diagnosis may differ in its ends."""
        return PAUSE if self.cause in RECURRING else SLACK

    def filed(self) -> list[Handle]:
        """Names under which to keep something about the trouble."""
        if self.job is None and self.resource is None:
            return [(self.cause, "gpu", gpu) for gpu in self.gpus]
        whose = "a job's resource" if self.job is not None else "resource"
        named = (("job", self.job), (whose, self.resource))
        return [(self.cause, kind, name) for kind, name in named if name is not None]

    def sought(self) -> list[Handle]:
        """Names under which everything about the trouble was kept, and little else."""
        if self.job is None and self.resource is not None:
            return [*self.filed(), (self.cause, "a job's resource", self.resource)]
        if self.job is not None and self.resource is not None:
            return [(self.cause, "job", self.job), (self.cause, "resource", self.resource)]
        return self.filed()


def episode_of(finding: Mapping[str, Any]) -> Episode:
    """The episode of a finding of the document."""
    scope, end = finding["scope"], finding["end"]
    own = scope["job"] is None and scope["resource"] is None
    return Episode(
        finding["cause"],
        scope["job"],
        scope["resource"],
        tuple(scope["hosts"][:_NAMES]) if own else (),
        tuple(scope["gpus"][:_NAMES]) if own else (),
        datetime.fromisoformat(finding["start"]),
        None if end is None else datetime.fromisoformat(end),
    )


def trouble(finding: Mapping[str, Any]) -> str:
    """The trouble's name, the same in every range: 12 hexadecimal digits."""
    scope = finding["scope"]
    whose = scope["job"] or scope["resource"] or f"{scope['hosts'][:1]} {scope['gpus'][:1]}"
    return hashlib.sha256(f"{finding['cause']}|{whose}".encode()).hexdigest()[:12]


def key(finding: Mapping[str, Any]) -> str:
    """A name by which `find` finds the episode in any range: `<trouble>-20260302T090000Z`."""
    start = datetime.fromisoformat(finding["start"]).astimezone(UTC)
    return f"{trouble(finding)}-{start:{_STAMP}}"


def find(findings: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The finding of an id, a key or a trouble; of several episodes the one nearest to the key's time."""
    exact = next((f for f in findings if f["id"] == name), None)
    if exact is not None:
        return exact
    wanted, _, stamp = name.partition("-")
    episodes = [f for f in findings if trouble(f) == wanted]
    try:
        at = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return next(iter(episodes), None)
    return _nearest(episodes, at)


def _nearest(episodes: Iterable[Mapping[str, Any]], at: datetime) -> Mapping[str, Any] | None:
    def distance(finding: Mapping[str, Any]) -> timedelta:
        start = datetime.fromisoformat(finding["start"])
        end = datetime.max.replace(tzinfo=UTC)
        if finding["end"] is not None:
            end = datetime.fromisoformat(finding["end"])
        return max(start - at, at - end, timedelta())

    return min(episodes, key=distance, default=None)
