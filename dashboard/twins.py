"""Charts over time as tables: the page tells each signal in a line, an export tells every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from wellfed.dashboard.figures import Array, Line
from wellfed.dashboard.panes import Pane
from wellfed.dashboard.parts import twin
from wellfed.dashboard.view import Component, View
from wellfed.dashboard.words import Number, count

__all__ = ["pane_lines", "series_twin"]


def pane_lines(panes: Sequence[Pane]) -> list[Line]:
    """The lines of panes, each named with its pane."""
    return [replace(line, name=f"{pane.name}: {line.name}") for pane in panes for line in pane.lines]


def series_twin(view: View, stamps: Array, lines: Sequence[Line], caption: str) -> Component:
    """The twin of a chart. stamps: milliseconds since the epoch, as long as each line."""
    if view.whole:
        named = ["Time, UTC", *(f"{line.name}#" for line in lines)]
        return twin(named, [_point(n, stamps, lines) for n in range(stamps.size)], caption)
    told = [[line.name, line.unit or "–", *_summary(line)] for line in lines]
    return twin(("Signal", "Unit", "Newest#", "Mean#", "Least#", "Most#"), told, caption)


def _point(n: int, stamps: Array, lines: Sequence[Line]) -> list[str]:
    at = datetime.fromtimestamp(float(stamps[n]) / 1000, UTC)
    values = [(float(line.y[n]), line.unit) for line in lines]
    told = ["–" if np.isnan(value) else Number(count(value), value, unit) for value, unit in values]
    return [f"{at:%Y-%m-%d %H:%M:%S}", *told]


def _summary(line: Line) -> list[str]:
    known = line.y[~np.isnan(line.y)]
    told: Sequence[Callable[[Array], float]] = (lambda y: y[-1], np.mean, np.min, np.max)
    return [count(float(of(known))) if known.size else "–" for of in told]
