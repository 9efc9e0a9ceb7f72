"""Our line-wise reader of metrics pages against prometheus_client's parser."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from wellfed.collectors.names import Name
from wellfed.collectors.samples import Sample, gather, parse

_NAMES = ["a", "a_total", "vllm:b_sum", "_c", "nan"]


def official(text: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (s.name, {k: v for k, v in s.labels.items() if v}, float(s.value))
        for family in text_string_to_metric_families(text)
        for s in family.samples
    ]


def same(ours: list[Sample], theirs: list[tuple[str, dict[str, str], float]]) -> bool:
    return len(ours) == len(theirs) and all(
        (o.name, o.labels) == t[:2] and (o.value == t[2] or (math.isnan(o.value) and math.isnan(t[2])))
        for o, t in zip(ours, theirs, strict=True)
    )


_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_SPACE = st.sampled_from(["", " ", "\t", "  "])
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))
_NUMBER = st.one_of(
    st.floats(width=64).map(repr),
    st.integers(-(10**300), 10**300).map(str),
    st.sampled_from(["+Inf", "-Inf", "NaN", "1e+06", "8.128902e+06", "0"]),
)


@st.composite
def lines(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(_NAMES))
    labels = draw(st.dictionaries(st.sampled_from(["le", "model_name", "_x", "gpu"]), _TEXT, max_size=3))
    inner = ",".join(f'{key}="{value.translate(_ESCAPED)}"' for key, value in labels.items())
    if inner:
        inner = f"{{{inner}{draw(st.sampled_from(['', ',']))}}}"
    stamp = draw(st.sampled_from(["", " 1700000000000"]))
    return f"{name}{inner}{draw(_SPACE) or ' '}{draw(_NUMBER)}{stamp}"


@given(st.lists(st.one_of(lines(), st.sampled_from(["", "# HELP d some text", "# TYPE d counter", "# a 1"]))))
def test_whatever_an_exporter_may_write_is_read_as_the_official_parser_reads_it(page: list[str]) -> None:
    text = "\n".join(page) + "\n"
    assert same(list(parse(text.encode(), _NAMES)), official(text))


@given(st.binary(max_size=200), st.sampled_from([b"a", b"a{", b'a{le="', b"nan ", b"# TYPE a "]))
def test_hostile_bytes_are_read_or_refused_in_one_line(tail: bytes, head: bytes) -> None:
    with contextlib.suppress(ValueError):
        for sample in parse(head + tail, _NAMES):
            assert sample.name in _NAMES


@given(st.text(alphabet='a{}"\\=, \n\t1.e+-#le', max_size=60))
def test_what_we_accept_of_almost_right_lines_the_official_parser_reads_alike(text: str) -> None:
    try:
        ours = list(parse(text.encode(), ["a"]))
        theirs = [sample for sample in official(text) if sample[0] == "a"]
    except ValueError:
        return
    assert same(ours, theirs)


@pytest.mark.parametrize(
    "line",
    ['a{le="1" 2', "a{le=1} 2", 'a{="1"} 2', "a", "a x", "a 1_000", "a{} 0x1", 'a{le="1"} 2 3 4', "a{le} 1"],
)
def test_a_broken_line_of_a_wanted_name_is_refused_and_of_another_passed_over(line: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        list(parse(line.encode(), ["a"]))
    assert list(parse(f"{line}\nb 1".encode(), ["b"])) == [Sample("b", {}, 1.0)]


def test_a_page_of_the_official_client_is_read_as_it_was_written() -> None:
    registry = CollectorRegistry()
    Gauge("running", 'with "quotes"\nand lines', ["model"], registry=registry).labels('m\\"\n{}').set(3)
    Counter("done", "", ["model"], registry=registry).labels("m,=").inc(5)
    Histogram("ttft_seconds", "", registry=registry).observe(0.25)
    text = generate_latest(registry)
    wanted = ["running", "done_total", "ttft_seconds_sum", "ttft_seconds_count"]
    assert list(parse(text, wanted)) == [
        Sample("running", {"model": 'm\\"\n{}'}, 3.0),
        Sample("done_total", {"model": "m,="}, 5.0),
        Sample("ttft_seconds_count", {}, 1.0),
        Sample("ttft_seconds_sum", {}, 0.25),
    ]


def test_series_are_summed_the_worst_counts_and_the_lowest_rank_wins() -> None:
    names = [
        Name("new", "kv"),
        Name("old", "kv", rank=1),
        Name("time_us", "seconds", factor=1e-6),
        Name("ops", "reads", where={"kind": "read|get"}),
    ]
    text = (
        b'old{m="x"} 9\nnew{m="x",e="0"} 0.25\nnew{m="x",e="1"} 0.75\nold{m="y"} 5\n'
        b'time_us{m="x"} 1e6\ntime_us{m="x",e="1"} 2e6\ntime_us{m="y"} NaN\n'
        b'ops{m="x",kind="read"} 1\nops{m="x",kind="get"} 2\nops{m="x",kind="reader"} 4\nops{kind="read"} 8\n'
    )
    samples = parse(text, {name.metric for name in names})
    assert gather(names, samples, lambda labels: labels.get("m"), worst=("kv",)) == {
        "x": {"kv": 0.75, "seconds": 3.0, "reads": 3.0},
        "y": {"kv": 5.0},
    }
