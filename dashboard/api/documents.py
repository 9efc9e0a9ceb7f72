"""A view as the answers of the API. Numbers are the diagnosis document's own, never recomputed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import polars as pl

from wellfed.analysis.trouble import key, trouble
from wellfed.collectors.catalog import TABLES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import gpus_by_host, reporting
from wellfed.dashboard.series import gather
from wellfed.dashboard.states import states
from wellfed.dashboard.view import View

__all__ = [
    "coverage",
    "finding",
    "findings",
    "gpu",
    "hosts",
    "paged",
    "ranged",
    "series",
    "summary",
]

_Item = Mapping[str, Any]

#: Signals of a GPU as rates of counters, and as they are.
_COUNTERS = tuple(c.name for c in TABLES["gpu"].signals if c.kind == "counter")
_GAUGES = tuple(c.name for c in TABLES["gpu"].signals if c.kind == "gauge")
_UNITS = {c.name: c.unit + ("/s" if c.kind == "counter" else "") for c in TABLES["gpu"].signals}


def ranged(view: View) -> dict[str, Any]:
    """The range that was diagnosed."""
    return {"from": view.document["from"], "to": view.document["to"]}


def paged(items: Sequence[_Item], offset: int, limit: int, address: str) -> dict[str, Any]:
    """A part of a list; `next` is where the part that follows is. address: of the list, with a query."""
    follows = f"{address}&{urlencode({'offset': offset + limit})}" if offset + limit < len(items) else None
    return {
        "total": len(items),
        "offset": offset,
        "limit": limit,
        "next": follows,
        "items": list(items[offset : offset + limit]),
    }


def summary(view: View, simulated: bool) -> dict[str, Any]:
    """The whole fleet in numbers."""
    document = view.document
    known, now = view.answer.once(reporting)
    found = document["findings"]
    states_ = Counter(view.standing(f).state for f in found)
    return {
        **ranged(view),
        "window_seconds": document["window_seconds"],
        "price_per_gpu_hour": document["price_per_gpu_hour"],
        "simulated": simulated,
        "last": _iso(view.answer.last),
        "totals": document["totals"],
        "gpus": len(document["gpus"]),
        "jobs": len(document["jobs"]),
        "hosts": {"known": known, "reporting": now},
        "findings": {
            "total": len(found),
            "open": sum(f["end"] is None for f in found),
            "acknowledged": states_["acknowledged"],
            "muted": states_["muted"],
        },
        "warnings": document["warnings"],
    }


def finding(view: View, item: _Item) -> dict[str, Any]:
    """A finding of the document with what people said about it."""
    holds = view.standing(item)
    return {
        **item,
        "standing": {
            "trouble": trouble(item),
            "key": key(item),
            "state": holds.state,
            "muted_until": _iso(holds.muted.until if holds.muted else None),
            "notes": [note.document() for note in holds.said],
        },
    }


def findings(view: View, wanted: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """The findings, the costliest first, that have the wanted `cause`, `job`, `severity` and `state`."""
    cause, job, severity, state = (wanted.get(name) for name in ("cause", "job", "severity", "state"))
    chosen = [
        finding(view, f)
        for f in view.document["findings"]
        if (cause is None or f["cause"] == cause)
        and (job is None or f["scope"]["job"] == job)
        and (severity is None or f["severity"] == severity)
    ]
    return [f for f in chosen if state is None or f["standing"]["state"] == state]


def gpu(view: View, host: str, name: str) -> _Item | None:
    """A GPU of the document by its host and its id or ordinal."""
    peers = view.answer.once(gpus_by_host).get(host, ())
    return next((g for g in peers if name in (g["gpu"], g["index"])), None)


def hosts(view: View) -> list[dict[str, Any]]:
    """Hosts of the document, with their GPUs, what those lost, and the newest window."""
    lasts = view.answer.once(_lasts)
    gpus = view.answer.once(gpus_by_host)
    return [
        {
            **host,
            "last": _iso(lasts[host["host"]]),
            "gpus": len(gpus.get(host["host"], ())),
            "lost_seconds": sum(g["lost_seconds"] for g in gpus.get(host["host"], ())),
        }
        for host in view.document["hosts"]
    ]


def _lasts(answer: Answer) -> dict[str, datetime]:
    return dict(answer.diagnosis.hosts.group_by("host").agg(pl.col("ts").max()).iter_rows())


def coverage(view: View) -> dict[str, Any]:
    """Which signals were measured: their share of all rows, by table and column."""
    return {**ranged(view), "items": view.document["coverage"]}


def series(view: View, item: _Item, points: int, wanted: Sequence[str]) -> dict[str, Any]:
    """Signals of a GPU in at most so many points, with what it was waiting on. wanted: names, [] for all."""
    host, id_ = item["host"], item["gpu"]
    step = float(view.document["window_seconds"])
    mine = (pl.col("host") == host) & (pl.col("gpu") == id_)
    told = gather(view.answer.tables["gpu"].filter(mine), _COUNTERS, _GAUGES, step, points)
    names = [name for name in told.names if not wanted or name in wanted]
    return {
        **ranged(view),
        "host": host,
        "gpu": id_,
        "index": item["index"],
        "step_seconds": float(told.stamps[1] - told.stamps[0]) / 1000 if told.stamps.size > 1 else step,
        "stamps": told.stamps.astype(int).tolist(),
        "signals": [
            {"name": name, "unit": _UNITS[name], "values": _finite(told[name].tolist())} for name in names
        ],
        "waiting_on": states(view.answer, host, id_, told.stamps),
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
