"""What can be downloaded, by name: the only place that lists it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from wellfed.analysis.report import content, page
from wellfed.dashboard.registry import parse
from wellfed.dashboard.spending import Spent, by_cause, by_owner
from wellfed.dashboard.tabular import as_csv, harmless, tables
from wellfed.dashboard.view import View
from wellfed.dashboard.words import title
from wellfed.errors import UserError

__all__ = ["EXPORTS", "Export", "export"]

_OWNERS = (("team", "namespace"), ("user", "user"), ("job", "job"))
_HEAD = (
    "by",
    "name",
    "gpus",
    "gpu_hours",
    "gpu_hours_lost",
    "cost",
    "cost_lost",
    "kwh",
    "kwh_lost",
    "mostly",
)
_SIMULATED = "SIMULATED DATA: nothing here was measured."


@dataclass(frozen=True, slots=True)
class Export:
    """A file to download."""

    filename: str
    media_type: str
    body: bytes


def export(name: str, view: View, simulated: bool = False) -> Export | None:
    """The file of a name for a page, None when there is none. view: with whole tables."""
    make = EXPORTS.get(name)
    return None if make is None else make(view, simulated)


def _table(view: View, simulated: bool) -> Export | None:
    """A table of the page, which the query names in `table`."""
    wanted = view.query.get("table", "")
    found = next((t for caption, t in tables(list(parse(view.path, view).main)) if caption == wanted), None)
    if found is None:
        return None
    return _csv(f"{view.path} {wanted}", as_csv(found), view, simulated)


def _spent(view: View, simulated: bool) -> Export:
    """Time, money and energy by team, user, job and cause."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(_HEAD)
    writer.writerows(_rows(view))
    return _csv("efficiency", out.getvalue(), view, simulated)


def _rows(view: View) -> list[tuple[object, ...]]:
    parts: list[tuple[str, Sequence[Spent]]] = [
        (name, view.answer.once(by_owner, column)) for name, column in _OWNERS
    ]
    parts.append(("cause", view.answer.once(by_cause)))
    return [_row(by, spent) for by, found in parts for spent in found]


def _row(by: str, spent: Spent) -> tuple[object, ...]:
    return (
        by,
        harmless(spent.name),
        spent.gpus,
        round(spent.covered / 3600, 4),
        round(spent.lost / 3600, 4),
        _rounded(spent.cost),
        _rounded(spent.cost_lost),
        _kwh(spent.joules),
        _kwh(spent.joules_lost),
        spent.mostly,
    )


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


def _kwh(joules: float | None) -> float | str:
    return "" if joules is None else round(joules / 3.6e6, 4)


def _report(view: View, simulated: bool) -> Export | None:
    """What `wellfed report` writes, with the costs; of one job on its page. Needs no other file."""
    job = view.path.removeprefix("/job/") if view.path.startswith("/job/") else None
    try:
        told = content.build(_marked(view, simulated), None if job is None else unquote(job))
    except UserError:
        return None
    costs = page.Table("Cost and energy by team and user", _COSTS, _costs(view), numbers=set(range(2, 8)))
    text = page.render(told, () if job else (costs,))
    return Export(f"{_stem('report', view, simulated)}.html", "text/html; charset=utf-8", text.encode())


_COSTS = ("by", "name", "GPUs", "GPU-hours", "lost", "cost", "lost", "kWh", "mostly")


def _costs(view: View) -> list[list[str]]:
    rows = [row for row in _rows(view) if row[0] in ("team", "user")]
    return [[str(cell) for cell in (*row[:8], title(str(row[9])) if row[9] else "")] for row in rows]


def _diagnosis(view: View, simulated: bool) -> Export:
    """The document, as `wellfed diagnose --json` prints it."""
    text = json.dumps(_marked(view, simulated), indent=2, allow_nan=False) + "\n"
    return Export(f"{_stem('diagnosis', view, simulated)}.json", "application/json", text.encode())


def _marked(view: View, simulated: bool) -> dict[str, object]:
    document = view.document
    return {**document, "warnings": [_SIMULATED, *document["warnings"]]} if simulated else document


def _csv(name: str, text: str, view: View, simulated: bool) -> Export:
    return Export(f"{_stem(name, view, simulated)}.csv", "text/csv; charset=utf-8", text.encode())


def _stem(name: str, view: View, simulated: bool) -> str:
    """`wellfed-jobs-jobs-20260302T0900-20260302T1000`."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{'simulated ' if simulated else ''}{name}".lower()).strip("-")
    shown = view.answer.range
    return f"wellfed-{words[:80]}-{shown.start:%Y%m%dT%H%M}-{shown.end:%Y%m%dT%H%M}"


#: Name in the address -> what makes the file.
EXPORTS: Mapping[str, Callable[[View, bool], Export | None]] = {
    "table.csv": _table,
    "efficiency.csv": _spent,
    "report.html": _report,
    "diagnosis.json": _diagnosis,
}
