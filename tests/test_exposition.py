"""What we print is what Prometheus' own parsers read, value by value."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from wellfed.collectors.catalog import TABLES
from wellfed.collectors.exposition import Exposition, Family, labelled, number, wants_openmetrics
from wellfed.collectors.registry import Row


def render(found: list[Row], openmetrics: bool = False) -> bytes:
    return Exposition(openmetrics).render(found)


values = st.one_of(st.none(), st.floats(0, 1e18), st.integers(0, 2**53).map(float))
text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=12)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    out: dict[tuple[str, tuple[str, ...]], Row] = {}
    for _ in range(draw(st.integers(0, 6))):
        table = TABLES[draw(st.sampled_from(sorted(TABLES)))]
        key = tuple(draw(text) for k in table.keys if k != "host")
        cells = {c.name: draw(values) for c in table.signals if draw(st.booleans())}
        info = {c.name: draw(text) for c in table.infos if draw(st.booleans())}
        out[table.name, key] = Row(table.name, key, cells, info)
    return list(out.values())


def expected(found: list[Row]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    out = {}
    for row in found:
        table = TABLES[row.table]
        labels = dict(zip((k for k in table.keys if k != "host"), row.key, strict=True))
        labels |= {c.name: row.info[c.name] for c in table.infos if c.label and c.name in row.info}
        for column in table.signals:
            value = row.values.get(column.name)
            if value is not None:
                out[table.metric(column), frozenset(labels.items())] = value
    return out


def parsed(families: object) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in families  # type: ignore[attr-defined]
        for s in family.samples
        if not s.name.endswith("_info")
    }


@given(rows())
def test_both_formats_parse_to_the_values_that_went_in(found: list[Row]) -> None:
    want = expected(found)
    assert parsed(text_families(render(found).decode())) == want
    assert parsed(openmetrics_families(render(found, openmetrics=True).decode())) == want


def test_help_type_and_unit_come_from_the_catalog() -> None:
    found = [Row("gpu", ("GPU-1",), {"active_seconds": 1.5, "memory_used_bytes": 2.0}, {"index": "0"})]
    body = render(found, openmetrics=True).decode()
    assert "# TYPE wellfed_gpu_active_seconds counter\n" in body
    assert "# UNIT wellfed_gpu_active_seconds seconds\n" in body
    assert "# HELP wellfed_gpu_active_seconds Time with some kernel resident\n" in body
    assert 'wellfed_gpu_active_seconds_total{gpu="GPU-1",index="0"} 1.5\n' in body
    assert "# UNIT wellfed_gpu_memory_used_bytes bytes\n" in body
    assert body.endswith("# EOF\n")
    assert "# TYPE wellfed_gpu_active_seconds_total counter\n" in render(found).decode()


def test_a_null_signal_is_absent_and_a_measured_zero_is_zero() -> None:
    body = render([Row("host", (), {"load1": None, "cpu_count": 0.0})]).decode()
    assert "load1" not in body
    assert "wellfed_host_cpu_count 0\n" in body


def test_text_that_is_no_label_is_still_published() -> None:
    body = render([Row("collector", ("cpu",), {"success": 0.0}, {"reason": 'no "stat"\n'})]).decode()
    assert 'wellfed_collector_info{collector="cpu",reason="no \\"stat\\"\\n"} 1\n' in body


def test_numbers_are_exact() -> None:
    assert number(922159499729932.0) == "922159499729932"
    assert float(number(0.1)) == 0.1
    assert [number(x) for x in (math.nan, math.inf, -math.inf)] == ["NaN", "+Inf", "-Inf"]


@given(st.lists(rows(), min_size=2, max_size=5))
def test_a_kept_template_never_shows_what_was_measured_before(windows: list[list[Row]]) -> None:
    kept = Exposition()
    for window in windows:
        for moved in (0.0, 1.0):
            found = [
                Row(
                    r.table, r.key, {n: None if v is None else v + moved for n, v in r.values.items()}, r.info
                )
                for r in window
            ]
            assert kept.render(found) == Exposition().render(found)


def test_a_label_for_the_host_is_on_every_sample_and_per_cent_signs_survive() -> None:
    found = [Row("disk", ("100%s",), {"reads": 1.0}), Row("collector", ("cpu",), {}, {"reason": "5 % left"})]
    more = [Family("wellfed_agent_x", "counter", "A thing", [(labelled([("a", "b")]), 2.0), ("", 3.0)])]
    body = Exposition(labels=[("hostname", "n1")]).render(found, more).decode()
    assert 'wellfed_disk_reads_total{device="100%s",hostname="n1"} 1\n' in body
    assert 'wellfed_agent_x_total{a="b",hostname="n1"} 2\n' in body
    assert 'wellfed_agent_x_total{hostname="n1"} 3\n' in body
    samples = [line for line in body.splitlines() if not line.startswith("#")]
    assert all('hostname="n1"' in line for line in samples)
    body = Exposition(openmetrics=True).render(found, more).decode()
    assert {f.name for f in openmetrics_families(body)} >= {"wellfed_agent_x", "wellfed_disk_reads"}


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        # As Prometheus 2.42 and 3.x ask, and as 3.x asks with scrape_protocols turned around.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            True,
        ),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            True,
        ),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.3", False),
        ("application/openmetrics-text;q=0,*/*", False),
        ("application/openmetrics-text; q=nonsense", False),
        ("text/html,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_the_format_is_the_one_the_client_prefers(accept: str, wants: bool) -> None:
    assert wants_openmetrics(accept) is wants


@given(
    rows(), st.lists(st.lists(values | st.sampled_from([math.nan, math.inf, 1.0]), max_size=8), max_size=4)
)
def test_a_page_that_was_kept_is_the_page_made_anew(
    found: list[Row], changes: list[list[float | None]]
) -> None:
    kept = Exposition()
    assert kept.render(found) == render(found)
    for numbers in changes:
        places = [(row, name) for row in found for name in row.values]
        for (row, name), value in zip(places, numbers, strict=False):
            row.values[name] = value
        assert kept.render(found) == render(found)
