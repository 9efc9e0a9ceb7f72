"""Jobs: which of them waste GPU time, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.parts import Component, card, cause_label, findings_table, gpu_link, link, table
from wellfed.dashboard.theme import count, title

__all__ = ["body", "detail"]


def body(answer: Answer, query: Mapping[str, str]) -> tuple[list[Component], list[Component]]:
    """All jobs, the costliest first."""
    jobs = sorted(answer.diagnosis.document["jobs"], key=lambda j: -float(j["lost_seconds"]))
    text = "No job held a GPU or reported steps in this range."
    if jobs:
        first, hours = jobs[0]["name"] or jobs[0]["job"], count(jobs[0]["lost_seconds"] / 3600)
        text = f"{len(jobs)} jobs; {first} lost most: {hours} GPU-hours."
    rows = [
        (
            dcc.Link(j["name"] or j["job"], href=link(f"/job/{quote(j['job'], safe='')}", query)),
            j["user"] or "–",
            _number(j["gpus"]),
            "–" if j["au"] is None else f"{j['au']:.0%}",
            count(j["lost_seconds"] / 3600),
            _worst(j),
        )
        for j in jobs
    ]
    found = table(
        ("Job", "User", "GPUs#", "Productive#", "GPU-h lost#", "Mostly"), rows, text, "Jobs by lost GPU-hours"
    )
    return [html.H1("Jobs")], [
        html.P(text, className="vt", id="verdict"),
        card("Jobs", found, classes="pad0"),
    ]


def detail(answer: Answer, query: Mapping[str, str], name: str) -> tuple[list[Component], list[Component]]:
    """One job: its loss by cause, its GPUs and its findings."""
    document = answer.diagnosis.document
    crumbs: list[Component] = [dcc.Link("Jobs", href=link("/jobs", query)), html.Span("/"), html.H1(name)]
    job = next((j for j in document["jobs"] if j["job"] == name), None)
    if job is None:
        return crumbs, [card("Not here", html.P("This job is not in the range shown.", className="empty"))]
    au = "was not measured" if job["au"] is None else f"was productive {job['au']:.0%} of its time"
    causes = sorted(job["by_cause"].items(), key=lambda item: -item[1])
    root = job["by_cause_root"]
    gpus = sorted((g for g in document["gpus"] if g["job"] == name), key=lambda g: -float(g["lost_seconds"]))
    return crumbs, [
        html.P(
            f"{job['name'] or name} {au} and lost {count(job['lost_seconds'] / 3600)} GPU-hours.",
            className="vt",
            id="verdict",
        ),
        card(
            "Lost time by cause",
            table(
                ("Cause", "GPU-hours#", "with stragglers' own cause#"),
                [
                    (cause_label(c), count(s / 3600), count(root.get(c, 0.0) / 3600))
                    for c, s in causes
                    if s > 0
                ],
                "Nothing was lost.",
                "Lost GPU-hours by cause",
            ),
            classes="pad0",
        ),
        card(
            "Findings",
            findings_table(
                [f for f in document["findings"] if f["scope"].get("job") == name], query, answer.now
            ),
            classes="pad0",
        ),
        card(
            "GPUs",
            table(
                ("GPU", "Productive#", "GPU-h lost#", "Mostly"),
                [
                    (
                        dcc.Link(
                            f"{g['host']} · {g['index'] or g['gpu']}",
                            href=link(gpu_link(g["host"], g), query),
                        ),
                        "–" if g["au"] is None else f"{g['au']:.0%}",
                        count(g["lost_seconds"] / 3600),
                        _worst(g),
                    )
                    for g in gpus
                ],
                "No GPU.",
                "GPUs of the job",
            ),
            classes="pad0",
        ),
    ]


def _worst(item: Mapping[str, Any]) -> Component:
    causes = item["by_cause"]
    if not causes or item["lost_seconds"] <= 0:
        return "–"
    cause = max(causes, key=causes.get)
    return cause_label(cause) if causes[cause] > 0 else title(cause)


def _number(value: object) -> str:
    return str(len(value)) if isinstance(value, list) else str(value)
