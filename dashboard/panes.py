"""Aligned panes over one time axis: what a thing did, and what it waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from wellfed.dashboard.figures import Array, Figure, Line, layout, packed, steps, time_axis
from wellfed.dashboard.theme import Skin

__all__ = ["GAP", "Pane", "panes"]

#: In a ribbon: nothing was reported.
GAP = "gap"
#: Left margin that holds the names and current values of panes.
_LABELS = 168
_BETWEEN = 0.025
#: Plotly draws each shape on its own; beyond a hundred bands the ribbon alone tells the story.
_BANDS = 100


@dataclass(frozen=True, slots=True)
class Pane:
    """Lines of one kind. top: fixed end of the first line's axis, or None for the data's own.

    A line in another unit than the first gets a scale of its own, whose value stands in the label.
    """

    name: str
    lines: Sequence[Line]
    top: float | None = None


def panes(
    skin: Skin, stamps: Array, rows: Sequence[Pane], ribbon: Sequence[str | None] | None = None
) -> Figure:
    """Panes below each other, a state ribbon above, cause bands behind.

    stamps: milliseconds since the epoch. ribbon: the family that was waited for at each stamp, None for
    productive, GAP for no data.
    """
    x = packed(stamps.astype(np.float64))
    head = 0.05 if ribbon is not None else 0.0
    top = 1.0 - head - (_BETWEEN if ribbon is not None else 0.0)
    height = (top - _BETWEEN * (len(rows) - 1)) / max(1, len(rows))
    traces: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    notes: list[dict[str, Any]] = []
    for index, pane in enumerate(rows):
        base = f"y{index + 1}" if index else "y"
        domain = [max(0.0, top - height), top]
        axes[_long(base)] = _axis(skin, pane.lines[:1], pane.top, domain)
        for number, line in enumerate(pane.lines):
            axis = base
            if line.unit != pane.lines[0].unit:
                axis = f"y{100 + 10 * index + number}"
                axes[_long(axis)] = {
                    "overlaying": base,
                    "visible": False,
                    "fixedrange": True,
                    "range": _span([line]),
                }
            traces.append(_trace(x, line, axis, skin.lines[number], stamps.size))
        same = [line for line in pane.lines if line.unit == pane.lines[0].unit]
        if pane.top is None:
            axes[_long(base)]["range"] = _span(same)
            if _span(same)[1] >= 1000:
                axes[_long(base)]["tickformat"] = ".3~s"
        notes.append(_label(skin, pane, top))
        top -= height + _BETWEEN
    if ribbon is not None:
        axis = f"y{len(rows) + 1}"
        traces += _ribbon(skin, x, stamps, ribbon, axis)
        axes[_long(axis)] = {
            "domain": [1.0 - head, 1.0],
            "range": [-0.5, 0.5],
            "visible": False,
            "fixedrange": True,
        }
        text = f'<b style="color:{skin.ink}">Waiting on</b>'
        notes.append({**_note(skin, text, 1.0 - head / 2), "yanchor": "middle"})
    return {
        "data": traces,
        "layout": layout(
            skin,
            margin={"l": _LABELS, "r": 44, "t": 2, "b": 38},
            hovermode="x unified",
            hoversubplots="axis",
            annotations=notes,
            shapes=_bands(skin, stamps, ribbon) if ribbon is not None else [],
            xaxis=time_axis(
                skin,
                anchor="free",
                position=0,
                showspikes=True,
                spikemode="across",
                spikethickness=1,
                spikedash="solid",
                spikecolor=skin.spike,
            ),
            **axes,
        ),
    }


def _long(axis: str) -> str:
    return "yaxis" + axis[1:]


def _span(lines: Sequence[Line]) -> list[float]:
    tops = [float(np.nanmax(line.y)) for line in lines if line.y.size and not np.all(np.isnan(line.y))]
    top = max(tops, default=0.0)
    return [0.0, top * 1.12 if top > 0 else 1.0]


def _axis(skin: Skin, lines: Sequence[Line], top: float | None, domain: Sequence[float]) -> dict[str, Any]:
    fixed = {"range": [0, top], "tickvals": [0, top / 2, top]} if top is not None else {"nticks": 3}
    return {
        "domain": list(domain),
        "side": "right",
        "gridcolor": skin.grid,
        "zeroline": False,
        "fixedrange": True,
        "tickformat": ".3~g",
        "tickfont": {"size": 10.5, "color": skin.ink_3},
        **fixed,
    }


def _trace(x: dict[str, str], line: Line, axis: str, colour: str, size: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        # A single window is a point; a line needs two.
        "mode": "lines+markers" if size < 30 else "lines",
        "marker": {"size": 4},
        "x": x,
        "y": packed(line.y.astype(np.float32)),
        "yaxis": axis,
        "name": line.name,
        "connectgaps": False,
        "line": {"width": 1.3, "color": colour},
        "hovertemplate": f"%{{y:.3~g}} {line.unit}<extra>{line.name}</extra>",
    }


def _label(skin: Skin, pane: Pane, top: float) -> dict[str, Any]:
    text = f'<b style="color:{skin.ink}">{pane.name}</b>'
    for number, line in enumerate(pane.lines):
        text += (
            f'<br><span style="color:{skin.lines[number]}">━</span> {line.name} '
            f'<b style="color:{skin.ink}">{line.last}</b> {line.unit}'
        )
    return _note(skin, text, top)


def _note(skin: Skin, text: str, y: float) -> dict[str, Any]:
    return {
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "xshift": 4 - _LABELS,
        "y": y,
        "xanchor": "left",
        "yanchor": "top",
        "align": "left",
        "showarrow": False,
        "text": text,
        "font": {"size": 11.5, "color": skin.ink_2},
    }


def _runs(ribbon: Sequence[str | None]) -> list[tuple[str | None, int, int]]:
    """(state, first, last) of equal neighbours."""
    out = []
    for state, group in groupby(range(len(ribbon)), key=lambda n: ribbon[n]):
        where = list(group)
        out.append((state, where[0], where[-1]))
    return out


def _ribbon(
    skin: Skin, x: dict[str, str], stamps: Array, ribbon: Sequence[str | None], axis: str
) -> list[dict[str, Any]]:
    names = sorted({name for name in ribbon if name and name != GAP})
    codes: dict[str | None, int] = {None: 0, GAP: 1} | {name: n for n, name in enumerate(names, 2)}
    z = np.array([[codes[name or None] for name in ribbon]], dtype=np.uint8)
    colours = [skin.productive, skin.no_data, *(skin.colour(name) for name in names)]
    state = {
        "type": "heatmap",
        "x": x,
        "z": packed(z),
        "yaxis": axis,
        "zmin": 0,
        "zmax": len(colours),
        "colorscale": steps(colours),
        "showscale": False,
        "hoverinfo": "skip",
    }
    return [state, *_hatched(skin, stamps, ribbon, axis)]


def _hatched(skin: Skin, stamps: Array, ribbon: Sequence[str | None], axis: str) -> list[dict[str, Any]]:
    """A hatched box in the ribbon for every gap."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    half = float(stamps[1] - stamps[0]) / 2 if stamps.size > 1 else 5_000.0
    for state, first, last in _runs(ribbon):
        if state == GAP:
            a, b = float(stamps[first]) - half, float(stamps[last]) + half
            xs += [a, b, b, a, a, None]
            ys += [-0.5, -0.5, 0.5, 0.5, -0.5, None]
    if not xs:
        return []
    return [
        {
            "type": "scatter",
            "mode": "none",
            "x": xs,
            "y": ys,
            "yaxis": axis,
            "fill": "toself",
            "fillcolor": skin.no_data,
            "fillpattern": {"shape": "/", "fgcolor": skin.cross, "size": 6, "solidity": 0.2},
            "hoverinfo": "skip",
        }
    ]


def _bands(skin: Skin, stamps: Array, ribbon: Sequence[str | None]) -> list[dict[str, Any]]:
    found = [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": float(stamps[first]),
            "x1": float(stamps[min(last + 1, len(ribbon) - 1)]),
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": skin.cross if state == GAP else skin.colour(state),
            "opacity": 0.13,
            "layer": "below",
        }
        for state, first, last in _runs(ribbon)
        if state
    ]
    return found if len(found) <= _BANDS else []
