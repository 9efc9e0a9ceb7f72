"""`wellfed diagnose`: reads files, a Prometheus or a lake and prints who was starved by what."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping

from wellfed.analysis.report import render_text
from wellfed.source import answer

__all__ = ["diagnose"]


def diagnose(options: Mapping[str, object]) -> int:
    """Prints the diagnosis as text, or as the JSON document with --json. Returns the exit status."""
    diagnosis = answer(options)
    if options.get("json"):
        json.dump(diagnosis.document, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    else:
        width = min(120, shutil.get_terminal_size((100, 24)).columns)
        sys.stdout.write(render_text(diagnosis, width))
    return 0
