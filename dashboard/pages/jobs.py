"""Jobs: which of them waste GPU time, and on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dash import dcc, html

from wellfed.dashboard.facts import owners
from wellfed.dashboard.mine import asked_user, jobs_of, user_chips
from wellfed.dashboard.parts import Column, bar, card, cause_label, table, verdict
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.told import do_next
from wellfed.dashboard.view import ROWS, Component, Page, View, job_path
from wellfed.dashboard.words import family, hours, money, share, title, whole

__all__ = ["body", "mostly", "worst"]

_COLUMNS = (
    Column("Job", "name"),
    Column("User", "user"),
    Column("Team", "team"),
    Column("GPUs", "gpus", number=True),
    Column("Productive", "au", number=True),
    Column("GPU-h lost", "lost", number=True),
    Column("Cost", "cost", number=True),
    Column("Mostly", "mostly"),
    Column("Share of all loss"),
    Column("Do next", wide=True),
)


_NOTHING = "No job held a GPU or reported steps in this range."


def body(view: View) -> Page:
    """All jobs, the costliest first."""
    named = view.answer.once(owners)
    user = asked_user(view)
    jobs = [j for j in view.document["jobs"] if not user or j["user"] == user]
    teams = {j["job"]: (named.get(j["job"]) or {}).get("namespace") or "–" for j in jobs}
    keys: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "name": lambda j: j["name"] or j["job"],
        "user": lambda j: j["user"],
        "team": lambda j: teams[j["job"]],
        "gpus": lambda j: j["gpus"],
        "au": lambda j: j["au"],
        "lost": lambda j: j["lost_seconds"],
        "cost": lambda j: j["cost_lost"],
        "mostly": lambda j: title(worst(j)),
    }
    sort = Sort(view, "-lost")
    ordered = sort.apply(jobs, keys)
    total = float(view.document["totals"]["lost_seconds"]) or 1.0
    whose = user_chips(view, lambda user: len(view.answer.once(jobs_of, user)))
    more = f"the first {ROWS} of {len(jobs)}" if len(jobs) > ROWS else ""
    found = table(
        _COLUMNS,
        [_row(view, j, teams[j["job"]], total) for j in view.first(ordered)],
        f"{user} has no job in this range." if user else _NOTHING,
        "Jobs",
        sort,
        [view.to(job_path(j["job"])) for j in view.first(ordered)],
    )
    return Page(
        [html.H1("Jobs")],
        [
            verdict(*_sentence(view, jobs, user)),
            card(
                "Jobs",
                found,
                sub=more,
                right=html.Div(whose, className="seg") if whose else None,
                classes="pad0",
            ),
        ],
    )


def _sentence(view: View, jobs: list[Mapping[str, Any]], user: str) -> list[Component]:
    if not jobs:
        return [f"{user} has no job in this range." if user else _NOTHING]
    first = max(jobs, key=lambda j: float(j["lost_seconds"]))
    starved = sum(j["au"] is not None and j["au"] < 0.7 for j in jobs)
    link = dcc.Link(first["name"] or first["job"], href=view.to(job_path(first["job"])))
    return [
        html.B(f"{starved} of {len(jobs)} jobs {f'of {user} ' if user else ''}are starved"),
        " (less than 70 % productive); ",
        link,
        f" lost most: {hours(first['lost_seconds'])} GPU-hours.",
    ]


def _row(view: View, job: Mapping[str, Any], team: str, total: float) -> tuple[Component, ...]:
    name = job["name"] or job["job"]
    first = max(job["by_cause"], key=job["by_cause"].get, default="")
    return (
        dcc.Link(name, href=view.to(job_path(job["job"])), title=job["job"]),
        job["user"] or "–",
        team,
        whole(job["gpus"]),
        share(job["au"]),
        hours(job["lost_seconds"]),
        money(job["cost_lost"]),
        mostly(job),
        bar(job["lost_seconds"] / total, family(first) if first else "", share(job["lost_seconds"] / total)),
        do_next(view, job["job"]) or "–",
    )


def mostly(item: Mapping[str, Any]) -> Component:
    """The cause that something lost most to."""
    cause = worst(item)
    return cause_label(cause) if cause else "–"


def worst(item: Mapping[str, Any]) -> str:
    """The cause that something lost most to, "" where it lost too little to say."""
    causes = item["by_cause"]
    if not causes or item["lost_seconds"] < 0.02 * item["covered_seconds"]:
        return ""
    return str(max(causes, key=causes.get))
