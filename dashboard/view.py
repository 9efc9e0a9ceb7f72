"""What a page is made from: an answer, the state of the URL, the colours of the theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from wellfed.analysis.notes import Notes, Standing
from wellfed.dashboard.data import Answer
from wellfed.dashboard.theme import Skin

__all__ = ["ROWS", "Component", "Page", "View", "gpu_path", "host_path", "job_path"]

Component = Any
_T = TypeVar("_T")

#: Rows that a table shows; the rest is counted, found by search and exported.
ROWS = 100
#: State that goes with one from page to page.
_CARRIED = ("from", "to")


@dataclass(frozen=True, slots=True)
class View:
    """One request. query: the state in the URL (`from,to,cause,job,user,sel,sort` and a page's own).

    whole: tables have all their rows, as an export wants them. viewer: who looks at it, "" if nobody knows.
    """

    answer: Answer
    path: str
    query: Mapping[str, str]
    skin: Skin
    notes: Notes = field(default_factory=Notes)
    whole: bool = False
    viewer: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The diagnosis as `wellfed diagnose --json` prints it."""
        return self.answer.diagnosis.document

    @property
    def price(self) -> float | None:
        """Money for one GPU-hour."""
        found: float | None = self.document["price_per_gpu_hour"]
        return found

    def first(self, rows: Sequence[_T], most: int = ROWS) -> Sequence[_T]:
        """The rows that a table shows."""
        return rows if self.whole else rows[:most]

    def standing(self, finding: Mapping[str, Any]) -> Standing:
        """What people said about a finding, as far as it holds now."""
        since = datetime.fromisoformat(self.document["from"])
        return self.notes.standing(finding, self.answer.now, since)

    def here(self, **changes: str) -> str:
        """This page with some of its state changed; "" drops a key."""
        return _address(self.path, {**self.query, **{k.rstrip("_"): v for k, v in changes.items()}})

    def to(self, path: str, **state: str) -> str:
        """Another page over the same range."""
        kept = {name: self.query.get(name, "") for name in _CARRIED}
        return _address(path, {**kept, **{k.rstrip("_"): v for k, v in state.items()}})


@dataclass(frozen=True, slots=True)
class Page:
    """crumbs: where one is, with the page's only h1; main: the verdict first."""

    crumbs: Sequence[Component]
    main: Sequence[Component] = field(default_factory=tuple)


def _address(path: str, state: Mapping[str, str]) -> str:
    known = {name: value for name, value in state.items() if value}
    return path + (f"?{urlencode(known)}" if known else "")


def host_path(host: str) -> str:
    """Path of a host's page."""
    return f"/host/{quote(host, safe='')}"


def gpu_path(host: str, gpu: Mapping[str, Any]) -> str:
    """Path of a GPU's page, by its ordinal where it has one."""
    return f"/gpu/{quote(host, safe='')}/{quote(str(gpu['index'] or gpu['gpu']), safe='')}"


def job_path(job: str) -> str:
    """Path of a job's page."""
    return f"/job/{quote(job, safe='')}"
