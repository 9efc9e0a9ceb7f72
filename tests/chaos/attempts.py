"""How often to try, and what to note of it.

CI tries a sample; `make chaos` (WELLFED_CHAOS=full) all of it. Every test notes how often it tried and what
was lost; the table is printed after the tests (tests/conftest.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable

#: note(what, tried, lost): one line of the table; equal names are added up.
Note = Callable[[str, int, int], None]

FULL = os.environ.get("WELLFED_CHAOS") == "full"


def scale(full: int, sample: int) -> int:
    """How often to try."""
    return full if FULL else sample
