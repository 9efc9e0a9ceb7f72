"""Findings: what held on for three windows, with scope, evidence and what to do.

One finding for all GPUs of a job, one for a file server however many jobs wait for it, one for a congested
fabric. A `Ledger` takes the summed episodes of segment after segment and tells the findings at any time.
`detected` is the end of the window that confirmed it: when a live hub would have said it, never earlier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from wellfed.analysis.causes import CAUSES
from wellfed.analysis.confidence import confidence
from wellfed.analysis.episodes import BRIDGE, OFF_WINDOWS, RECUR_WINDOWS, RECURRING
from wellfed.analysis.signatures import by_cause

__all__ = ["Ledger"]

#: What follows from others, and what is never an echo.
_SYMPTOMS = ("straggler", "fabric.collective", "unknown")
_CERTAIN = ("hardware.fault", "throttle.thermal", "throttle.power", "pcie.degraded", "fabric.link")
#: Families of causes that starve a loader.
_INPUT = ("storage", "cpu")
#: Minutes after which held but idle GPUs are a finding, a warning, critical.
_IDLE = {"info": 5, "warning": 15, "critical": 60}
#: Findings that ended longer ago than this are no longer kept by a live ledger.
KEEP = timedelta(hours=24)
_ADDED = ("windows", "lost", "scores", "seconds", "struck")


@dataclass(slots=True)
class Ledger:
    """Findings so far. step: seconds of a window."""

    step: float
    entries: list[dict[str, Any]]
    current: dict[tuple[str, str], dict[str, Any]]

    @classmethod
    def empty(cls, step: float) -> Ledger:
        """No findings yet."""
        return cls(step, [], {})

    def add(self, pieces: Sequence[Mapping[str, Any]]) -> None:
        """Takes the pieces of one segment, in the order of time."""
        reach = timedelta(seconds=BRIDGE + self.step)
        for piece in pieces:
            key = piece["cause"], piece["group"]
            known = self.current.get(key)
            if known is None or piece["first"] - known["last"] > reach:
                known = self.current[key] = {**piece}
                self.entries.append(known)
            else:
                _merge(known, piece)

    def forget(self, now: datetime) -> None:
        """Drops what ended a day ago."""
        self.entries = [e for e in self.entries if now - _utc(e["last"]) <= KEEP]
        self.current = {k: e for k, e in self.current.items() if now - _utc(e["last"]) <= KEEP}

    def findings(self, end: datetime) -> list[dict[str, Any]]:
        """Findings as the document has them, the costliest first, cost null. end: of the last window seen."""
        entries = _one_fabric(self.entries)
        found = _without_echoes([_finding(e, end, self.step) for e in entries])
        for finding in found:
            if finding["cause"] == "straggler":
                _point_to_root(finding, found)
        return sorted(found, key=lambda f: (-float(f["lost_gpu_seconds"]), str(f["id"])))


def _merge(known: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for name in piece:
        if name in _ADDED or name[1:].isdigit():
            known[name] += piece[name]
    known["start"] = min(known["start"], piece["start"])
    known["confirmed"] = min(known["confirmed"], piece["confirmed"])
    known["last"] = max(known["last"], piece["last"])
    both = pl.concat([known["members"], piece["members"]])
    known["members"] = both.group_by("host", "gpu", maintain_order=True).agg(
        pl.col("rank", "job", "resource").drop_nulls().last(), pl.col("lost").sum()
    )
    votes = pl.concat([known["culprits"], piece["culprits"]])
    known["culprits"] = votes.group_by("host", "gpu", "rank", maintain_order=True).agg(pl.col("votes").sum())


def _one_fabric(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs that meet the same congestion at the same time share one finding."""
    found: list[dict[str, Any]] = []
    merged: list[dict[str, Any]] = []
    for entry in entries:
        if entry["cause"] != "fabric.congested":
            found.append(entry)
            continue
        near = [m for m in merged if entry["first"] <= m["last"] and m["first"] <= entry["last"]]
        if near:
            _merge(near[0], entry)
        else:
            merged.append({**entry})
    return [*found, *merged]


def _without_echoes(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out findings that a far larger one of the same job explains.

    A job that starves also spins, and its ranks take turns in being late: a tenth of the loss beside a
    named cause is its echo. Certain causes are never echoes.
    """

    def echo(small: dict[str, Any], large: dict[str, Any]) -> bool:
        symptom = small["cause"] in _SYMPTOMS and large["cause"] not in _SYMPTOMS
        factor = 3.0 if symptom else 10.0
        # Ranks that lack data themselves take turns in being late.
        if symptom and CAUSES[large["cause"]].family in _INPUT and _within(small, large):
            factor = 1.0
        together = _together(small, large)
        same = small["scope"]["job"] is not None and small["scope"]["job"] == large["scope"]["job"]
        return same and together and large["lost_gpu_seconds"] >= factor * small["lost_gpu_seconds"]

    return [f for f in found if f["cause"] in _CERTAIN or not any(echo(f, g) for g in found if g is not f)]


def _within(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return set(one["scope"]["gpus"]) <= set(other["scope"]["gpus"])


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (one["end"] is None or one["end"] >= other["start"]) and (
        other["end"] is None or other["end"] >= one["start"]
    )


def _point_to_root(finding: dict[str, Any], found: Sequence[Mapping[str, Any]]) -> None:
    """What makes the late host late, where that is a finding of its own: all its GPUs are the culprits."""
    late = finding["culprits"]["hosts"]
    for other in found:
        scope = other["scope"]
        same = scope["job"] == finding["scope"]["job"] and set(scope["hosts"]) <= set(late)
        same = same and not set(scope["gpus"]) & set(finding["scope"]["gpus"])
        if other["cause"] in _SYMPTOMS or not same or not _together(finding, other):
            continue
        finding["culprits"] = {name: scope[name] for name in ("hosts", "gpus", "ranks")}
        title = CAUSES[other["cause"]].title
        step = f"Start with finding {other['id']} on {', '.join(late)}, which makes it late: {title}"
        finding["next_steps"] = [step, *finding["next_steps"]]
        return


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _finding(entry: Mapping[str, Any], end: datetime, step: float) -> dict[str, Any]:
    cause, members = entry["cause"], entry["members"]
    width = timedelta(seconds=step)
    first, last = entry["start"], entry["last"]
    minutes = (last - first).total_seconds() / 60
    lost = float(entry["lost"])
    scope = _scope(members)
    told_for, told_against, missing = _evidence(cause, entry)
    patience = RECUR_WINDOWS if cause in RECURRING else OFF_WINDOWS
    open_ = last >= end - (width if cause in RECURRING else patience * width)
    name = f"{cause}|{scope['job']}|{scope['resource']}|{scope['hosts'][0]}|{first.isoformat()}"
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:12],
        "cause": cause,
        "scope": scope,
        "start": first.isoformat(),
        "end": None if open_ else last.isoformat(),
        "detected": entry["confirmed"].isoformat(),
        "culprits": _culprits(cause, entry),
        "severity": _severity(cause, lost, minutes, len(scope["gpus"])),
        "lost_gpu_seconds": lost,
        "cost": None,
        "confidence": confidence(entry),
        "evidence_for": told_for,
        "evidence_against": told_against,
        "missing_signals": missing,
        "next_steps": _steps(cause, scope, entry),
        "runbook": CAUSES[cause].runbook,
    }


def _scope(members: pl.DataFrame) -> dict[str, Any]:
    jobs = members["job"].drop_nulls().unique().sort().to_list()
    resource = members["resource"].drop_nulls().mode().sort().to_list()
    return {
        "hosts": members["host"].unique().sort().to_list(),
        "gpus": members["gpu"].unique().sort().to_list(),
        "ranks": members["rank"].drop_nulls().unique().sort().to_list(),
        "job": jobs[0] if len(jobs) == 1 else None,
        "resource": resource[0] if resource else None,
    }


def _steps(cause: str, scope: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    guilty = _culprits(cause, entry)
    names = {
        "job": scope["job"] or "the job",
        "host": (guilty["hosts"] or scope["hosts"])[0],
        "gpu": (guilty["gpus"] or scope["gpus"])[0],
        "resource": scope["resource"] or "the device",
    }
    return [step.format(**names) for step in CAUSES[cause].next_steps]


def _evidence(
    cause: str, entry: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    signature = by_cause()[cause]
    told: list[dict[str, Any]] = []
    against: list[dict[str, Any]] = []
    ramps = [*signature.ramps, *signature.contra]
    count = len(signature.ramps)
    known = {ramp.signal for n, ramp in enumerate(ramps) if entry[f"c{n}"]}
    # Of what can stand for each other, one measured signal is enough.
    enough = {r.signal for group in signature.any_of if any(o.signal in known for o in group) for r in group}
    missing = [r.signal for r in signature.ramps if r.signal not in known | enough]
    for n, ramp in enumerate(ramps):
        measured = entry[f"c{n}"]
        if not measured:
            continue
        value, level = float(f"{entry[f'v{n}'] / measured:.4g}"), float(entry[f"l{n}"]) / entry["struck"]
        told_ = {"signal": ramp.signal, "value": value, "expected": ramp.lo}
        if n < count and level >= 0.25 and ramp.weight > 0:
            told.append({**told_, "weight": round(ramp.weight * level, 3)})
        elif n >= count and level >= 0.1:
            against.append({**told_, "weight": round(level, 3)})
    told.sort(key=lambda item: -float(item["weight"]))
    return told, against, missing


def _culprits(cause: str, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    members = entry["members"]
    if cause in ("fabric.link", "pcie.degraded", "hardware.fault", "throttle.thermal", "throttle.power"):
        return {
            "hosts": members["host"].unique().sort().to_list(),
            "gpus": members["gpu"].unique().sort().to_list(),
            "ranks": [],
        }
    # The ranks for which the others waited in most of the finding's windows.
    guilty = entry["culprits"].filter(pl.col("votes") >= 0.6 * entry["windows"])
    return {
        "hosts": guilty["host"].unique().sort().to_list(),
        "gpus": guilty["gpu"].sort().to_list(),
        "ranks": guilty["rank"].drop_nulls().sort().to_list(),
    }


def _severity(cause: str, lost: float, minutes: float, gpus: int) -> str:
    if cause == "idle.held":
        return max(
            (n for n, least in _IDLE.items() if minutes >= least), key=lambda n: _IDLE[n], default="info"
        )
    if cause == "hardware.fault":
        return "critical"
    share = lost / (60 * minutes * gpus)
    if lost >= 36_000 or (share >= 0.5 and minutes >= 15):
        return "critical"
    return "warning" if minutes >= 5 or share >= 0.3 else "info"
