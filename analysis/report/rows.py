"""A report as CSV: a row a job and cause, for spreadsheets and chargeback."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

__all__ = ["COLUMNS", "render"]

COLUMNS = (
    "from", "to", "job", "name", "user", "gpus", "covered_gpu_seconds", "productive_share", "cause",
    "lost_gpu_seconds", "lost_gpu_seconds_root", "cost_lost", "joules", "joules_lost", "tokens",
    "hardware_flop_utilization", "workload", "bound",
)  # fmt: skip
#: What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render(document: Mapping[str, Any]) -> str:
    """The rows with a header. Figures of the whole job stand only in its first row, so columns add up."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for job in document["jobs"]:
        causes = list(dict.fromkeys([*job["by_cause"], *job["by_cause_root"]])) or [""]
        for number, cause in enumerate(causes):
            lost = job["by_cause"].get(cause, 0.0)
            whole = job["lost_seconds"]
            cost = job["cost_lost"] * lost / whole if job["cost_lost"] is not None and whole else None
            first = number == 0
            work = job["workload"] or {}
            values = [
                document["from"], document["to"], job["job"], job["name"], job["user"], job["gpus"],
                job["covered_seconds"] if first else None, job["au"] if first else None, cause, lost,
                job["by_cause_root"].get(cause, 0.0), cost,
                *(job[c] if first else None for c in ("joules", "joules_lost", "tokens")),
                job["hardware_flop_utilization"] if first else None, work.get("kind"), work.get("bound"),
            ]  # fmt: skip
            writer.writerow(_cell(value) for value in values)
    return text.getvalue()


def _cell(value: object) -> object:
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA) else value
