"""A report as one HTML file: no script, nothing loaded from elsewhere, dark and light, prints on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from wellfed.analysis.report.content import Item, Report

__all__ = ["Table", "render"]

_STYLE = """
:root{color-scheme:light dark;--page:#f4f6f9;--card:#fff;--line:#d5dbe4;--ink:#151a23;--soft:#4d5866;
--bar:#43309a;--fed:#1a6b3c;--watch:#7f5a00;--starved:#b3243f}
@media(prefers-color-scheme:dark){:root{--page:#0e1218;--card:#151a23;--line:#252d3a;--ink:#e6ebf2;
--soft:#a3afbf;--bar:#8f7fe0;--fed:#6fd39b;--watch:#e3b95b;--starved:#ff8b9f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:14px/1.5 Inter,system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:32px 20px}
h1{font-size:22px;margin:0}h2{font-size:16px;margin:28px 0 8px}h3{font-size:15px;margin:0 0 4px}
p{margin:4px 0}.soft{color:var(--soft)}.verdict{font-size:17px;font-weight:600;margin-top:16px}
.fed{color:var(--fed)}.watch{color:var(--watch)}.starved{color:var(--starved)}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px;
margin:12px 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:500;color:var(--soft)}td,th{padding:4px 12px 4px 0;vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap}tr+tr td{border-top:1px solid var(--line)}
.bar{height:10px;background:var(--bar);border-radius:2px;min-width:2px}
ol{margin:6px 0 0;padding-left:22px}
.tag{border:1px solid var(--line);border-radius:4px;padding:0 6px;font-size:12px}
@media print{body{background:#fff}section{break-inside:avoid}}
""".strip()


@dataclass(frozen=True, slots=True)
class Table:
    """Something told beside the report. numbers: right-aligned columns."""

    heading: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: set[int]


def render(report: Report, more: Iterable[Table] = ()) -> str:
    """The whole document, UTF-8. more: tables after the jobs."""
    body = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="soft">{escape(report.range)}</p>',
        f'<p class="verdict {report.state}">{escape(report.verdict)}</p>',
        f"<p>{escape(report.reading)}</p>",
    ]
    if report.figures:
        rows = [[f.label, f"<b>{escape(f.value)}</b>", f.note] for f in report.figures]
        body += ["<h2>In numbers</h2>", _table(("", "", ""), rows, numbers={1}, raw={1})]
    if report.losses:
        body += ["<h2>Where the time went</h2>", _losses(report)]
    body.append("<h2>Findings</h2>")
    body += [_finding(item) for item in report.findings]
    if not report.findings:
        body.append("<p>None: nothing waits longer than it should.</p>")
    if len(report.jobs) > 1:
        body += ["<h2>Jobs</h2>", _jobs(report)]
    for table in more:
        body += [f"<h2>{escape(table.heading)}</h2>", _table(table.head, table.rows, table.numbers)]
    if report.notes:
        body += ["<h2>Notes</h2>", "<ul>", *(f"<li>{escape(note)}</li>" for note in report.notes), "</ul>"]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(report.title)} – Wellfed</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _losses(report: Report) -> str:
    rows = [
        [
            loss.code,
            f"<b>{escape(loss.title)}</b><br><span class='soft'>{escape(loss.meaning)}</span>",
            f"{loss.hours:,.2f} h",
            loss.money,
            f"{loss.share:.1%}",
            f'<div class="bar" style="width:{max(1, round(200 * loss.share))}px"></div>',
        ]
        for loss in report.losses
    ]
    head = ("", "cause", "lost", "cost", "share", "")
    return _table(head, rows, numbers={2, 3, 4}, raw={1, 5})


def _finding(item: Item) -> str:
    rows = [["for", *e] for e in item.evidence] + [["against", *e] for e in item.against]
    missing = f"<p class='soft'>Not measured: {escape(', '.join(item.missing))}</p>" if item.missing else ""
    steps = "".join(f"<li>{escape(step)}</li>" for step in item.steps)
    return (
        f'<section id="{escape(item.id)}"><h3>{escape(item.title)}: {escape(item.where)}</h3>'
        f'<p class="soft"><span class="tag">{escape(item.severity)}</span> {escape(item.facts)}</p>'
        f"<p>{escape(item.meaning)}</p>"
        f"{_table(('evidence', 'signal', 'value', ''), rows, numbers={2})}{missing}"
        f"<p><b>What to do</b></p><ol>{steps}</ol></section>"
    )


def _jobs(report: Report) -> str:
    rows = [
        [
            job.name or job.job,
            job.user,
            str(job.gpus),
            "–" if job.fed is None else f"{job.fed:.1%}",
            f"{job.hours:,.2f} h",
            job.mostly,
            job.workload,
        ]
        for job in report.jobs
    ]
    head = ("job", "user", "GPUs", "productive", "lost", "mostly to", "looks like")
    return _table(head, rows, numbers={2, 3, 4})


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: set[int],
    raw: Iterable[int] = (),
) -> str:
    """numbers: right-aligned columns. raw: columns that hold markup of ours; all else is escaped."""
    kept = set(raw)
    kind = ["n" if i in numbers else "" for i in range(len(head))]
    top = "".join(f'<th class="{kind[i]}">{escape(text)}</th>' for i, text in enumerate(head))
    lines = []
    for row in rows:
        cells = (cell if i in kept else escape(cell) for i, cell in enumerate(row))
        lines.append(
            "<tr>" + "".join(f'<td class="{kind[i]}">{c}</td>' for i, c in enumerate(cells)) + "</tr>"
        )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
