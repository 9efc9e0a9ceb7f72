"""A report as Markdown, to paste into a ticket or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from wellfed.analysis.report.content import Item, Report

__all__ = ["render"]


def render(report: Report) -> str:
    """The report, headings from the second level down; ends with a newline."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {_text(report.title)}"
    yield f"\n{_text(report.range)}"
    yield f"\n**{_text(report.verdict)}** {_text(report.reading)}"
    if report.figures:
        yield "\n## In numbers\n"
        yield from _table(("", "", ""), [(f.label, f.value, f.note) for f in report.figures])
    if report.losses:
        yield "\n## Where the time went\n"
        yield from _table(
            ("cause", "GPU-hours", "share", "what it means"),
            [(loss.title, f"{loss.hours:,.2f}", f"{loss.share:.1%}", loss.meaning) for loss in report.losses],
        )
    yield "\n## Findings"
    for item in report.findings:
        yield from _finding(item)
    if not report.findings:
        yield "\nNone: nothing waits longer than it should."
    if len(report.jobs) > 1:
        yield "\n## Jobs\n"
        yield from _table(
            ("job", "user", "GPUs", "productive", "GPU-hours lost", "mostly to", "looks like"),
            [
                (j.name or j.job, j.user, str(j.gpus), "-" if j.fed is None else f"{j.fed:.1%}",
                 f"{j.hours:,.2f}", j.mostly, j.workload)
                for j in report.jobs
            ],
        )  # fmt: skip
    if report.notes:
        yield "\n## Notes\n"
        yield from (f"* {_text(note)}" for note in report.notes)


def _finding(item: Item) -> Iterator[str]:
    yield f"\n### {_text(item.title)}: {_text(item.where)}"
    yield f"\n{item.severity}; {_text(item.facts)}. {_text(item.meaning)}\n"
    rows = [("for", *e) for e in item.evidence] + [("against", *e) for e in item.against]
    yield from _table(("evidence", "signal", "value", "limit"), rows)
    if item.missing:
        yield f"\nNot measured: {_text(', '.join(item.missing))}."
    yield "\nWhat to do:\n"
    yield from (f"{number}. {_text(step)}" for number, step in enumerate(item.steps, 1))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(map(_text, row))} |" for row in rows)


def _text(text: str) -> str:
    """Nothing in it is markup: names of jobs and users are other people's."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))
