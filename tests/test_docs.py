"""The generated pages are up to date, and nothing that a user meets is left undocumented."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from verdicts import VERDICTS

from wellfed.analysis.causes import CAUSES
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
    everything = "\n".join(pages.values())
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
    }
    assert not {name for name, page in wanted.items() if name not in pages[page]}
    # Causes have a page of their own, or stand where they are spoken of.
    assert not {cause for cause in CAUSES if f"`{cause}`" not in everything}


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
