"""Writes the generated pages of docs/: `python docs/reference.py` (make docs). A test compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl

from wellfed import verdicts
from wellfed.analysis.causes import CAUSES, FAMILIES, Cause
from wellfed.analysis.evidence import Ramp
from wellfed.analysis.receiver import REASONS
from wellfed.analysis.signatures import by_cause
from wellfed.cli import COMMANDS
from wellfed.collectors.catalog import DERIVED_OTLP, TABLES, Otlp
from wellfed.collectors.destination import Destination
from wellfed.collectors.exposition import Family
from wellfed.collectors.publisher import Publisher
from wellfed.collectors.selfcost import Marker, families
from wellfed.collectors.spool import Spool
from wellfed.options import OPTIONS
from wellfed.rules import RULES, catalogue, thresholds

HERE = Path(__file__).parent
OPERATOR = HERE.parent / "deploy" / "kubernetes" / "components" / "prometheus-operator"


def metrics() -> str:
    """docs/metrics.md: every table and column."""
    out = [
        "# Tables, columns and metrics",
        "",
        "Generated from `collectors/catalog.py` by `make docs`.",
        "",
        "A column has the same name, unit and kind in the store, in Prometheus and in the analysis. `null` "
        "means this machine cannot measure it; it is never 0. Counters are cumulative.",
        "",
        "In Prometheus the keys of a table (without `host`) and its label columns are labels. Tables with "
        "text columns also have `wellfed_<table>_info`, always 1, with all of them.",
    ]
    for table in TABLES.values():
        out += [
            "",
            f"## {table.name}",
            "",
            table.help + ".",
            "",
            "Key: " + ", ".join(f"`{k}`" for k in table.keys),
        ]
        if table.infos:
            text = "; ".join(f"`{c.name}`{' (label)' if c.label else ''}: {c.help}" for c in table.infos)
            out += ["", f"Text: {text}."]
        out += ["", "| column | kind | unit | Prometheus | OTLP | what |", "|---|---|---|---|---|---|"]
        for column in table.signals:
            names = [column.otlp, *(o for key, o in DERIVED_OTLP.items() if key == (table.name, column.name))]
            out.append(
                f"| {column.name} | {column.kind} | `{column.unit}` | `{table.metric(column)}` "
                f"| {', '.join(_otlp(o) for o in names)} | {column.help} |"
            )
    out += ["", "## The agent about itself", "", *_families(agent_families())]
    out += ["", "## The hub", "", *_families(hub_families())]
    return "\n".join(out) + "\n"


def agent_families() -> list[Family]:
    """What an agent with a spool that sends by OTLP publishes beside its tables."""
    marker = Marker("")
    marker.clean = True
    publisher = Publisher(Destination("http://hub:4318"), Spool(None, 1, 1.0), {}, lambda _: ((), ()))
    publisher._pusher.last_success = 0.0
    return [*families((), marker), *publisher.families()]


def hub_families() -> list[Family]:
    """What a hub publishes."""
    row = {"host": "", "gpu": "", "job": "", "cause": "", "value": 0.0, "born": None}
    rows = pl.DataFrame([{"metric": metric, **row} for metric in verdicts._LABELS])
    counts = rows["metric"].str.ends_with("_seconds")
    last = SimpleNamespace(timestamp=lambda: 0.0)
    live: Any = SimpleNamespace(
        counters=rows.filter(counts), gauges=rows.filter(~counts), findings=[], last=last
    )
    none = dict.fromkeys(REASONS, 0)
    receiver: Any = SimpleNamespace(hosts=lambda now: {"fresh": 0, "stale": 0}, points=0, rejected=none)
    return [*verdicts.verdicts(live), *verdicts.hub_families(receiver)]


def _families(found: Sequence[Family]) -> list[str]:
    """A table of metrics."""
    ends = {"counter": "_total", "info": "_info"}
    return [
        "| Prometheus | kind | what |",
        "|---|---|---|",
        *(f"| `{f.name}{ends.get(f.kind, '')}` | {f.kind} | {f.help} |" for f in found),
    ]


def _otlp(otlp: Otlp) -> str:
    attributes = ", ".join(f"{k}={v}" for k, v in otlp.attributes.items())
    return f"`{otlp.name}{{{attributes}}}`" if attributes else f"`{otlp.name}`"


def commands() -> str:
    """docs/commands.md: every command and option."""
    out = [
        "# Commands and options",
        "",
        "Generated from `wellfed/cli.py` and `wellfed/options.py` by `make docs`.",
        "",
        "Every option is a flag, an environment variable and a key of the TOML file given with `--config`; "
        "that order wins. Unknown keys are refused. Tables are for the file alone.",
        "Exit status: 0 done, 1 something failed on our side, 2 the input is wrong.",
    ]
    for command in COMMANDS.values():
        flags = " ".join(f"`{OPTIONS[o].flag}`" for o in command.options if OPTIONS[o].table is None)
        out += [
            "",
            f"## wellfed {command.name}",
            "",
            command.help[0].upper() + command.help[1:] + ".",
            "",
            flags,
        ]
        if command.example:
            out += ["", "```sh", command.example, "```"]
    out += ["", "## Options", "", "| flag | environment | file | default | what |", "|---|---|---|---|---|"]
    for option in OPTIONS.values():
        default = "" if option.default in (None, False) else f"`{option.default}`"
        value = "" if option.boolean else f" {option.metavar}"
        key = "" if option.name in ("config", "once") else f"`{option.name}`"
        if option.table is not None:
            out.append(f"| | | `[{option.name}.NAME]` | {default} | {option.help} |")
            continue
        out.append(f"| `{option.flag}{value}` | `{option.variable}` | {key} | {default} | {option.help} |")
    return "\n".join(out) + "\n"


def alerts() -> str:
    """docs/alerts.md: every alert and threshold."""
    out = [(HERE / "alerts.head.md").read_text()]
    for name in RULES:
        out += [f"## {name}", "", "| alert | severity | after | what | thresholds |", "|---|---|---|---|---|"]
        for alert in catalogue(name):
            used = ", ".join(f"`{threshold}`" for threshold in alert.thresholds)
            out.append(
                f"| [{alert.name}](../alerts/runbooks/{alert.name}.md) | {alert.severity} "
                f"| {alert.wait or 'at once'} | {alert.summary} | {used} |"
            )
        out.append("")
    out += ["## Thresholds", "", "| name | default | what |", "|---|---|---|"]
    out += [f"| `{t.name}` | {t.value} | {t.help} |" for t in thresholds().values()]
    return "\n".join(out) + "\n"


def prometheus_rule() -> str:
    """alerts/wellfed.rules.yml as an object of the Prometheus operator."""
    rules = (HERE.parent / "alerts" / RULES[0]).read_text()
    head = (
        "# Generated from alerts/wellfed.rules.yml by `make docs`.\n"
        "apiVersion: monitoring.coreos.com/v1\n"
        "kind: PrometheusRule\n"
        "metadata:\n"
        "  name: wellfed\n"
        "spec:\n"
    )
    body = rules[rules.index("groups:\n") :]
    return head + "".join(f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True))


#: What stands in a remedy for what a finding would name.
PLACES = {name: name.upper() for name in ("job", "host", "gpu", "resource")}


def causes() -> str:
    """Every cause: what it means, when it is named, why that must hold, what to do."""
    lines = [
        "# Causes",
        "",
        "Generated from the taxonomy and the rules by `make docs`. How a verdict is made:",
        "[diagnosis.md](diagnosis.md). `lo → hi`: below lo a signal says nothing, from hi on all it can.",
    ]
    for family in FAMILIES.values():
        lines += ["", f"## {family.title} ({family.code})"]
        for cause in CAUSES.values():
            if cause.family == family.id:
                lines += ["", *_cause(cause)]
    return "\n".join(lines) + "\n"


def _cause(cause: Cause) -> list[str]:
    anchor = cause.runbook.partition("#")[2]
    lines = [f'<a id="{anchor}"></a>', "", f"### `{cause.id}`: {cause.title}", "", cause.meaning]
    rule = by_cause().get(cause.id)
    if rule is not None:
        lines += ["", f"**Why the rule holds.** {rule.why}", ""]
        lines += [f"* needs {_ramp(r)}" for r in rule.need]
        lines += ["* needs one of: " + "; ".join(_ramp(r) for r in group) for group in rule.any_of]
        lines += [f"* supported by {_ramp(r)}" for r in rule.support]
        lines += [f"* against it: {_ramp(r)}" for r in rule.contra]
    return [
        *lines,
        "",
        "**What to do.**",
        "",
        *(f"{n}. {step.format(**PLACES)}" for n, step in enumerate(cause.next_steps, 1)),
    ]


def _ramp(ramp: Ramp) -> str:
    return f"{ramp.signal} ({ramp.lo:g} → {ramp.hi:g})"


def pages() -> Mapping[Path, str]:
    """Every generated page with its text."""
    return {
        HERE / "metrics.md": metrics(),
        HERE / "commands.md": commands(),
        HERE / "alerts.md": alerts(),
        HERE / "causes.md": causes(),
        OPERATOR / "rules.yaml": prometheus_rule(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
