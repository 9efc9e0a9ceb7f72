"""Storage: which mount or device is slow, where its time goes, and whose I/O it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
from dash import dcc, html

from wellfed.dashboard.data import Answer
from wellfed.dashboard.derive import binned
from wellfed.dashboard.facts import owners, step_for
from wellfed.dashboard.heat import amounts_map
from wellfed.dashboard.parts import Column, card, legend, listing, missing, table, time_plot, twin, verdict
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.targets import POINTS, Slow, Target, slow_targets
from wellfed.dashboard.told import findings_table
from wellfed.dashboard.view import Component, Page, View, job_path
from wellfed.dashboard.words import amount, family, hours, share, whole

__all__ = ["body"]

#: Jobs in the table of who reads.
_JOBS = 8


def body(view: View) -> Page:
    """The page."""
    crumbs = [html.H1("Storage")]
    slow = view.answer.once(slow_targets)
    if not slow.targets:
        text = "No disk and no mount reports in this range. Start an agent on the machines that read:"
        return Page(crumbs, [missing("Nothing to show", text, "wellfed agent")])
    findings = [f for f in view.document["findings"] if family(f["cause"]) in ("storage", "checkpoint")]
    return Page(
        crumbs,
        [
            verdict(*_sentence(view, slow)),
            html.Div([_map(view, slow), _top(view)], className="row2"),
            _split(view, slow),
            card(
                "Findings",
                findings_table(view, findings, "No storage finding in this range.", of="findings"),
                classes="pad0",
            ),
        ],
    )


def _sentence(view: View, slow: Slow) -> list[Component]:
    totals = view.document["totals"]
    lost = sum(s for c, s in totals["by_cause"].items() if family(c) == "storage")
    covered = totals["covered_seconds"]
    lead = (
        html.B(f"GPUs wait for storage {share(lost / covered)} of their time")
        if covered
        else html.B("No GPU is measured here")
    )
    known = [t for t in slow.targets if t.best and t.worst]
    if not known:
        return [lead, "; nothing was read in this range."]
    worst = max(known, key=lambda t: (t.worst or 0.0) / (t.best or 1.0))
    if (worst.worst or 0.0) < 3 * (worst.best or 0.0):
        return [lead, "; no target is more than three times as slow as at its best."]
    place = _place(worst)
    return [
        lead,
        "; ",
        html.B(worst.name),
        f" takes up to {_ms(worst.worst)} a read, {worst.worst / worst.best:.0f} times its best{place}.",  # type: ignore[operator]
    ]


def _place(target: Target) -> str:
    """Where the time of a read goes, in words."""
    if target.queue is None or not target.latency:
        return ""
    if target.queue > 0.5 * target.latency:
        return ", most of it queueing in the client"
    if target.array is not None:
        return (
            ", most of it in the array"
            if target.array > 0.5 * target.latency
            else ", most of it on the way there"
        )
    return ", most of it at the server or on the way there"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else amount(1e3 * seconds, "ms")


def _map(view: View, slow: Slow) -> Component:
    timed = [t for t in slow.targets if t.latency is not None]
    names = [t.name for t in timed]
    figure = amounts_map(view.skin, slow.stamps, names, 1e3 * slow.latency, "ms")
    rows = [(t.name, _ms(t.best), _ms(t.latency), _ms(t.worst)) for t in timed]
    told = ", ".join(f"{name} {mean}" for name, _, mean, _ in rows[:5])
    return card(
        "Read latency by target",
        time_plot("latency", figure, _height(len(names)), f"Mean read latency: {told}"),
        twin(
            ("Target", "Best#", "Mean#", "Worst#"), rows, "Read latency by target", Sort(view, of="latency")
        ),
        sub=f"per {step_for(view.answer, POINTS):.0f} s · mounts, then the busiest disks, the slowest on top",
    )


def _height(rows: int) -> int:
    """Taller rows where there are few."""
    return 60 + round(min(64.0, max(24.0, 280 / max(1, rows))) * rows)


def _io(answer: Answer) -> pl.DataFrame:
    """job, bytes read and written by its processes, per second of the range."""
    rows = binned(answer, "job", ("io_read_bytes", "io_write_bytes"), points=1)
    return rows.group_by("job").agg(pl.col("io_read_bytes", "io_write_bytes").sum(), pl.col("seconds").max())


def _top(view: View) -> Component:
    named = view.answer.once(owners)
    lost = {
        j["job"]: sum(s for c, s in j["by_cause"].items() if family(c) in ("storage", "checkpoint"))
        for j in view.document["jobs"]
    }
    rows = view.answer.once(_io).sort("io_read_bytes", "job", descending=[True, False], nulls_last=True)
    keys: dict[str, Callable[[Mapping[str, Any]], object]] = {
        "job": lambda r: (named.get(r["job"]) or {}).get("name") or r["job"],
        "read": lambda r: r["io_read_bytes"],
        "written": lambda r: r["io_write_bytes"],
        "lost": lambda r: lost.get(r["job"], 0.0),
    }
    sort = Sort(view, "-read", "jobs")
    body_ = [
        (
            dcc.Link((named.get(r["job"]) or {}).get("name") or r["job"], href=view.to(job_path(r["job"]))),
            amount((r["io_read_bytes"] or 0.0) / r["seconds"], "B/s"),
            amount((r["io_write_bytes"] or 0.0) / r["seconds"], "B/s"),
            hours(lost.get(r["job"], 0.0)),
        )
        for r in view.first(sort.apply(rows.iter_rows(named=True), keys), _JOBS)
    ]
    columns = (
        Column("Job", "job"),
        Column("Read", "read", number=True),
        Column("Written", "written", number=True),
        Column("GPU-h lost", "lost", number=True),
    )
    found = table(columns, body_, "No job does I/O here.", "Jobs by bytes read", sort)
    return card("Whose I/O", found, sub="lost = to storage and checkpoints", classes="pad0")


def _split(view: View, slow: Slow) -> Component:
    """Where the time of a read goes: queueing in the client, network, server or array."""
    rows = [
        (
            t.name,
            whole(t.clients),
            amount(t.read, "B/s"),
            amount(t.written, "B/s"),
            _ms(t.latency),
            _parts(t),
            share(t.small),
            whole(t.retransmits) if t.queue is not None else "–",
            share(t.busy),
        )
        for t in slow.targets
    ]
    names = [
        [html.Span(className="sw f-cpu"), "queue in the client"],
        [html.Span(className="sw f-network"), "network"],
        [html.Span(className="sw f-storage"), "server or array"],
    ]
    found = listing(
        (
            "Target",
            "Clients#",
            "Read#",
            "Written#",
            "A read#",
            Column("Where its time goes", None),
            "Metadata#",
            "Retransmits#",
            "Busy#",
        ),
        rows,
        "",
        "Targets with the parts of a read's time",
        Sort(view),
    )
    return card(
        "Client, network, array",
        found,
        right=legend(names),
        sub="network is told apart where the array reports",
        classes="pad0",
    )


def _parts(target: Target) -> Component:
    if target.latency is None or target.queue is None:
        return "–"
    inside = target.latency - target.queue
    array = min(inside, target.array) if target.array is not None else None
    known = [("cpu", "queue", target.queue)]
    known += [("network", "network", inside - array)] if array is not None else []
    known.append(
        (
            "storage",
            "array" if array is not None else "server and network",
            inside if array is None else array,
        )
    )
    bars = [
        html.Div(
            style={"width": f"{100 * s / target.latency:.1f}%"},
            className=f"f-{tone}",
            title=f"{what} {_ms(s)}",
        )
        for tone, what, s in known
    ]
    text = " · ".join(f"{what} {_ms(s)}" for _, what, s in known)
    return html.Div(
        [html.Div(bars, className="split slim"), html.Span(text, className="dim")], className="parts"
    )
