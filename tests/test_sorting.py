"""Tables are in the order that the address asks for, each on its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import dashboards
import pytest
from dash import dcc, html
from dashboards import Fixed
from hypothesis import given
from hypothesis import strategies as st

from wellfed.dashboard import app, tabular
from wellfed.dashboard.parts import listing
from wellfed.dashboard.sorting import Sort
from wellfed.dashboard.view import View
from wellfed.dashboard.words import Number


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=300)


def sort(address: str, default: str = "", of: str = "") -> Sort:
    return Sort(View(None, "/jobs", {"sort": address} if address else {}, None), default, of)  # type: ignore[arg-type]


KEYS = {"name": lambda item: item[0], "size": lambda item: item[1]}
ITEMS = [("b", 2.0), ("a10", None), ("a9", 2.0), ("c", 7.0), ("d", float("nan"))]


def test_ties_stay_and_what_was_not_measured_is_last_either_way() -> None:
    assert [name for name, _ in sort("size").apply(ITEMS, KEYS)] == ["b", "a9", "c", "a10", "d"]
    assert [name for name, _ in sort("-size").apply(ITEMS, KEYS)] == ["c", "b", "a9", "a10", "d"]
    assert [name for name, _ in sort("name").apply(ITEMS, KEYS)] == ["a9", "a10", "b", "c", "d"]


def test_without_a_known_key_the_order_is_the_default_or_the_one_that_is_there() -> None:
    for nonsense in ("", "-", ",", "none", "other.size", "-.", "\x00", "name,"):
        assert sort(nonsense).apply(ITEMS, KEYS) == (
            ITEMS if nonsense != "name," else sort("name").apply(ITEMS, KEYS)
        )
    assert sort("none", "-size").apply(ITEMS, KEYS) == sort("-size").apply(ITEMS, KEYS)


def test_each_table_has_its_part_of_the_address() -> None:
    both = "-size,who.name"
    assert sort(both).by(KEYS) == ("size", True)
    assert sort(both, of="who").by(KEYS) == ("name", False)
    assert sort(both, of="other").by(KEYS) == ("", False)
    asked = parse_qs(urlsplit(sort(both, of="who").href("-size")).query)
    assert asked == {"sort": ["-size,-who.size"]}


def test_numbers_in_words_are_ordered_as_numbers_and_names_as_people_do() -> None:
    said = [Number("1.2 k", 1200.0), Number("90", 90.0), "–", Number("0", 0.0)]
    assert sort("v").apply(said, {"v": lambda cell: cell}) == ["0", "90", "1.2 k", "–"]
    counts = ["1,024 of 1,280", "9 of 16", "128 of 128"]
    assert sort("-v").apply(counts, {"v": lambda cell: cell}) == [counts[0], counts[2], counts[1]]


@given(st.lists(st.one_of(st.none(), st.floats(), st.text(), st.integers(), st.booleans())))
def test_anything_can_be_ordered_and_nothing_is_lost(values: list[object]) -> None:
    keys = {"v": lambda pair: pair[1]}
    pairs = list(enumerate(values))
    for way in ("v", "-v"):
        assert sorted(n for n, _ in sort(way).apply(pairs, keys)) == list(range(len(values)))


def heads(table: html.Table) -> list[html.Th]:
    return list(table.children[1].children.children)


def column(table: html.Table, place: int) -> list[Any]:
    rows = table.children[2].children
    return [tabular.said(row.children[place].children) for row in rows if len(row.children) > 1]


def test_every_column_with_a_link_orders_its_table_and_no_other(source: Fixed) -> None:
    seen = 0
    for path in dashboards.paths(source):
        before = dict(tabular.tables(list(app.page(source, path, "").main)))
        for caption, table in before.items():
            marked = [th for th in heads(table) if getattr(th, "aria-sort", None)]
            assert len(marked) <= 1, (path, caption)
            for place, th in enumerate(heads(table)):
                if not isinstance(th.children, dcc.Link):
                    continue
                seen += 1
                page = app.page(source, path, urlsplit(th.children.href).query)
                after = dict(tabular.tables(list(page.main)))
                (chosen,) = (th for th in heads(after[caption]) if getattr(th, "aria-sort", None))
                where = heads(after[caption]).index(chosen)
                assert where == place, (path, caption, place)
                values = [v.value for v in column(after[caption], place) if isinstance(v, Number)]
                down = getattr(chosen, "aria-sort") == "descending"
                assert values == sorted(values, reverse=down), (path, caption, place)
                for other in before.keys() - {caption}:
                    assert column(after[other], 0) == column(before[other], 0), (path, caption, other)
    assert seen > 300


def test_a_click_again_turns_the_order_round(source: Fixed) -> None:
    def lost(search: str) -> tuple[str, list[float], str]:
        table = dict(tabular.tables(list(app.page(source, "/jobs", search).main)))["Jobs"]
        names = [" ".join(tabular.said(th).split()).rstrip(" ▾▴") for th in heads(table)]
        th = heads(table)[names.index("GPU-h lost")]
        values = [float(v.value) for v in column(table, names.index("GPU-h lost"))]
        return getattr(th, "aria-sort", ""), values, urlsplit(th.children.href).query

    first, values, again = lost("")
    assert (first, values) == ("descending", sorted(values, reverse=True))
    second, turned, back = lost(again)
    assert (second, turned) == ("ascending", sorted(values))
    assert lost(back)[1] == values


def test_columns_whose_names_differ_in_signs_alone_are_told_apart() -> None:
    rows = [("a", Number("1", 1.0), Number("9", 9.0)), ("b", Number("2", 2.0), Number("3", 3.0))]
    made = listing(("Leaf", "s-1#", "s 1#"), rows, "", "Leaves", sort(""))
    ((_, table),) = tabular.tables(made)
    keys = [parse_qs(urlsplit(th.children.href).query)["sort"] for th in heads(table)]
    assert keys == [["leaf"], ["-s-1"], ["-column3"]]
    ((_, table),) = tabular.tables(listing(("Leaf", "s-1#", "s 1#"), rows, "", "Leaves", sort("-column3")))
    assert column(table, 2) == ["9", "3"]
