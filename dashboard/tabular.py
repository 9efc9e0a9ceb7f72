"""A table of a page as CSV: numbers in base units, and no name that a spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from dash import html
from dash.development.base_component import Component as DashComponent

from wellfed.dashboard.view import Component
from wellfed.dashboard.words import Number

__all__ = ["as_csv", "harmless", "said", "tables"]


def tables(parts: Component) -> Iterator[tuple[str, html.Table]]:
    """(caption, table) of what a page is made of."""
    for part in _walk(parts):
        if isinstance(part, html.Table):
            yield "".join(text for kind in _find(part, html.Caption) for text in _texts(kind)), part


def as_csv(table: html.Table) -> str:
    """The table, its head first. A column's unit is in its head where all its numbers share one."""
    rows = [[said(cell) for cell in _find(row, html.Td)] for row in _find(table, html.Tr)]
    names = [" ".join(_texts(head)).rstrip(" ▾▴") for head in _find(table, html.Th)]
    # A row of another length says that there is nothing.
    full = [row for row in rows if len(row) == len(names)]
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    # A column without a name draws what another one says.
    told = [n for n, name in enumerate(names) if name]
    writer.writerow(_head(names[n], _unit([row[n] for row in full])) for n in told)
    for row in full:
        writer.writerow(_value(row[n]) for n in told)
    return out.getvalue()


def harmless(name: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{name}" if name.startswith(tuple("=+-@\t\r")) else name


def _head(name: str, unit: str) -> str:
    return harmless(f"{name} ({unit})" if unit and unit not in name else name)


def said(cell: Component) -> str | Number:
    """What a cell says; a number stays one."""
    texts = list(_texts(cell)) or [part.title for part in _walk(cell) if getattr(part, "title", "")]
    if len(texts) == 1:
        return texts[0]
    return " ".join(texts)


def _value(cell: str | Number) -> object:
    if isinstance(cell, Number):
        return cell.value
    return "" if cell == "–" else harmless(cell)


def _unit(cells: Sequence[str | Number]) -> str:
    units = {cell.unit for cell in cells if isinstance(cell, Number)}
    return units.pop() if len(units) == 1 else ""


def _texts(part: Component) -> Iterator[str]:
    """What a part says: a symbol what it is called; a cause's code nothing, its name is beside it."""
    if isinstance(part, list | tuple):
        for inner in part:
            yield from _texts(inner)
    elif isinstance(part, DashComponent):
        if "code" in getattr(part, "className", "").split():
            return
        if getattr(part, "role", "") == "img":
            yield part.title
        else:
            yield from _texts(getattr(part, "children", None))
    elif part is not None and str(part).strip():
        yield part if isinstance(part, str) else str(part)


def _find(part: Component, kind: type) -> Iterator[Component]:
    return (inner for inner in _walk(part) if isinstance(inner, kind))


def _walk(part: Component) -> Iterator[Component]:
    if isinstance(part, list | tuple):
        for inner in part:
            yield from _walk(inner)
    elif isinstance(part, DashComponent):
        yield part
        yield from _walk(getattr(part, "children", None))
