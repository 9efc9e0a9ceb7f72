"""Findings over time: the same trouble keeps its id, start and what it cost so far, though a judge forgets.

Source: the findings of each judgement. A new one continues a known one when cause, job and resource agree,
they share a GPU, and no more than a finding's end lies between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

__all__ = ["Tracker"]

#: Time after which the same trouble is a new finding.
BRIDGE = timedelta(minutes=2)
#: Closed findings are remembered this long, to be continued or told.
REMEMBER = timedelta(hours=1)


class Tracker:
    """Known findings at one moment; never changed.

    known: as in the document, with `seen`: when a judge last found it.
    """

    def __init__(self, known: Sequence[Mapping[str, Any]] = ()) -> None:
        self.known = [dict(finding) for finding in known]

    def open(self) -> list[dict[str, Any]]:
        """Findings without an end, the costliest first."""
        found = [f for f in self.known if f["end"] is None]
        return sorted(found, key=lambda f: (-f["lost_gpu_seconds"], f["id"]))

    def after(
        self, judged: Sequence[Mapping[str, Any]], now: datetime, lost: Mapping[tuple[str, str], float]
    ) -> Tracker:
        """The findings once a judgement at `now` is taken into account.

        lost: GPU-seconds by (cause, GPU) in the windows that are new in it.
        """
        left = {finding["id"]: finding for finding in self.known}
        known = []
        for new in judged:
            old = next((f for f in left.values() if _continues(f, new)), None)
            known.append(_joined(left.pop(old["id"]) if old else None, new, now, lost))
        for finding in left.values():
            # The judge no longer finds it: it ended when it was last seen.
            ended = finding["end"] or finding["seen"]
            if datetime.fromisoformat(ended) > now - REMEMBER:
                known.append({**finding, "end": ended})
        return Tracker(known)


def _continues(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if old["cause"] != new["cause"]:
        return False
    a, b = old["scope"], new["scope"]
    if a["job"] != b["job"] or a["resource"] != b["resource"]:
        return False
    if not set(a["gpus"]) & set(b["gpus"]):
        return False
    ended = datetime.fromisoformat(old["end"] or old["seen"])
    began = datetime.fromisoformat(new["start"])
    known_until = datetime.fromisoformat(new["end"]) if new["end"] else None
    return began <= ended + BRIDGE and (
        known_until is None or known_until >= datetime.fromisoformat(old["start"])
    )


def _joined(
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any],
    now: datetime,
    lost: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    seen = new["end"] or now.isoformat()
    if old is None:
        return {**new, "seen": seen}
    whole = new["lost_gpu_seconds"]
    if new["start"] > old["start"]:
        # A judge that began after the finding did sees its end only.
        since = sum(lost.get((new["cause"], gpu), 0.0) for gpu in new["scope"]["gpus"])
        whole = max(whole, old["lost_gpu_seconds"] + since)
    price = new["cost"] / new["lost_gpu_seconds"] if new["cost"] and new["lost_gpu_seconds"] else None
    return {
        **new,
        "id": old["id"],
        "start": min(old["start"], new["start"]),
        "detected": min(old["detected"], new["detected"]),
        "lost_gpu_seconds": whole,
        "cost": new["cost"] if price is None else whole * price,
        "severity": max(old["severity"], new["severity"], key=_RANK.__getitem__),
        "seen": seen,
    }


_RANK = {"info": 0, "warning": 1, "critical": 2}
