"""The table's notes."""

from __future__ import annotations

import pytest
from attempts import Note


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Takes notes for the table of this run."""

    def record(what: str, tried: int, lost: int) -> None:
        request.node.user_properties.append(("chaos", [what, tried, lost]))

    return record
