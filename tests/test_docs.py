"""The generated pages are up to date, and nothing that a user meets is left undocumented."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from verdicts import VERDICTS

from wellfed.analysis.causes import CAUSES
from wellfed.cli import COMMANDS
from wellfed.collectors.catalog import TABLES
from wellfed.options import OPTIONS
from wellfed.rules import RULES, catalogue, thresholds

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_generated_pages_are_current() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    assert pages
    for path, text in pages.items():
        assert path.read_text() == text, f"{path.name} is stale: run `make docs`"


def test_every_flag_metric_cause_alert_and_threshold_is_documented() -> None:
    pages = {page.name: page.read_text() for page in DOCS.glob("*.md")}
    reference = runpy.run_path(str(DOCS / "reference.py"))
    own = [*reference["agent_families"](), *reference["hub_families"]()]
    wanted = {
        **{f"`{option.flag}": "commands.md" for option in OPTIONS.values() if option.table is None},
        **{
            f"`{table.metric(column)}`": "metrics.md" for table in TABLES.values() for column in table.signals
        },
        **{f"`{family.name}": "metrics.md" for family in own},
        **{f"`{metric}`": "metrics.md" for metric in VERDICTS},
        **{f"[{alert.name}]": "alerts.md" for name in RULES for alert in catalogue(name)},
        **{f"`{name}`": "alerts.md" for name in thresholds()},
        **{f"### `{cause}`": "causes.md" for cause in CAUSES},
    }
    assert not {name for name, page in wanted.items() if name not in pages[page]}


def test_every_page_can_be_reached_and_no_link_is_broken() -> None:
    readable = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    readable += [ROOT / "deploy" / "README.md", ROOT / "deploy" / "slurm" / "README.md"]
    linked = set()
    for page in readable:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            found = (page.parent / target).resolve()
            assert found.exists(), f"{page.name} links to {target}"
            linked.add(found)
    assert not {page.name for page in DOCS.glob("*.md") if page not in linked} - {"alerts.head.md"}


def test_commands_in_the_docs_have_the_flags_they_are_given() -> None:
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *DOCS.glob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    pages += [*(ROOT / "deploy").rglob("*.s*"), *(ROOT / "alerts" / "runbooks").iterdir()]
    seen = 0
    for page in pages:
        text = re.sub(r"\\\n\s*", " ", page.read_text())
        for name, rest in re.findall(r"\bwellfed ([a-z]+)((?: [^`\n|;#]*)?)", text):
            if name not in COMMANDS:
                continue
            flags = {OPTIONS[o].flag for o in (*COMMANDS[name].options, "config", "log_level")}
            unknown = set(re.findall(r"(?<!\S)(--[a-z][a-z-]*)", rest)) - flags
            assert not unknown, f"{page.name}: wellfed {name} has no {', '.join(unknown)}"
            seen += 1
    assert seen > 50
