"""Hostile bytes into every parser: an answer or ValueError (UserError where a person reads it), never else."""

from __future__ import annotations

import pytest
from attempts import FULL, Note, scale
from hypothesis import HealthCheck, Phase, given, settings
from inputs import PARSERS, damaged

from wellfed.analysis.promql_http import RefusedError
from wellfed.errors import UserError

#: What a parser may raise. RefusedError is caught where queries are asked, and told as a warning.
REFUSALS = (ValueError, UserError, RefusedError)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_parser_answers_or_raises_value_error(name: str, note: Note) -> None:
    parse, seed = PARSERS[name]
    parse(seed)
    tried = 0

    @settings(
        max_examples=scale(1_000_000 // len(PARSERS) + 1, 120),
        deadline=None,
        database=None,
        # CI tries the same inputs each time; new ones are for `make chaos`.
        derandomize=not FULL,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(seed))
    def attack(data: bytes) -> None:
        nonlocal tried
        tried += 1
        try:
            parse(data)
        except REFUSALS:
            return

    attack()
    note("hostile inputs to parsers", tried, 0)
