"""The names of other exporters lead to columns of the catalog."""

from __future__ import annotations

import re

import pytest

from wellfed.collectors.catalog import HOST, TABLES
from wellfed.collectors.names import GROUPS, Group


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: f"{g.family}-{g.table}-{'-'.join(g.labels)}")
def test_every_name_leads_to_a_column_of_the_right_kind(group: Group) -> None:
    table = TABLES[group.table]
    assert set(table.keys) - {HOST} <= set(group.labels)
    infos = {column.name for column in table.infos}
    assert set(group.labels) - set(table.keys) <= infos
    assert set(group.fixed) <= infos
    for name in group.names:
        if not name.column:
            continue
        kind = table.column(name.column).kind
        if name.use != "value":
            assert (name.kind, kind) == ("gauge", "counter"), name.metric
        elif name.column != "cpu_count":
            assert name.kind == kind, name.metric
        for pattern in name.where.values():
            re.compile(pattern)


def test_what_is_summed_has_one_rank_and_what_is_an_alternative_has_another() -> None:
    for group in GROUPS:
        seen: dict[tuple[str, int], set[str]] = {}
        for name in group.names:
            seen.setdefault((name.column, name.rank), set()).add(name.use)
        assert all(len(uses) == 1 for uses in seen.values())
