"""Findings as the pages tell them: table, evidence, severity, confidence, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from dash import dcc, html

from wellfed.analysis.causes import CAUSES
from wellfed.analysis.trouble import key
from wellfed.dashboard.facts import job_names
from wellfed.dashboard.mine import asked_user, is_of
from wellfed.dashboard.parts import Column, cause_label, table
from wellfed.dashboard.remarks import mark
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.view import ROWS, Component, View, job_path
from wellfed.dashboard.words import Number, ago, evidence_text, family, hours, money, scope_text, title

__all__ = [
    "confidence",
    "do_next",
    "evidence",
    "finding_link",
    "findings_table",
    "next_steps",
    "opened",
    "pills",
    "severity",
    "wanted",
]

_GRADES = {"info": 0, "warning": 1, "critical": 2}

_COLUMNS = (
    Column("Sev", "sev", drawn=True),
    Column("Cause", "cause"),
    Column("Job", "job"),
    Column("Scope", "scope"),
    Column("Evidence", wide=True),
    Column("Since", "since", number=True),
    Column("GPU-h lost", "lost", number=True),
    Column("Cost", "cost", number=True),
    Column("Conf.", "conf", drawn=True),
    Column("Do next", wide=True),
)


def finding_link(view: View, finding: Mapping[str, Any]) -> str:
    """Address of a finding's page, which holds while a range moves on."""
    return view.to(f"/findings/{key(finding)}")


def wanted(view: View, findings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the URL's `cause`, `job`, `user`, `sev` and `state` leave; muted findings only by `state`."""
    cause, job, grade, state = (view.query.get(name, "") for name in ("cause", "job", "sev", "state"))
    user = asked_user(view)
    return [
        f
        for f in findings
        if (not cause or cause in (f["cause"], family(f["cause"])))
        and (not job or f["scope"].get("job") == job)
        and (not user or is_of(view, f, user))
        and (not grade or grade == f["severity"])
        and (view.standing(f).state == state if state else view.standing(f).muted is None)
    ]


def opened(view: View) -> list[Mapping[str, Any]]:
    """Findings that are open and not muted."""
    return [f for f in view.document["findings"] if f["end"] is None and view.standing(f).muted is None]


def do_next(view: View, job: str = "", host: str = "") -> Component:
    """What the costliest finding (of a job, a host) says to do first, as a link to it; None without one."""
    found = next(
        (
            finding
            for finding in view.document["findings"]
            if finding["next_steps"]
            and (not job or finding["scope"]["job"] == job)
            and (not host or host in finding["scope"]["hosts"])
        ),
        None,
    )
    if found is None:
        return None
    step = found["next_steps"][0]
    return dcc.Link(step, href=finding_link(view, found), className="quiet", title=step)


def severity(name: str) -> Component:
    """Severity by shape."""
    return html.Span(className=f"sev {name}", role="img", title=name, **{"aria-label": name})


def confidence(value: float) -> Component:
    """Five boxes and the number."""
    text = Number(f"confidence {value:.2f}", value)
    boxes = [html.I(className="on" if value > i / 5 else "") for i in range(5)]
    return html.Span(boxes, className="conf", title=text, role="img", **{"aria-label": text})


def pills(finding: Mapping[str, Any]) -> list[Component]:
    """Severity and confidence in words."""
    return [
        html.Span(finding["severity"], className=f"pill {finding['severity']}"),
        html.Span(f"confidence {finding['confidence']:.2f}", className="pill"),
        *([] if finding["end"] is None else [html.Span("ended", className="pill")]),
    ]


def findings_table(
    view: View, findings: Sequence[Mapping[str, Any]], nothing: str = "", most: int = ROWS, of: str = ""
) -> Component:
    """Findings, the costliest first unless the URL sorts them otherwise. of: as in Sort."""
    names = view.answer.once(job_names)
    keys: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "sev": lambda f: _GRADES.get(f["severity"], 0),
        "cause": lambda f: title(f["cause"]),
        "job": lambda f: names.get(f["scope"]["job"], f["scope"]["job"]),
        "scope": lambda f: len(f["scope"]["gpus"]),
        "since": lambda f: view.answer.now.timestamp() - datetime.fromisoformat(f["start"]).timestamp(),
        "lost": lambda f: float(f["lost_gpu_seconds"]),
        "cost": lambda f: f["cost"],
        "conf": lambda f: float(f["confidence"]),
    }
    sort = Sort(view, "-lost", of)
    costliest = sorted(findings, key=keys["lost"], reverse=True)
    ordered = view.first(sort.apply(costliest, keys), most)
    return table(
        _COLUMNS,
        [_row(view, f) for f in ordered],
        nothing or "No finding in this range: nothing waits longer than it should.",
        "Findings",
        sort,
        [finding_link(view, f) for f in ordered],
    )


def _row(view: View, finding: Mapping[str, Any]) -> tuple[Component, ...]:
    why = next(iter(finding["evidence_for"]), None)
    told = evidence_text(why) if why else "–"
    step = next(iter(finding["next_steps"]), "")
    job = finding["scope"]["job"]
    name = view.answer.once(job_names).get(job, job)
    return (
        html.Span([severity(finding["severity"]), mark(view.standing(finding))], className="sevs"),
        dcc.Link(cause_label(finding["cause"]), href=finding_link(view, finding)),
        dcc.Link(name, href=view.to(job_path(job)), className="quiet", title=job) if job else "–",
        scope_text(finding["scope"]),
        html.Span(told, title=told),
        ago(datetime.fromisoformat(finding["start"]), view.answer.now),
        hours(finding["lost_gpu_seconds"]),
        money(finding["cost"]),
        confidence(finding["confidence"]),
        html.Span(step, title=step),
    )


def evidence(items: Iterable[Mapping[str, Any]], against: Iterable[Mapping[str, Any]]) -> Component:
    """Evidence for and against, told apart by sign as well as colour."""
    marks = [("✓", "y", "for", i) for i in items] + [("✕", "n", "against", i) for i in against]
    return html.Ul(
        [
            html.Li([html.Span(sign, className=f"mk {tone}", title=word), html.Div(evidence_text(item))])
            for sign, tone, word, item in marks
        ],
        className="ev",
    )


def next_steps(cause: str, steps: Sequence[str]) -> Component:
    """What to do, most effective first."""
    known = steps or (CAUSES[cause].next_steps if cause in CAUSES else ())
    return html.Ol([html.Li(step) for step in known], className="todo")
