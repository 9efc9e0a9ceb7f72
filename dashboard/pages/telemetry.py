"""Telemetry: can this be trusted? Freshness, what is measured, what the collectors cost."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from dash import html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.parts import Component, card, table
from wellfed.dashboard.theme import ago

__all__ = ["body"]


def body(answer: Answer, query: Mapping[str, str]) -> tuple[list[Component], list[Component]]:
    """The page."""
    document = answer.diagnosis.document
    collectors = (
        answer.tables["collector"]
        .sort("ts")
        .unique(["host", "collector"], keep="last")
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
        .collect()
    )
    rows = [
        (
            r["collector"],
            f"{r['ok']} of {r['hosts']}",
            str(r["stuck"]),
            f"{r['errors'] or 0:.0f}",
            f"{1e3 * (r['duration_seconds'] or 0):.2f}",
            r["reason"] or "",
        )
        for r in collectors.iter_rows(named=True)
    ]
    newest = "no data" if answer.last is None else f"newest window {ago(answer.last, answer.now)} old"
    coverage = [(c["table"], c["column"], f"{c['share']:.0%}") for c in document["coverage"]]
    return [html.H1("Telemetry")], [
        html.P(f"{newest[0].upper()}{newest[1:]}.", className="vt", id="verdict"),
        card(
            "Collectors",
            table(
                ("Collector", "Reads well#", "Stuck#", "Errors#", "Read, ms#", "Why not"),
                rows,
                "No collector reports yet.",
                "Collectors over all hosts",
            ),
            classes="pad0",
        ),
        card(
            "Warnings",
            html.Ul([html.Li(text) for text in document["warnings"]] or [html.Li("none")]),
            sub="of the diagnosis",
        ),
        card(
            "Coverage",
            table(
                ("Table", "Column", "Measured#"),
                coverage,
                "Nothing to measure yet.",
                "Share of rows in which a signal was measured",
            ),
            classes="pad0",
        ),
    ]
