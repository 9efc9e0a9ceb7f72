"""Inference: does batch, queue, KV cache, prefill or decode limit a server, or has it too little to do?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.derive import binned
from wellfed.dashboard.facts import step_for
from wellfed.dashboard.figures import Array, Line
from wellfed.dashboard.panes import Pane, panes
from wellfed.dashboard.parts import (
    Column,
    bar,
    card,
    missing,
    table,
    time_plot,
    verdict,
)
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.told import findings_table
from wellfed.dashboard.twins import pane_lines, series_twin
from wellfed.dashboard.view import ROWS, Component, Page, View, host_path
from wellfed.dashboard.words import amount, family, share, whole

__all__ = ["body", "limit"]

_COUNTERS = (
    "requests",
    "prompt_tokens",
    "generation_tokens",
    "preemptions",
    "queue_seconds",
    "queue_count",
    "ttft_seconds",
    "ttft_count",
    "itl_seconds",
    "itl_count",
)
_GAUGES = ("running", "waiting", "kv_usage", "max_running")
_COLUMNS = (
    Column("Server", "server"),
    Column("Model", "model"),
    Column("Limited by", "limit"),
    Column("Running", "running", number=True),
    Column("Batch used", "batch", drawn=True),
    Column("Queued", "waiting", number=True),
    Column("KV cache", "kv", drawn=True),
    Column("TTFT", "ttft", number=True),
    Column("ITL", "itl", number=True),
    Column("Tokens out", "out", number=True),
    Column("Preempted", "preempted", number=True),
)
#: Limit -> (what it means, what to do).
_LIMITS = {
    "no traffic": (
        "no request runs or waits",
        "Scale to zero, share the GPU, or check that the router sends traffic here.",
    ),
    "too little load": (
        "few requests run at once",
        "Use fewer, fuller replicas; scale on running requests, not on GPU utilisation.",
    ),
    "KV cache": (
        "requests wait or are put back for want of KV cache",
        "Give the cache more room (gpu_memory_utilization, fp8 KV), limit max_model_len, or add a replica.",
    ),
    "batch size": (
        "the batch is full while requests queue",
        "Raise max_num_seqs while KV cache is free, or add a replica.",
    ),
    "prefill": (
        "requests queue for their first token while the batch has room",
        "Chunk prefills, cache prefixes, or move prefill to replicas of its own.",
    ),
    "decode": (
        "the batch runs near its best rate and nothing queues",
        "Nothing is wrong; speculative decoding or a larger GPU makes tokens faster.",
    ),
}


@dataclass(frozen=True, slots=True)
class Server:
    """Means over the range: requests, shares 0..1, seconds, a second's tokens."""

    host: str
    server: str
    model: str
    running: float
    waiting: float
    batch: float | None
    kv: float | None
    ttft: float | None
    itl: float | None
    queued: float | None
    tokens_in: float
    tokens_out: float
    preempted: float
    limit: str


def limit(
    running: float,
    waiting: float,
    batch: float | None,
    kv: float | None,
    preempted: float,
    queued_share: float,
) -> str:
    """What limits a server. queued_share: part of the time to the first token that was spent queueing."""
    if running < 0.05 and waiting < 0.05:
        return "no traffic"
    if preempted > 0 or ((kv or 0.0) >= 0.9 and waiting > 0.5):
        return "KV cache"
    if (batch or 0.0) >= 0.9 and waiting > 0.5:
        return "batch size"
    if waiting > 0.5 or queued_share > 0.5:
        return "prefill"
    return "too little load" if (batch or 0.0) < 0.1 and (kv or 0.0) < 0.1 else "decode"


def body(view: View) -> Page:
    """The page."""
    crumbs = [html.H1("Inference")]
    servers = view.answer.once(_servers)
    if not servers:
        text = "No inference server (vLLM, SGLang, Triton, TGI) reports in this range. On its host:"
        return Page(crumbs, [missing("Nothing to show", text, "wellfed doctor")])
    chosen = _chosen(view, servers)
    findings = [f for f in view.document["findings"] if family(f["cause"]) == "serving"]
    return Page(
        crumbs,
        [
            verdict(*_sentence(servers)),
            _table(view, servers),
            html.Div([_signals(view, chosen), _panel(chosen)], className="drill"),
            card(
                "Findings",
                findings_table(view, findings, "No serving finding in this range.", of="findings"),
                classes="pad0",
            ),
        ],
    )


def _rows(answer: Answer) -> pl.DataFrame:
    return binned(answer, "server", _COUNTERS, _GAUGES, ("engine", "model"), points=240)


def _servers(answer: Answer) -> list[Server]:
    rows = answer.once(_rows)
    summed = rows.group_by("host", "server").agg(
        pl.col("model").drop_nulls().last(),
        pl.col(*_GAUGES).mean(),
        pl.col(*_COUNTERS, "seconds").sum(),
    )
    return [_server(row) for row in summed.sort("host", "server").iter_rows(named=True)]


def _server(row: dict[str, float | None]) -> Server:
    def mean(name: str) -> float | None:
        total, n = row[f"{name}_seconds"], row[f"{name}_count"]
        return total / n if total is not None and n else None

    running, waiting = (row[name] or 0.0 for name in ("running", "waiting"))
    batch = running / row["max_running"] if row["max_running"] else None
    seconds, preempted = row["seconds"] or 1.0, row["preemptions"] or 0.0
    ttft, queued = mean("ttft"), mean("queue")
    part = queued / ttft if queued and ttft else 0.0
    return Server(
        host=str(row["host"]),
        server=str(row["server"]),
        model=str(row["model"] or "–"),
        running=running,
        waiting=waiting,
        batch=batch,
        kv=row["kv_usage"],
        ttft=ttft,
        itl=mean("itl"),
        queued=queued,
        tokens_in=(row["prompt_tokens"] or 0.0) / seconds,
        tokens_out=(row["generation_tokens"] or 0.0) / seconds,
        preempted=preempted,
        limit=limit(running, waiting, batch, row["kv_usage"], preempted, part),
    )


def _chosen(view: View, servers: Sequence[Server]) -> Server:
    wanted = view.query.get("sel", "")
    named = next((s for s in servers if f"{s.host}/{s.server}" == wanted), None)
    return named or max(servers, key=lambda s: (s.waiting, s.running))


def _sentence(servers: Sequence[Server]) -> list[Component]:
    kinds = [s.limit for s in servers]
    waiting = sum(s.waiting for s in servers)
    short = sum(kind in ("KV cache", "batch size", "prefill") for kind in kinds)
    empty = sum(kind in ("no traffic", "too little load") for kind in kinds)
    tokens = amount(sum(s.tokens_out for s in servers), "tokens/s")
    lead = f"{short} of {len(servers)} servers are short of room" if short else "No server is short of room"
    queue = f", {waiting:.1f} requests wait on average" if waiting >= 0.05 else ""
    return [html.B(lead), queue, f"; {empty} have too little to do. Together they give {tokens}."]


def _table(view: View, servers: Sequence[Server]) -> Component:
    keys = {
        "server": lambda s: f"{s.server} {s.host}",
        "model": lambda s: s.model,
        "limit": lambda s: s.limit,
        "running": lambda s: s.running,
        "batch": lambda s: s.batch,
        "waiting": lambda s: s.waiting,
        "kv": lambda s: s.kv,
        "ttft": lambda s: s.ttft,
        "itl": lambda s: s.itl,
        "out": lambda s: s.tokens_out,
        "preempted": lambda s: s.preempted,
    }
    sort = Sort(view, "-waiting")
    ordered = view.first(sort.apply(servers, keys))
    rows = [
        (
            dcc.Link(s.server, href=view.here(sel=f"{s.host}/{s.server}"), title=s.host),
            s.model,
            html.Span(s.limit, title=_LIMITS[s.limit][0]),
            whole(s.running, 1),
            _used(s.batch),
            whole(s.waiting, 1),
            _used(s.kv),
            amount(None if s.ttft is None else 1e3 * s.ttft, "ms"),
            amount(None if s.itl is None else 1e3 * s.itl, "ms"),
            amount(s.tokens_out, "/s"),
            whole(s.preempted),
        )
        for s in ordered
    ]
    more = f" · the first {ROWS} of {len(servers)}" if len(servers) > ROWS else ""
    hrefs = [view.here(sel=f"{s.host}/{s.server}") for s in ordered]
    return card(
        "Servers",
        table(_COLUMNS, rows, "", "Inference servers", sort, hrefs),
        sub=f"means over the range{more}",
        classes="pad0",
    )


def _used(value: float | None) -> Component:
    return html.Div([bar(value or 0.0), html.Span(share(value), className="dim")], className="used")


def _over(answer: Answer, host: str, server: str) -> pl.DataFrame:
    return answer.once(_rows).filter((pl.col("host") == host) & (pl.col("server") == server)).sort("at")


def _signals(view: View, chosen: Server) -> Component:
    rows = view.answer.once(_over, chosen.host, chosen.server)

    def values(expression: pl.Expr) -> Array:
        found: Array = rows.select(expression.cast(pl.Float64).fill_null(float("nan")).alias("v"))[
            "v"
        ].to_numpy()
        return np.where(np.isfinite(found), found, np.nan)

    def mean(name: str) -> Array:
        return values(1e3 * pl.col(f"{name}_seconds") / pl.col(f"{name}_count"))

    def rate(name: str) -> Array:
        return values(pl.col(name) / pl.col("seconds"))

    pairs = [
        Pane(
            "Requests",
            [Line("Running", values(pl.col("running")), ""), Line("Queued", values(pl.col("waiting")), "")],
        ),
        Pane("KV cache", [Line("In use", values(100 * pl.col("kv_usage")), "%")], 100),
        Pane("First token", [Line("TTFT", mean("ttft"), "ms"), Line("of it queued", mean("queue"), "ms")]),
        Pane("Next tokens", [Line("ITL", mean("itl"), "ms")]),
        Pane(
            "Tokens", [Line("In", rate("prompt_tokens"), "/s"), Line("Out", rate("generation_tokens"), "/s")]
        ),
        Pane("Put back", [Line("Preemptions", rate("preemptions"), "/s")]),
    ]
    stamps = rows["at"].cast(pl.Float64).to_numpy()
    told = "; ".join(f"{line.name} {line.last} {line.unit}" for pane in pairs for line in pane.lines)
    return card(
        f"Queue, cache and latency of {chosen.server}",
        time_plot("signals", panes(view.skin, stamps, pairs), 560, told),
        series_twin(view, stamps, pane_lines(pairs), "Signals of the server"),
        sub=f"per {step_for(view.answer, 240):.0f} s",
        classes="sigc",
    )


def _panel(server: Server) -> Component:
    what, do = _LIMITS[server.limit]
    facts = [
        ("Model", server.model),
        ("Host", dcc.Link(server.host, href=host_path(server.host))),
        ("Requests at once", f"{server.running:.1f} running, {server.waiting:.1f} queued"),
        ("Batch used", share(server.batch)),
        ("KV cache used", share(server.kv)),
        ("Time to first token", amount(None if server.ttft is None else 1e3 * server.ttft, "ms")),
        ("of it in the queue", amount(None if server.queued is None else 1e3 * server.queued, "ms")),
        ("Between tokens", amount(None if server.itl is None else 1e3 * server.itl, "ms")),
        ("Tokens in, out", f"{amount(server.tokens_in, '/s')}, {amount(server.tokens_out, '/s')}"),
        ("Preemptions", whole(server.preempted)),
    ]
    return html.Section(
        [
            html.P(
                [html.B(server.server), " is limited by ", html.B(server.limit), f": {what}."], className="vt"
            ),
            table(("What", "Value#"), facts, "", "Means over the range"),
            html.H3("Do next"),
            html.P(do),
        ],
        className="card verdict",
    )
