"""The answer as text."""

from __future__ import annotations

import json

from wellfed.analysis.diagnose import Diagnosis


def render_text(diagnosis: Diagnosis) -> str:
    """The answer for a terminal."""
    return json.dumps(diagnosis.document, indent=1) + "\n"
