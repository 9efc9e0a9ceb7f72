"""A job: which of its ranks waste time, waiting on what, and who makes them wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from dash import dcc, html

from wellfed.analysis.causes import FAMILIES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import owners, step_for
from wellfed.dashboard.figures import Array
from wellfed.dashboard.heat import states_map
from wellfed.dashboard.pages.jobs import mostly, worst
from wellfed.dashboard.parts import (
    Column,
    card,
    code_badge,
    family_class,
    folded,
    legend,
    listing,
    missing,
    table,
    time_plot,
    twin,
    verdict,
)
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.told import findings_table
from wellfed.dashboard.view import ROWS, Component, Page, View, gpu_path
from wellfed.dashboard.waterfall import waterfall
from wellfed.dashboard.words import family, hours, share, title

__all__ = ["body"]

#: Rows of the heat map; beyond that a row is several neighbouring ranks.
_RANKS = 128
#: A rank waits where it loses at least this share of a bin.
_WAITS = 0.1


@dataclass(frozen=True, slots=True)
class Ranks:
    """What ranks waited on. names: of rows; codes: (rows, stamps), 0 productive, 1 no data, 2 + family."""

    names: Sequence[str]
    stamps: Array
    codes: Array
    families: Sequence[str]
    step: float


def body(view: View, name: str) -> Page:
    """The page of one job."""
    document = view.document
    job = next((j for j in document["jobs"] if j["job"] == name), None)
    shown = (job and job["name"]) or name
    crumbs: list[Component] = [dcc.Link("Jobs", href=view.to("/jobs")), html.Span("/"), html.H1(shown)]
    if job is None:
        return Page(crumbs, [missing("Not here", "This job is not in the range shown. Choose a longer one.")])
    owner = view.answer.once(owners).get(name) or {}
    facts = (job["user"], owner.get("namespace"), f"{job['gpus']} GPUs", name if shown != name else None)
    findings = [f for f in document["findings"] if f["scope"].get("job") == name]
    gpus = sorted((g for g in document["gpus"] if g["job"] == name), key=lambda g: -float(g["lost_seconds"]))
    return Page(
        crumbs,
        [
            html.Div(
                [
                    verdict(*_sentence(job, findings)),
                    *(html.Span(fact, className="pill") for fact in facts if fact),
                ],
                className="lead",
            ),
            _waiting(view, name),
            html.Div([*_falls(view, job), _stragglers(view, name, findings)], className="half"),
            card("Findings", findings_table(view, findings, of="findings"), classes="pad0"),
            _gpus(view, gpus),
        ],
    )


def _sentence(job: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> list[Component]:
    if job["au"] is None:
        return ["Its GPUs have no measured activity in this range, so there is no verdict."]
    lead = html.B(f"{job['au']:.0%} of its GPU time was productive")
    root = job["by_cause_root"] or job["by_cause"]
    if job["lost_seconds"] < 0.02 * job["covered_seconds"] or not root:
        return [lead, "; nothing worth naming was lost."]
    cause = max(root, key=root.get)
    late = [rank for f in findings for rank in f["culprits"]["ranks"]]
    blame = f" Rank {', '.join(late[:4])} makes the others wait." if late else ""
    told = f" cost most of {hours(job['lost_seconds'])} lost GPU-hours.{blame}"
    return [lead, "; ", html.B(title(cause).lower()), told]


def ranks_of(answer: Answer, job: str) -> Mapping[tuple[str, str], str]:
    """(host, gpu) -> rank, or where it is in the job when nobody said."""
    rows = (
        answer.tables["gpu"]
        .filter(pl.col("job") == job)
        .group_by("host", "gpu")
        .agg(pl.col("rank").drop_nulls().last(), pl.col("index").drop_nulls().last())
        .collect(engine="streaming")
    )
    found = [(r["rank"], r["host"], r["index"], r["gpu"]) for r in rows.iter_rows(named=True)]
    found.sort(
        key=lambda r: (r[0] is None, int(r[0]) if (r[0] or "").isdigit() else 0, r[1], r[2] or "", r[3])
    )
    return {
        (host, gpu): f"rank {rank}" if rank is not None else f"{host} · {index or gpu}"
        for rank, host, index, gpu in found
    }


def _ranks(answer: Answer, job: str) -> Ranks:
    order = answer.once(ranks_of, job)
    step = step_for(answer, 180)
    every = timedelta(seconds=step)
    key = ["host", "gpu"]
    at = pl.col("ts").dt.truncate(every).dt.epoch("ms").alias("at")
    mine = pl.col("job") == job
    windows = (
        answer.diagnosis.windows.lazy()
        .filter(mine)
        .group_by(*key, at)
        .agg(pl.col("covered_seconds").sum(), pl.col("lost_seconds").sum())
    )
    top = (
        answer.diagnosis.shares.lazy()
        .filter(mine)
        .group_by(*key, at, "cause")
        .agg(pl.col("lost_seconds").sum().alias("most"))
        .group_by(*key, "at")
        .agg(pl.col("cause").sort_by("most").last())
    )
    rows = windows.join(top, on=[*key, "at"], how="left").sort("at").collect(engine="streaming")
    names = list(order.values()) or sorted({f"{h} · {g}" for h, g in rows.select(key).iter_rows()})
    where = {k: n for n, k in enumerate(order)}
    known = list(FAMILIES)
    stamps = np.unique(rows["at"].to_numpy())
    codes = np.ones((max(1, len(where)), stamps.size), dtype=np.uint8)
    for host, gpu, stamp, covered, lost, cause in rows.iter_rows():
        row = where.get((host, gpu))
        if row is None or not covered:
            continue
        waits = cause is not None and lost >= _WAITS * covered
        codes[row, np.searchsorted(stamps, stamp)] = 2 + known.index(family(cause)) if waits else 0
    return _folded(names, stamps.astype(float), codes, known, step)


def _folded(names: Sequence[str], stamps: Array, codes: Array, families: Sequence[str], step: float) -> Ranks:
    """At most _RANKS rows: of several ranks the one that waits, if any does."""
    fold = -(-codes.shape[0] // _RANKS)
    if fold > 1:
        parts = [codes[n : n + fold] for n in range(0, codes.shape[0], fold)]
        codes = np.array([part.max(axis=0) for part in parts], dtype=np.uint8)
        names = [f"{names[n]} +{min(fold, len(names) - n) - 1}" for n in range(0, len(names), fold)]
    return Ranks(names, stamps, codes, families, step)


def _waiting(view: View, job: str) -> Component:
    ranks = view.answer.once(_ranks, job)
    present = [n for n in range(len(ranks.families)) if (ranks.codes == n + 2).any()]
    renumbered = np.zeros(256, dtype=np.uint8)
    renumbered[1] = 1
    for new, old in enumerate(present, 2):
        renumbered[old + 2] = new
    skin = view.skin
    states = [("productive", skin.productive), ("no data", skin.no_data)]
    states += [(FAMILIES[ranks.families[n]].title, skin.colour(ranks.families[n])) for n in present]
    figure = states_map(skin, ranks.stamps, ranks.names, renumbered[ranks.codes], states)
    items: list[list[Component]] = [[html.Span(className="sw"), "Productive"]]
    items += [[code_badge(ranks.families[n]), FAMILIES[ranks.families[n]].title] for n in present]
    shares = {ranks.families[n]: float((ranks.codes == n + 2).mean()) for n in present}
    told = ", ".join(f"{FAMILIES[name].title} {share(part)}" for name, part in shares.items()) or "nothing"
    height = min(420, max(150, 60 + 13 * len(ranks.names)))
    return card(
        "What each rank waits on",
        legend(items),
        time_plot("ranks", figure, height, f"Ranks wait on: {told} of the map"),
        _ranks_twin(view, ranks, present),
        sub=f"per {ranks.step:.0f} s",
    )


def _ranks_twin(view: View, ranks: Ranks, present: Sequence[int]) -> Component:
    """Share of the time in which each row of the map waits, by family."""
    columns = ["Rank", *(f"{FAMILIES[ranks.families[n]].title}#" for n in present), "No data#"]
    rows = [
        [name, *(share(float((codes == code).mean())) for code in (*(n + 2 for n in present), 1))]
        for name, codes in zip(ranks.names, ranks.codes, strict=True)
    ]
    sort = Sort(view, of="ranks")
    most = None if view.whole else ROWS
    found = listing(columns, rows, "Nothing in this range.", "Share of time that each rank waits", sort, most)
    return folded(found, sort)


def _falls(view: View, job: Mapping[str, Any]) -> list[Component]:
    causes = sorted(job["by_cause"].items(), key=lambda item: -item[1])
    root = sorted(job["by_cause_root"].items(), key=lambda item: -item[1])
    parts = [
        card(
            "From allocated to productive",
            waterfall(view, job["covered_seconds"], causes, "measured GPU-hours", "productive"),
            sub="what each GPU waited for",
        )
    ]
    moved = sum(abs(s - job["by_cause"].get(cause, 0.0)) for cause, s in root)
    if moved > 0.01 * job["lost_seconds"]:
        parts.append(
            card(
                "Who pays in the end",
                waterfall(view, job["covered_seconds"], root, "measured GPU-hours", "productive"),
                sub="stragglers' own causes pay for their peers",
            )
        )
    return parts


def _spread(answer: Answer, job: str) -> list[tuple[str, str, float, float]]:
    """(host, gpu, share lost to stragglers, useful activity) of each rank of the job, in their order."""
    order = answer.once(ranks_of, job)
    mine = pl.col("job") == job
    waits = (
        answer.diagnosis.shares.lazy()
        .filter(mine & (pl.col("cause") == "straggler"))
        .group_by("host", "gpu")
        .agg(pl.col("lost_seconds").sum().alias("waited"))
    )
    rows = (
        answer.diagnosis.windows.lazy()
        .filter(mine)
        .group_by("host", "gpu")
        .agg(pl.col("covered_seconds").sum(), pl.col("useful").mean())
        .join(waits, on=["host", "gpu"], how="left")
        .collect(engine="streaming")
    )
    found = {(r["host"], r["gpu"]): r for r in rows.iter_rows(named=True)}
    return [
        (
            *key,
            (found[key]["waited"] or 0.0) / (found[key]["covered_seconds"] or 1.0),
            found[key]["useful"] or 0.0,
        )
        for key in order
        if key in found
    ]


def _stragglers(view: View, job: str, findings: Sequence[Mapping[str, Any]]) -> Component:
    order = view.answer.once(ranks_of, job)
    spread = view.answer.once(_spread, job)
    guilty = {gpu for f in findings if f["cause"] == "straggler" for gpu in f["culprits"]["gpus"]}
    top = max((waited for _, _, waited, _ in spread), default=0.0)
    if top < 0.02:
        return card(
            "Stragglers",
            html.P("No rank waits for another: less than 2 % of any rank's time.", className="note"),
        )
    shown = (
        spread
        if len(spread) <= _RANKS
        else sorted(spread, key=lambda r: (r[1] not in guilty, -r[2]))[:_RANKS]
    )
    cells = [
        dcc.Link(
            html.Div(
                style={"height": f"{max(2.0, 100 * waited / top):.0f}%"},
                className=family_class("hardware" if gpu in guilty else "straggler"),
            ),
            href=view.to(gpu_path(host, {"index": None, "gpu": gpu})),
            className="strip late" if gpu in guilty else "strip",
            title=f"{order[host, gpu]}: waits {share(waited)} of its time"
            + (" · culprit" if gpu in guilty else ""),
        )
        for host, gpu, waited, _ in shown
    ]
    late = ", ".join(order[host, gpu] for host, gpu, _, _ in shown if gpu in guilty)
    told = (
        f"The culprit waits least: {late}."
        if late
        else "No single rank is late: the waiting has no one culprit."
    )
    return card(
        "Stragglers",
        html.Div(
            cells,
            className="strips",
            role="group",
            **{"aria-label": "Share of time each rank waits for the slowest"},
        ),
        html.P(told, className="note"),
        twin(
            ("Rank", "Waits for the slowest#", "Role"),
            [(order[h, g], share(w), "culprit" if g in guilty else "waits") for h, g, w, _ in shown],
            "How long each rank waits for the slowest",
            Sort(view, of="waits"),
        ),
        sub=f"share of its time that each rank waits for the slowest; the tallest bar is {share(top)}",
    )


def _gpus(view: View, gpus: Sequence[Mapping[str, Any]]) -> Component:
    more = f"the first {ROWS} of {len(gpus)}, by what they lost" if len(gpus) > ROWS else "by what they lost"
    sort = Sort(view, "-lost")
    keys: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "gpu": lambda g: f"{g['host']} · {g['index'] or g['gpu']}",
        "au": lambda g: g["au"],
        "lost": lambda g: g["lost_seconds"],
        "mostly": lambda g: title(worst(g)),
    }
    ordered = view.first(sort.apply(gpus, keys))
    found = table(
        (
            Column("GPU", "gpu"),
            Column("Productive", "au", number=True),
            Column("GPU-h lost", "lost", number=True),
            Column("Mostly", "mostly"),
        ),
        [
            (
                dcc.Link(f"{g['host']} · {g['index'] or g['gpu']}", href=view.to(gpu_path(g["host"], g))),
                share(g["au"]),
                hours(g["lost_seconds"]),
                mostly(g),
            )
            for g in ordered
        ],
        "No GPU.",
        "GPUs of the job",
        sort,
        [view.to(gpu_path(g["host"], g)) for g in ordered],
    )
    return card("GPUs", html.Div(found, className="tall"), sub=more, classes="pad0")
