"""What can be downloaded, by name: the only place that lists it."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wellfed.dashboard.spending import Spent, by_cause, by_owner
from wellfed.dashboard.view import View
from wellfed.dashboard.words import count, evidence_text, hours, money, scope_text, share, title

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


@dataclass(frozen=True, slots=True)
class Export:
    """A file to download."""

    filename: str
    media_type: str
    body: bytes


def export(name: str, view: View) -> Export | None:
    """The file of a name, None when there is none."""
    make = EXPORTS.get(name)
    return None if make is None else make(view)


def _rows(view: View) -> list[tuple[object, ...]]:
    parts: list[tuple[str, Sequence[Spent]]] = [
        (name, view.answer.once(by_owner, column)) for name, column in _OWNERS
    ]
    parts.append(("cause", view.answer.once(by_cause)))
    return [_row(by, spent) for by, found in parts for spent in found]


def _row(by: str, spent: Spent) -> tuple[object, ...]:
    return (
        by,
        _harmless(spent.name),
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


def _harmless(name: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name


def _csv(view: View) -> Export:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(_HEAD)
    writer.writerows(_rows(view))
    return Export(f"{_stem(view)}.csv", "text/csv; charset=utf-8", out.getvalue().encode())


def _stem(view: View) -> str:
    return f"wellfed-efficiency-{view.answer.range.start:%Y%m%dT%H%M}-{view.answer.range.end:%Y%m%dT%H%M}"


_STYLE = """
body { max-width: 1000px; margin: 24px auto; padding: 0 16px; }
body { font: 14px/1.5 system-ui, sans-serif; color: #141a24; }
table { width: 100%; border-collapse: collapse; margin: 8px 0 24px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 8px; border-bottom: 1px solid #dde3ea; text-align: left; }
td.n, th.n { text-align: right; }
.lead { font-size: 17px; }
.sim { padding: 4px 10px; border: 1px dashed #8a5a00; color: #6d4700; }
"""


def _report(view: View) -> Export:
    """One file that needs nothing else: no script, no style or picture from elsewhere."""
    document, totals = view.document, view.document["totals"]
    au = totals["au"]
    lead = f"{share(au)} of {hours(totals['covered_seconds'])} measured GPU-hours were productive"
    lost = f"{hours(totals['lost_seconds'])} GPU-hours were lost"
    cost = (
        ""
        if totals["cost_lost"] is None
        else f", {money(totals['cost_lost'])} at ${view.price:.2f} a GPU-hour"
    )
    causes = [
        (title(c), hours(s), share(s / totals["covered_seconds"]))
        for c, s in sorted(totals["by_cause"].items(), key=lambda item: -item[1])
        if s > 0
    ]
    found = [
        (
            f["severity"],
            title(f["cause"]),
            scope_text(f["scope"]),
            hours(f["lost_gpu_seconds"]),
            f"{f['confidence']:.2f}",
            "; ".join(evidence_text(e) for e in f["evidence_for"][:2]),
            next(iter(f["next_steps"]), ""),
        )
        for f in document["findings"][:50]
    ]
    spent = [tuple(count(c) if isinstance(c, float) else str(c) for c in row) for row in _rows(view)]
    parts = [
        f"<h1>Wellfed: GPU efficiency</h1><p>{_text(document['from'])} to {_text(document['to'])}</p>",
        f'<p class="lead"><b>{_text(lead)}</b>; {_text(lost + cost)}.</p>',
        "<h2>Lost time by cause</h2>" + _table(("Cause", "GPU-hours", "Share of time"), causes),
        "<h2>Findings</h2>"
        + _table(
            ("Severity", "Cause", "Scope", "GPU-hours lost", "Confidence", "Evidence", "Do next"), found
        ),
        "<h2>Cost and energy</h2>" + _table([name.replace("_", " ") for name in _HEAD], spent),
    ]
    text = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Wellfed: GPU efficiency</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    return Export(f"{_stem(view)}.html", "text/html; charset=utf-8", text.encode())


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


#: Name in the address -> what makes the file.
EXPORTS: Mapping[str, Callable[[View], Export]] = {"efficiency.csv": _csv, "report.html": _report}
