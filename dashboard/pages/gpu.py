"""A GPU: what was it waiting on? State ribbon, six aligned panes, cause bands, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.figures import Line, Pane, panes
from wellfed.dashboard.pages.host import _aligned
from wellfed.dashboard.parts import (
    Component,
    badge,
    card,
    cause_label,
    evidence,
    gpu_link,
    graph,
    host_link,
    link,
    next_steps,
)
from wellfed.dashboard.series import Signals, gather
from wellfed.dashboard.theme import PRODUCTIVE, ago, code, colour, count, family, title

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


def body(
    answer: Answer, query: Mapping[str, str], host: str, name: str
) -> tuple[list[Component], list[Component]]:
    """The page of one GPU, named by its id or its ordinal."""
    peers = [g for g in answer.diagnosis.document["gpus"] if g["host"] == host]
    found = next((g for g in peers if name in (g["gpu"], g["index"])), None)
    crumbs = [
        dcc.Link("Fleet", href=link("/", query)),
        html.Span("/"),
        dcc.Link(host, href=link(host_link(host), query)),
        html.Span("/"),
        html.H1(f"GPU {name if found is None else found['index'] or name}"),
    ]
    if found is None:
        text = f"No data from GPU {name} of {host} in this range. Try a longer one, or look at the host."
        return crumbs, [card("Signals", html.P(text, className="empty"))]
    crumbs.append(html.Span(found["gpu"], className="mono dim"))
    if found["job"]:
        crumbs.append(html.Span(found["job"], className="pill"))
    base, ribbon = _signals(answer, host, found["gpu"])
    rows = _panes(answer, host, base)
    waiting = sum(r is not None for r in ribbon)
    summary = f"Signals of GPU {name}; it was waiting in {waiting} of {len(ribbon)} windows."
    strip = html.Div(
        [
            dcc.Link(
                [str(p["index"] or n), html.Span(className="mini", style={"background": _tone(p)})],
                href=link(gpu_link(host, p), query),
                className="gsel on" if p is found else "gsel",
                title=f"GPU {p['index'] or p['gpu']}",
            )
            for n, p in enumerate(peers)
        ],
        className="gsels",
    )
    signals = card(
        "Signals",
        graph("signals", panes(base.stamps, rows, ribbon), 742, summary),
        sub=f"{answer.range.text} · bands mark what the GPU was waiting on",
        right=strip,
        classes="sigc",
    )
    return crumbs, [html.Div([signals, _verdict(answer, found)], className="drill")]


def _signals(answer: Answer, host: str, gpu: str) -> tuple[Signals, list[str | None]]:
    mine = (pl.col("host") == host) & (pl.col("gpu") == gpu)
    step = float(answer.diagnosis.document["window_seconds"])
    base = gather(answer.tables["gpu"].filter(mine), _GPU, ("power_watts", "sm_clock_hertz"), step)
    windows = answer.diagnosis.windows.filter((pl.col("host") == host) & (pl.col("gpu") == gpu))
    causes = dict(zip(windows["ts"].dt.epoch("ms").to_list(), windows["cause"].to_list(), strict=True))
    ribbon: list[str | None] = []
    width = float(base.stamps[1] - base.stamps[0]) if base.stamps.size > 1 else step * 1000
    ordered = sorted(causes)
    at = 0
    for stamp in base.stamps.tolist():
        seen: list[str] = []
        while at < len(ordered) and ordered[at] < stamp + width:
            cause = causes[ordered[at]]
            seen.append(cause or "")
            at += 1
        most = max(set(seen), key=seen.count) if seen else ""
        ribbon.append(family(most) if most else None)
    return base, ribbon


def _panes(answer: Answer, host: str, base: Signals) -> list[Pane]:
    mine = pl.col("host") == host
    step = float(answer.diagnosis.document["window_seconds"])

    def other(table: str, *columns: str, gauges: tuple[str, ...] = ()) -> Signals:
        return _aligned(base, gather(answer.tables[table].filter(mine), columns, gauges, step))

    cpu = other(
        "host", "cpu_busy_seconds", "psi_cpu_some_seconds", "psi_io_some_seconds", gauges=("cpu_count",)
    )
    disk = other("disk", "read_bytes", "read_seconds", "reads")
    mount = other("mount", "read_bytes", "read_exec_seconds", "reads")
    port = other("port", "rx_bytes")
    seen = np.where(base["observed_seconds"] > 0, base["observed_seconds"], np.nan)
    read = np.nansum([disk["read_bytes"], mount["read_bytes"]], axis=0)
    read[np.isnan(disk["read_bytes"]) & np.isnan(mount["read_bytes"])] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        waits = np.fmax(disk["read_seconds"] / disk["reads"], mount["read_exec_seconds"] / mount["reads"])
    waits[~np.isfinite(waits)] = np.nan
    return [
        Pane(
            "Compute",
            [
                Line("SM active", 100 * base["sm_active_seconds"] / seen, "%"),
                Line("Tensor active", 100 * base["tensor_active_seconds"] / seen, "%"),
            ],
            100,
        ),
        Pane(
            "HBM",
            [
                Line("Bandwidth used", 100 * base["dram_active_seconds"] / seen, "%"),
                Line("Any kernel", 100 * base["active_seconds"] / seen, "%"),
            ],
            100,
        ),
        Pane(
            "PCIe",
            [
                Line("Host → GPU", base["pcie_rx_bytes"] / 1e9, "GB/s"),
                Line("GPU → host", base["pcie_tx_bytes"] / 1e9, "GB/s"),
            ],
        ),
        Pane("Storage", [Line("Node read", read / 1e6, "MB/s"), Line("Read wait", 1e3 * waits, "ms")]),
        Pane(
            "CPU of the node",
            [
                Line("Busy", 100 * cpu["cpu_busy_seconds"] / cpu["cpu_count"], "%"),
                Line("I/O pressure", 100 * cpu["psi_io_some_seconds"], "%"),
            ],
            100,
        ),
        Pane(
            "Network",
            [
                Line("NVLink in", base["nvlink_rx_bytes"] / 1e9, "GB/s"),
                Line("Ports in", port["rx_bytes"] / 1e9, "GB/s"),
            ],
        ),
    ]


def _tone(gpu: Mapping[str, Any]) -> str:
    worst = max(gpu["by_cause"], key=gpu["by_cause"].get, default=None)
    if worst is None or not gpu["covered_seconds"] or gpu["lost_seconds"] < 0.1 * gpu["covered_seconds"]:
        return PRODUCTIVE
    return colour(family(worst))


def _verdict(answer: Answer, gpu: Mapping[str, Any]) -> Component:
    document = answer.diagnosis.document
    covered, lost = gpu["covered_seconds"], gpu["lost_seconds"]
    mine = [
        f
        for f in document["findings"]
        if gpu["gpu"] in (f["scope"].get("gpus") or ())
        or (gpu["job"] and f["scope"].get("job") == gpu["job"])
    ]
    mine.sort(key=lambda f: -float(f["lost_gpu_seconds"]))
    split = sorted(gpu["by_cause"].items(), key=lambda item: -item[1])
    parts: list[Component] = []
    if mine:
        first = mine[0]
        since = datetime.fromisoformat(first["start"])
        parts += [
            html.Div(
                [
                    badge(family(first["cause"])),
                    html.Span(first["severity"], className=f"pill {first['severity']}"),
                    html.Span(f"confidence {first['confidence']:.2f}", className="pill"),
                ],
                className="vh",
            ),
            html.P(
                [
                    "Starved by ",
                    html.B(title(first["cause"]).lower()),
                    f" since {since:%H:%M} ({ago(since, answer.now)}).",
                ],
                className="vt",
                id="verdict",
            ),
        ]
    elif covered and lost >= 0.1 * covered:
        parts.append(
            html.P(
                [
                    f"{lost / covered:.0%} of its time is lost, most of it to ",
                    html.B(title(split[0][0]).lower()),
                    "; no finding is open.",
                ],
                className="vt",
                id="verdict",
            )
        )
    elif covered:
        parts.append(
            html.P(
                ["Well fed: ", html.B(f"{1 - lost / covered:.0%}"), " of its time was productive."],
                className="vt",
                id="verdict",
            )
        )
    else:
        parts.append(
            html.P(
                "Its activity was not measured in this range, so there is no verdict.",
                className="vt",
                id="verdict",
            )
        )
    price = document["price_per_gpu_hour"]
    parts.append(
        html.Div(
            [
                html.Div(
                    [
                        html.Span(count(lost / 3600), className="kv"),
                        html.Span("GPU-h lost here", className="ku"),
                    ]
                ),
                html.Div(
                    [
                        html.Span(f"{gpu['au']:.0%}" if gpu["au"] is not None else "–", className="kv"),
                        html.Span("productive", className="ku"),
                    ]
                ),
                html.Div(
                    [
                        html.Span("–" if price is None else f"${count(lost / 3600 * price)}", className="kv"),
                        html.Span("lost" if price else "set --price", className="ku"),
                    ]
                ),
            ],
            className="vk",
        )
    )
    if covered:
        bars = [
            html.Div(
                style={"width": f"{100 * max(0.0, 1 - lost / covered):.2f}%", "background": "#3a4d5e"},
                title="productive",
            )
        ]
        bars += [
            html.Div(
                style={"width": f"{100 * s / covered:.2f}%", "background": colour(family(c))}, title=title(c)
            )
            for c, s in split
            if s > 0
        ]
        parts += [
            html.H3(f"Time split, {answer.range.text}"),
            html.Div(bars, className="split"),
            html.Div(
                [
                    html.Span(
                        [
                            html.Span(
                                code(family(c)), className="code", style={"background": colour(family(c))}
                            ),
                            f"{title(c)} {s / covered:.1%}",
                        ],
                        className="lg",
                    )
                    for c, s in split
                    if s >= 0.001 * covered
                ],
                className="legend",
            ),
        ]
    if mine:
        parts += [
            html.H3("Evidence"),
            evidence(mine[0]["evidence_for"], mine[0]["evidence_against"]),
            html.H3("Do next"),
            next_steps(mine[0]["cause"], mine[0]["next_steps"]),
        ]
        if len(mine) > 1:
            parts += [
                html.H3("Also open"),
                html.Ul([html.Li(cause_label(f["cause"])) for f in mine[1:4]], className="ev"),
            ]
    return html.Section(parts, className="card verdict")
