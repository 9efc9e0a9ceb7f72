"""A machine: what it waits for, pane by pane, and whether its collectors can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import polars as pl
from dash import dcc, html

from wellfed.dashboard.facts import gpus_by_host
from wellfed.dashboard.figures import Line
from wellfed.dashboard.panes import Pane, panes
from wellfed.dashboard.parts import Column, card, listing, missing, table, time_plot, verdict
from wellfed.dashboard.series import aligned, gather
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.told import do_next
from wellfed.dashboard.twins import pane_lines, series_twin
from wellfed.dashboard.view import ROWS, Component, Page, View, gpu_path, host_path
from wellfed.dashboard.words import count, share, whole

__all__ = ["body", "collectors", "detail", "sentence", "signals"]

_COUNTERS = (
    "cpu_busy_seconds",
    "cpu_iowait_seconds",
    "psi_cpu_some_seconds",
    "psi_io_some_seconds",
    "psi_memory_some_seconds",
    "net_rx_bytes",
    "net_tx_bytes",
)


_RATIOS = (
    Column("CPU busy", "cpu_busy_ratio", number=True),
    Column("I/O wait", "cpu_iowait_ratio", number=True),
    Column("CPU pressure", "psi_cpu_ratio", number=True),
    Column("I/O pressure", "psi_io_ratio", number=True),
    Column("Memory pressure", "psi_memory_ratio", number=True),
)
_PRESSURES = {"psi_cpu_ratio": "a CPU", "psi_io_ratio": "I/O", "psi_memory_ratio": "memory"}


def body(view: View) -> Page:
    """All hosts with their pressures."""
    hosts = view.document["hosts"]
    gpus = view.answer.once(gpus_by_host)
    keys: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        c.key: partial(_ratio, c.key) for c in _RATIOS if c.key
    }
    keys["pressed"] = lambda h: max(h.get(name) or 0.0 for name in _PRESSURES)
    keys["host"] = lambda h: h["host"]
    keys["gpus"] = lambda h: len(gpus.get(h["host"], ()))
    sort = Sort(view, "-pressed")
    ordered = sort.apply(hosts, keys)
    rows = [
        (
            dcc.Link(h["host"], href=view.to(host_path(h["host"]))),
            *(share(h.get(column.key)) for column in _RATIOS),
            whole(len(gpus.get(h["host"], ()))),
            do_next(view, host=h["host"]) or "–",
        )
        for h in view.first(ordered)
    ]
    found = table(
        (Column("Host", "host"), *_RATIOS, Column("GPUs", "gpus", number=True), Column("Do next", wide=True)),
        rows,
        ["No host reports yet. Start one: ", html.Code("wellfed up")],
        "Hosts by pressure",
        sort,
        [view.to(host_path(h["host"])) for h in view.first(ordered)],
    )
    pressed = sum(any((h.get(name) or 0.0) >= 0.2 for name in _PRESSURES) for h in hosts)
    told = [
        html.B(f"{pressed} of {len(hosts)} hosts are pressed"),
        ": tasks waited at least 20 % of the time.",
    ]
    more = f" · the first {ROWS} of {len(hosts)}, search finds the others" if len(hosts) > ROWS else ""
    return Page(
        [html.H1("Hosts")],
        [
            verdict(*(told if hosts else ["No host reports yet."])),
            card("Hosts", found, sub=f"means over the range, the most pressed first{more}", classes="pad0"),
        ],
    )


def _ratio(name: str, host: Mapping[str, Any]) -> float | None:
    return host.get(name)


def detail(view: View, host: str) -> Page:
    """The page of one host."""
    crumbs = [dcc.Link("Hosts", href=view.to("/hosts")), html.Span("/"), html.H1(host)]
    mine = pl.col("host") == host
    if view.answer.tables["host"].filter(mine).head(1).collect().is_empty():
        text = f"No data from {host} in this range. Is its agent running? Try a longer range, or on the host:"
        return Page(crumbs, [missing("Signals", text, "wellfed doctor")])
    gpus = view.answer.once(gpus_by_host).get(host, [])
    main: list[Component] = [verdict(sentence(view, host))]
    if gpus:
        strip = [
            dcc.Link(
                [
                    str(g["index"] or i),
                    html.Span("–" if g["au"] is None else f"{g['au']:.0%}", className="mini-text"),
                ],
                href=view.to(gpu_path(host, g)),
                className="gsel",
            )
            for i, g in enumerate(gpus)
        ]
        main.append(card("GPUs", html.Div(strip, className="gsels"), sub="productive share of their time"))
    return Page(crumbs, [*main, signals(view, host), collectors(view, host)])


def sentence(view: View, host: str) -> str:
    """What this machine waits for."""
    facts = next((h for h in view.document["hosts"] if h["host"] == host), None)
    if facts is None:
        return f"{host} has not reported two windows in this range yet."
    known = {name: facts[name] for name in _PRESSURES if facts.get(name) is not None}
    gpus = len(view.answer.once(gpus_by_host).get(host, ()))
    have = f"{host} has {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else f"{host} has no GPU"
    if not known:
        return f"{have}, and its kernel tells no pressure (boot with psi=1)."
    worst = max(known, key=lambda name: known[name])
    if known[worst] < 0.05:
        return f"{have} and waits for nothing: tasks were held up for less than 5 % of the time."
    waited = f"waited for {_PRESSURES[worst]} {known[worst]:.0%} of the time"
    return f"{have}; its tasks {waited}, more than for anything else."


def signals(view: View, host: str) -> Component:
    """Six aligned panes of the host's own signals."""
    mine = pl.col("host") == host
    step = float(view.document["window_seconds"])
    base = gather(
        view.answer.tables["host"].filter(mine),
        _COUNTERS,
        ("cpu_count", "load1", "memory_total_bytes", "memory_available_bytes", "page_cache_bytes"),
        step,
    )
    disks = aligned(
        base,
        gather(
            view.answer.tables["disk"].filter(mine), ("read_bytes", "written_bytes", "busy_seconds"), (), step
        ),
    )
    mounts = gather(view.answer.tables["mount"].filter(mine), ("read_bytes", "written_bytes"), (), step)
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
        remote = aligned(base, mounts)
        lines = [
            Line("Read", remote["read_bytes"] / 1e6, "MB/s"),
            Line("Written", remote["written_bytes"] / 1e6, "MB/s"),
        ]
        rows.insert(4, Pane("Remote files", lines))
    summary = "; ".join(
        f"{pane.name}: " + ", ".join(f"{line.name} {line.last} {line.unit}" for line in pane.lines)
        for pane in rows
    )
    figure = time_plot("signals", panes(view.skin, base.stamps, rows), 112 * len(rows), summary)
    told = series_twin(view, base.stamps, pane_lines(rows), "Signals of the host")
    return card("Signals", figure, told, sub=f"{step:g} s windows · {view.answer.range.text}", classes="sigc")


def collectors(view: View, host: str) -> Component:
    """Each collector's state on this host."""
    latest = (
        view.answer.tables["collector"]
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
                whole(1e3 * (row["duration_seconds"] or 0), 2),
                count(row["errors"] or 0),
                row["reason"] or "",
            )
        )
    return card(
        "Collectors",
        listing(
            ("Collector", "State", "Read, ms#", "Errors#", "Why"),
            rows,
            "No collector reports.",
            "Collectors of this host",
            Sort(view, "collector"),
        ),
        sub="can this be trusted?",
        classes="pad0",
    )
