"""The generated pages are up to date."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_generated_pages_are_current() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    assert pages
    for path, text in pages.items():
        assert path.read_text() == text, f"{path.name} is stale: run `make docs`"
