"""The answer as text for a terminal: the verdict first, then the evidence, then what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from wellfed.analysis.causes import CAUSES, UNKNOWN
from wellfed.analysis.diagnose import Diagnosis

__all__ = ["render_text"]

#: Findings written out; the rest is counted.
SHOWN = 5


def render_text(diagnosis: Diagnosis, width: int = 100) -> str:
    """The report of a diagnosis, at most `width` columns, ending with a newline."""
    document = diagnosis.document
    lines = [_range(document), ""]
    if document["gpus"]:
        lines += _gpus(document)
    lines += _findings(document["findings"], width)
    if not document["gpus"]:
        lines += _hosts(document["hosts"])
    if document["warnings"]:
        lines += ["Note", *(_wrap(text, width, "  ") for text in document["warnings"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _range(document: Mapping[str, Any]) -> str:
    start, end = (datetime.fromisoformat(document[k]) for k in ("from", "to"))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, windows of {document['window_seconds']:g} s"


def _gpus(document: Mapping[str, Any]) -> list[str]:
    totals = document["totals"]
    gpus, jobs = len(document["gpus"]), len(document["jobs"])
    head = f"{gpus} GPU{'s' * (gpus != 1)} in {jobs} job{'s' * (jobs != 1)}: "
    if totals["au"] is None:
        return [head + "no activity was measured, so there is no verdict", ""]
    lines = [
        head
        + f"{totals['au']:.1%} of GPU time was productive, {_hours(totals['lost_seconds'])} GPU-hours lost"
    ]
    if totals["cost_lost"] is not None:
        lines[0] += f" (${totals['cost_lost']:,.2f})"
    lines.append("")
    shown = [(cause, s) for cause, s in totals["by_cause"].items() if s >= 0.01 * totals["lost_seconds"] > 0]
    for cause, seconds in shown:
        share = seconds / totals["lost_seconds"]
        lines.append(
            f"  {_title(cause):<36} {_hours(seconds):>8} h  {share:>6.1%}  {'█' * round(30 * share)}"
        )
    return [*lines, ""] if shown else lines


def _findings(findings: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    if not findings:
        return ["No finding: nothing waits longer than it should.", ""]
    lines = []
    for finding in findings[:SHOWN]:
        scope = finding["scope"]
        where = scope["job"] or scope["resource"] or ", ".join(scope["hosts"][:3])
        gpus = len(scope["gpus"])
        ended = (
            "still open"
            if finding["end"] is None
            else f"until {datetime.fromisoformat(finding['end']):%H:%M}"
        )
        since = datetime.fromisoformat(finding["start"])
        lines.append(f"[{finding['severity']}] {_title(finding['cause'])}: {where}")
        facts = f"{gpus} GPUs" if gpus else f"{len(scope['hosts'])} hosts"
        lost = f", {_hours(finding['lost_gpu_seconds'])} GPU-hours" if gpus else ""
        lines.append(f"  {facts}{lost}, since {since:%H:%M}, {ended}, confidence {finding['confidence']:.2f}")
        culprits = [name for names in finding["culprits"].values() for name in names]
        if culprits:
            lines.append(_wrap("culprit: " + ", ".join(culprits[:8]), width, "  "))
        lines += [_wrap("+ " + _evidence(item), width, "  ") for item in finding["evidence_for"][:4]]
        lines += [_wrap("- " + _evidence(item), width, "  ") for item in finding["evidence_against"][:2]]
        lines += [_wrap(f"{n}. {step}", width, "  ") for n, step in enumerate(finding["next_steps"][:3], 1)]
        lines.append("")
    if len(findings) > SHOWN:
        lines += [f"and {len(findings) - SHOWN} more: wellfed diagnose --json", ""]
    return lines


def _hosts(hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    if not hosts:
        return []
    columns = ("cpu_busy_ratio", "cpu_iowait_ratio", "psi_cpu_ratio", "psi_io_ratio", "psi_memory_ratio")
    names = ("CPU busy", "I/O wait", "CPU pressure", "I/O pressure", "memory pressure")
    size = max(len("host"), *(len(h["host"]) for h in hosts))
    lines = [f"{'host':<{size}}  " + "  ".join(f"{name:>15}" for name in names)]
    for host in hosts:
        cells = ("-" if host[c] is None else f"{host[c]:.1%}" for c in columns)
        lines.append(f"{host['host']:<{size}}  " + "  ".join(f"{cell:>15}" for cell in cells))
    return [*lines, ""]


def _evidence(item: Mapping[str, Any]) -> str:
    return f"{item['signal']}: {item['value']:.4g}, normal below {item['expected']:.4g}"


def _title(cause: str) -> str:
    return CAUSES[cause].title if cause in CAUSES else ("Unknown" if cause == UNKNOWN else cause)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}"


def _wrap(text: str, width: int, indent: str) -> str:
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent + "  ")
