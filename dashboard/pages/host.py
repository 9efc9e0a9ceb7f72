"""A machine: what it waits for, pane by pane, and whether its collectors can be trusted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.figures import Line, Pane, panes
from wellfed.dashboard.parts import Component, card, gpu_link, graph, host_link, link, table
from wellfed.dashboard.series import Signals, gather
from wellfed.dashboard.theme import count

__all__ = ["body", "hosts_body", "signals", "verdict"]

_COUNTERS = (
    "cpu_busy_seconds",
    "cpu_iowait_seconds",
    "psi_cpu_some_seconds",
    "psi_io_some_seconds",
    "psi_memory_some_seconds",
    "net_rx_bytes",
    "net_tx_bytes",
)


def body(answer: Answer, query: Mapping[str, str], host: str) -> tuple[list[Component], list[Component]]:
    """The page of one host."""
    crumbs = [dcc.Link("Hosts", href=link("/hosts", query)), html.Span("/"), html.H1(host)]
    mine = pl.col("host") == host
    if answer.tables["host"].filter(mine).head(1).collect().is_empty():
        text = (
            f"No data from {host} in this range. Is its agent running? Try a longer range, or wellfed doctor"
        )
        return crumbs, [card("Signals", html.P(text, className="empty"))]
    gpus = [g for g in answer.diagnosis.document["gpus"] if g["host"] == host]
    main: list[Component] = [html.P(verdict(answer, host), className="vt", id="verdict")]
    if gpus:
        strip = [
            dcc.Link(
                [
                    str(g["index"] or i),
                    html.Span(f"{g['au']:.0%}" if g["au"] is not None else "–", className="mini-text"),
                ],
                href=link(gpu_link(host, g), query),
                className="gsel",
            )
            for i, g in enumerate(gpus)
        ]
        main.append(card("GPUs", html.Div(strip, className="gsels"), sub="productive share of their time"))
    main.append(signals(answer, host))
    main.append(collectors(answer, host))
    return crumbs, main


def hosts_body(answer: Answer, query: Mapping[str, str]) -> tuple[list[Component], list[Component]]:
    """All hosts with their pressures."""
    rows = [
        (
            dcc.Link(h["host"], href=link(host_link(h["host"]), query)),
            *(
                _percent(h.get(name))
                for name in (
                    "cpu_busy_ratio",
                    "cpu_iowait_ratio",
                    "psi_cpu_ratio",
                    "psi_io_ratio",
                    "psi_memory_ratio",
                )
            ),
            str(sum(g["host"] == h["host"] for g in answer.diagnosis.document["gpus"])),
        )
        for h in sorted(
            answer.diagnosis.document["hosts"],
            key=lambda h: -(h.get("psi_io_ratio") or 0) - (h.get("psi_cpu_ratio") or 0),
        )
    ]
    columns = (
        "Host",
        "CPU busy#",
        "I/O wait#",
        "CPU pressure#",
        "I/O pressure#",
        "Memory pressure#",
        "GPUs#",
    )
    found = table(columns, rows, "No host reports yet. Start one: wellfed up", "Hosts by pressure")
    return [html.H1("Hosts")], [
        card("Hosts", found, sub="means over the range, the most pressed first", classes="pad0")
    ]


def verdict(answer: Answer, host: str) -> str:
    """One sentence: what this machine waits for."""
    facts = next((h for h in answer.diagnosis.document["hosts"] if h["host"] == host), None)
    if facts is None:
        return f"{host} has not reported two windows in this range yet."
    named = {"psi_cpu_ratio": "a CPU", "psi_io_ratio": "I/O", "psi_memory_ratio": "memory"}
    known = {name: facts[name] for name in named if facts.get(name) is not None}
    gpus = sum(g["host"] == host for g in answer.diagnosis.document["gpus"])
    have = f"{host} has {gpus} GPUs" if gpus else f"{host} has no GPU"
    if not known:
        return f"{have}, and its kernel tells no pressure (boot with psi=1)."
    worst = max(known, key=lambda name: known[name])
    if known[worst] < 0.05:
        return f"{have} and waits for nothing: tasks were held up for less than 5 % of the time."
    waited = f"waited for {named[worst]} {known[worst]:.0%} of the time"
    return f"{have}; its tasks {waited}, more than for anything else."


def signals(answer: Answer, host: str) -> Component:
    """Six aligned panes of the host's own signals."""
    mine = pl.col("host") == host
    step = float(answer.diagnosis.document["window_seconds"])
    base = gather(
        answer.tables["host"].filter(mine),
        _COUNTERS,
        ("cpu_count", "load1", "memory_total_bytes", "memory_available_bytes", "page_cache_bytes"),
        step,
    )
    disks = _aligned(
        base,
        gather(answer.tables["disk"].filter(mine), ("read_bytes", "written_bytes", "busy_seconds"), (), step),
    )
    mounts = gather(answer.tables["mount"].filter(mine), ("read_bytes", "written_bytes"), (), step)
    cpus = base["cpu_count"]
    rows = [
        Pane(
            "CPU",
            [
                Line("Busy", 100 * base["cpu_busy_seconds"] / cpus, "%"),
                Line("I/O wait", 100 * base["cpu_iowait_seconds"] / cpus, "%"),
            ],
            100,
        ),
        Pane(
            "Pressure",
            [
                Line("CPU", 100 * base["psi_cpu_some_seconds"], "%"),
                Line("I/O", 100 * base["psi_io_some_seconds"], "%"),
                Line("Memory", 100 * base["psi_memory_some_seconds"], "%"),
            ],
            100,
        ),
        Pane(
            "Memory",
            [
                Line("Used", (base["memory_total_bytes"] - base["memory_available_bytes"]) / 1e9, "GB"),
                Line("Page cache", base["page_cache_bytes"] / 1e9, "GB"),
            ],
        ),
        Pane(
            "Disks",
            [
                Line("Read", disks["read_bytes"] / 1e6, "MB/s"),
                Line("Written", disks["written_bytes"] / 1e6, "MB/s"),
            ],
        ),
        Pane(
            "Network",
            [
                Line("Received", base["net_rx_bytes"] / 1e6, "MB/s"),
                Line("Sent", base["net_tx_bytes"] / 1e6, "MB/s"),
            ],
        ),
    ]
    if mounts.stamps.size:
        remote = _aligned(base, mounts)
        lines = [
            Line("Read", remote["read_bytes"] / 1e6, "MB/s"),
            Line("Written", remote["written_bytes"] / 1e6, "MB/s"),
        ]
        rows.insert(4, Pane("Remote files", lines))
    summary = "; ".join(
        f"{pane.name}: " + ", ".join(f"{line.name} {_last(line)} {line.unit}" for line in pane.lines)
        for pane in rows
    )
    figure = graph("signals", panes(base.stamps, rows), 112 * len(rows), summary)
    return card("Signals", figure, sub=f"{step:g} s windows · {answer.range.text}", classes="sigc")


def _aligned(base: Signals, other: Signals) -> Signals:
    """Other's columns on the base's grid."""
    if not other.stamps.size or not base.stamps.size:
        return Signals(base.stamps, {})
    where = np.searchsorted(other.stamps, base.stamps)
    inside = np.clip(where, 0, other.stamps.size - 1)
    match = other.stamps[inside] == base.stamps
    return Signals(base.stamps, {n: np.where(match, other[n][inside], np.nan) for n in other.names})


def _last(line: Line) -> str:
    known = line.y[~np.isnan(line.y)]
    return f"{known[-1]:.3g}" if known.size else "not measured"


def collectors(answer: Answer, host: str) -> Component:
    """Each collector's state on this host."""
    latest = (
        answer.tables["collector"]
        .filter(pl.col("host") == host)
        .sort("ts")
        .unique(["collector"], keep="last")
        .sort("collector")
        .collect()
    )
    rows = []
    for row in latest.iter_rows(named=True):
        state = "stuck" if row["stuck"] else "ok" if row["success"] else "nothing to read"
        rows.append(
            (
                row["collector"],
                state,
                f"{1e3 * (row['duration_seconds'] or 0):.2f}",
                count(row["errors"] or 0),
                row["reason"] or "",
            )
        )
    return card(
        "Collectors",
        table(
            ("Collector", "State", "Read, ms#", "Errors#", "Why"),
            rows,
            "No collector reports.",
            "Collectors of this host",
        ),
        sub="can this be trusted?",
        classes="pad0",
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
