"""What surrounds every page: navigation, search, range, live tail, help. It stays while pages come and go."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC

from dash import dcc, html

from wellfed.dashboard.facts import reporting
from wellfed.dashboard.ranges import RANGES, Range
from wellfed.dashboard.registry import PAGES, entry
from wellfed.dashboard.remarks import dialog
from wellfed.dashboard.search import Hit
from wellfed.dashboard.told import opened
from wellfed.dashboard.view import Component, View
from wellfed.dashboard.words import duration

__all__ = ["INTERVAL", "banner", "facts", "frame", "hits", "navigation", "pick"]

#: Milliseconds between looks for a new window; a window is ten seconds.
INTERVAL = 2_500
#: Seconds after which the newest window is stale: two windows and a little.
STALE = 25.0

_KEYS = (
    ("/", "search GPUs, hosts, jobs and users"),
    *((f"g {page.key}", f"go to {page.name}") for page in PAGES),
    ("j k", "next, previous row of the page's table"),
    ("← ↑ ↓ →", "move in the heat map"),
    ("Enter", "open what is chosen"),
    ("a m n", "acknowledge, mute, note: the finding shown or chosen"),
    ("[ ]", "earlier, later by half a range"),
    ("l", "live tail on or off"),
    ("c", "copy a link that stays as it is"),
    ("e", "export: tables, charts, report"),
    ("d", "dark or light"),
    ("?", "these keys"),
)


def frame(simulated: bool) -> Component:
    """The layout of the app."""
    mark = [html.Strong("SIMULATED DATA", className="simulated", role="note")] if simulated else []
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Interval(id="tick", interval=INTERVAL),
            dcc.Store(id="beat"),
            dcc.Store(id="theme"),
            dcc.Store(id="seen"),
            dcc.Store(id="facts"),
            html.A("Skip to content", href="#main", className="skip"),
            html.Nav(id="nav", className="nav", **{"aria-label": "Pages"}),
            html.Div(
                [
                    html.Header(
                        [
                            html.Nav(id="crumbs", className="crumbs", **{"aria-label": "Where you are"}),
                            *mark,
                            _tools(),
                        ],
                        className="top",
                    ),
                    html.Div(id="offline", className="banner bad", role="alert"),
                    html.Div(id="banner", className="banners"),
                    html.Main(_skeleton(), className="main", id="main", tabIndex=-1),
                ],
                className="col",
            ),
            _help(),
            dialog(),
            html.Div(id="toast", className="toast", role="status"),
        ],
        className="shell",
        id="frame",
    )


def _tools() -> Component:
    return html.Div(
        [
            html.Div(
                [
                    html.Label("Search GPUs, hosts, jobs, users", htmlFor="search", className="seen-not"),
                    dcc.Input(
                        id="search",
                        type="text",
                        placeholder="GPU, host, job, user …",
                        autoComplete="off",
                        value="",
                    ),
                    html.Kbd("/"),
                    html.Div(id="hits", className="hits"),
                ],
                className="srch",
            ),
            html.Div(id="ranges", className="ranges"),
            _button(
                "live", [html.Span(className="dot"), html.Span("Live", id="age")], "Live tail on or off (l)"
            ),
            html.Details(
                [
                    html.Summary(
                        html.Span(className="ic ic-export"),
                        className="btn",
                        title="Export (e)",
                        **{"aria-label": "Export"},
                    ),
                    html.Div(id="exports"),
                ],
                id="export",
            ),
            _button("copy", html.Span(className="ic ic-copy"), "Copy a link that stays as it is (c)"),
            _button("skin", html.Span(className="ic ic-skin"), "Dark or light (d)"),
            _button("keys", "?", "Keys (?)"),
        ],
        className="tools",
    )


def _button(id_: str, children: Component, text: str) -> Component:
    named = {} if isinstance(children, str) and len(children) > 1 else {"aria-label": text}
    return html.Button(children, id=id_, className="btn", title=text, n_clicks=0, type="button", **named)


def _skeleton() -> Component:
    return html.Div([html.Div(className=f"bone b{n}") for n in (1, 2, 3)], className="bones", role="status")


def _help() -> Component:
    rows = [html.Tr([html.Td([html.Kbd(k) for k in keys.split()]), html.Td(what)]) for keys, what in _KEYS]
    return html.Dialog(
        [
            html.H2("Keys", id="help-title"),
            html.Table(html.Tbody(rows)),
            html.P("Drag over a chart to look closer; double-click to go back. Times are UTC."),
            html.Button("Close", id="help-close", className="btn", type="button", n_clicks=0),
        ],
        id="help",
        **{"aria-labelledby": "help-title"},
    )


def navigation(view: View) -> list[Component]:
    """The pages, with the number of open findings and of hosts that report."""
    count = len(opened(view))
    here = entry(view.path)
    links = []
    for page in PAGES:
        chosen = page is here
        label: list[Component] = [html.Span(className=f"ic ic-{page.icon}"), page.name]
        if page.name == "Findings" and count:
            label.append(html.Span(str(count), className="nb", title=f"{count} open findings"))
        current = {"aria-current": "page"} if chosen else {}
        links.append(
            html.Div(
                dcc.Link(label, href=view.to(page.path), className="nl on" if chosen else "nl"), **current
            )
        )
    brand = dcc.Link([html.Span(className="logo"), "Wellfed"], href=view.to("/"), className="brand")
    return [brand, *links, html.Div(_reporting(view), className="fresh")]


def pick(view: View) -> list[Component]:
    """The ranges to choose from, and a form for any other."""
    shown = view.answer.range
    links: list[Component] = [
        dcc.Link(name, href=view.here(from_=name, to=""), className="on" if shown.text == name else "")
        for name in RANGES
    ]
    custom = "" if shown.text in RANGES else shown.text if shown.live else _short(shown)
    form = html.Div(
        [
            html.Label("From", htmlFor="from"),
            dcc.Input(
                id="from",
                type="text",
                value=view.query.get("from", ""),
                placeholder="2h, or 2026-03-02 09:00",
            ),
            html.Label("To", htmlFor="to"),
            dcc.Input(id="to", type="text", value=view.query.get("to", ""), placeholder="empty: until now"),
            html.Button("Show", id="apply", className="btn pri", type="button", n_clicks=0),
            html.P("UTC", className="dim"),
        ],
        className="form",
    )
    label = html.Summary(custom or "…", title="Another range", className="on" if custom else "")
    return [*links, html.Details([label, form], id="custom")]


def _short(shown: Range) -> str:
    """`Mar 02 09:00 – 12:00`, for the little room in the head."""
    start, end = (moment.astimezone(UTC) for moment in (shown.start, shown.end))
    until = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%b %d %H:%M}"
    return f"{start:%b %d %H:%M} – {until}"


def banner(view: View) -> list[Component]:
    """What limits the trust in this page: hosts or GPUs that do not report."""
    known, now = _hosts(view)
    if known == 0 or now == known or not view.answer.range.live:
        return []
    return [
        html.Div(
            [
                html.B(f"{now:,} of {known:,} hosts reporting"),
                " in the newest windows; the rest is shown as no data. ",
                dcc.Link("Which?", href=view.to("/telemetry")),
            ],
            className="banner warn",
            role="status",
        )
    ]


def facts(view: View) -> Mapping[str, object]:
    """What the browser needs to know about the page it shows."""
    answer = view.answer
    return {
        "last": answer.last.timestamp() * 1000 if answer.last else None,
        "live": answer.range.live,
        "stale": 1000 * max(STALE, 2.5 * float(view.document["window_seconds"])),
        "from": answer.range.start.isoformat(timespec="seconds"),
        "to": answer.range.end.isoformat(timespec="seconds"),
        "pages": {page.key: page.path for page in PAGES},
    }


def hits(found: list[Hit]) -> list[Component]:
    """What a search found."""
    rows = [
        dcc.Link(
            [
                html.Span(hit.kind, className="kind"),
                html.Span(hit.name, className="ell"),
                html.Span(hit.more, className="dim ell"),
            ],
            href=hit.href,
        )
        for hit in found
    ]
    return rows or [html.P("Nothing has that in its name in this range.", className="dim")]


def _hosts(view: View) -> tuple[int, int]:
    """(known in this range, reporting in the newest windows)."""
    return view.answer.once(reporting)


def _reporting(view: View) -> list[Component]:
    known, now = _hosts(view)
    if known == 0 or view.answer.last is None:
        return ["no host reports"]
    age = duration((view.answer.now - view.answer.last).total_seconds())
    tone = "dot" if now == known else "dot part"
    return [
        html.Span(className=tone),
        f"{now:,} / {known:,} hosts",
        html.Span(f"{age} old" if view.answer.range.live else ""),
    ]
