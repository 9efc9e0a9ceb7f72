"""Every page by its address, in the order of the navigation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from dash import html

from wellfed.dashboard.pages import (
    efficiency,
    fabric,
    findings,
    fleet,
    gpu,
    hosts,
    inference,
    job,
    jobs,
    pipeline,
    storage,
    telemetry,
)
from wellfed.dashboard.parts import missing
from wellfed.dashboard.view import Page, View

__all__ = ["PAGES", "Entry", "entry", "parse"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of the navigation. key: pressed after `g`; one: the page of one thing, by its parts of the path.

    under: first part of the path of one thing.
    """

    path: str
    name: str
    key: str
    icon: str
    body: Callable[[View], Page]
    under: str = ""
    one: Callable[..., Page] | None = None
    parts: int = 1


PAGES = (
    Entry("/", "Fleet", "o", "fleet", fleet.body, "gpu", gpu.body, 2),
    Entry("/findings", "Findings", "f", "findings", findings.body, "findings", findings.detail),
    Entry("/jobs", "Jobs", "j", "jobs", jobs.body, "job", job.body),
    Entry("/pipeline", "Pipeline", "p", "pipeline", pipeline.body),
    Entry("/storage", "Storage", "s", "storage", storage.body),
    Entry("/fabric", "Fabric", "n", "fabric", fabric.body),
    Entry("/inference", "Inference", "i", "inference", inference.body),
    Entry("/efficiency", "Efficiency", "e", "efficiency", efficiency.body),
    Entry("/hosts", "Hosts", "h", "hosts", hosts.body, "host", hosts.detail),
    Entry("/telemetry", "Telemetry", "t", "telemetry", telemetry.body),
)

_LISTS: Mapping[str, Entry] = {known.path: known for known in PAGES}
_ONES: Mapping[tuple[str, int], Entry] = {(e.under, e.parts): e for e in PAGES if e.one}


def entry(path: str) -> Entry | None:
    """The entry of the navigation that an address belongs to."""
    first, *rest = path.strip("/").split("/")
    return _LISTS.get("/" + path.strip("/")) or _ONES.get((first, len(rest)))


def parse(path: str, view: View) -> Page:
    """The page of an address."""
    found = entry(path)
    names = [unquote(part) for part in path.strip("/").split("/")[1:]]
    if found is None:
        return Page([html.H1("Not found")], [missing("Not found", f"There is no page {path}.")])
    if found.one is None or not names:
        return found.body(view)
    return found.one(view, *names)
