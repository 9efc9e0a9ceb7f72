"""What a report says, before any format: the verdict in words, then the evidence, then what to do.

Built from the JSON document alone, for all of it, one job or one user, so that a report and
`wellfed diagnose --json` never disagree. Texts are plain; escaping is each format's own matter.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wellfed.analysis.causes import CAUSES, FAMILIES, UNKNOWN, family_of
from wellfed.errors import UserError

__all__ = ["Figure", "Item", "JobLine", "Loss", "Report", "build", "narrow"]

#: Shares of productive time from which GPUs count as fed, and as to be watched (MLPerf Storage's bands).
FED, WATCH = 0.9, 0.7
#: Causes below this share of the loss are not listed.
SMALL = 0.01
#: Values of one piece of evidence are printed with so many digits.
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its unit, and what it means."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """Part of the loss. hours: GPU-hours. share: of the loss, 0..1. code: letters of the family."""

    cause: str
    code: str
    title: str
    meaning: str
    hours: float
    share: float
    money: str


@dataclass(frozen=True, slots=True)
class Item:
    """One finding. facts: who, how long, how sure. evidence: (signal, value, where normal ends)."""

    id: str
    severity: str
    title: str
    where: str
    meaning: str
    facts: str
    evidence: Sequence[tuple[str, str, str]]
    against: Sequence[tuple[str, str, str]]
    missing: Sequence[str]
    steps: Sequence[str]


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job. fed: share of productive time, None without a measurement."""

    job: str
    name: str
    user: str
    gpus: int
    fed: float | None
    hours: float
    mostly: str
    workload: str


@dataclass(frozen=True, slots=True)
class Report:
    """verdict: one sentence; reading: what to make of it. hosts: pressures, where no GPU was seen."""

    title: str
    range: str
    state: str
    verdict: str
    reading: str
    figures: Sequence[Figure]
    losses: Sequence[Loss]
    findings: Sequence[Item]
    jobs: Sequence[JobLine]
    hosts: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def narrow(document: Mapping[str, Any], job: str | None, user: str | None) -> dict[str, Any]:
    """The document with only what concerns one job or one user's jobs; totals are theirs.

    job: its id or its name. Raises UserError when nobody of that name held a GPU.
    """
    if job is None and user is None:
        return dict(document)
    wanted = job if job is not None else user
    assert wanted is not None
    columns = ("job", "name") if job is not None else ("user",)
    jobs = [j for j in document["jobs"] if wanted in (j[c] for c in columns)]
    if not jobs:
        known = sorted({str(j[c]) for j in document["jobs"] for c in columns if j[c]})
        close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        kind = "job" if job is not None else "user"
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"no {kind} {wanted!r} held a GPU in this range{hint}")
    names = {j["job"] for j in jobs}
    gpus = [g for g in document["gpus"] if g["job"] in names]
    held = {(g["host"], g["gpu"]) for g in gpus}
    findings = [f for f in document["findings"] if _concerns(f, names, held)]
    return {
        **document,
        "totals": _totals(jobs),
        "jobs": jobs,
        "gpus": gpus,
        "findings": findings,
        "hosts": [],
    }


def _concerns(finding: Mapping[str, Any], jobs: set[str], held: set[tuple[str, str]]) -> bool:
    scope = finding["scope"]
    if scope["job"]:
        return scope["job"] in jobs
    return any(host in scope["hosts"] and gpu in scope["gpus"] for host, gpu in held)


def _totals(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def total(name: str) -> float | None:
        known = [j[name] for j in jobs if j.get(name) is not None]
        return sum(known) if known else None

    causes: dict[str, dict[str, float]] = {"by_cause": {}, "by_cause_root": {}}
    for view, summed in causes.items():
        for job in jobs:
            for cause, seconds in job[view].items():
                summed[cause] = summed.get(cause, 0.0) + seconds
    covered, lost = total("covered_seconds") or 0.0, total("lost_seconds") or 0.0
    joules, told = total("joules"), total("tokens")
    return {
        "gpu_seconds": covered,
        "covered_seconds": covered,
        "lost_seconds": lost,
        "au": 1 - lost / covered if covered > 0 else None,
        **{view: dict(sorted(summed.items(), key=lambda x: -x[1])) for view, summed in causes.items()},
        "joules": joules,
        "joules_lost": total("joules_lost"),
        "cost_lost": total("cost_lost"),
        "tokens": told,
        "joules_per_token": joules / told if joules is not None and told else None,
        "tokens_per_joule": told / joules if joules and told else None,
        "hardware_flop_utilization": jobs[0]["hardware_flop_utilization"] if len(jobs) == 1 else None,
    }


def build(document: Mapping[str, Any], job: str | None = None, user: str | None = None) -> Report:
    """The report of a document, narrowed to a job or a user. Raises UserError as narrow does."""
    part = narrow(document, job, user)
    totals = part["totals"]
    losses = _losses(totals, part)
    state = _state(totals["au"])
    return Report(
        title=_title(part, job, user),
        range=_range(part),
        state=state,
        verdict=_verdict(part, losses),
        reading=_READING[state],
        figures=_figures(part),
        losses=losses,
        findings=[_item(finding) for finding in part["findings"]],
        jobs=[_job(j) for j in sorted(part["jobs"], key=lambda j: -j["lost_seconds"])],
        hosts=part["hosts"] if not part["gpus"] else [],
        notes=part["warnings"],
    )


_READING = {
    "fed": "At least nine tenths of the GPU time did work: these GPUs are well fed.",
    "watch": "Between 70 and 90 % of the GPU time did work: worth a look at the largest cause.",
    "starved": "Less than 70 % of the GPU time did work: the GPUs wait more than they should.",
    "unmeasured": "No GPU told how busy it was, so nothing can be said about lost time.",
}


def _state(fed: float | None) -> str:
    if fed is None:
        return "unmeasured"
    return "fed" if fed >= FED else "watch" if fed >= WATCH else "starved"


def _title(part: Mapping[str, Any], job: str | None, user: str | None) -> str:
    if job is not None:
        first = part["jobs"][0]
        return f"Job {first['name']} ({first['job']})" if first["name"] else f"Job {first['job']}"
    return f"Jobs of {user}" if user is not None else "All GPUs"


def _range(part: Mapping[str, Any]) -> str:
    start, end = (datetime.fromisoformat(part[key]) for key in ("from", "to"))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, windows of {part['window_seconds']:g} s"


def _verdict(part: Mapping[str, Any], losses: Sequence[Loss]) -> str:
    totals = part["totals"]
    gpus = len({(g["host"], g["gpu"]) for g in part["gpus"]})
    if not gpus:
        return "No GPU was seen in this range; these are the hosts." if part["hosts"] else "No GPU was seen."
    who = f"{_count(gpus, 'GPU')} in {_count(len(part['jobs']), 'job')}"
    if totals["au"] is None:
        return f"{who}: no activity was measured."
    if not losses:
        return f"{who} lost nothing worth naming: {totals['au']:.1%} of the time was productive."
    lost = f"{who} lost {hours(totals['lost_seconds'])} GPU-hours, {1 - totals['au']:.1%} of their time"
    money = f" ({_money(totals['cost_lost'])})" if totals["cost_lost"] is not None else ""
    named = next((loss for loss in losses if loss.cause != UNKNOWN), None)
    if named is None:
        return f"{lost}{money}; the evidence names no cause."
    return f"{lost}{money}, {named.share:.0%} of it to one cause: {_lower(named.title)}."


def _figures(part: Mapping[str, Any]) -> list[Figure]:
    totals = part["totals"]
    rows: list[tuple[str, Any, Callable[[Any], str], str]] = [
        ("Productive GPU time", totals["au"], "{:.1%}".format, "time with work done, of time measured"),
        ("Lost", totals["lost_seconds"], lambda s: f"{hours(s)} GPU-hours", ""),
        ("Cost of it", totals["cost_lost"], _money, f"at {_price(part)} a GPU-hour on average"),
        ("Energy", totals["joules"], energy, "drawn by these GPUs"),
        ("Energy while waiting", totals["joules_lost"], energy, "beyond what the work needed"),
        ("Energy per token", totals["joules_per_token"], "{:.3g} J".format, "as loops and servers tell"),
        ("Tokens per joule", totals["tokens_per_joule"], "{:.3g}".format, ""),
        (
            "Hardware FLOP utilisation",
            totals["hardware_flop_utilization"],
            "{:.1%}".format,
            "tensor-pipe activity x clock: an upper bound of the model's own",
        ),
    ]  # fmt: skip
    return [Figure(label, show(value), note) for label, value, show, note in rows if value is not None]


def _losses(totals: Mapping[str, Any], part: Mapping[str, Any]) -> list[Loss]:
    lost = totals["lost_seconds"]
    return [
        Loss(
            cause,
            FAMILIES[family_of(cause)].code if cause in CAUSES else "UN",
            title(cause),
            CAUSES[cause].meaning if cause in CAUSES else "",
            seconds / 3600,
            seconds / lost,
            _money(totals["cost_lost"] * seconds / lost) if totals["cost_lost"] is not None else "",
        )
        for cause, seconds in totals["by_cause"].items()
        if seconds >= SMALL * lost > 0
    ]


def _item(finding: Mapping[str, Any]) -> Item:
    scope = finding["scope"]
    gpus = len(scope["gpus"])
    since = datetime.fromisoformat(finding["start"])
    until = datetime.fromisoformat(finding["end"]) if finding["end"] else None
    culprits = [name for names in finding["culprits"].values() for name in names]
    facts = [
        _count(gpus, "GPU") if gpus else _count(len(scope["hosts"]), "host"),
        f"{hours(finding['lost_gpu_seconds'])} GPU-hours" if gpus else "",
        _money(finding["cost"]) if finding["cost"] is not None else "",
        f"since {since:%H:%M}",
        f"until {until:%H:%M}" if until else "still open",
        f"confidence {finding['confidence']:.2f}",
        f"culprit: {', '.join(culprits[:8])}" if culprits else "",
    ]
    return Item(
        id=finding["id"],
        severity=finding["severity"],
        title=title(finding["cause"]),
        where=scope["resource"] or scope["job"] or ", ".join(scope["hosts"][:3]),
        meaning=CAUSES[finding["cause"]].meaning if finding["cause"] in CAUSES else "",
        facts=", ".join(filter(None, facts)),
        evidence=[_evidence(e) for e in finding["evidence_for"]],
        against=[_evidence(e) for e in finding["evidence_against"]],
        missing=finding["missing_signals"],
        steps=finding["next_steps"],
    )


def _evidence(item: Mapping[str, Any]) -> tuple[str, str, str]:
    return item["signal"], f"{item['value']:.{_DIGITS}g}", f"normal below {item['expected']:.{_DIGITS}g}"


def _job(job: Mapping[str, Any]) -> JobLine:
    largest = next(iter(job["by_cause"]), None)
    work = job.get("workload") or {}
    kind, bound = work.get("kind"), work.get("bound")
    return JobLine(
        job=job["job"],
        name=job["name"] or "",
        user=job["user"] or "",
        gpus=job["gpus"],
        fed=job["au"],
        hours=job["lost_seconds"] / 3600,
        mostly=title(largest) if largest and job["au"] is not None and job["au"] < FED else "",
        workload=" ".join(filter(None, (f"{bound}-bound" if bound else "", kind or ""))),
    )


def title(cause: str) -> str:
    """What a cause is called."""
    return CAUSES[cause].title if cause in CAUSES else ("Unknown" if cause == UNKNOWN else cause)


def hours(seconds: float) -> str:
    """GPU-hours of GPU-seconds: seconds still tell in a look at minutes."""
    spent = seconds / 3600
    return f"{spent:,.2f}" if spent >= 0.1 or not spent else f"{spent:.4f}"


def energy(joules: float) -> str:
    """Joules in a unit that reads well."""
    return f"{joules / 3.6e6:,.2f} kWh" if joules >= 3.6e4 else f"{joules:,.0f} J"


def _money(amount: float) -> str:
    return f"${amount:,.2f}"


def _price(part: Mapping[str, Any]) -> str:
    price = part["price_per_gpu_hour"]
    return _money(price) if price is not None else "no price"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _lower(text: str) -> str:
    """The title inside a sentence; an abbreviation keeps its capitals."""
    return text[0].lower() + text[1:] if len(text) > 1 and text[1].islower() else text
