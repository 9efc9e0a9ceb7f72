"""Pipeline: which stage between storage and fabric is the narrowest, for a job or for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dash import html

from wellfed.analysis.causes import CAUSES
from wellfed.dashboard.facts import job_names
from wellfed.dashboard.figures import Line, lines
from wellfed.dashboard.parts import card, chips, code_badge, family_class, listing, missing, time_plot, twin
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.stages import Stage, grid, stages
from wellfed.dashboard.told import next_steps
from wellfed.dashboard.view import Component, Page, View
from wellfed.dashboard.words import family, share, title

__all__ = ["body"]

#: Jobs to choose from.
_JOBS = 7
#: A stage that costs less than this share of the time is not called narrow.
_COSTS = 0.01


def body(view: View) -> Page:
    """The page."""
    crumbs = [html.H1("Pipeline")]
    if not view.document["hosts"]:
        return Page(
            crumbs, [missing("Nothing to show", "No host reports in this range. Start one:", "wellfed up")]
        )
    job = _job(view)
    found = view.answer.once(stages, job)
    lost = [_lost(view, job, stage) for stage in found]
    narrow = _narrowest(found, lost)
    stamps, loads = grid(found)
    tones = _tones(view)
    over = [Line(s.name, 100 * y, "%", tones[n]) for n, (s, y) in enumerate(zip(found, loads, strict=True))]
    told = [(s.name, share(s.load), share(part), s.limit) for s, part in zip(found, lost, strict=True)]
    summary = "Share of the measured limit: " + ", ".join(f"{name} {load}" for name, load, _, _ in told)
    return Page(
        crumbs,
        [
            _head(view, job, found, lost, narrow),
            html.Div([_stage(n, s, lost[n], n == narrow) for n, s in enumerate(found)], className="rail"),
            card(
                "Stage load over time",
                time_plot("loads", lines(view.skin, stamps, over, 105), 220, summary),
                twin(
                    ("Stage", "Of its limit#", "GPU time lost to it#", "Limit"),
                    told,
                    "Stages of the pipeline",
                    Sort(view, of="stages"),
                ),
                sub="share of the measured limit, mean over the hosts",
            ),
            _do(view, job, found, lost, narrow),
        ],
    )


def _job(view: View) -> str:
    """The job of the URL; else the one that loses most to a stage; "" for all."""
    asked, jobs = view.query.get("job"), view.document["jobs"]
    if asked is not None:
        return asked if any(j["job"] == asked for j in jobs) else ""
    waits = {j["job"]: sum(s for c, s in j["by_cause"].items() if _is_stage(c)) for j in jobs}
    return max(waits, key=lambda name: waits[name]) if waits and max(waits.values()) > 0 else ""


def _is_stage(cause: str) -> bool:
    return family(cause) in (
        "storage",
        "cpu",
        "pcie",
        "launch",
        "network",
        "straggler",
        "throttle",
        "hardware",
    )


def _causes(view: View, job: str) -> tuple[Mapping[str, float], float]:
    """(root causes -> GPU-seconds, GPU-seconds measured) of the job, or of all."""
    if not job:
        totals = view.document["totals"]
        return totals["by_cause_root"], totals["covered_seconds"]
    found = next((j for j in view.document["jobs"] if j["job"] == job), None)
    return (found["by_cause_root"], found["covered_seconds"]) if found else ({}, 0.0)


def _lost(view: View, job: str, stage: Stage) -> float:
    """Share of the GPU time that was lost waiting for a stage."""
    causes, covered = _causes(view, job)
    waited = sum(s for c, s in causes.items() if c in stage.causes or family(c) in stage.causes)
    return waited / covered if covered else 0.0


def _narrowest(found: Sequence[Stage], lost: Sequence[float]) -> int:
    """What costs most; where nothing costs, what is used most."""
    if max(lost) >= _COSTS:
        return max(range(len(found)), key=lambda n: lost[n])
    return max(range(len(found)), key=lambda n: found[n].load or 0.0)


def _tones(view: View) -> list[str]:
    skin = view.skin
    pairs = ("storage", "network", "cpu", "pcie")
    return [*(skin.colour(name) for name in pairs), skin.lines[0], skin.colour("straggler")]


def _head(view: View, job: str, found: Sequence[Stage], lost: Sequence[float], narrow: int) -> Component:
    stage, named = found[narrow], view.answer.once(job_names)
    ranked = sorted(view.document["jobs"], key=lambda j: -float(j["lost_seconds"]))[:_JOBS]
    keys = [j["job"] for j in ranked] + ([job] if job and job not in {j["job"] for j in ranked} else [])
    choices = [("All jobs", view.here(job="all"), not job)]
    choices += [(named.get(key, key), view.here(job=key), key == job) for key in keys]
    rest = [s.load for n, s in enumerate(found) if n != narrow and s.load is not None]
    others = f" Every other stage is below {share(max(rest) + 0.005)}." if rest else ""
    used = (
        "its use was not measured." if stage.load is None else f"it runs at {share(stage.load)} of its limit."
    )
    if lost[narrow] >= _COSTS:
        text = [
            html.B(f"{stage.name} is the narrowest stage"),
            f": GPUs wait for it {share(lost[narrow])} of their time; {used}{others}",
        ]
    else:
        text = [
            html.B("No stage holds the GPUs up"),
            f"; {stage.name.lower() if stage.name != 'GPU compute' else 'GPU compute'} is used most: {used}",
        ]
    sized = next((f"{j['gpus']} GPUs" for j in view.document["jobs"] if j["job"] == job), "all GPUs")
    head = [
        code_badge(stage.family) if lost[narrow] >= _COSTS else html.Span(),
        html.Span("narrowest stage", className="pill critical" if lost[narrow] >= 0.1 else "pill"),
        html.Span(f"{named.get(job, job) or 'all jobs'} · {sized}", className="pill"),
    ]
    return html.Section(
        [html.Div(head, className="vh"), html.P(text, className="vt", id="verdict"), chips(choices, "Job")],
        className="card verdict",
    )


def _stage(number: int, stage: Stage, lost: float, hot: bool) -> Component:
    level = 0.0 if stage.load is None else min(1.0, stage.load)
    facts = [
        html.Div([html.Span(what), html.Span(value, className="mono ell", title=value)])
        for what, value in stage.facts
    ]
    return html.Section(
        [
            html.Div([html.Span(str(number + 1), className="stn"), html.H2(stage.name)], className="sth"),
            html.Div(
                [
                    html.Span("–" if stage.load is None else f"{100 * stage.load:.0f}", className="kv"),
                    html.Span("not measured" if stage.load is None else "% of limit", className="ku"),
                ],
                title=f"limit: {stage.limit}",
            ),
            html.Div(html.Div(style={"height": f"{100 * level:.0f}%"}), className="tank"),
            html.Div(facts, className="strs"),
            html.Div(f"costs {share(lost)} of GPU time", className="stf"),
        ],
        className=f"card stage {family_class(stage.family)}{' hot' if hot else ''}",
    )


def _do(view: View, job: str, found: Sequence[Stage], lost: Sequence[float], narrow: int) -> Component:
    causes, covered = _causes(view, job)
    stage = found[narrow]
    mine = {c: s for c, s in causes.items() if (c in stage.causes or family(c) in stage.causes) and s > 0}
    if not mine or lost[narrow] < _COSTS:
        return card(
            "Do next", html.P("Nothing: no stage is short. To go faster, make the GPUs' own work smaller.")
        )
    worst = max(mine, key=lambda c: mine[c])
    steps = next(
        (
            f["next_steps"]
            for f in view.document["findings"]
            if f["cause"] == worst and (not job or f["scope"]["job"] == job)
        ),
        CAUSES[worst].next_steps,
    )
    rows = [(title(c), share(s / covered)) for c, s in sorted(mine.items(), key=lambda item: -item[1])]
    return card(
        "Do next",
        html.Div(
            [
                next_steps(worst, steps),
                listing(
                    ("Waiting for", "GPU time#"),
                    rows,
                    "",
                    "Causes of this stage",
                    Sort(view, "-gpu-time", "causes"),
                ),
            ],
            className="half",
        ),
        sub=title(worst),
    )
