"""Findings: what, since when, how sure, what next; evidence for and against."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from dash import dcc, html

from wellfed.analysis.causes import CAUSES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.parts import (
    Component,
    badge,
    card,
    evidence,
    findings_table,
    link,
    next_steps,
    scope_text,
)
from wellfed.dashboard.theme import ago, count, family, title

__all__ = ["body", "detail"]


def body(answer: Answer, query: Mapping[str, str]) -> tuple[list[Component], list[Component]]:
    """All findings of the range."""
    findings = answer.diagnosis.document["findings"]
    opened = sum(f["end"] is None for f in findings)
    worst = max(findings, key=lambda f: float(f["lost_gpu_seconds"]), default=None)
    text = "Nothing waits longer than it should."
    if worst is not None:
        hours = count(worst["lost_gpu_seconds"] / 3600)
        text = (
            f"{opened} open findings; {title(worst['cause']).lower()} costs most, {hours} GPU-hours so far."
        )
    return [html.H1("Findings")], [
        html.P(text, className="vt", id="verdict"),
        card(
            "Findings",
            findings_table(findings, query, answer.now),
            sub="ranked by GPU-hours lost",
            classes="pad0",
        ),
    ]


def detail(answer: Answer, query: Mapping[str, str], name: str) -> tuple[list[Component], list[Component]]:
    """One finding."""
    crumbs: list[Component] = [dcc.Link("Findings", href=link("/findings", query)), html.Span("/")]
    found = next((f for f in answer.diagnosis.document["findings"] if str(f["id"]) == name), None)
    if found is None:
        text = "This finding is not in the range shown. Choose a longer one."
        return [*crumbs, html.H1("Finding")], [card("Not here", html.P(text, className="empty"))]
    cause = found["cause"]
    since = datetime.fromisoformat(found["start"])
    ended = (
        "still open"
        if found["end"] is None
        else f"ended {ago(datetime.fromisoformat(found['end']), answer.now)} ago"
    )
    missing = found["missing_signals"]
    culprits = [f"{kind}: {', '.join(map(str, names))}" for kind, names in found["culprits"].items() if names]
    parts: list[Component] = [
        html.Div(
            [
                badge(family(cause)),
                html.Span(found["severity"], className=f"pill {found['severity']}"),
                html.Span(f"confidence {found['confidence']:.2f}", className="pill"),
            ],
            className="vh",
        ),
        html.P(
            [
                html.B(title(cause)),
                f" on {scope_text(found['scope'])} since {since:%Y-%m-%d %H:%M} UTC "
                f"({ago(since, answer.now)}), {ended}.",
            ],
            className="vt",
            id="verdict",
        ),
        html.P(CAUSES[cause].meaning if cause in CAUSES else ""),
        html.P(
            f"{count(found['lost_gpu_seconds'] / 3600)} GPU-hours lost"
            + ("" if found["cost"] is None else f", ${count(found['cost'])}")
            + "."
        ),
        html.H3("Evidence"),
        evidence(found["evidence_for"], found["evidence_against"]),
        html.H3("Do next"),
        next_steps(cause, found["next_steps"]),
    ]
    if culprits:
        parts += [html.H3("Culprits"), html.Ul([html.Li(text) for text in culprits])]
    if missing:
        parts += [html.H3("Would make it surer"), html.P(", ".join(missing))]
    return [*crumbs, html.H1(title(cause))], [html.Section(parts, className="card verdict")]
