"""A report for a terminal, by rich: colours where there are any, plain text in a pipe or a file."""

from __future__ import annotations

from io import StringIO
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wellfed.analysis.report.content import Item, Report

__all__ = ["render", "write"]

#: Findings written out; the rest is counted.
SHOWN = 5
_STATE = {"fed": "green", "watch": "yellow", "starved": "red", "unmeasured": "bold"}
_SEVERITY = {"critical": "red", "warning": "yellow", "info": "cyan"}
_PRESSURES = {
    "CPU busy": "cpu_busy_ratio",
    "I/O wait": "cpu_iowait_ratio",
    "CPU pressure": "psi_cpu_ratio",
    "I/O pressure": "psi_io_ratio",
    "memory pressure": "psi_memory_ratio",
}


def write(report: Report, file: TextIO, width: int) -> None:
    """Prints the report, in colours where the file is a terminal that has them."""
    if not file.isatty():
        file.write(render(report, width))
        return
    console = Console(file=file, width=width, highlight=False)
    console.print(Group(*_parts(report, width)))


def render(report: Report, width: int = 100) -> str:
    """The report as plain text, at most `width` columns, ending with a newline."""
    text = StringIO()
    Console(file=text, width=width, highlight=False).print(Group(*_parts(report, width)))
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines()) + "\n"


def _parts(report: Report, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(report.title, style="bold"),
        Text(report.range, style="dim"),
        Text(),
        Text(report.verdict, style=_STATE[report.state]),
    ]
    if report.state != "unmeasured" or not report.hosts:
        parts.append(Text(report.reading))
    parts.append(Text())
    if report.figures:
        parts += [_figures(report), Text()]
    if report.losses:
        parts += [_losses(report, width), Text()]
    if report.findings:
        for finding in report.findings[:SHOWN]:
            parts += [*_finding(finding), Text()]
        if len(report.findings) > SHOWN:
            parts += [Text(f"and {len(report.findings) - SHOWN} more: wellfed report --format html"), Text()]
    else:
        parts += [Text("No finding: nothing waits longer than it should."), Text()]
    if len(report.jobs) > 1:
        parts += [_jobs(report), Text()]
    if report.hosts:
        parts += [_hosts(report), Text()]
    if report.notes:
        parts += [Text("Note", style="bold"), *(Padding(Text(note), (0, 0, 0, 2)) for note in report.notes)]
    return parts


def _plain(*headers: tuple[str, bool]) -> Table:
    """A table without lines. headers: (text, numbers are right-aligned)."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for text, numeric in headers:
        table.add_column(text, justify="right" if numeric else "left", overflow="fold")
    return table


def _figures(report: Report) -> Table:
    table = _plain(("", False), ("", True), ("", False))
    table.show_header = False
    for figure in report.figures:
        table.add_row(figure.label, Text(figure.value, style="bold"), Text(figure.note, style="dim"))
    return table


def _losses(report: Report, width: int) -> Table:
    table = _plain(("lost to", False), ("GPU-hours", True), ("share", True), ("", False))
    bar = max(5, min(30, width - 60))
    for loss in report.losses:
        name = Text.assemble((f"{loss.code} ", "dim"), loss.title)
        table.add_row(name, f"{loss.hours:,.2f}", f"{loss.share:.1%}", "█" * round(bar * loss.share))
    return table


def _finding(item: Item) -> list[RenderableType]:
    head = Text.assemble((f"[{item.severity}] ", _SEVERITY.get(item.severity, "")), (item.title, "bold"))
    head.append(f": {item.where}")
    lines: list[RenderableType] = [head, _indent(item.facts), _indent(item.meaning)]
    lines += [_indent(f"+ {signal}: {value}, {limit}") for signal, value, limit in item.evidence[:4]]
    lines += [_indent(f"- {signal}: {value}, {limit}") for signal, value, limit in item.against[:2]]
    if item.missing:
        lines.append(_indent("not measured: " + ", ".join(item.missing), "dim"))
    lines += [_indent(f"{number}. {step}") for number, step in enumerate(item.steps[:3], 1)]
    return lines


def _indent(text: str, style: str = "") -> RenderableType:
    return Padding(Text(text, style=style), (0, 0, 0, 2), expand=False)


def _jobs(report: Report) -> Table:
    table = _plain(
        ("job", False), ("user", False), ("GPUs", True), ("fed", True), ("lost h", True),
        ("mostly to", False), ("looks like", False),
    )  # fmt: skip
    for job in report.jobs[:20]:
        fed = "-" if job.fed is None else f"{job.fed:.0%}"
        table.add_row(
            job.name or job.job, job.user, str(job.gpus), fed, f"{job.hours:,.2f}", job.mostly, job.workload
        )
    return table


def _hosts(report: Report) -> Table:
    table = _plain(("host", False), *((name, True) for name in _PRESSURES))
    for host in report.hosts:
        cells = ("-" if host[c] is None else f"{host[c]:.1%}" for c in _PRESSURES.values())
        table.add_row(host["host"], *cells)
    return table
