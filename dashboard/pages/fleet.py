"""The fleet: who is starved, by what, what it costs. Without a GPU: what this machine waits for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.analysis.causes import FAMILIES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.figures import heat_map, sparkline, stacked
from wellfed.dashboard.pages.host import collectors, hosts_body, signals, verdict
from wellfed.dashboard.parts import (
    Component,
    badge,
    card,
    cause_label,
    findings_table,
    graph,
    kpi,
    table,
)
from wellfed.dashboard.theme import FAMILY, PRODUCTIVE, colour, count, duration, family, title

__all__ = ["body", "grid"]

#: A GPU is starved when it loses more than this share of a window (the MLPerf Storage bands).
STARVED = 0.3
_RACK = re.compile(r"^(.*?\d+)[-_.]")


def body(answer: Answer, query: Mapping[str, str]) -> tuple[list[Component], list[Component]]:
    """The page."""
    crumbs: list[Component] = [html.H1("Fleet")]
    if not answer.diagnosis.document["gpus"]:
        return crumbs, _without_gpu(answer, query)
    document = answer.diagnosis.document
    main: list[Component] = [html.P(_sentence(answer), className="vt", id="verdict"), _figures(answer)]
    main.append(html.Div([_heat(answer), _causes(answer)], className="row2"))
    opened = sum(f["end"] is None for f in document["findings"])
    found = findings_table(document["findings"][:50], query, answer.now)
    main.append(card("Findings", found, sub=f"{opened} open · ranked by GPU-hours lost", classes="pad0"))
    return crumbs, main


def _without_gpu(answer: Answer, query: Mapping[str, str]) -> list[Component]:
    hosts = [h["host"] for h in answer.diagnosis.document["hosts"]]
    if not hosts:
        text = "No data in this range yet. The first window arrives 10 s after the agent starts: wellfed up"
        return [card("Waiting for the first window", html.P(text, className="empty", id="verdict"))]
    if len(hosts) > 1:
        return [
            html.P(
                f"None of {len(hosts)} hosts has a GPU; these are their pressures.",
                className="vt",
                id="verdict",
            ),
            *hosts_body(answer, query)[1],
        ]
    return [
        html.P(
            [verdict(answer, hosts[0]), " See GPUs without having any: ", html.Code("wellfed demo")],
            className="vt",
            id="verdict",
        ),
        signals(answer, hosts[0]),
        collectors(answer, hosts[0]),
    ]


def _sentence(answer: Answer) -> list[Component]:
    totals = answer.diagnosis.document["totals"]
    if totals["au"] is None:
        return [
            "GPUs report, but none has a measured activity: there is no verdict. Run ",
            html.Code("wellfed doctor"),
            ".",
        ]
    causes = sorted(totals["by_cause"].items(), key=lambda item: -item[1])
    lead = f"{totals['au']:.0%} of GPU time was productive"
    if not causes or totals["lost_seconds"] < 0.02 * totals["covered_seconds"]:
        return [html.B(lead), "; nothing worth naming was lost."]
    cause, seconds = causes[0]
    share = seconds / totals["lost_seconds"]
    return [
        html.B(lead),
        "; of the rest, ",
        html.B(title(cause).lower()),
        f" cost most: {count(seconds / 3600)} GPU-hours, {share:.0%} of the loss.",
    ]


def _figures(answer: Answer) -> Component:
    document, windows = answer.diagnosis.document, answer.diagnosis.windows
    totals = document["totals"]
    over = (
        windows.group_by("ts")
        .agg(
            pl.col("covered_seconds").sum(),
            pl.col("lost_seconds").sum(),
            (pl.col("lost_seconds") > STARVED * pl.col("covered_seconds")).sum().alias("starved"),
            pl.len().alias("gpus"),
        )
        .sort("ts")
    )
    covered = over["covered_seconds"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        productive = 1 - over["lost_seconds"].to_numpy() / covered
    last = over.tail(1)
    starved = int(last["starved"][0]) if last.height else 0
    reporting = int(last["gpus"][0]) if last.height else 0
    gpus = len(document["gpus"])
    opened = [f for f in document["findings"] if f["end"] is None]
    grades = " · ".join(
        f"{n} {word}"
        for word in ("critical", "warning", "info")
        if (n := sum(f["severity"] == word for f in opened))
    )
    share = totals["covered_seconds"] / totals["gpu_seconds"] if totals["gpu_seconds"] else 0.0
    cost = totals["cost_lost"]
    au = totals["au"]
    tiles = [
        kpi(
            "Productive GPU time",
            "–" if au is None else f"{100 * au:.1f}",
            "%",
            _band(au),
            sparkline(productive, "#6fe6d3"),
            bad=au is not None and au < 0.7,
        ),
        kpi(
            "Lost GPU-hours",
            count(totals["lost_seconds"] / 3600),
            "h",
            f"of {count(totals['covered_seconds'] / 3600)} h measured",
            sparkline(over["lost_seconds"].to_numpy().astype(float), "#f8a812"),
        ),
        kpi(
            "Cost of loss",
            "–" if cost is None else f"${count(cost)}",
            "",
            "set --price to see it"
            if cost is None
            else f"at ${document['price_per_gpu_hour']:.2f} per GPU-hour",
            sparkline(np.cumsum(over["lost_seconds"].to_numpy().astype(float)), "#f8a812"),
        ),
        kpi(
            "Starved now",
            str(starved),
            "GPUs",
            f"{starved / reporting:.0%} of {reporting:,}" if reporting else "",
            sparkline(over["starved"].to_numpy().astype(float), "#fc638c"),
            bad=starved > 0,
        ),
        kpi("Open findings", str(len(opened)), "", grades or "none"),
        kpi(
            "Telemetry coverage",
            f"{100 * share:.1f}",
            "%",
            f"{reporting:,} of {gpus:,} GPUs reporting",
            bad=share < 0.9,
        ),
    ]
    return html.Div(tiles, className="kpis")


def _band(au: float | None) -> str:
    if au is None:
        return "not measured"
    return "fed" if au >= 0.9 else "watch" if au >= 0.7 else "starved"


def _causes(answer: Answer) -> Component:
    document, shares = answer.diagnosis.document, answer.diagnosis.shares
    totals = document["totals"]["by_cause"]
    price = document["price_per_gpu_hour"]
    ranked = sorted((item for item in totals.items() if item[1] > 0), key=lambda item: -item[1])[:6]
    most = ranked[0][1] if ranked else 1.0
    rows = [
        html.Div(
            [
                cause_label(cause),
                html.Div(
                    html.Div(style={"width": f"{100 * s / most:.1f}%", "background": colour(family(cause))}),
                    className="bar",
                ),
                html.Span(f"{count(s / 3600)} h", className="num"),
                html.Span(f"${count(s / 3600 * price)}" if price else "", className="num dim"),
            ],
            className="crow",
        )
        for cause, s in ranked
    ]
    stamps, series, step = _lost_over_time(answer, shares, [cause for cause, _ in ranked])
    summary = "Lost GPU-hours by cause: " + (
        ", ".join(f"{title(c)} {count(s / 3600)}" for c, s in ranked) or "none"
    )
    twin = table(
        ("Cause", "GPU-hours#"),
        [(title(c), count(s / 3600)) for c, s in ranked],
        "Nothing was lost.",
        "Lost GPU-hours by cause",
    )
    return card(
        "Lost GPU-hours by cause",
        html.Div(rows, className="crows"),
        graph("lost", stacked(stamps, series, "GPU-h"), 168, summary),
        html.Details([html.Summary("as a table"), twin]),
        sub=f"per {duration(step)}",
    )


def _lost_over_time(
    answer: Answer, shares: pl.DataFrame, causes: Sequence[str]
) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]], float]:
    span = (answer.range.end - answer.range.start).total_seconds()
    step = max(float(answer.diagnosis.document["window_seconds"]), 60 * math.ceil(span / 96 / 60))
    if shares.is_empty():
        return np.array([]), {}, step
    every = timedelta(seconds=step)
    summed = shares.group_by(pl.col("ts").dt.truncate(every).alias("at"), "cause").agg(
        pl.col("lost_seconds").sum() / 3600
    )
    wide = (
        summed.pivot("cause", index="at", values="lost_seconds")
        .sort("at")
        .upsample("at", every=every)
        .fill_null(0.0)
    )
    series = {c: wide[c].to_numpy() for c in causes if c in wide.columns}
    return wide["at"].dt.epoch("ms").to_numpy().astype(float), series, step


def _heat(answer: Answer) -> Component:
    gpus = answer.diagnosis.document["gpus"]
    state = _state(answer)
    families = sorted(
        {name for name, _ in state.values() if name not in ("", "no data")}, key=list(FAMILIES).index
    )
    z, blocks, index = grid([(g["host"], g["index"] or "", g["gpu"]) for g in gpus], state, families)
    counts = {name: sum(f == name for f, _ in state.values()) for name in families}
    missing = sum(f == "no data" for f, _ in state.values())
    legend = [
        html.Span(
            [
                html.Span(className="sw", style={"background": PRODUCTIVE}),
                "Productive ",
                html.B(f"{sum(f == '' for f, _ in state.values()):,}"),
            ],
            className="lg",
        )
    ]
    legend += [
        html.Span([badge(name), FAMILIES[name].title, " ", html.B(f"{counts[name]:,}")], className="lg")
        for name in families
    ]
    if missing:
        legend.append(
            html.Span([html.Span(className="sw hatch"), "No data ", html.B(f"{missing:,}")], className="lg")
        )
    summary = f"State of {len(gpus):,} GPUs: " + ", ".join(
        f"{FAMILIES[n].title} {c:,}" for n, c in counts.items()
    )
    return card(
        "GPU state by rack",
        html.Div(legend, className="legend"),
        graph("heat", heat_map(z, families, blocks), 300 if len(gpus) <= 1200 else 440, summary),
        html.Div(id="heat-tip", className="tipbox", role="status"),
        dcc.Store(id="heat-index", data=index),
        sub="last 5 min · colour = main cause of lost time, strength = share of time lost",
    )


def _state(answer: Answer) -> dict[str, tuple[str, float]]:
    """gpu -> (family that cost most in the last minutes, share lost); "" productive, "no data" silent."""
    recent = pl.col("ts") > pl.col("ts").max() - timedelta(minutes=5)
    now = answer.diagnosis.windows.filter(recent)
    shares = answer.diagnosis.shares.join(now.select("ts").unique(), on="ts", how="semi")
    covered = now.group_by("gpu").agg(pl.col("covered_seconds").sum(), pl.col("lost_seconds").sum())
    top = (
        shares.group_by("gpu", "cause")
        .agg(pl.col("lost_seconds").sum())
        .sort("lost_seconds", descending=True)
        .unique("gpu", keep="first", maintain_order=True)
        .select("gpu", "cause")
    )
    joined = covered.join(top, on="gpu", how="left")
    found = {
        gpu: (family(cause) if cause and lost >= 0.1 * cov else "", lost / cov if cov else 0.0)
        for gpu, cov, lost, cause in joined.select(
            "gpu", "covered_seconds", "lost_seconds", "cause"
        ).iter_rows()
        if cov
    }
    return {g["gpu"]: found.get(g["gpu"], ("no data", 0.0)) for g in answer.diagnosis.document["gpus"]}


def grid(
    gpus: Sequence[tuple[str, str, str]], state: Mapping[str, tuple[str, float]], families: Sequence[str]
) -> tuple[np.ndarray[Any, Any], list[tuple[float, float, str]], dict[str, Any]]:
    """Cells by rack block. gpus: (host, index, id). Returns codes (`figures.heat_map`), the racks' labels,
    and what the browser needs to tell a cell's GPU: block size, blocks a row, and hosts by block.
    """
    racks: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for host, index, gpu in sorted(gpus, key=lambda g: (g[0], g[1].zfill(4), g[2])):
        racks.setdefault(_rack(host), {}).setdefault(host, []).append((index, gpu))
    blocks = [(name, rack) for name, hosts in racks.items() for rack in _split(hosts, 16)]
    tall = max(len(hosts) for _, hosts in blocks)
    wide = max(len(row) for _, hosts in blocks for row in hosts.values())
    across = _across(len(blocks), (tall + 2) / (wide + 1))
    rows = math.ceil(len(blocks) / across)
    z = np.full((rows * (tall + 2) - 2, across * (wide + 1) - 1), 255, dtype=np.uint8)
    labels, listing = [], []
    for number, (name, hosts) in enumerate(blocks):
        y, x = (number // across) * (tall + 2), (number % across) * (wide + 1)
        labels.append((x + (wide - 1) / 2, y - 0.7, name))
        listing.append([[host, [index or gpu for index, gpu in row]] for host, row in hosts.items()])
        for dy, row in enumerate(hosts.values()):
            for dx, (_, gpu) in enumerate(row):
                z[y + dy, x + dx] = _code(*state[gpu], families)
    return z, labels, {"tall": tall, "wide": wide, "across": across, "blocks": listing}


def _across(blocks: int, shape: float) -> int:
    """Blocks a row: near the card's proportions, with few empty places. shape: height over width of one."""
    ideal = math.sqrt(blocks * 2.6 * shape)
    empty = {n: math.ceil(blocks / n) * n - blocks for n in range(1, blocks + 1)}
    return min(empty, key=lambda n: abs(math.log(n / ideal)) + 0.5 * empty[n] / blocks)


def _split(hosts: Mapping[str, list[tuple[str, str]]], size: int) -> list[dict[str, list[tuple[str, str]]]]:
    items = list(hosts.items())
    return [dict(items[i : i + size]) for i in range(0, len(items), size)]


def _rack(host: str) -> str:
    match = _RACK.match(host)
    return match[1] if match else "hosts"


def _code(name: str, share: float, families: Sequence[str]) -> int:
    if name == "no data":
        return 1
    if not name:
        return 0
    return 2 + 3 * list(families).index(name) + (2 if share > 0.5 else 1 if share > 0.25 else 0)


assert set(FAMILY) <= set(FAMILIES)
