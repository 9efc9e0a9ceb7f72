"""Heat maps: GPUs in blocks by rack, states of many things over time, amounts of many things over time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellfed.dashboard.figures import Array, Figure, layout, packed, plain, steps, time_axis
from wellfed.dashboard.theme import Skin

__all__ = ["Racks", "amounts_map", "natural", "rack_map", "racks", "states_map"]

#: Hosts of a block: (name, position) of their GPUs.
_Hosts = dict[str, list[tuple[str, int]]]

_RACK = re.compile(r"^(.*?\d+)[-_.]")
#: Hosts of a block.
_TALL = 16
#: Blocks beyond which names would overlap.
_LABELLED = 96
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Racks:
    """Where each GPU's cell is. shape: of the map; cells: row and column by GPU, in their order.

    labels: x, y and name of each block. index: what the browser needs to tell a cell's GPU: size of a block,
    blocks a row, and (host, names of its GPUs) by block.
    """

    shape: tuple[int, int]
    cells: Array
    labels: Sequence[tuple[float, float, str]]
    index: Mapping[str, Any]


def racks(gpus: Sequence[tuple[str, str, str]]) -> Racks:
    """Blocks of up to 16 hosts of a rack, a row a host. gpus: (host, index, id); at least one."""
    by_rack: dict[str, _Hosts] = {}
    order = sorted(range(len(gpus)), key=lambda n: (natural(gpus[n][0]), gpus[n][1].zfill(4), gpus[n][2]))
    for n in order:
        host, index, gpu = gpus[n]
        by_rack.setdefault(rack_of(host), {}).setdefault(host, []).append((index or gpu, n))
    blocks = [(name, part) for name, hosts in by_rack.items() for part in _split(hosts)]
    if len(blocks) > _LABELLED:
        blocks = _joined(blocks)
    tall = max(len(hosts) for _, hosts in blocks)
    wide = max(len(row) for _, hosts in blocks for row in hosts.values())
    across = _across(len(blocks), (tall + 2) / (wide + 1))
    down = math.ceil(len(blocks) / across)
    cells = np.zeros((len(gpus), 2), dtype=np.int32)
    labels, listing = [], []
    for number, (name, hosts) in enumerate(blocks):
        y, x = (number // across) * (tall + 2), (number % across) * (wide + 1)
        labels.append((x + (wide - 1) / 2, y - 0.7, name))
        listing.append([[host, [index for index, _ in row]] for host, row in hosts.items()])
        for dy, row in enumerate(hosts.values()):
            for dx, (_, n) in enumerate(row):
                cells[n] = (y + dy, x + dx)
    places = {"tall": tall, "wide": wide, "across": across, "blocks": listing}
    return Racks((down * (tall + 2) - 2, across * (wide + 1) - 1), cells, labels, places)


def rack_of(host: str) -> str:
    """`r04` of `r04-n01`; hosts whose names tell no rack share one block."""
    match = _RACK.match(host)
    return match[1] if match else "hosts"


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts r9 before r10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(name) if part)


def _joined(blocks: Sequence[tuple[str, _Hosts]]) -> list[tuple[str, _Hosts]]:
    """Neighbouring racks of few hosts in one block."""
    out: list[tuple[str, _Hosts]] = []
    for name, hosts in blocks:
        if out and len(out[-1][1]) + len(hosts) <= _TALL:
            first, together = out[-1]
            out[-1] = (f"{first.partition('–')[0]}–{name}", together | hosts)
        else:
            out.append((name, hosts))
    return out


def _across(blocks: int, shape: float) -> int:
    """Blocks a row: near the card's proportions, with few empty places. shape: height over width of one."""
    ideal = math.sqrt(blocks * 2.6 * shape)
    empty = {n: math.ceil(blocks / n) * n - blocks for n in range(1, blocks + 1)}
    return min(empty, key=lambda n: abs(math.log(n / ideal)) + 0.5 * empty[n] / blocks)


def _split(hosts: _Hosts) -> list[_Hosts]:
    items = list(hosts.items())
    return [dict(items[i : i + _TALL]) for i in range(0, len(items), _TALL)]


def rack_map(skin: Skin, where: Racks, codes: Array, colours: Sequence[str], silent: int = -1) -> Figure:
    """codes: uint8 by GPU, into colours; silent: the code that is drawn as a cross."""
    z = np.full(where.shape, len(colours), dtype=np.uint8)
    z[where.cells[:, 0], where.cells[:, 1]] = codes
    big = z.size > 3000
    traces: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "z": packed(z),
            "zmin": 0,
            "zmax": len(colours) + 1,
            "colorscale": steps([*colours, "rgba(0,0,0,0)"]),
            "showscale": False,
            "xgap": 1 if big else 2,
            "ygap": 1 if big else 2,
            "hoverinfo": "none",
        }
    ]
    missing = where.cells[codes == silent]
    if len(missing):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": packed(missing[:, 1].astype(np.int32)),
                "y": packed(missing[:, 0].astype(np.int32)),
                "marker": {
                    "symbol": "x-thin",
                    "size": 3 if big else 6,
                    "line": {"width": 1.2, "color": skin.cross},
                },
                "hoverinfo": "skip",
            }
        )
    labels = [
        {
            "x": x,
            "y": y,
            "text": plain(name),
            "showarrow": False,
            "yanchor": "bottom",
            "font": {"size": 9 if len(where.labels) > 40 else 11, "color": skin.ink_3},
        }
        for x, y, name in (where.labels if len(where.labels) <= _LABELLED else ())
    ]
    return {
        "data": traces,
        "layout": layout(
            skin,
            margin={"l": 0, "r": 0, "t": 4, "b": 0},
            annotations=labels,
            dragmode=False,
            uirevision="heat",
            xaxis={"visible": False, "fixedrange": True, "range": [-0.6, z.shape[1] - 0.4]},
            yaxis={"visible": False, "fixedrange": True, "range": [z.shape[0] - 0.4, -1.9]},
        ),
    }


def states_map(
    skin: Skin, stamps: Array, names: Sequence[str], codes: Array, states: Sequence[tuple[str, str]]
) -> Figure:
    """States of things over time. codes: uint8 (things, stamps) into states of (name, colour)."""
    trace = {
        "type": "heatmap",
        "x": packed(stamps.astype(np.float64)),
        "y": [plain(name) for name in names],
        "z": packed(codes),
        "zmin": 0,
        "zmax": len(states),
        "colorscale": steps([colour for _, colour in states]),
        "showscale": False,
        "ygap": 1 if len(names) <= 64 else 0,
        "hovertemplate": "%{y} · %{x|%H:%M:%S}<extra></extra>",
    }
    return {"data": [trace], "layout": _rows_layout(skin, names)}


def amounts_map(
    skin: Skin, stamps: Array, names: Sequence[str], values: Array, unit: str, top: float | None = None
) -> Figure:
    """Amounts of things over time, NaN where there is no data. values: (things, stamps)."""
    known = values[np.isfinite(values)]
    limit = top if top is not None else (float(np.percentile(known, 99)) if known.size else 1.0) or 1.0
    scale = [[n / (len(skin.ramp) - 1), tone] for n, tone in enumerate(skin.ramp)]
    trace = {
        "type": "heatmap",
        "x": packed(stamps.astype(np.float64)),
        "y": [plain(name) for name in names],
        "z": packed(values.astype(np.float32)),
        "zmin": 0,
        "zmax": limit,
        "colorscale": scale,
        "colorbar": {
            "thickness": 8,
            "outlinewidth": 0,
            "nticks": 4,
            "ticksuffix": f" {unit}",
            "tickfont": {"size": 10.5, "color": skin.ink_3},
        },
        "xgap": 1 if values.shape[1:] and values.shape[1] <= 120 else 0,
        "ygap": 1,
        "hovertemplate": f"%{{y}} · %{{x|%H:%M:%S}}<br>%{{z:.3~g}} {unit}<extra></extra>",
    }
    return {"data": [trace], "layout": _rows_layout(skin, names)}


def _rows_layout(skin: Skin, names: Sequence[str]) -> dict[str, Any]:
    every = max(1, math.ceil(len(names) / 32))
    shown = [plain(name) for name in names[::every]]
    widest = max((len(name) for name in shown), default=4)
    return layout(
        skin,
        margin={"l": min(230, 12 + round(6.4 * widest)), "r": 8, "t": 4, "b": 34},
        xaxis=time_axis(skin, showgrid=False),
        yaxis={
            "type": "category",
            "autorange": "reversed",
            "fixedrange": True,
            "showgrid": False,
            "tickvals": shown,
            "ticktext": [name if len(name) <= 34 else f"{name[:33]}…" for name in shown],
            "tickfont": {"size": 11, "color": skin.ink_2},
        },
    )
