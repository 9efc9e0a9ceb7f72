"""The catalog keeps the rules that everything else relies on."""

from __future__ import annotations

import re

import pytest

from wellfed.collectors.catalog import TABLES, Column, Table

COLUMNS = [(t, c) for t in TABLES.values() for c in t.columns]


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda x: x.name)
def test_names_units_and_help(table: Table, column: Column) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
    assert column.help
    assert not column.help.endswith(".")
    assert "\n" not in column.help
    if column.kind != "info":
        assert column.unit
        assert column.openmetrics_unit == "" or column.name.endswith("_" + column.openmetrics_unit)


def test_no_two_columns_share_a_prometheus_or_otlp_name() -> None:
    prometheus = [t.metric(c) for t, c in COLUMNS if c.kind != "info"]
    assert len(set(prometheus)) == len(prometheus)
    otlp = [(t.name, c.otlp.name, *sorted(c.otlp.attributes.items())) for t, c in COLUMNS if c.kind != "info"]
    assert len(set(otlp)) == len(otlp)


def test_one_otlp_name_has_one_unit_and_kind() -> None:
    seen: dict[str, tuple[str, str]] = {}
    for _, column in COLUMNS:
        if column.kind != "info":
            assert seen.setdefault(column.otlp.name, (column.unit, column.kind)) == (column.unit, column.kind)


def test_columns_are_unique_within_a_table() -> None:
    for table in TABLES.values():
        names = [*table.keys, *(c.name for c in table.columns)]
        assert len(set(names)) == len(names)
