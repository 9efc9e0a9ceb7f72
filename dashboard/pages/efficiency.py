"""Efficiency: what the lost time costs in money and energy, by team, user, job and cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode

from dash import html

from wellfed.dashboard.parts import (
    Column,
    bar,
    card,
    cause_label,
    chips,
    code_badge,
    kpi,
    listing,
    missing,
    table,
    verdict,
)
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.spending import Spent, by_cause, by_owner, capacity
from wellfed.dashboard.told import do_next
from wellfed.dashboard.view import Component, Page, View
from wellfed.dashboard.waterfall import fall
from wellfed.dashboard.words import amount, family, hours, money, share, title, whole

__all__ = ["OWNERS", "body"]

#: `by=` of the URL -> (what it is called, column of the job table).
OWNERS = {"": ("Team", "namespace"), "user": ("User", "user"), "job": ("Job", "job")}
_JOULES_A_KWH = 3.6e6
_COLUMNS = (
    Column("GPUs", "gpus", number=True),
    Column("GPU-h", "held", number=True),
    Column("Productive", "au", number=True),
    Column("GPU-h lost", "lost", number=True),
    Column(""),
    Column("Cost", "cost", number=True),
    Column("Cost of loss", "cost-lost", number=True),
    Column("Energy", "energy", number=True),
    Column("Energy lost", "energy-lost", number=True),
    Column("Mostly", "mostly"),
)
_KEYS: Mapping[str, Callable[[Spent], object]] = {
    "name": lambda s: s.name,
    "gpus": lambda s: s.gpus,
    "held": lambda s: s.covered,
    "au": lambda s: 1 - s.lost / s.covered if s.covered else None,
    "lost": lambda s: s.lost,
    "cost": lambda s: s.cost,
    "cost-lost": lambda s: s.cost_lost,
    "energy": lambda s: s.joules,
    "energy-lost": lambda s: s.joules_lost,
    "mostly": lambda s: title(s.mostly) if s.mostly else None,
}


def body(view: View) -> Page:
    """The page."""
    crumbs = [html.H1("Efficiency")]
    totals = view.document["totals"]
    if not totals["covered_seconds"]:
        text = "No GPU with a measured activity in this range. See what this machine can measure:"
        return Page(crumbs, [missing("Nothing to show", text, "wellfed doctor")])
    causes = view.answer.once(by_cause)
    by = view.query.get("by", "")
    what, column = OWNERS.get(by, OWNERS[""])
    owned = view.answer.once(by_owner, column)
    return Page(
        crumbs,
        [
            verdict(*_sentence(view, owned, what)),
            _figures(view, causes),
            html.Div([_waterfall(view), _causes(view, causes)], className="half"),
            _owners(view, owned, what, by),
        ],
    )


def _sentence(view: View, owned: Sequence[Spent], what: str) -> list[Component]:
    totals = view.document["totals"]
    lost = share(totals["lost_seconds"] / totals["covered_seconds"])
    cost = f" ({money(totals['cost_lost'])})" if totals["cost_lost"] is not None else ""
    lead = html.B(
        f"{hours(totals['lost_seconds'])} of {hours(totals['covered_seconds'])} GPU-hours{cost} were lost"
    )
    first = owned[0] if owned and owned[0].lost > 0 else None
    who = f"; {what.lower()} {first.name} lost most: {hours(first.lost)} GPU-hours." if first else "."
    step = do_next(view)
    return [lead, f", {lost} of what was measured{who}", *([" Do first: ", step, "."] if step else [])]


def energy(joules: float | None) -> str:
    """Joules as kilowatt-hours, or a dash."""
    return "–" if joules is None else amount(joules / _JOULES_A_KWH * 1e3, "Wh")


def _figures(view: View, causes: Sequence[Spent]) -> Component:
    totals = view.document["totals"]
    burnt = [s.joules_lost for s in causes if s.joules_lost is not None]
    day = 86400 / max(1.0, view.answer.range.seconds)
    a_day = None if totals["cost_lost"] is None else totals["cost_lost"] * day
    tiles = [
        kpi("Productive", share(totals["au"]), "", f"of {hours(totals['covered_seconds'])} GPU-h measured"),
        kpi(
            "Cost of loss",
            money(totals["cost_lost"]),
            "",
            f"{money(a_day)} a day at this rate" if a_day is not None else "set --price to see it",
        ),
        kpi("Energy", energy(totals["joules"]), "", "of all GPUs in this range"),
        kpi("Energy while waiting", energy(sum(burnt)) if burnt else "–", "", "burnt in lost time"),
    ]
    return html.Div(tiles, className="kpis four")


def _waterfall(view: View) -> Component:
    (_, whole), (_, unseen), (_, blind) = view.answer.once(capacity)
    losses: list[tuple[Component, str, float]] = []
    for name, seconds in (("no data", unseen), ("activity not measured", blind)):
        if seconds > 0.0005 * whole:
            losses.append((name, "plain", seconds))
    families: dict[str, float] = {}
    for cause, seconds in view.document["totals"]["by_cause"].items():
        families[family(cause)] = families.get(family(cause), 0.0) + seconds
    for name, seconds in sorted(families.items(), key=lambda item: -item[1]):
        if seconds > 0:
            from_ = html.Span([code_badge(name), _title(name)], className="cause")
            losses.append((from_, name, seconds))
    return card(
        "From capacity to productive",
        fall(view, whole, losses, "capacity: GPUs seen x time", "productive"),
        sub="GPU-hours, by family of causes",
    )


def _title(family_id: str) -> str:
    from wellfed.analysis.causes import FAMILIES

    return FAMILIES[family_id].title if family_id in FAMILIES else family_id


def _causes(view: View, causes: Sequence[Spent]) -> Component:
    rows = [
        (
            cause_label(s.name),
            whole(s.gpus),
            hours(s.lost),
            money(s.cost_lost),
            energy(s.joules_lost),
        )
        for s in causes
        if s.lost > 0
    ]
    columns = ("Cause", "GPUs#", "GPU-h lost#", "Cost#", "Energy while waiting#")
    found = listing(
        columns, rows, "Nothing was lost.", "Cost of loss by cause", Sort(view, "-gpu-h-lost", "causes")
    )
    return card("By cause", found, sub="what each GPU waited for", right=_exports(view), classes="pad0")


def _exports(view: View) -> Component:
    facts = {"from": view.answer.range.start.isoformat(), "to": view.answer.range.end.isoformat()}
    links = [
        html.A(text, href=f"/export/{name}?{urlencode(facts)}", className="btn", download="")
        for name, text in (("efficiency.csv", "CSV"), ("report.html", "HTML report"))
    ]
    return html.Div(links, className="seg")


def _owners(view: View, owned: Sequence[Spent], what: str, by: str) -> Component:
    most = max((s.lost for s in owned), default=0.0) or 1.0
    sort = Sort(view)
    rows = [
        (
            s.name,
            whole(s.gpus),
            hours(s.covered),
            share(1 - s.lost / s.covered if s.covered else None),
            hours(s.lost),
            bar(s.lost / most, family(s.mostly) if s.mostly else "", title(s.mostly)),
            money(s.cost),
            money(s.cost_lost),
            energy(s.joules),
            energy(s.joules_lost),
            cause_label(s.mostly) if s.mostly and s.lost > 0.02 * s.covered else "–",
        )
        for s in view.first(sort.apply(owned, _KEYS))
    ]
    ways = [(name, view.here(by=key), key == by) for key, (name, _) in OWNERS.items()]
    return card(
        f"By {what.lower()}",
        table((Column(what, "name"), *_COLUMNS), rows, "No GPU was held.", f"Cost by {what.lower()}", sort),
        right=chips(ways, "By"),
        classes="pad0",
    )
