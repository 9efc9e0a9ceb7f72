"""Findings: what, since when, how sure, what next; evidence for and against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.analysis.causes import CAUSES, FAMILIES
from wellfed.analysis.trouble import find
from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import gpus_by_host, step_for
from wellfed.dashboard.figures import Array, Line, stacked
from wellfed.dashboard.leaves import common_leaf
from wellfed.dashboard.mine import is_of, user_chips
from wellfed.dashboard.parts import (
    Column,
    card,
    cause_label,
    chips,
    code_badge,
    figures_row,
    missing,
    table,
    time_plot,
    verdict,
)
from wellfed.dashboard.remarks import actions, said, standing_pills
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.told import evidence, findings_table, next_steps, opened, pills, wanted
from wellfed.dashboard.twins import series_twin
from wellfed.dashboard.view import ROWS, Component, Page, View, gpu_path, job_path
from wellfed.dashboard.words import ago, duration, family, hours, money, scope_text, share, title

__all__ = ["body", "detail"]


def body(view: View) -> Page:
    """All findings of the range."""
    findings = view.document["findings"]
    shown = wanted(view, findings)
    count = len(opened(view))
    heard = [f for f in findings if view.standing(f).muted is None]
    worst = max(heard, key=lambda f: float(f["lost_gpu_seconds"]), default=None)
    told: list[Component] = ["Nothing waits longer than it should."]
    if findings:
        told = [html.B("All findings are muted"), f": {len(findings)} in this range."]
    if worst is not None:
        told = [
            html.B(f"{count} open of {len(heard)} findings"),
            f"; {title(worst['cause']).lower()} costs most: ",
            f"{hours(worst['lost_gpu_seconds'])} GPU-hours so far.",
        ]
    more = f" · the first {ROWS} of {len(shown)}" if len(shown) > ROWS else ""
    return Page(
        [html.H1("Findings")],
        [
            verdict(*told),
            card(
                "Findings",
                findings_table(view, shown, "No finding is like this in this range." if findings else ""),
                sub=f"ranked by GPU-hours lost{more}",
                right=html.Div(_filters(view, findings, heard), className="seg"),
                classes="pad0",
            ),
        ],
    )


def _filters(
    view: View, findings: list[Mapping[str, Any]], heard: list[Mapping[str, Any]]
) -> list[Component]:
    """Ways to see fewer. heard: findings that are not muted."""
    states = Counter(view.standing(f).state for f in findings)
    grades = Counter(f["severity"] for f in heard)
    families = Counter(family(f["cause"]) for f in heard)
    sev, cause, state, user = (view.query.get(name, "") for name in ("sev", "cause", "state", "user"))
    first = [
        (
            f"All {len(heard)}",
            view.here(sev="", cause="", job="", user="", state=""),
            not (sev or cause or user or state),
        )
    ]
    first += [
        (f"{word.capitalize()} {grades[word]}", view.here(sev="" if sev == word else word), sev == word)
        for word in ("critical", "warning", "info")
        if grades[word]
    ]
    second = [
        (
            html.Span([code_badge(name), " ", str(families[name])]),
            view.here(cause="" if cause == name else name),
            cause in (name, *(c for c in CAUSES if family(c) == name)),
        )
        for name in FAMILIES
        if families[name]
    ]
    third = [
        (f"{word.capitalize()} {states[word]}", view.here(state="" if state == word else word), state == word)
        for word in ("new", "acknowledged", "muted")
        if states[word] and states["new"] < len(findings)
    ]
    severity, standing, family_ = (
        [chips(items, name)] if items else []
        for items, name in ((first, "Severity"), (third, "State"), (second, "Cause"))
    )
    whose = user_chips(view, lambda user: sum(is_of(view, f, user) for f in heard))
    return [*severity, *whose, *standing, *family_]


def detail(view: View, name: str) -> Page:
    """One finding."""
    crumbs: list[Component] = [dcc.Link("Findings", href=view.to("/findings")), html.Span("/")]
    found = find(view.document["findings"], name)
    if found is None:
        text = "This finding is not in the range shown. Choose a longer one."
        return Page([*crumbs, html.H1("Finding")], [missing("Not here", text)])
    return Page(
        [*crumbs, html.H1(title(found["cause"]))],
        [
            html.Div(
                [
                    html.Div([_lost(view, found), _where(view, found)], className="main nopad"),
                    _panel(view, found),
                ],
                className="drill",
            )
        ],
    )


def _over_time(answer: Answer, id_: str) -> tuple[Array, Array, float]:
    """Milliseconds of each bin and GPU-hours that the finding's GPUs lost to its cause in it."""
    (found,) = (f for f in answer.diagnosis.document["findings"] if f["id"] == id_)
    step = step_for(answer, 240)
    every = timedelta(seconds=step)
    rows = (
        answer.diagnosis.shares.lazy()
        .filter((pl.col("cause") == found["cause"]) & pl.col("gpu").is_in(found["scope"]["gpus"]))
        .group_by(pl.col("ts").dt.truncate(every).alias("at"))
        .agg(pl.col("lost_seconds").sum() / 3600)
        .sort("at")
        .collect(engine="streaming")
    )
    if rows.is_empty():
        return np.array([]), np.array([]), step
    rows = rows.upsample("at", every=every).with_columns(pl.col("lost_seconds").fill_null(0.0))
    return rows["at"].dt.epoch("ms").to_numpy().astype(float), rows["lost_seconds"].to_numpy(), step


def _lost(view: View, found: Mapping[str, Any]) -> Component:
    stamps, lost, step = view.answer.once(_over_time, found["id"])
    tone = view.skin.colour(family(found["cause"]))
    figure = stacked(view.skin, stamps, [(title(found["cause"]), tone, lost)], "GPU-h")
    summary = f"{hours(found['lost_gpu_seconds'])} GPU-hours lost, per {duration(step)}"
    return card(
        "GPU-hours lost to it",
        time_plot("lost", figure, 240, summary),
        series_twin(view, stamps, [Line(title(found["cause"]), lost, "GPU-h")], "GPU-hours lost over time"),
        sub=f"per {duration(step)} on the GPUs it touches",
    )


def _where(view: View, found: Mapping[str, Any]) -> Component:
    scope, culprits = found["scope"], found["culprits"]
    inside, guilty = set(scope["gpus"]), set(culprits["gpus"])
    known = view.answer.once(gpus_by_host)
    gpus = [g for host in scope["hosts"] for g in known.get(host, ()) if g["gpu"] in inside]
    gpus.sort(key=lambda g: (g["gpu"] not in guilty, -float(g["by_cause"].get(found["cause"], 0.0))))
    sort = Sort(view)
    keys: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "gpu": lambda g: f"{g['host']} · {g['index'] or g['gpu']}",
        "role": lambda g: "culprit" if g["gpu"] in guilty else "waits",
        "lost": lambda g: float(g["by_cause"].get(found["cause"], 0.0)),
        "au": lambda g: g["au"],
    }
    ordered = view.first(sort.apply(gpus, keys))
    rows = [
        (
            dcc.Link(f"{g['host']} · {g['index'] or g['gpu']}", href=view.to(gpu_path(g["host"], g))),
            "culprit" if g["gpu"] in guilty else "waits",
            hours(g["by_cause"].get(found["cause"], 0.0)),
            share(g["au"]),
        )
        for g in ordered
    ]
    more = f" · the first {ROWS} of {len(gpus)}" if len(gpus) > ROWS else ""
    return card(
        "GPUs",
        table(
            (
                Column("GPU", "gpu"),
                Column("Role", "role"),
                Column("GPU-h lost to it", "lost", number=True),
                Column("Productive", "au", number=True),
            ),
            rows,
            "No GPU is named.",
            "GPUs of the finding",
            sort,
            [view.to(gpu_path(g["host"], g)) for g in ordered],
        ),
        sub=f"culprits first, then by what they lost{more}",
        classes="pad0",
    )


def _panel(view: View, found: Mapping[str, Any]) -> Component:
    cause, scope = found["cause"], found["scope"]
    since = datetime.fromisoformat(found["start"])
    ended = (
        "still open"
        if found["end"] is None
        else f"ended {ago(datetime.fromisoformat(found['end']), view.answer.now)} ago"
    )
    culprits = [
        f"{kind}: {', '.join(map(str, names[:8]))}" for kind, names in found["culprits"].items() if names
    ]
    parts: list[Component] = [
        html.Div(
            [code_badge(family(cause)), *pills(found), *standing_pills(view.standing(found))], className="vh"
        ),
        verdict(
            html.B(title(cause)),
            f" on {scope_text(scope)} since {since:%Y-%m-%d %H:%M} UTC ",
            f"({ago(since, view.answer.now)}), {ended}.",
        ),
        figures_row(
            [
                (hours(found["lost_gpu_seconds"]), "GPU-h lost"),
                (money(found["cost"]), "cost" if found["cost"] is not None else "set --price"),
                (f"{len(scope['gpus']):,}", "GPUs"),
            ]
        ),
        actions(view, found),
        *said(view, found),
        html.P(CAUSES[cause].meaning if cause in CAUSES else ""),
        html.H3("Evidence for and against"),
        evidence(found["evidence_for"], found["evidence_against"]),
        html.H3("Do next"),
        next_steps(cause, found["next_steps"]),
    ]
    if culprits:
        parts += [html.H3("Culprits"), html.Ul([html.Li(text) for text in culprits], className="plain")]
    leaf = common_leaf(view.answer, found) if family(cause) == "network" else ""
    if leaf:
        parts += [html.H3("Leaf"), html.P(f"All of its hosts are below {leaf}.")]
    if scope["job"]:
        parts += [html.H3("Job"), html.P(dcc.Link(scope["job"], href=view.to(job_path(scope["job"]))))]
    if found["missing_signals"]:
        parts += [html.H3("Would make it surer"), html.P(", ".join(found["missing_signals"]))]
    parts.append(
        html.P(
            ["Same cause elsewhere: ", dcc.Link(cause_label(cause), href=view.to("/findings", cause=cause))]
        )
    )
    return html.Section(parts, className="card verdict")
