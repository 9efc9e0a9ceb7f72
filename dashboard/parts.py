"""Pieces that every page is made of: cards, codes, tables, charts. Text is always text, never markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dash import dcc, html

from wellfed.analysis.causes import FAMILIES
from wellfed.dashboard.figures import Figure
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.tabular import said
from wellfed.dashboard.view import Component
from wellfed.dashboard.words import code, family, title

__all__ = [
    "Column",
    "bar",
    "card",
    "cause_label",
    "chips",
    "code_badge",
    "empty",
    "family_class",
    "figures_row",
    "folded",
    "kpi",
    "legend",
    "listing",
    "missing",
    "plot",
    "table",
    "time_plot",
    "twin",
    "verdict",
]


def family_class(family_id: str) -> str:
    """The class that gives an element the colour of a family."""
    return f"f-{family_id}" if family_id in FAMILIES else "f-unknown"


def code_badge(family_id: str) -> Component:
    """The two-letter code on the family's colour."""
    name = FAMILIES[family_id].title if family_id in FAMILIES else family_id
    return html.Span(code(family_id), className=f"code {family_class(family_id)}", title=name)


def cause_label(cause: str) -> Component:
    """Code and name of a cause."""
    return html.Span(
        [code_badge(family(cause)), html.Span(title(cause), className="ell")],
        className="cause",
        title=title(cause),
    )


def card(
    heading: str, *children: Component, sub: Component = "", right: Component = None, classes: str = ""
) -> Component:
    """A card with a heading."""
    head = [html.Div([html.H2(heading), html.Span(sub, className="sub")], className="ct")]
    if right is not None:
        head.append(right)
    return html.Section([html.Div(head, className="chd"), *children], className=f"card {classes}".strip())


def verdict(*sentence: Component) -> Component:
    """The sentence that a page opens with."""
    return html.P(list(sentence), className="vt", id="verdict")


def empty(text: str, command: str = "") -> Component:
    """What is missing, and the command that changes it."""
    return html.P([text, *([" ", html.Code(command)] if command else [])], className="empty")


def missing(heading: str, text: str, command: str = "") -> Component:
    """A card for something that is not there."""
    return card(heading, html.P([text, *([" ", html.Code(command)] if command else [])], id="verdict"))


def plot(id_: Component, figure: Figure, height: int, summary: str, hover: bool = True) -> Component:
    """A chart with its text summary."""
    return html.Figure(
        [
            dcc.Graph(
                id=id_,
                figure=figure,
                config={"displayModeBar": False, "responsive": True, "doubleClick": False},
                style={"height": f"{height}px"},
                clear_on_unhover=hover,
            ),
            html.Figcaption(summary, className="seen-not"),
        ],
        role="group",
        **{"aria-label": summary},
    )


def time_plot(name: str, figure: Figure, height: int, summary: str) -> Component:
    """A chart over time: dragging over it looks closer, a double click goes back."""
    return html.Div(plot({"over": "time", "of": name}, figure, height, summary), id=name)


def kpi(name: str, value: str, unit: str, detail: str, spark: str = "", bad: bool = False) -> Component:
    """One of the figures at the top of a page."""
    parts = [
        html.Div(name, className="kl"),
        html.Div([html.Span(value, className="kv"), html.Span(unit, className="ku")]),
        html.Div(detail, className="kd bad" if bad else "kd", title=detail),
    ]
    if spark:
        parts.append(html.Img(src=spark, className="ks", alt=""))
    return html.Div(parts, className="kpi")


def figures_row(items: Iterable[tuple[str, str]]) -> Component:
    """Three figures in a row: (value, what it is)."""
    cells = [
        html.Div([html.Span(value, className="kv"), html.Span(what, className="ku")]) for value, what in items
    ]
    return html.Div(cells, className="vk")


def bar(share: float, family_id: str = "", text: str = "") -> Component:
    """A horizontal bar, share 0..1 of its width."""
    width = f"{100 * min(1.0, max(0.0, share)):.1f}%"
    tone = family_class(family_id) if family_id else "f-plain"
    return html.Div(html.Div(style={"width": width}, className=tone), className="bar", title=text)


def chips(items: Iterable[tuple[Component, str, bool]], label: str) -> Component:
    """Links of which one is chosen: (text, address, chosen)."""
    made = [
        dcc.Link(text, href=href, className="chip on" if chosen else "chip") for text, href, chosen in items
    ]
    return html.Nav(made, className="chips", **{"aria-label": label})


def legend(items: Iterable[Sequence[Component]]) -> Component:
    """A row of names."""
    return html.Div([html.Span(list(item), className="lg") for item in items], className="legend")


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column. key: what `sort=` calls it, "" for its name where cells order the rows, None for a
    column without an order; drawn: a number that is shown as a mark or a bar; wide: takes what is left.
    """

    name: str
    key: str | None = ""
    number: bool = False
    drawn: bool = False
    wide: bool = False


def table(
    columns: Sequence[str | Column],
    rows: Iterable[Sequence[Component]],
    nothing: Component,
    caption: str,
    sort: Sort | None = None,
    hrefs: Sequence[str] = (),
) -> Component:
    """A plain table. A name that ends with # is a right-aligned number. A cell may be a Td of its own.

    sort: the order of the rows; its keys sort by a click. hrefs: what each row opens by keyboard.
    """
    known = _columns(columns)
    body = [
        html.Tr(
            [
                cell if isinstance(cell, html.Td) else html.Td(cell, className=_class(c))
                for c, cell in zip(known, row, strict=True)
            ],
            **({"data-href": hrefs[n]} if n < len(hrefs) else {}),
        )
        for n, row in enumerate(rows)
    ]
    if not body:
        body = [html.Tr([html.Td(nothing, colSpan=len(known), className="empty")])]
    by = sort.by(c.key for c in known if c.key) if sort else ("", False)
    head = html.Tr([_head(c, sort, *by) for c in known])
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


def listing(
    columns: Sequence[str | Column],
    rows: Iterable[Sequence[Component]],
    nothing: Component,
    caption: str,
    sort: Sort,
    most: int | None = None,
) -> Component:
    """A table of which any column orders the rows by what its cells say. most: rows that are shown."""
    known: list[Column] = []
    for n, c in enumerate(_columns(columns)):
        slug = _slug(c.name)
        # Names may differ in signs alone, or consist of them.
        unique = slug if slug not in {"", *(k.key for k in known)} else f"column{n + 1}"
        known.append(replace(c, key=unique) if c.key == "" and c.name else c)
    keys = {c.key: partial(_said, n) for n, c in enumerate(known) if c.key}
    return table(known, sort.apply(rows, keys)[:most], nothing, caption, sort)


def _said(place: int, row: Sequence[Component]) -> str:
    return said(row[place])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _columns(columns: Sequence[str | Column]) -> list[Column]:
    return [c if isinstance(c, Column) else Column(c.rstrip("#"), number=c.endswith("#")) for c in columns]


def _class(column: Column) -> str:
    return "num" if column.number else "wide" if column.wide else ""


def _head(column: Column, sort: Sort | None, key: str, down: bool) -> Component:
    if sort is None or not column.key:
        return html.Th(column.name, scope="col", className=_class(column))
    chosen = key == column.key
    # The largest number and the first name are what one looks for first.
    first = f"-{column.key}" if column.number or column.drawn else column.key
    other = column.key if down else f"-{column.key}"
    mark = [html.Span(" ▾" if down else " ▴", **{"aria-hidden": "true"})] if chosen else []
    return html.Th(
        dcc.Link(
            [column.name, *mark],
            href=sort.href(other if chosen else first),
            title=f"Sort by {column.name.lower()}",
        ),
        scope="col",
        className=_class(column),
        **({"aria-sort": "descending" if down else "ascending"} if chosen else {}),
    )


def twin(
    columns: Sequence[str | Column],
    rows: Iterable[Sequence[Component]],
    caption: str,
    sort: Sort | None = None,
) -> Component:
    """The same as a chart, as a table that opens. sort: where its cells may be ordered."""
    nothing = "Nothing in this range."
    found = listing(columns, rows, nothing, caption, sort) if sort else table(columns, rows, nothing, caption)
    return folded(found, sort)


def folded(found: Component, sort: Sort | None) -> Component:
    """A table that opens, and is open while the address sorts it."""
    opened = {"open": True} if sort and sort.asked else {}
    return html.Details([html.Summary("as a table"), found], className="twin", **opened)
