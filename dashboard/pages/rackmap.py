"""The heat map of the fleet: a cell a GPU, in blocks by rack, coloured by cause, activity, cost or job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dash import dcc, html

from wellfed.analysis.causes import FAMILIES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import STARVED, Recent, job_names, recent
from wellfed.dashboard.figures import Array
from wellfed.dashboard.heat import Racks, rack_map, racks
from wellfed.dashboard.mine import asked_user, jobs_of
from wellfed.dashboard.parts import Column, card, chips, code_badge, folded, legend, plot, table
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.theme import Skin, mix
from wellfed.dashboard.view import Component, View, gpu_path
from wellfed.dashboard.words import count, family, hours, money, share

__all__ = ["heat_card"]

_WAYS = (("", "Cause"), ("sm", "SM active"), ("cost", "$ lost"), ("job", "Job"))
#: Jobs that get a colour of their own; the rest share one.
_JOBS = 9
#: GPUs named as losing most.
_WORST = 12
_SHADES = (("some", 0.55), ("much", 0.78), ("most", 1.0))


@dataclass(frozen=True, slots=True)
class Painted:
    """codes: uint8 by GPU into colours and names; silent: the code of no data. sub: what the colour means."""

    codes: Array
    colours: Sequence[str]
    names: Sequence[str]
    silent: int
    legend: Sequence[Sequence[Component]]
    sub: str
    told: str


def heat_card(view: View) -> Component:
    """The card with the map, its legend, and what the pointer is on."""
    gpus = view.document["gpus"]
    where = view.answer.once(_places)
    by = view.query.get("by", "")
    paint = {"sm": _by_activity, "cost": _by_cost, "job": _by_job}.get(by, _by_cause)
    painted = paint(view)
    # Beyond the colours there is nothing: a GPU that is not asked for is no GPU without data.
    codes = np.where(_outside(view), len(painted.colours), painted.codes).astype(np.uint8)
    figure = rack_map(view.skin, where, codes, painted.colours, painted.silent)
    index = json.dumps({**where.index, "names": painted.names}, separators=(",", ":"))
    ways = [(name, view.here(by=way), way == by) for way, name in _WAYS]
    height = _height(where, len(gpus))
    return card(
        "GPU state by rack",
        legend(painted.legend),
        html.Div(
            [
                plot("heat", figure, height, f"State of {len(gpus):,} GPUs: {painted.told}"),
                html.Div(id="heat-mark", className="heatmark", hidden=True),
            ],
            className="heatbox",
        ),
        html.Div(id="heat-tip", className="tipbox", role="status"),
        _worst(view),
        _twin(view),
        html.Div(id="heat-places", hidden=True, **{"data-index": index}),
        sub=painted.sub,
        right=chips(ways, "Colour by"),
    )


def _height(where: Racks, gpus: int) -> int:
    """Cells a little taller than the card's 800 px make them wide, where there is room."""
    cell = min(48.0, 1.4 * 800 / where.shape[1])
    return round(min(440 if gpus > 1200 else 300, max(120, cell * where.shape[0] + 30)))


def _worst(view: View) -> Component:
    """The GPUs that lose most now, as links."""
    pairs = zip(view.document["gpus"], view.answer.once(_states), ~_outside(view), strict=True)
    starved = [(g, s) for g, s, inside in pairs if inside and s is not None and s.lost >= STARVED]
    starved.sort(key=lambda pair: -pair[1].lost)
    if not starved:
        return html.P("No GPU is starved now.", className="note")
    links = [
        dcc.Link(
            [
                code_badge(s.family or "unknown"),
                f"{g['host']} · {g['index'] or g['gpu']}",
                html.B(share(s.lost)),
            ],
            href=view.to(gpu_path(g["host"], g)),
        )
        for g, s in starved[:_WORST]
    ]
    lead = html.Span(f"Losing most now, of {len(starved):,}:", className="dim")
    return html.Div([lead, *links], className="worst")


def _twin(view: View) -> Component:
    """The map as a table, the GPUs that lose most first."""
    names = view.answer.once(job_names)
    each = zip(view.document["gpus"], view.answer.once(_states), _outside(view), strict=True)
    pairs = [(gpu, state) for gpu, state, outside in each if not outside]
    sort = Sort(view, "-lost", "gpus")
    keys: dict[str, Callable[[tuple[Mapping[str, Any], Recent | None]], Any]] = {
        "gpu": lambda pair: f"{pair[0]['host']} · {pair[0]['index'] or pair[0]['gpu']}",
        "state": lambda pair: _state(pair[1]),
        "lost": lambda pair: pair[1].lost if pair[1] else None,
        "sm": lambda pair: pair[1].sm if pair[1] else None,
        "hours": lambda pair: pair[0]["lost_seconds"],
        "job": lambda pair: names.get(pair[0]["job"], pair[0]["job"]),
    }
    rows = [
        (
            f"{g['host']} · {g['index'] or g['gpu']}",
            _state(s),
            share(s.lost if s else None),
            share(s.sm if s else None),
            hours(g["lost_seconds"]),
            names.get(g["job"], g["job"]) or "–",
        )
        for g, s in view.first(sort.apply(pairs, keys), _WORST)
    ]
    columns = (
        Column("GPU", "gpu"),
        Column("Waits for", "state"),
        Column("Lost in 5 min", "lost", number=True),
        Column("Useful SM", "sm", number=True),
        Column("GPU-h lost in the range", "hours", number=True),
        Column("Job", "job"),
    )
    return folded(table(columns, rows, "Nothing in this range.", "State of GPUs", sort), sort)


def _state(found: Recent | None) -> str:
    return "no data" if found is None else FAMILIES[found.family].title if found.family else "productive"


def _places(answer: Answer) -> Racks:
    return racks([(g["host"], g["index"] or "", g["gpu"]) for g in answer.diagnosis.document["gpus"]])


def _states(answer: Answer) -> list[Recent | None]:
    """The last minutes of each GPU of the document, None without data."""
    now = answer.once(recent)
    return [now.get((g["host"], g["gpu"])) for g in answer.diagnosis.document["gpus"]]


def _outside(view: View) -> Array:
    """Which GPUs the URL's `job` and `user` leave out."""
    job, user, gpus = view.query.get("job", ""), asked_user(view), view.document["gpus"]
    if not (job or user):
        return np.zeros(len(gpus), dtype=bool)
    theirs = view.answer.once(jobs_of, user) if user else frozenset()
    return np.array([bool((job and g["job"] != job) or (user and g["job"] not in theirs)) for g in gpus])


def _swatch(colour: str) -> Component:
    return html.Span(className="sw", style={"background": colour})


def _no_data(number: int) -> list[list[Component]]:
    return [[html.Span(className="sw hatch"), "No data ", html.B(f"{number:,}")]] if number else []


def _by_cause(view: View) -> Painted:
    skin, wanted = view.skin, view.query.get("cause", "")
    wanted = family(wanted) if "." in wanted or wanted in ("straggler", "checkpoint") else wanted
    states = view.answer.once(_states)
    families = sorted({s.family for s in states if s and s.family}, key=list(FAMILIES).index)
    shown = [name for name in families if not wanted or name == wanted]
    colours = [skin.productive, skin.no_data]
    names = ["productive", "no data"]
    base: dict[str, int] = {}
    for name in shown:
        base[name] = len(colours)
        colours += [mix(skin.surface, skin.colour(name), part) for _, part in _SHADES]
        names += [f"{FAMILIES[name].title}, {word} of its time" for word, _ in _SHADES]
    codes = np.array(
        [
            1 if s is None else 0 if s.family not in base else base[s.family] + _strength(s.lost)
            for s in states
        ],
        dtype=np.uint8,
    )
    found = Counter("no data" if s is None else s.family for s in states)
    items: list[list[Component]] = [[_swatch(skin.productive), "Productive ", html.B(f"{found['']:,}")]]
    for name in families:
        link = view.here(cause="" if wanted == name else name)
        badge = [code_badge(name), FAMILIES[name].title, " ", html.B(f"{found[name]:,}")]
        items.append([dcc.Link(badge, href=link, title="Show only these, or all again")])
    told = ", ".join(f"{FAMILIES[name].title} {found[name]:,}" for name in families) or "all productive"
    sub = "last 5 min · colour = main cause of lost time, strength = share lost"
    return Painted(codes, colours, names, 1, items + _no_data(found["no data"]), sub, told)


def _strength(lost: float) -> int:
    return 2 if lost > 0.5 else 1 if lost > 0.25 else 0


def _ramped(skin: Skin, levels: Array) -> Array:
    """0..1, NaN for no data, as codes into the ramp and, beyond it, no data."""
    steps = len(skin.ramp)
    codes: Array = np.clip(np.nan_to_num(levels) * steps, 0, steps - 1).astype(np.uint8)
    codes[np.isnan(levels)] = steps
    return codes


def _ramp_legend(skin: Skin, low: str, high: str, silent: int) -> list[list[Component]]:
    gradient = f"linear-gradient(90deg, {', '.join(skin.ramp)})"
    bar: list[Component] = [low, html.Span(className="rampbar", style={"background": gradient}), high]
    return [bar, *_no_data(silent)]


def _by_activity(view: View) -> Painted:
    states = view.answer.once(_states)
    levels = np.array([np.nan if s is None or s.sm is None else s.sm for s in states])
    steps = len(view.skin.ramp)
    names = [f"about {(n + 0.5) / steps:.0%} useful" for n in range(steps)] + ["no data"]
    silent = int(np.isnan(levels).sum())
    mean = share(float(np.nanmean(levels))) if silent < levels.size else "–"
    return Painted(
        _ramped(view.skin, levels),
        [*view.skin.ramp, view.skin.no_data],
        names,
        steps,
        _ramp_legend(view.skin, "0 %", "100 % of SMs at useful work", silent),
        "last 5 min · activity without the time spent spinning",
        f"mean useful activity {mean}",
    )


def _by_cost(view: View) -> Painted:
    lost = (
        np.array([g["lost_seconds"] if g["covered_seconds"] else np.nan for g in view.document["gpus"]])
        / 3600
    )
    known = lost[~np.isnan(lost)]
    top = float(known.max()) if known.size and known.max() > 0 else 1.0

    def say(hours: float) -> str:
        return f"{count(hours)} GPU-h" if view.price is None else money(hours * view.price)

    steps = len(view.skin.ramp)
    names = [f"about {say((n + 0.5) / steps * top)} lost" for n in range(steps)] + ["no data"]
    return Painted(
        _ramped(view.skin, lost / top),
        [*view.skin.ramp, view.skin.no_data],
        names,
        steps,
        _ramp_legend(view.skin, say(0.0), f"{say(top)} lost by one GPU", int(np.isnan(lost).sum())),
        f"over {view.answer.range.text}",
        f"{say(float(known.sum()))} lost in all",
    )


def _by_job(view: View) -> Painted:
    jobs = [g["job"] for g in view.document["gpus"]]
    order = [job for job, _ in Counter(job for job in jobs if job).most_common()]
    named = view.answer.once(job_names)
    own = order[:_JOBS]
    tones = [*view.skin.families.values()]
    colours = [view.skin.productive, view.skin.no_data, view.skin.other, *tones[: len(own)]]
    where = {job: n + 3 for n, job in enumerate(own)}
    codes = np.array([0 if not job else where.get(job, 2) for job in jobs], dtype=np.uint8)
    items = [
        [_swatch(colours[where[job]]), named.get(job, job), " ", html.B(str(jobs.count(job)))] for job in own
    ]
    rest = len(order) - len(own)
    if rest > 0:
        items.append([_swatch(view.skin.other), f"{rest} more"])
    items.append([_swatch(view.skin.productive), "No job ", html.B(str(jobs.count(None)))])
    names = ["no job", "another job", "one of the smaller jobs", *(named.get(job, job) for job in own)]
    told = ", ".join(f"{named.get(job, job)} {jobs.count(job)}" for job in own)
    return Painted(codes, colours, names, 1, items, "the largest jobs by colour", told)
