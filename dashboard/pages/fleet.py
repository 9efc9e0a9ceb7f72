"""The fleet: who is starved, by what, what it costs. Without a GPU: what this machine waits for."""

from __future__ import annotations

import numpy as np
from dash import dcc, html

from wellfed.dashboard.facts import by_window, lost_over_time
from wellfed.dashboard.figures import sparkline, stacked
from wellfed.dashboard.mine import asked_user, is_of, user_chips
from wellfed.dashboard.pages import hosts
from wellfed.dashboard.pages.rackmap import heat_card
from wellfed.dashboard.parts import bar, card, cause_label, kpi, missing, time_plot, twin, verdict
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.told import findings_table, opened, wanted
from wellfed.dashboard.view import Component, Page, View
from wellfed.dashboard.words import duration, family, hours, money, share, title

__all__ = ["body"]

#: Causes in the ranking.
_RANKED = 7


def body(view: View) -> Page:
    """The page."""
    crumbs: list[Component] = [html.H1("Fleet")]
    if not view.document["gpus"]:
        return Page(crumbs, _without_gpu(view))
    findings = wanted(view, view.document["findings"])
    count = sum(f["end"] is None for f in findings)
    return Page(
        crumbs,
        [
            verdict(*_sentence(view)),
            _figures(view),
            html.Div([heat_card(view), _causes(view)], className="row2"),
            card(
                "Findings",
                findings_table(view, findings, most=50),
                sub=f"{count} open · ranked by GPU-hours lost",
                right=html.Div([*_whose(view), dcc.Link("All findings", href=_all(view))], className="seg"),
                classes="pad0",
            ),
        ],
    )


def _whose(view: View) -> list[Component]:
    heard = [f for f in view.document["findings"] if view.standing(f).muted is None]
    return user_chips(view, lambda user: sum(is_of(view, f, user) for f in heard))


def _all(view: View) -> str:
    return view.to("/findings", user=asked_user(view))


def _without_gpu(view: View) -> list[Component]:
    known = [h["host"] for h in view.document["hosts"]]
    if not known:
        text = "No data in this range yet. The first window arrives 10 s after the agent starts:"
        return [missing("Waiting for the first window", text, "wellfed up")]
    if len(known) > 1:
        text = f"None of {len(known)} hosts has a GPU; these are their pressures."
        return [verdict(text), *hosts.body(view).main[1:]]
    return [
        verdict(hosts.sentence(view, known[0]), " See GPUs without having any: ", html.Code("wellfed demo")),
        hosts.signals(view, known[0]),
        hosts.collectors(view, known[0]),
    ]


def _sentence(view: View) -> list[Component]:
    totals = view.document["totals"]
    if totals["au"] is None:
        command = html.Code("wellfed doctor")
        return ["GPUs report, but none has a measured activity: there is no verdict. Run ", command, "."]
    causes = sorted(totals["by_cause"].items(), key=lambda item: -item[1])
    lead = html.B(f"{totals['au']:.0%} of GPU time was productive")
    if not causes or totals["lost_seconds"] < 0.02 * totals["covered_seconds"]:
        return [lead, "; nothing worth naming was lost."]
    cause, seconds = causes[0]
    part = seconds / totals["lost_seconds"]
    named = html.B(title(cause).lower())
    return [
        lead,
        "; of the rest, ",
        named,
        f" cost most: {hours(seconds)} GPU-hours, {part:.0%} of the loss.",
    ]


def _figures(view: View) -> Component:
    totals, gpus, skin = view.document["totals"], len(view.document["gpus"]), view.skin
    over = view.answer.once(by_window)
    lost = over["lost_seconds"].to_numpy().astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        productive = 1 - lost / over["covered_seconds"].to_numpy()
    starved, reporting = (int(over[c][-1]) if over.height else 0 for c in ("starved", "gpus"))
    found = opened(view)
    muted = sum(f["end"] is None for f in view.document["findings"]) - len(found)
    grades = [(sum(f["severity"] == word for f in found), word) for word in ("critical", "warning", "info")]
    grades.append((muted, "muted"))
    covered = totals["covered_seconds"] / totals["gpu_seconds"] if totals["gpu_seconds"] else 0.0
    au, storage = totals["au"], skin.colour("storage")
    tiles = [
        kpi(
            "Productive GPU time",
            "–" if au is None else f"{100 * au:.1f}",
            "%",
            _band(au),
            sparkline(productive, skin.good),
            bad=au is not None and au < 0.7,
        ),
        kpi(
            "Lost GPU-hours",
            hours(totals["lost_seconds"]),
            "h",
            f"of {hours(totals['covered_seconds'])} h measured",
            sparkline(lost, storage),
        ),
        kpi(
            "Cost of loss",
            money(totals["cost_lost"]),
            "",
            f"at ${view.price:.2f} per GPU-hour" if view.price is not None else "set --price to see it",
            sparkline(np.cumsum(lost), storage),
        ),
        kpi(
            "Starved now",
            f"{starved:,}",
            "GPUs",
            f"{share(starved / reporting)} of {reporting:,}" if reporting else "none measured now",
            sparkline(over["starved"].to_numpy().astype(float), skin.colour("hardware")),
            bad=starved > 0,
        ),
        kpi(
            "Open findings",
            str(len(found)),
            "",
            " · ".join(f"{n} {word}" for n, word in grades if n) or "none",
        ),
        kpi(
            "Telemetry coverage",
            f"{100 * covered:.1f}",
            "%",
            f"{reporting:,} of {gpus:,} report",
            bad=covered < 0.9,
        ),
    ]
    return html.Div(tiles, className="kpis")


def _band(au: float | None) -> str:
    if au is None:
        return "not measured"
    return "fed" if au >= 0.9 else "watch" if au >= 0.7 else "starved"


def _causes(view: View) -> Component:
    totals = view.document["totals"]["by_cause"]
    ranked = sorted((item for item in totals.items() if item[1] > 0), key=lambda item: -item[1])[:_RANKED]
    most = ranked[0][1] if ranked else 1.0
    chosen = view.query.get("cause", "")
    rows = [
        html.Div(
            [
                dcc.Link(
                    cause_label(cause),
                    href=view.here(cause="" if chosen == cause else cause),
                    className="chosen" if chosen == cause else "",
                ),
                bar(s / most, family(cause)),
                html.Span(f"{hours(s)} h", className="num"),
                html.Span(money(s / 3600 * view.price) if view.price else "", className="num dim"),
            ],
            className="crow",
        )
        for cause, s in ranked
    ]
    stamps, series, step = view.answer.once(lost_over_time)
    areas = [(title(c), view.skin.colour(family(c)), series[c]) for c, _ in ranked if c in series]
    told = [(title(c), hours(s)) for c, s in ranked]
    summary = "Lost GPU-hours by cause: " + (", ".join(f"{name} {h}" for name, h in told) or "none")
    height = 196 if len(view.document["gpus"]) <= 1200 else 336
    clear = [dcc.Link("All causes", href=view.here(cause=""))] if chosen else []
    return card(
        "Lost GPU-hours by cause",
        html.Div(rows, className="crows"),
        time_plot("lost", stacked(view.skin, stamps, areas, "GPU-h"), height, summary),
        twin(("Cause", "GPU-hours#"), told, "Lost GPU-hours by cause", Sort(view, "-gpu-hours", "causes")),
        sub=f"per {duration(step)}",
        right=html.Span(clear) if clear else None,
    )
