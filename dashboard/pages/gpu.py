"""A GPU: what was it waiting on? State ribbon, six aligned panes, cause bands, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.dashboard.facts import gpus_by_host, job_names
from wellfed.dashboard.figures import Line
from wellfed.dashboard.panes import GAP, Pane, panes
from wellfed.dashboard.parts import (
    card,
    cause_label,
    code_badge,
    family_class,
    figures_row,
    legend,
    missing,
    time_plot,
    verdict,
)
from wellfed.dashboard.remarks import actions, said, standing_pills
from wellfed.dashboard.series import Signals, aligned, gather
from wellfed.dashboard.states import states
from wellfed.dashboard.told import evidence, finding_link, next_steps, pills
from wellfed.dashboard.twins import pane_lines, series_twin
from wellfed.dashboard.view import Component, Page, View, gpu_path, host_path, job_path
from wellfed.dashboard.words import ago, family, hours, money, scope_text, share, title

__all__ = ["body"]

_GPU = (
    "observed_seconds",
    "active_seconds",
    "sm_active_seconds",
    "tensor_active_seconds",
    "dram_active_seconds",
    "pcie_rx_bytes",
    "pcie_tx_bytes",
    "nvlink_rx_bytes",
)


def body(view: View, host: str, name: str) -> Page:
    """The page of one GPU, named by its id or its ordinal."""
    peers = view.answer.once(gpus_by_host).get(host, [])
    found = next((g for g in peers if name in (g["gpu"], g["index"])), None)
    crumbs: list[Component] = [
        dcc.Link("Fleet", href=view.to("/")),
        html.Span("/"),
        dcc.Link(host, href=view.to(host_path(host))),
        html.Span("/"),
        html.H1(f"GPU {name if found is None else found['index'] or name}"),
    ]
    if found is None:
        text = f"No data from GPU {name} of {host} in this range. Try a longer one, or on the host:"
        return Page(crumbs, [missing("Signals", text, "wellfed doctor")])
    model, rank = _facts(view, host, found["gpu"])
    known = " · ".join(x for x in ((model or "").removeprefix("NVIDIA "), _short(found["gpu"])) if x)
    crumbs.append(html.Span(known, className="mono dim", title=found["gpu"]))
    panel = _panel(view, found, rank)
    return Page(crumbs, [html.Div([_signals(view, host, found, peers), panel], className="drill")])


def _holder(view: View, gpu: Mapping[str, Any], rank: str | None) -> list[Component]:
    """The job that holds the GPU."""
    if not gpu["job"]:
        return [html.P("No job holds it.", className="dim")]
    name = view.answer.once(job_names).get(gpu["job"], gpu["job"])
    link = dcc.Link(name, href=view.to(job_path(gpu["job"])))
    return [html.P(["Job ", link, f", rank {rank}" if rank else ""])]


def _short(gpu: str) -> str:
    """`GPU-7c1e…a93f`."""
    return gpu if len(gpu) <= 16 else f"{gpu[:8]}…{gpu[-4:]}"


def _facts(view: View, host: str, gpu: str) -> tuple[str | None, str | None]:
    """(model, rank) as last reported."""
    mine = (pl.col("host") == host) & (pl.col("gpu") == gpu)
    rows = view.answer.tables["gpu"].filter(mine).sort("ts").tail(1).select("model", "rank").collect()
    return rows.row(0) if rows.height else (None, None)


def _signals(
    view: View, host: str, found: Mapping[str, Any], peers: Sequence[Mapping[str, Any]]
) -> Component:
    base, ribbon = _base(view, host, found["gpu"])
    waiting = sum(state not in (None, GAP) for state in ribbon)
    strip = html.Div(
        [
            dcc.Link(
                [str(p["index"] or n), html.Span(className=f"mini {_tone(p)}")],
                href=view.here().replace(view.path, gpu_path(host, p), 1),
                className="gsel on" if p is found else "gsel",
                title=f"GPU {p['index'] or p['gpu']}: {share(p['au'])} productive{_mostly(p)}",
            )
            for n, p in enumerate(peers)
        ],
        className="gsels",
    )
    summary = f"Signals of this GPU; it was waiting in {waiting} of {len(ribbon)} points in time."
    rows = _panes(view, host, base)
    return card(
        "Signals",
        time_plot("signals", panes(view.skin, base.stamps, rows, ribbon), 742, summary),
        series_twin(view, base.stamps, pane_lines(rows), "Signals of the GPU"),
        sub=f"{view.answer.range.text} · bands mark what the GPU was waiting on",
        right=strip,
        classes="sigc",
    )


def _base(view: View, host: str, gpu: str) -> tuple[Signals, list[str | None]]:
    answer = view.answer
    mine = (pl.col("host") == host) & (pl.col("gpu") == gpu)
    step = float(view.document["window_seconds"])
    base = gather(answer.tables["gpu"].filter(mine), _GPU, ("power_watts", "sm_clock_hertz"), step)
    return base, states(answer, host, gpu, base.stamps)


def _panes(view: View, host: str, base: Signals) -> list[Pane]:
    mine = pl.col("host") == host
    step = float(view.document["window_seconds"])

    def other(table: str, *columns: str, gauges: tuple[str, ...] = ()) -> Signals:
        return aligned(base, gather(view.answer.tables[table].filter(mine), columns, gauges, step))

    cpu = other("host", "cpu_busy_seconds", "psi_io_some_seconds", gauges=("cpu_count",))
    disk = other("disk", "read_bytes", "read_seconds", "reads")
    mount = other("mount", "read_bytes", "read_exec_seconds", "reads")
    port = other("port", "rx_bytes")
    seen = np.where(base["observed_seconds"] > 0, base["observed_seconds"], np.nan)
    read = np.nansum([disk["read_bytes"], mount["read_bytes"]], axis=0)
    read[np.isnan(disk["read_bytes"]) & np.isnan(mount["read_bytes"])] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        waits = np.fmax(disk["read_seconds"] / disk["reads"], mount["read_exec_seconds"] / mount["reads"])
    waits[~np.isfinite(waits)] = np.nan
    pairs: list[tuple[str, list[Line], float | None]] = [
        (
            "Compute",
            [
                Line("SM active", 100 * base["sm_active_seconds"] / seen, "%"),
                Line("Tensor active", 100 * base["tensor_active_seconds"] / seen, "%"),
            ],
            100,
        ),
        (
            "HBM",
            [
                Line("Bandwidth used", 100 * base["dram_active_seconds"] / seen, "%"),
                Line("Any kernel", 100 * base["active_seconds"] / seen, "%"),
            ],
            100,
        ),
        (
            "PCIe",
            [
                Line("Host → GPU", base["pcie_rx_bytes"] / 1e9, "GB/s"),
                Line("GPU → host", base["pcie_tx_bytes"] / 1e9, "GB/s"),
            ],
            None,
        ),
        ("Storage", [Line("Node read", read / 1e9, "GB/s"), Line("Read wait", 1e3 * waits, "ms")], None),
        (
            "CPU of the node",
            [
                Line("Busy", 100 * cpu["cpu_busy_seconds"] / cpu["cpu_count"], "%"),
                Line("I/O pressure", 100 * cpu["psi_io_some_seconds"], "%"),
            ],
            100,
        ),
        (
            "Network",
            [
                Line("NVLink in", base["nvlink_rx_bytes"] / 1e9, "GB/s"),
                Line("Ports in", port["rx_bytes"] / 1e9, "GB/s"),
            ],
            None,
        ),
    ]
    return [Pane(name, lines, top) for name, lines, top in pairs]


def _worst(gpu: Mapping[str, Any]) -> str | None:
    """The cause that it lost most to, None when it lost little."""
    little = not gpu["covered_seconds"] or gpu["lost_seconds"] < 0.1 * gpu["covered_seconds"]
    return None if little else max(gpu["by_cause"], key=gpu["by_cause"].get, default=None)


def _tone(gpu: Mapping[str, Any]) -> str:
    worst = _worst(gpu)
    return "f-none" if worst is None else family_class(family(worst))


def _mostly(gpu: Mapping[str, Any]) -> str:
    worst = _worst(gpu)
    return "" if worst is None else f", lost most to {title(worst).lower()}"


def _panel(view: View, gpu: Mapping[str, Any], rank: str | None) -> Component:
    """What it was waiting on, how sure, what to do."""
    mine = [f for f in view.document["findings"] if gpu["gpu"] in f["scope"]["gpus"]]
    mine.sort(key=lambda f: (f["end"] is not None, -float(f["lost_gpu_seconds"])))
    lost = gpu["lost_seconds"]
    parts: list[Component] = [*_told(view, gpu, mine), *_holder(view, gpu, rank)]
    parts.append(
        figures_row(
            [
                (hours(lost), "GPU-h lost here"),
                (share(gpu["au"]), "productive"),
                (
                    money(None if view.price is None else lost / 3600 * view.price),
                    "lost" if view.price else "set --price",
                ),
            ]
        )
    )
    parts += _split(view, gpu)
    if mine:
        first = mine[0]
        parts += [
            actions(view, first),
            *said(view, first),
            html.H3("Evidence for and against"),
            evidence(first["evidence_for"], first["evidence_against"]),
            html.H3("Do next"),
            next_steps(first["cause"], first["next_steps"]),
            dcc.Link("The finding, with all GPUs it touches", href=finding_link(view, first)),
        ]
    if len(mine) > 1:
        others = [html.Li(dcc.Link(cause_label(f["cause"]), href=finding_link(view, f))) for f in mine[1:4]]
        parts += [html.H3("Other findings on this GPU"), html.Ul(others, className="ev")]
    return html.Section(parts, className="card verdict")


def _told(view: View, gpu: Mapping[str, Any], mine: Sequence[Mapping[str, Any]]) -> list[Component]:
    covered, lost = gpu["covered_seconds"], gpu["lost_seconds"]
    if mine:
        first = mine[0]
        since = datetime.fromisoformat(first["start"])
        ended = f"for {ago(since, view.answer.now)}" if first["end"] is None else "until it ended"
        if first["end"] is not None:
            ended = f"until {datetime.fromisoformat(first['end']):%H:%M}"
        named = html.B(title(first["cause"]))
        where = scope_text(first["scope"])
        return [
            html.Div(
                [code_badge(family(first["cause"])), *pills(first), *standing_pills(view.standing(first))],
                className="vh",
            ),
            verdict("Starved: ", named, f" on {where}, since ", html.B(f"{since:%H:%M}"), f" UTC, {ended}."),
        ]
    if not covered:
        return [verdict("Its activity was not measured in this range, so there is no verdict.")]
    if lost < 0.1 * covered:
        return [verdict("Well fed: ", html.B(f"{1 - lost / covered:.0%}"), " of its time was productive.")]
    worst = max(gpu["by_cause"], key=gpu["by_cause"].get)
    named = html.B(title(worst).lower())
    return [
        verdict(f"{lost / covered:.0%} of its time is lost, most of it to ", named, "; no finding is open.")
    ]


def _split(view: View, gpu: Mapping[str, Any]) -> list[Component]:
    covered, lost = gpu["covered_seconds"], gpu["lost_seconds"]
    if not covered:
        return []
    split = [(c, s / covered) for c, s in sorted(gpu["by_cause"].items(), key=lambda item: -item[1]) if s > 0]
    productive = max(0.0, 1 - lost / covered)
    bars = [
        html.Div(style={"width": f"{100 * productive:.2f}%"}, className="f-productive", title="productive")
    ]
    bars += [
        html.Div(style={"width": f"{100 * part:.2f}%"}, className=family_class(family(c)), title=title(c))
        for c, part in split
    ]
    items: list[list[Component]] = [
        [html.Span(className="sw f-productive"), f"Productive {share(productive)}"]
    ]
    items += [[code_badge(family(c)), f"{title(c)} {share(part)}"] for c, part in split if part >= 0.001]
    return [
        html.H3(f"Time split, {view.answer.range.text}"),
        html.Div(bars, className="split"),
        legend(items),
    ]
