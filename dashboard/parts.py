"""Pieces that every page is made of: shell, cards, codes, tables. Text is always text, never markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from dash import dcc, html

from wellfed.analysis.causes import CAUSES, FAMILIES
from wellfed.dashboard.data import RANGES, Answer
from wellfed.dashboard.figures import Figure
from wellfed.dashboard.theme import ago, code, colour, count, duration, family, title

__all__ = [
    "badge",
    "card",
    "cause_label",
    "evidence",
    "gpu_link",
    "graph",
    "host_link",
    "kpi",
    "link",
    "shell",
    "table",
]

_NAV = (
    ("/", "Fleet"),
    ("/findings", "Findings"),
    ("/jobs", "Jobs"),
    ("/hosts", "Hosts"),
    ("/telemetry", "Telemetry"),
)
#: Data older than this many seconds is dimmed and says so.
STALE = 25.0

Component = Any


def link(path: str, query: Mapping[str, str], **changes: str) -> str:
    """An address that keeps the state of the URL, with changes."""
    state = {k: v for k, v in {**query, **changes}.items() if v}
    return path + (f"?{urlencode(state)}" if state else "")


def host_link(host: str) -> str:
    """Path of a host's page."""
    return f"/host/{quote(host, safe='')}"


def gpu_link(host: str, gpu: Mapping[str, Any]) -> str:
    """Path of a GPU's page, by its ordinal where it has one."""
    return f"/gpu/{quote(host, safe='')}/{quote(str(gpu['index'] or gpu['gpu']), safe='')}"


def badge(family_id: str) -> Component:
    """The two-letter code on the family's colour."""
    return html.Span(
        code(family_id),
        className="code",
        style={"background": colour(family_id)},
        title=FAMILIES[family_id].title,
    )


def cause_label(cause: str) -> Component:
    """Code and name of a cause."""
    return html.Span([badge(family(cause)), title(cause)], className="cause")


def card(
    heading: str, *children: Component, sub: str = "", right: Component = None, classes: str = ""
) -> Component:
    """A card with a heading."""
    head = [html.Div([html.H2(heading), html.Span(sub, className="sub")], className="ct")]
    if right is not None:
        head.append(right)
    return html.Section([html.Div(head, className="chd"), *children], className=f"card {classes}")


def graph(id_: str, figure: Figure, height: int, summary: str) -> Component:
    """A chart with its text summary for those who cannot see it."""
    return html.Figure(
        [
            dcc.Graph(
                id=id_,
                figure=figure,
                config={"displayModeBar": False, "responsive": True},
                style={"height": f"{height}px"},
            ),
            html.Figcaption(summary, className="seen-not"),
        ],
        role="group",
        **{"aria-label": summary},
    )


def kpi(name: str, value: str, unit: str, detail: str, spark: str = "", bad: bool = False) -> Component:
    """One of the figures at the top of a page."""
    parts = [
        html.Div(name, className="kl"),
        html.Div([html.Span(value, className="kv"), html.Span(unit, className="ku")]),
        html.Div(detail, className="kd bad" if bad else "kd"),
    ]
    if spark:
        parts.append(html.Img(src=spark, className="ks", alt=""))
    return html.Div(parts, className="kpi")


def table(columns: Sequence[str], rows: Iterable[Sequence[Component]], empty: str, caption: str) -> Component:
    """A plain table; names that end with # are right-aligned numbers."""
    body = [
        html.Tr(
            [
                html.Td(cell, className="num" if c.endswith("#") else "")
                for c, cell in zip(columns, row, strict=True)
            ]
        )
        for row in rows
    ]
    if not body:
        body = [html.Tr([html.Td(empty, colSpan=len(columns), className="empty")])]
    head = html.Tr(
        [html.Th(c.rstrip("#"), scope="col", className="num" if c.endswith("#") else "") for c in columns]
    )
    return html.Div(
        html.Table(
            [html.Caption(caption, className="seen-not"), html.Thead(head), html.Tbody(body)],
            className="rows",
        ),
        className="scroll",
        tabIndex=0,
        role="region",
        **{"aria-label": caption},
    )


def severity(name: str) -> Component:
    """Severity by shape."""
    return html.Span(className=f"sev {name}", role="img", title=name, **{"aria-label": name})


def confidence(value: float) -> Component:
    """Five boxes and the number."""
    boxes = [html.I(className="on" if value > i / 5 else "") for i in range(5)]
    return html.Span(
        boxes,
        className="conf",
        title=f"confidence {value:.2f}",
        role="img",
        **{"aria-label": f"confidence {value:.2f}"},
    )


def findings_table(
    findings: Sequence[Mapping[str, Any]], query: Mapping[str, str], now: datetime
) -> Component:
    """Findings ranked by lost time."""
    rows = []
    for f in sorted(findings, key=lambda f: -float(f["lost_gpu_seconds"])):
        why = (
            next(iter(f["evidence_for"]), None)
            if "evidence_for" in f
            else next(iter(f["evidence"]["for"]), None)
        )
        steps = f["next_steps"] or [""]
        cost = f["cost"]
        rows.append(
            (
                severity(f["severity"]),
                dcc.Link(
                    cause_label(f["cause"]), href=link(f"/findings/{quote(str(f['id']), safe='')}", query)
                ),
                f["scope"]["job"] or "–",
                scope_text(f["scope"]),
                evidence_text(why) if why else "–",
                ago(datetime.fromisoformat(f["start"]), now),
                count(f["lost_gpu_seconds"] / 3600),
                "–" if cost is None else f"${count(cost)}",
                confidence(f["confidence"]),
                html.Span(steps[0], title=steps[0]),
            )
        )
    columns = (
        "Sev",
        "Cause",
        "Job",
        "Scope",
        "Evidence",
        "Since#",
        "GPU-h lost#",
        "Cost#",
        "Conf.",
        "Do next",
    )
    return table(
        columns,
        rows,
        "No finding in this range: nothing waits longer than it should.",
        "Findings, the costliest first",
    )


def scope_text(scope: Mapping[str, Any]) -> str:
    """`64 GPUs · r04-n01`, or the resource that is shared."""
    gpus, hosts = len(scope.get("gpus") or ()), list(scope.get("hosts") or ())
    where = scope.get("resource") or (hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts")
    return f"{gpus} GPU{'s' if gpus != 1 else ''} · {where}" if gpus else str(where)


def evidence_text(item: Mapping[str, Any]) -> str:
    """One piece of evidence in words."""
    value, expected = item["value"], item["expected"]
    shown = count(float(value)) if isinstance(value, int | float) else str(value)
    wanted = count(float(expected)) if isinstance(expected, int | float) else str(expected)
    return f"{item['signal']} {shown}, normal below {wanted}"


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
    return html.Ol([html.Li(step) for step in (steps or CAUSES[cause].next_steps)], className="todo")


def shell(
    answer: Answer,
    path: str,
    query: Mapping[str, str],
    crumbs: Sequence[Component],
    body: Sequence[Component],
    simulated: bool,
) -> Component:
    """Navigation, head and body of a page."""
    findings = answer.diagnosis.document["findings"]
    opened = sum(f["end"] is None for f in findings)
    nav = [
        dcc.Link(
            [
                name,
                *(
                    [html.Span(str(opened), className="nb", title=f"{opened} open findings")]
                    if name == "Findings" and opened
                    else []
                ),
            ],
            href=link(target, {k: v for k, v in query.items() if k in ("from", "to")}),
            className="nl on" if _active(path, target) else "nl",
        )
        for target, name in _NAV
    ]
    ranges = [
        dcc.Link(
            r,
            href=link(path, query, **{"from": r, "to": ""}),
            className="on" if answer.range.text == r else "",
        )
        for r in RANGES
    ]
    if not answer.range.live:
        ranges.append(html.Span(answer.range.text, className="on"))
    head = [html.Nav(crumbs, className="crumbs", **{"aria-label": "Where you are"})]
    if simulated:
        head.append(html.Strong("SIMULATED DATA", className="simulated", role="note"))
    head.append(html.Div([html.Div(ranges, className="ranges"), _freshness(answer)], className="tools"))
    return html.Div(
        [
            html.A("Skip to content", href="#main", className="skip"),
            html.Nav(
                [
                    dcc.Link(
                        [html.Span(className="logo"), "Wellfed"], href=link("/", query), className="brand"
                    ),
                    *nav,
                    html.Div(_reporting(answer), className="fresh"),
                ],
                className="nav",
                **{"aria-label": "Pages"},
            ),
            html.Div(
                [html.Header(head, className="top"), html.Main(body, className="main", id="main")],
                className="col",
            ),
        ],
        className="shell",
    )


def _active(path: str, target: str) -> bool:
    if target == "/":
        return path == "/" or path.startswith("/gpu/")
    return path.startswith(target) or (target == "/hosts" and path.startswith("/host/"))


def _freshness(answer: Answer) -> Component:
    if answer.last is None:
        return html.Span("no data yet", className="live stale", id="age")
    if not answer.range.live:
        return html.Span("history", className="live", id="age")
    age = (answer.now - answer.last).total_seconds()
    if age > STALE:
        return html.Span(f"stale: {duration(age)} old", className="live stale", id="age", role="status")
    return html.Span(
        [html.Span(className="dot"), "Live"],
        className="live",
        id="age",
        title=f"newest window {age:.0f} s old",
    )


def _reporting(answer: Answer) -> str:
    hosts = answer.diagnosis.hosts
    if hosts.is_empty() or answer.last is None:
        return "no host reports"
    known = hosts["host"].n_unique()
    latest = hosts.filter(hosts["ts"] >= answer.last)
    return f"{latest['host'].n_unique()} of {known} hosts reporting"
