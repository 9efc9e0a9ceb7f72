"""Fabric: which port or link is bad or crowded, and who uses it."""

from __future__ import annotations

import polars as pl
from dash import dcc, html

from wellfed.dashboard.facts import step_for
from wellfed.dashboard.heat import amounts_map
from wellfed.dashboard.leaves import Link, by_leaf
from wellfed.dashboard.parts import (
    Column,
    card,
    chips,
    kpi,
    listing,
    missing,
    table,
    time_plot,
    twin,
    verdict,
)
from wellfed.dashboard.ports import MEASURES, SWITCH, State, by_rail, highest, port_rows, state_of
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.told import findings_table
from wellfed.dashboard.view import Component, Page, View, host_path
from wellfed.dashboard.words import amount, family, share, whole

__all__ = ["body"]

#: Rows of the heat map over time.
_SHOWN = 24
#: Racks, leaves and spines in a table of them.
_RACKS = 40
#: Rows of the table.
_LISTED = 30
_MEASURED = (
    "Of a pair's links, the port that has most, on either switch. Their ports: the mean of the ports of the "
    "leaf's hosts, as these measure it."
)
_UNMEASURED = (
    "No switch sends counters, so what its links carry is not known: docs/dashboard.md says how they come "
    "here. Their ports: the mean of the ports of the leaf's hosts, as these measure it."
)
_WAYS = (("", "Load"), ("errors", "Errors"), ("crowded", "Congestion"))

_COLUMNS = (
    Column("Port", "port"),
    Column("Kind", "kind"),
    Column("Rate", "rate", number=True),
    Column("In", "rx", number=True),
    Column("Out", "tx", number=True),
    Column("Load", "load", number=True),
    Column("Errors", "errors", number=True),
    Column("Went down", "down", number=True),
    Column("Waits for credit", "waits", number=True),
    Column("CNPs", "cnp", number=True),
    Column("Paused", "paused", number=True),
)


def body(view: View) -> Page:
    """The page."""
    crumbs = [html.H1("Fabric")]
    ports = view.answer.once(port_rows)
    if ports.is_empty():
        text = (
            "No port reports in this range: no InfiniBand, RoCE or Ethernet collector yields here. On a host:"
        )
        return Page(crumbs, [missing("Nothing to show", text, "wellfed doctor")])
    state = view.answer.once(state_of)
    asked = view.query.get("by", "")
    by = asked if asked in MEASURES else ""
    findings = [f for f in view.document["findings"] if family(f["cause"]) in ("network", "straggler")]
    return Page(
        crumbs,
        [
            verdict(*_sentence(view, state)),
            _figures(state),
            html.Div([_rails(view, by), _over(view, by)], className="half"),
            *_leaves(view, by),
            card(
                "Findings",
                findings_table(view, findings, "No fabric finding in this range.", of="findings"),
                classes="pad0",
            ),
            _table(view, ports),
        ],
    )


def _sentence(view: View, state: State) -> list[Component]:
    totals = view.document["totals"]
    lost = sum(s for c, s in totals["by_cause"].items() if family(c) == "network")
    lead = f"{state.ports:,} ports"
    if totals["covered_seconds"]:
        lead = f"GPUs wait for the fabric {share(lost / totals['covered_seconds'])} of their time"
    told: list[Component] = [html.B(lead), "; "]
    parts = []
    if state.bad:
        parts.append(f"{state.bad:,} with errors or below their rate, {state.worst} first")
    if state.crowded:
        parts.append(f"{state.crowded:,} crowded, {state.fullest} most")
    return [*told, " and ".join(parts) or "no port has errors, runs below its rate or is crowded", "."]


def _figures(state: State) -> Component:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in state.links)
    tiles = [
        kpi("Ports", f"{state.ports - state.down:,}", f"of {state.ports:,} up", kinds, bad=state.down > 0),
        kpi(
            "Below their rate", f"{state.slow:,}", "ports", "against others of their kind", bad=state.slow > 0
        ),
        kpi("Errors", f"{state.errors:,.0f}", "", f"on {state.faulty:,} ports", bad=state.errors > 0),
        kpi("Crowded", f"{state.crowded:,}", "ports", "credit waits, pauses, notices", bad=state.crowded > 0),
    ]
    return html.Div(tiles, className="kpis four")


def _rails(view: View, by: str) -> Component:
    measure, found = MEASURES[by], view.answer.once(by_rail, by)
    what = "rack" if view.answer.topology is None else "leaf"
    top = max((value for row in found.values for value in row if value is not None), default=0.0) or 1.0
    pairs = list(zip(found.racks, found.values, strict=True))
    if len(pairs) > _RACKS:
        pairs = sorted(pairs, key=lambda pair: -max(v or 0.0 for v in pair[1]))[:_RACKS]
    rows = [(rack, *(_shaded(value, top, measure.unit) for value in row)) for rack, row in pairs]
    more = f" · the {_RACKS} highest of {len(found.racks)}" if len(found.racks) > _RACKS else ""
    columns = (what.capitalize(), *(f"{rail}#" for rail in found.rails))
    note = (
        "No host tells which leaf and spine its ports reach, so they are grouped by rack and rail: where "
        "rails have leaves of their own, a cell is one leaf. With --topology the page knows the leaves."
    )
    return card(
        "Racks by rails" if what == "rack" else "Leaves by rails",
        html.Div(
            listing(columns, rows, "", f"Mean {measure.name} by {what} and rail", Sort(view, of="rails")),
            className="tall rails",
        ),
        *([html.P(note, className="note in")] if what == "rack" else []),
        sub=f"mean {measure.name}{more}",
        right=chips([(name, view.here(by=way), way == by) for way, name in _WAYS], "Show"),
        classes="pad0",
    )


def _leaves(view: View, by: str) -> list[Component]:
    """How each pair of a leaf and a spine fares; nothing without a topology."""
    measure, found = MEASURES[by], view.answer.once(by_leaf, by)
    if found is None or not found.spines:
        return []
    leaves, spines = found.leaves, list(range(len(found.spines)))
    if len(leaves) > _RACKS:
        leaves = sorted(leaves, key=lambda leaf: (-leaf.highest, -(leaf.value or 0.0)))[:_RACKS]
    if len(spines) > _RACKS:
        spines = sorted(sorted(spines, key=lambda n: -found.highest(n))[:_RACKS])
    most = max((leaf.highest for leaf in leaves), default=0.0) or 1.0
    ports = max((leaf.value or 0.0 for leaf in leaves), default=0.0) or 1.0
    rows = [
        (
            leaf.name,
            whole(leaf.hosts),
            _shaded(leaf.value, ports, measure.unit),
            *(_link(leaf.name, found.spines[n], leaf.links[n], most, measure.unit) for n in spines),
        )
        for leaf in leaves
    ]
    columns: list[str | Column] = ["Leaf", "Hosts#", "Their ports#"]
    columns += [Column(found.spines[n], number=True) for n in spines]
    caption = f"Highest {measure.name} of the links of each leaf and spine"
    more = f" · the {_RACKS} highest of {len(found.leaves)}" if len(found.leaves) > _RACKS else ""
    unknown = f" The file tells no leaf of {found.unknown:,} ports of hosts." if found.unknown else ""
    return [
        card(
            "Leaves by spines",
            html.Div(listing(columns, rows, "", caption, Sort(view, of="leaves")), className="tall rails"),
            html.P((_MEASURED if found.measured else _UNMEASURED) + unknown, className="note in"),
            sub=f"{measure.name} of a pair's links{more}",
            classes="pad0",
        )
    ]


def _link(leaf: str, spine: str, link: Link | None, top: float, unit: str) -> Component:
    if link is None:
        return html.Span("no link", className="dim")
    told = f"{leaf} – {spine}: {link.links} link{'s' if link.links > 1 else ''}"
    if not link.ports:
        return html.Span("no counters", className="dim", title=told)
    # One link with both ends told is what one expects.
    usual = link.links == 1 and link.ports == 2
    return _shaded(link.value, top, unit, "" if usual else f"{told}, {link.ports} ports report")


def _shaded(value: float | None, top: float, unit: str, title: str = "") -> Component:
    level = f"{100 * (value or 0.0) / top:.0f}%"
    told = {"title": title} if title else {}
    return html.Td(_cell(value, unit), className="num cell", style={"--level": level}, **told)


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return share(value / 100) if unit == "%" else amount(value, unit)


def _over(view: View, by: str) -> Component:
    measure, found = MEASURES[by], view.answer.once(highest, by, _SHOWN)
    told = [(name, _cell(top, measure.unit)) for name, top in zip(found.names, found.tops, strict=True)]
    summary = f"Ports with the highest {measure.name}: " + ", ".join(f"{n} {top}" for n, top in told[:5])
    figure = amounts_map(view.skin, found.stamps, found.names, found.values, measure.unit)
    return card(
        "Ports over time",
        time_plot("ports", figure, 420, summary),
        twin(("Port", "Highest#"), told, "Ports over time", Sort(view, "-highest", "highest")),
        sub=f"{measure.name} of the {len(told)} highest, per {step_for(view.answer):.0f} s",
    )


def _table(view: View, ports: pl.DataFrame) -> Component:
    keys = {
        "port": "name",
        "kind": "link",
        "rate": "rate_bps",
        "rx": "rx_bytes",
        "tx": "tx_bytes",
        "load": "load",
        "errors": "errors",
        "down": "link_downed",
        "waits": "waits",
        "cnp": "cnp_handled",
        "paused": "pause_seconds",
    }
    sort = Sort(view, "-errors")
    key, down = sort.by(keys)
    first = ports.sort("errors", "waits", "load", descending=True, nulls_last=True, maintain_order=True)
    ordered = first.sort(keys[key], descending=down, nulls_last=True, maintain_order=True)
    ordered = ordered if view.whole else ordered.head(_LISTED)
    rows = [_row(view, r) for r in ordered.iter_rows(named=True)]
    more = f"the first {_LISTED} of {ports.height:,}" if ports.height > _LISTED else ""
    hrefs = [
        view.here() if link == SWITCH else view.to(host_path(host))
        for host, link in ordered.select("host", "link").iter_rows()
    ]
    return card("Ports", table(_COLUMNS, rows, "", "Ports", sort, hrefs), sub=more, classes="pad0")


def _row(view: View, port: dict[str, float | str | None]) -> tuple[Component, ...]:
    seconds = float(port["seconds"] or 1.0)

    def a_second(column: str, unit: str) -> str:
        value = port[column]
        return amount(None if value is None else float(value) / seconds, unit)

    rate = amount(float(port["rate_bps"]), "b/s") if port["rate_bps"] else "–"
    slow = " ▾" if port["slow"] else ""
    name: Component = str(port["name"])
    if port["link"] != SWITCH:
        name = dcc.Link(name, href=view.to(host_path(str(port["host"]))))
    return (
        name,
        port["link"] or "–",
        html.Span(rate + slow, title="below others of its kind" if slow else ""),
        a_second("rx_bytes", "B/s"),
        a_second("tx_bytes", "B/s"),
        share(None if port["load"] is None else float(port["load"])),
        whole(float(port["errors"] or 0)),
        whole(float(port["link_downed"] or 0)),
        a_second("xmit_wait_ticks", "/s"),
        whole(float(port["cnp_handled"] or 0)),
        share(None if port["pause_seconds"] is None else float(port["pause_seconds"]) / seconds),
    )
