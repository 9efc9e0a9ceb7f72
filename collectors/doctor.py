"""`wellfed doctor`: what this machine can and cannot measure, source by source, and the remedy.

Reads every source once, each bounded by its deadline. Needs no privilege; what a missing one costs is what
it says.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from wellfed.collectors.agent import choose, roots_of
from wellfed.collectors.registry import Collector, Roots
from wellfed.collectors.sampler import Sampler
from wellfed.collectors.slot import Slot

__all__ = ["Finding", "doctor", "examine", "render"]

_WORDS = {
    "ok": "measured",
    "absent": "not here",
    "forbidden": "forbidden",
    "failed": "broken",
    "stuck": "hangs",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """status: ok, absent, forbidden, failed or stuck. signals: distinct columns measured now."""

    collector: str
    tables: tuple[str, ...]
    status: str
    rows: int
    signals: int
    reason: str
    remedy: str


def doctor(options: Mapping[str, object]) -> int:
    """Prints the table, or JSON with --json. Returns 0: a machine without GPUs is no failure."""
    findings = examine(choose(options.get("collectors")), roots_of(options))
    if options.get("json"):
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(render(findings, shutil.get_terminal_size((100, 24)).columns))
    return 0


def examine(collectors: Sequence[Collector], roots: Roots) -> list[Finding]:
    """One finding a collector, in the order given."""
    sampler = Sampler(collectors, roots)
    stuck = {row.key[0] for row in sampler.read_once().rows if row.values.get("stuck")}
    findings = [_finding(slot, slot.collector.name in stuck) for slot in sampler.slots]
    sampler.stop(timeout=0)
    return findings


def _finding(slot: Slot, stuck: bool) -> Finding:
    collector = slot.collector
    signals = {
        (row.table, name) for row in slot.rows for name, value in row.values.items() if value is not None
    }
    signals |= {(row.table, name) for row in slot.rows for name in row.levels}
    remedy = collector.remedy
    reason = slot.reason
    if stuck:
        status, reason = "stuck", f"no answer within {collector.deadline:g} s"
        remedy = "look at the driver or server behind it: dmesg | tail"
    elif reason.startswith("PermissionError"):
        status = "forbidden"
        remedy = remedy or "run the agent as root, or give its user read access to that path"
    elif slot.errors:
        status = "failed"
        remedy = remedy or "the source holds something unexpected; please report it with the file named above"
    else:
        status = "ok" if slot.success else "absent"
    return Finding(collector.name, collector.tables, status, len(slot.rows), len(signals), reason, remedy)


def render(findings: Sequence[Finding], width: int) -> str:
    """The findings as a table of at most `width` columns, remedies on lines of their own."""
    name = max((len(f.collector) for f in findings), default=0)
    tables = max((len(", ".join(f.tables)) for f in findings), default=0)
    state = max(len(word) for word in _WORDS.values())
    indent = name + tables + state + 6
    lines = []
    for finding in findings:
        filled, word = ", ".join(finding.tables), _WORDS[finding.status]
        head = f"{finding.collector:<{name}}  {filled:<{tables}}  {word:<{state}}"
        measured = f"{finding.rows} rows, {finding.signals} signals"
        told = measured if finding.rows else finding.reason or "answers"
        if finding.rows and finding.reason:
            told += f"; {finding.reason}"
        texts = [told, *([f"do: {finding.remedy}"] if finding.remedy and finding.reason else [])]
        wrapped = [line for text in texts for line in textwrap.wrap(text, max(30, width - indent)) or [""]]
        lines.append(f"{head}  {wrapped[0]}")
        lines += [" " * indent + line for line in wrapped[1:]]
    answered = sum(f.status == "ok" for f in findings)
    lines.append("")
    lines.append(f"{answered} of {len(findings)} sources measured")
    return "\n".join(lines) + "\n"
