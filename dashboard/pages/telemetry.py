"""Telemetry: can this be trusted? Freshness, gaps, what is measured, what the collectors cost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import reporting
from wellfed.dashboard.figures import Array, Line, lines
from wellfed.dashboard.parts import Column, bar, card, kpi, listing, table, time_plot, verdict
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.twins import series_twin
from wellfed.dashboard.view import Component, Page, View, host_path
from wellfed.dashboard.words import ago, share, whole

__all__ = ["body"]

#: Why the hub does not take points, and what helps.
_REASONS = {
    "busy": "more came at once than it takes: senders send it again",
    "delta": "sums of changes: let the sender send cumulative ones",
    "future": "the sender's clock is ahead: synchronise it",
    "malformed": "not OTLP: look at who sends to this address",
    "no_host": "no host.name: set it in OTEL_RESOURCE_ATTRIBUTES",
    "no_time": "points without a time",
    "not_written": "the disk is full or broken: look at the hub's log",
    "senders": "more machines than it takes: use several hubs",
    "series": "one machine sends too many different things",
    "size": "requests too large: let the sender send smaller batches",
    "too_old": "older than the hub keeps, or the sender's clock is behind",
    "unauthorized": "no token, or a wrong one",
    "unknown": "metrics that no page shows: nothing is missing",
}


def body(view: View) -> Page:
    """The page."""
    collectors = view.answer.once(_collectors)
    known, now = view.answer.once(reporting)
    silent = view.answer.once(_silent)
    return Page(
        [html.H1("Telemetry")],
        [
            verdict(*_sentence(view, known, now)),
            _figures(view, collectors, known, now),
            html.Div([_over(view), _hosts(view, silent)], className="half"),
            card(
                "Collectors",
                listing(
                    ("Collector", "Reads well#", "Stuck#", "Errors#", "Read, ms#", "Why not"),
                    [_row(r) for r in collectors.iter_rows(named=True)],
                    ["No collector reports yet. Start an agent: ", html.Code("wellfed agent")],
                    "Collectors over all hosts",
                    Sort(view, "collector"),
                ),
                sub="over all hosts, as last reported",
                classes="pad0",
            ),
            *_refused(view),
            *_warnings(view),
            _coverage(view),
        ],
    )


def _sentence(view: View, known: int, now: int) -> list[Component]:
    if view.answer.last is None:
        return ["There is no data in this range. Start an agent: ", html.Code("wellfed up")]
    age = ago(view.answer.last, view.answer.now)
    totals = view.document["totals"]
    covered = totals["covered_seconds"] / totals["gpu_seconds"] if totals["gpu_seconds"] else None
    measured = f"; {share(covered)} of GPU time has a measured activity" if covered is not None else ""
    return [html.B(f"{now:,} of {known:,} hosts report"), f", the newest window is {age} old{measured}."]


def _collectors(answer: Answer) -> pl.DataFrame:
    return (
        answer.tables["collector"]
        .sort("ts")
        .group_by("host", "collector")
        .last()
        .group_by("collector")
        .agg(
            pl.len().alias("hosts"),
            (pl.col("success") == 1).sum().alias("ok"),
            (pl.col("stuck") == 1).sum().alias("stuck"),
            pl.col("errors").sum(),
            pl.col("duration_seconds").median(),
            pl.col("reason").drop_nulls().mode().first(),
        )
        .sort("collector")
        .collect(engine="streaming")
    )


def _silent(answer: Answer) -> list[tuple[str, datetime]]:
    """(host, its newest window), those that have gone silent first."""
    rows = answer.diagnosis.hosts.lazy().group_by("host").agg(pl.col("ts").max()).sort("ts", "host").collect()
    if rows.is_empty() or answer.last is None:
        return []
    near = answer.last - timedelta(seconds=2.5 * float(answer.diagnosis.document["window_seconds"]))
    return rows.filter(pl.col("ts") < near).rows()


def _figures(view: View, collectors: pl.DataFrame, known: int, now: int) -> Component:
    stuck, errors = (int(collectors[c].sum() or 0) for c in ("stuck", "errors"))
    cost = float(collectors["duration_seconds"].sum() or 0.0)
    age = "–" if view.answer.last is None else ago(view.answer.last, view.answer.now)
    tiles = [
        kpi("Newest window", age, "", "old; a window is 10 s", bad=view.answer.last is None),
        kpi("Hosts reporting", f"{now:,}", f"of {known:,}", "in the newest windows", bad=now < known),
        kpi(
            "Stuck or failing reads",
            f"{stuck:,}",
            "stuck",
            f"{errors:,} failed reads since start",
            bad=stuck > 0,
        ),
        kpi("One round of reads", f"{1e3 * cost:.1f}", "ms", "median of all collectors together"),
    ]
    return html.Div(tiles, className="kpis four")


def _reports(answer: Answer) -> tuple[Array, Array, Array]:
    """Stamps, hosts and GPUs that reported in each window."""
    hosts = answer.diagnosis.hosts.lazy().group_by("ts").agg(pl.len().alias("hosts"))
    gpus = answer.diagnosis.windows.lazy().group_by("ts").agg(pl.len().alias("gpus"))
    rows = hosts.join(gpus, on="ts", how="full", coalesce=True).sort("ts").collect(engine="streaming")
    if rows.height > 1500:
        rows = rows.gather_every(-(-rows.height // 1500))
    # The first window has no amounts yet.
    rows = rows.slice(1)
    stamps = rows["ts"].dt.epoch("ms").to_numpy().astype(np.float64)
    filled = rows.select(pl.col("hosts", "gpus").cast(pl.Float64).fill_null(0.0))
    return stamps, filled["hosts"].to_numpy(), filled["gpus"].to_numpy()


def _over(view: View) -> Component:
    stamps, hosts, gpus = view.answer.once(_reports)
    series = [Line("hosts", hosts, "hosts")]
    if gpus.any():
        series.append(Line("GPUs", gpus, "GPUs"))
    told = f"{hosts[-1]:.0f} hosts and {gpus[-1]:.0f} GPUs in the newest window" if stamps.size else "nothing"
    return card(
        "Who reported",
        time_plot("reports", lines(view.skin, stamps, series), 220, told),
        series_twin(view, stamps, series, "Hosts and GPUs that reported"),
        sub="per window",
    )


def _hosts(view: View, silent: list[tuple[str, datetime]]) -> Component:
    keys: dict[str, Callable[[tuple[str, datetime]], object]] = {
        "host": lambda row: row[0],
        "last": lambda row: row[1].timestamp(),
    }
    sort = Sort(view, "last", "silent")
    rows = [
        (dcc.Link(host, href=view.to(host_path(host))), f"{last:%H:%M:%S}", ago(last, view.answer.now))
        for host, last in view.first(sort.apply(silent, keys), 20)
    ]
    more = f"{len(silent)} of them" if len(silent) > 20 else ""
    columns = (Column("Host", "host"), Column("Last window, UTC", "last", number=True), "Ago#")
    found = table(columns, rows, "None: every host reports.", "Silent hosts", sort)
    return card("Silent hosts", found, sub=more, classes="pad0")


def _row(row: dict[str, Any]) -> tuple[Component, ...]:
    seconds = float(row["duration_seconds"] or 0.0)
    return (
        row["collector"],
        f"{row['ok']:,} of {row['hosts']:,}",
        whole(row["stuck"]),
        whole(row["errors"] or 0),
        whole(1e3 * seconds, 2),
        html.Span(row["reason"] or "", title=row["reason"] or ""),
    )


def _coverage(view: View) -> Component:
    rows = [
        (c["table"], c["column"], share(c["share"]), bar(c["share"], text=share(c["share"])))
        for c in sorted(
            view.document["coverage"], key=lambda c: (c["share"] >= 0.999, c["table"], c["column"])
        )
    ]
    found = listing(
        ("Table", "Column", "Measured#", Column("Share of rows", None)),
        rows,
        "Nothing to measure yet.",
        "Share of rows in which a signal was measured",
        Sort(view, of="coverage"),
    )
    gaps = sum(c["share"] < 0.999 for c in view.document["coverage"])
    return card(
        "Coverage", html.Div(found, className="tall"), sub=f"{gaps} signals with gaps, first", classes="pad0"
    )


def _refused(view: View) -> list[Component]:
    """What senders sent and the hub did not take."""
    refused = view.answer.refused
    if not refused:
        return []
    rows = [
        (reason, whole(points), _REASONS.get(reason, ""))
        for reason, points in sorted(refused.items(), key=lambda item: -item[1])
        if points
    ]
    columns = ("Reason", "Points#", Column("What to do", None))
    sort = Sort(view, "-points", "refused")
    found = listing(columns, rows, "Nothing was refused.", "Points refused by the hub", sort)
    return [card("Refused by the hub", found, sub="since it started", classes="pad0")]


def _warnings(view: View) -> list[Component]:
    texts = [*view.document["warnings"], *filter(None, [view.notes.problem])]
    items = [html.Li(text) for text in texts]
    return [card("Warnings", html.Ul(items, className="plain"), sub="of the diagnosis")] if items else []
