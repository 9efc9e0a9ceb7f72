"""Whose jobs a page shows: those of the address's `user`, and who looks at it, as jobs call their users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wellfed.dashboard.data import Answer
from wellfed.dashboard.parts import chips
from wellfed.dashboard.view import Component, View

__all__ = ["asked_user", "is_of", "jobs_of", "mine", "user_chips"]


def asked_user(view: View) -> str:
    """The user whose jobs alone are shown, "" for all."""
    return view.query.get("user", "")


def mine(view: View) -> str:
    """Who looks at the page, "" where nobody knows. `Ada@example.org` is `ada` where jobs have that user."""
    users = view.answer.once(_users)
    name = view.viewer.casefold()
    return users.get(name) or users.get(name.partition("@")[0]) or view.viewer


def jobs_of(answer: Answer, user: str) -> frozenset[str]:
    """The jobs of a user in this range."""
    return frozenset(job["job"] for job in answer.diagnosis.document["jobs"] if job["user"] == user)


def is_of(view: View, finding: Mapping[str, Any], user: str) -> bool:
    """Whether a finding is of a user's job, or of something shared that touches a GPU of one."""
    scope = finding["scope"]
    if scope["job"]:
        return scope["job"] in view.answer.once(jobs_of, user)
    return not view.answer.once(_gpus_of, user).isdisjoint(scope["gpus"])


def user_chips(view: View, count: Callable[[str], int]) -> list[Component]:
    """`Mine`, where it is known who looks, and whoever else the address names. count: things of a user."""
    me, asked = mine(view), asked_user(view)
    items = []
    if me:
        items.append((f"Mine {count(me):,}", view.here(user="" if asked == me else me), asked == me))
    if asked not in ("", me):
        items.append((f"{asked} ✕", view.here(user=""), True))
    return [chips(items, "Whose")] if items else []


def _users(answer: Answer) -> Mapping[str, str]:
    """Users of jobs, by their names in small letters."""
    found = {job["user"] for job in answer.diagnosis.document["jobs"] if job["user"]}
    return {user.casefold(): user for user in sorted(found)}


def _gpus_of(answer: Answer, user: str) -> frozenset[str]:
    jobs = answer.once(jobs_of, user)
    return frozenset(gpu["gpu"] for gpu in answer.diagnosis.document["gpus"] if gpu["job"] in jobs)
