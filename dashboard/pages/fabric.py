"""Fabric: which port or link is bad or crowded, and who uses it."""

from __future__ import annotations

import polars as pl
from dash import dcc, html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.derive import binned, grid_of, per_second
from wellfed.dashboard.facts import step_for
from wellfed.dashboard.heat import amounts_map, rack_of
from wellfed.dashboard.parts import (
    Column,
    card,
    chips,
    kpi,
    missing,
    sortable,
    table,
    time_plot,
    twin,
    verdict,
)
from wellfed.dashboard.told import findings_table
from wellfed.dashboard.view import Component, Page, View, host_path
from wellfed.dashboard.words import amount, family, share

__all__ = ["body"]

_ERRORS = (
    "symbol_errors",
    "link_downed",
    "link_recovery",
    "rcv_errors",
    "xmit_discards",
    "packet_seq_errors",
    "out_of_sequence",
    "ack_timeouts",
    "buffer_overruns",
    "integrity_errors",
    "rnr_nak_retries",
)
_CROWDED = ("xmit_wait_ticks", "cnp_handled", "ecn_marked", "pause_seconds")
_LOAD = ("rx_bytes", "tx_bytes")
#: Rows of the heat map over time.
_SHOWN = 24
#: Rows of the table.
_LISTED = 30
_WAYS = (("", "Load"), ("errors", "Errors"), ("crowded", "Congestion"))

_COLUMNS = (
    Column("Port", "port"),
    Column("Kind"),
    Column("Rate", number=True),
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
    ports = view.answer.once(_ports)
    if ports.is_empty():
        text = (
            "No port reports in this range: no InfiniBand, RoCE or Ethernet collector yields here. On a host:"
        )
        return Page(crumbs, [missing("Nothing to show", text, "wellfed doctor")])
    findings = [f for f in view.document["findings"] if family(f["cause"]) in ("network", "straggler")]
    return Page(
        crumbs,
        [
            verdict(*_sentence(view, ports)),
            _figures(ports),
            html.Div([_matrix(view, ports), _over(view, ports)], className="half"),
            card(
                "Findings", findings_table(view, findings, "No fabric finding in this range."), classes="pad0"
            ),
            _table(view, ports),
        ],
    )


def _binned(answer: Answer) -> pl.DataFrame:
    rows = binned(answer, "port", (*_LOAD, *_ERRORS, *_CROWDED), ("rate_bps", "up"), ("link",), points=96)
    bits = 8 * pl.max_horizontal(*_LOAD) / pl.col("seconds")
    errors = pl.sum_horizontal(*(pl.col(c).fill_null(0.0) for c in _ERRORS if c != "out_of_sequence"))
    return rows.with_columns(
        (bits / pl.col("rate_bps")).alias("load"),
        errors.alias("errors"),
        per_second("xmit_wait_ticks").alias("waits"),
        pl.format("{} {}", "host", "port").alias("name"),
    )


def _ports(answer: Answer) -> pl.DataFrame:
    """A row a port: load, rates, errors and signs of congestion over the range."""
    rows = answer.once(_binned)
    ports = rows.group_by("host", "port", "name").agg(
        pl.col("link").last(),
        pl.col("rate_bps").last(),
        pl.col("up").last(),
        pl.col("load").mean(),
        pl.col("seconds").sum(),
        pl.col(*_LOAD, "errors", "link_downed", *_CROWDED).sum(),
        pl.col("load").max().alias("peak"),
    )
    usual = pl.col("rate_bps").mode().first().over("link")
    waits = pl.col("xmit_wait_ticks") / pl.col("seconds")
    return ports.with_columns(
        (pl.col("rate_bps") < usual).alias("slow"),
        waits.alias("waits"),
        (waits.median().over("link")).alias("usual_waits"),
    ).sort("host", "port")


def _crowded() -> pl.Expr:
    """Ports that wait well above the others of their kind, are paused, or are told to slow down."""
    waits = pl.col("waits") > pl.max_horizontal(10 * pl.col("usual_waits"), pl.lit(1e5))
    paused = pl.col("pause_seconds").fill_null(0.0) > 0.01 * pl.col("seconds")
    told = pl.col("cnp_handled").fill_null(0.0) > pl.col("seconds")
    return (waits | paused | told).fill_null(False)


def _sentence(view: View, ports: pl.DataFrame) -> list[Component]:
    totals = view.document["totals"]
    lost = sum(s for c, s in totals["by_cause"].items() if family(c) == "network")
    lead = f"{ports.height:,} ports"
    if totals["covered_seconds"]:
        lead = f"GPUs wait for the fabric {share(lost / totals['covered_seconds'])} of their time"
    bad = ports.filter(
        (pl.col("link_downed") > 0) | (pl.col("errors") > 0) | pl.col("slow") | (pl.col("up") == 0)
    )
    crowded = ports.filter(_crowded())
    told: list[Component] = [html.B(lead), "; "]
    if bad.is_empty() and crowded.is_empty():
        return [*told, "no port has errors, runs below its rate or is crowded."]
    parts = []
    if bad.height:
        worst = bad.sort("link_downed", "errors", descending=True)["name"][0]
        parts.append(f"{bad.height:,} with errors or below their rate, {worst} first")
    if crowded.height:
        worst = crowded.sort("waits", descending=True)["name"][0]
        parts.append(f"{crowded.height:,} crowded, {worst} most")
    return [*told, " and ".join(parts), "."]


def _figures(ports: pl.DataFrame) -> Component:
    down = int((ports["up"] == 0).sum())
    slow, errors = int(ports["slow"].sum()), float(ports["errors"].sum() or 0.0)
    crowded = ports.filter(_crowded()).height
    links = ", ".join(f"{n:,} {kind}" for kind, n in ports.group_by("link").len().sort("link").iter_rows())
    tiles = [
        kpi("Ports", f"{ports.height - down:,}", f"of {ports.height:,} up", links, bad=down > 0),
        kpi("Below their rate", f"{slow:,}", "ports", "against others of their kind", bad=slow > 0),
        kpi(
            "Errors",
            f"{errors:,.0f}",
            "",
            f"on {ports.filter(pl.col('errors') > 0).height:,} ports",
            bad=errors > 0,
        ),
        kpi(
            "Crowded", f"{crowded:,}", "ports", "credit waits, pauses or congestion notices", bad=crowded > 0
        ),
    ]
    return html.Div(tiles, className="kpis four")


def _value(view: View) -> tuple[str, pl.Expr, str]:
    """(what, of a port, its unit) of the URL's `by`."""
    by = view.query.get("by", "")
    if by == "errors":
        return "errors", pl.col("errors"), ""
    if by == "crowded":
        return "waits for credit", pl.col("xmit_wait_ticks") / pl.col("seconds"), "ticks/s"
    return "load", 100 * pl.col("load"), "%"


def _matrix(view: View, ports: pl.DataFrame) -> Component:
    """Rack by rail: without a topology this is how a leaf or a plane that is bad shows."""
    what, value, unit = _value(view)
    fabric = ports.filter(pl.col("link") != "ethernet")
    chosen = fabric if fabric.height else ports
    racks = chosen["host"].map_elements(rack_of, return_dtype=pl.String).alias("rack")
    rows = (
        chosen.with_columns(racks)
        .group_by("rack", "port")
        .agg(value.mean().alias("value"))
        .sort("rack", "port")
    )
    wide = rows.pivot("port", index="rack", values="value")
    rails = sorted(c for c in wide.columns if c != "rack")
    cells = [[r["rack"], *(_cell(r[c], unit) for c in rails)] for r in wide.iter_rows(named=True)]
    top = float(rows["value"].max() or 0.0) or 1.0  # type: ignore[arg-type]
    body_ = [
        [
            name,
            *(
                html.Div(text, className="cell", style={"--level": f"{100 * (rows_value or 0.0) / top:.0f}%"})
                for text, rows_value in zip(texts, values, strict=True)
            ),
        ]
        for (name, *texts), values in zip(
            cells, ([r[c] for c in rails] for r in wide.iter_rows(named=True)), strict=True
        )
    ]
    ways = [(name, view.here(by=way), way == view.query.get("by", "")) for way, name in _WAYS]
    found = table(["Rack", *(f"{rail}#" for rail in rails)], body_, "", f"Mean {what} by rack and rail")
    return card(
        "Racks by rails",
        html.Div(found, className="tall"),
        html.P(
            "No collector reports leaves and spines, so ports are grouped by rack and rail.",
            className="note in",
        ),
        sub=f"mean {what}",
        right=chips(ways, "Show"),
        classes="pad0",
    )


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return share(value / 100) if unit == "%" else amount(value, unit).strip()


def _over(view: View, ports: pl.DataFrame) -> Component:
    what, value, unit = _value(view)
    rows = view.answer.once(_binned).select("at", "name", value.alias("value"))
    order = rows.group_by("name").agg(pl.col("value").max()).sort("value", "name", descending=[True, False])
    names = order["name"].head(_SHOWN).to_list()
    stamps, values = grid_of(rows, "name", "value", names)
    told = [(name, _cell(top, unit)) for name, top in order.head(_SHOWN).iter_rows()]
    summary = f"Ports with the highest {what}: " + ", ".join(f"{name} {top}" for name, top in told[:5])
    return card(
        "Ports over time",
        time_plot("ports", amounts_map(view.skin, stamps, names, values, unit), 420, summary),
        twin(("Port", "Highest#"), told, "Ports over time"),
        sub=f"{what} of the {len(names)} highest, per {step_for(view.answer):.0f} s",
    )


def _table(view: View, ports: pl.DataFrame) -> Component:
    keys = {
        "port": "name",
        "rx": "rx_bytes",
        "tx": "tx_bytes",
        "load": "load",
        "errors": "errors",
        "down": "link_downed",
        "waits": "waits",
        "cnp": "cnp_handled",
        "paused": "pause_seconds",
    }
    key, down = sortable(view, "-errors", keys)
    by = [keys[key], *(["waits", "load"] if key == "errors" else [])]
    ordered = ports.sort(by, descending=down, nulls_last=True).head(_LISTED)
    rows = [_row(view, r) for r in ordered.iter_rows(named=True)]
    more = f"the first {_LISTED} of {ports.height:,}" if ports.height > _LISTED else ""
    hrefs = [view.to(host_path(host)) for host in ordered["host"].to_list()]
    return card("Ports", table(_COLUMNS, rows, "", "Ports", view, hrefs), sub=more, classes="pad0")


def _row(view: View, port: dict[str, float | str | None]) -> tuple[Component, ...]:
    seconds = float(port["seconds"] or 1.0)

    def a_second(column: str, unit: str) -> str:
        value = port[column]
        return amount(None if value is None else float(value) / seconds, unit)

    rate = amount(float(port["rate_bps"]), "b/s") if port["rate_bps"] else "–"
    slow = " ▾" if port["slow"] else ""
    return (
        dcc.Link(str(port["name"]), href=view.to(host_path(str(port["host"])))),
        port["link"] or "–",
        html.Span(rate + slow, title="below others of its kind" if slow else ""),
        a_second("rx_bytes", "B/s"),
        a_second("tx_bytes", "B/s"),
        share(None if port["load"] is None else float(port["load"])),
        f"{port['errors']:,.0f}",
        f"{port['link_downed'] or 0:,.0f}",
        a_second("xmit_wait_ticks", "/s"),
        f"{port['cnp_handled'] or 0:,.0f}",
        share(None if port["pause_seconds"] is None else float(port["pause_seconds"]) / seconds),
    )
