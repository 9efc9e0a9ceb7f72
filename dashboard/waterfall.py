"""From all there was to what was left, one loss after another: plain markup, text and chart in one."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html

from wellfed.dashboard.parts import cause_label, family_class
from wellfed.dashboard.view import Component, View
from wellfed.dashboard.words import family, hours, money, share

__all__ = ["fall", "waterfall"]


def waterfall(
    view: View, whole: float, causes: Sequence[tuple[str, float]], start: str, rest: str, least: float = 0.002
) -> Component:
    """From `whole` GPU-seconds, less each cause, to what is left. Losses below `least` of it are summed."""
    named = [(cause_label(c), family(c), s) for c, s in causes if s >= least * whole and s > 0]
    small = sum(s for _, s in causes) - sum(s for _, _, s in named)
    if small > 0.0005 * whole:
        named.append(("smaller causes", "unknown", small))
    return fall(view, whole, named, start, rest)


def fall(
    view: View, whole: float, losses: Sequence[tuple[Component, str, float]], start: str, rest: str
) -> Component:
    """losses: (label, family, GPU-seconds) in their order."""
    if whole <= 0:
        return html.P("Nothing was measured in this range.", className="note")
    rows = [_row(view, start, "plain", 0.0, whole, whole, "total")]
    left = whole
    for label, family_id, seconds in losses:
        left -= seconds
        rows.append(_row(view, label, family_id, max(0.0, left), seconds, whole))
    rows.append(_row(view, rest, "productive", 0.0, max(0.0, left), whole, "total"))
    return html.Div(rows, className="fall")


def _row(
    view: View, label: Component, family_id: str, begin: float, size: float, whole: float, classes: str = ""
) -> Component:
    tone = f"f-{family_id}" if family_id in ("plain", "productive") else family_class(family_id)
    place = {"marginLeft": f"{100 * begin / whole:.2f}%", "width": f"{100 * size / whole:.2f}%"}
    cost = money(size / 3600 * view.price) if view.price is not None else ""
    return html.Div(
        [
            html.Span(label, className="ell"),
            html.Div(html.Div(style=place, className=tone), className="lane"),
            html.Span(f"{hours(size)} h · {share(size / whole)}", className="num"),
            html.Span(cost, className="num dim"),
        ],
        className=classes,
    )
