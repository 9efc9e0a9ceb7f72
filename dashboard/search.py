"""Search over the GPUs, hosts, jobs and users of a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from wellfed.dashboard.data import Answer
from wellfed.dashboard.facts import owners
from wellfed.dashboard.view import View, gpu_path, host_path, job_path

__all__ = ["Hit", "find"]

#: Hits shown at once.
MOST = 12


@dataclass(frozen=True, slots=True)
class Hit:
    """Something found. href: its page; more: what tells it from others."""

    kind: str
    name: str
    more: str
    href: str


class _Known(NamedTuple):
    text: str
    kind: str
    name: str
    more: str
    path: str
    user: str = ""


def find(view: View, words: str) -> list[Hit]:
    """Things that have all words in their name, whole names and beginnings first."""
    asked = words.lower().split()
    if not asked:
        return []
    found = [known for known in view.answer.once(_known) if all(word in known.text for word in asked)]
    found.sort(
        key=lambda known: (known.text != asked[0], not known.text.startswith(asked[0]), len(known.text))
    )
    return [
        Hit(known.kind, known.name, known.more, view.to(known.path, user=known.user))
        for known in found[:MOST]
    ]


def _known(answer: Answer) -> list[_Known]:
    document = answer.diagnosis.document
    named = answer.once(owners)
    out = []
    for host in document["hosts"]:
        out.append(_Known(host["host"].lower(), "host", host["host"], "", host_path(host["host"])))
    users: dict[str, int] = {}
    jobs = {job["job"] for job in document["jobs"]} | set(named)
    for job in sorted(jobs):
        owner = named.get(job, {})
        name, user = owner.get("name") or job, owner.get("user") or ""
        users[user] = users.get(user, 0) + 1
        out.append(_Known(f"{name} {job}".lower(), "job", name, user, job_path(job)))
    for user, count in sorted(users.items()):
        if user:
            text = f"{count} job{'s' if count > 1 else ''}"
            out.append(_Known(user.lower(), "user", user, text, "/jobs", user))
    for gpu in document["gpus"]:
        name = f"{gpu['host']} GPU {gpu['index'] or ''}".strip()
        text = f"{name} {gpu['gpu']}".lower()
        out.append(_Known(text, "GPU", name, gpu["gpu"], gpu_path(gpu["host"], gpu)))
    return out
