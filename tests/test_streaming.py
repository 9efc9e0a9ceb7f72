"""Window by window, in stretches or all at once: the same answer, from a state that does not grow."""

from __future__ import annotations

import pickle
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.scenarios import Artefacts, simulate
from wellfed.analysis.schema import schema
from wellfed.analysis.segment import State, combine, cut, map_segment
from wellfed.analysis.streaming import Stream
from wellfed.analysis.windows import on_grid
from wellfed.collectors.catalog import TABLES

WINDOWS = 60
#: Late scrapes, wrong clocks, lost windows and an agent that restarts: what a cut must not make worse.
FLAWS = Artefacts(dropped=0.03, jitter_seconds=1.5, skew_seconds=2.0, restarts=1)


@cache
def given_tables() -> dict[str, pl.DataFrame]:
    made = simulate("straggler-host-storage", seed=5, gpus=16, duration=10.0 * WINDOWS, artefacts=FLAWS)
    return {name: made.tables[name] for name in TABLES if name in made.tables}


def lazy(tables: dict[str, pl.DataFrame]) -> dict[str, pl.LazyFrame]:
    return {n: tables[n].lazy() if n in tables else pl.LazyFrame(schema=schema(t)) for n, t in TABLES.items()}


def between(low: datetime, high: datetime) -> dict[str, pl.LazyFrame]:
    inside = (on_grid(10.0) > low) & (on_grid(10.0) <= high)
    return {name: rows.lazy().filter(inside) for name, rows in given_tables().items()}


Answer = tuple[pl.DataFrame, pl.DataFrame, list[dict[str, Any]]]


def answered(edges: list[int]) -> Answer:
    """The answer when the range is cut after these windows."""
    first = given_tables()["gpu"]["ts"].dt.round("10s").min()
    assert isinstance(first, datetime)
    stamps = [first + timedelta(seconds=10 * (n - 1)) for n in (0, *sorted(edges), WINDOWS + 2)]
    state = State(10.0)
    parts = [map_segment(between(low, high), state) for low, high in pairwise(stamps) if low < high]
    windows, shares, found = combine([p for p in parts if p is not None], 10.0)
    key = ["ts", "host", "gpu"]
    return windows.sort(key), shares.sort(*key, "cause"), sorted(found, key=lambda f: str(f["id"]))


@cache
def whole() -> Answer:
    return answered([])


def close(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    numbers = [c for c, t in left.schema.items() if t == pl.Float64]
    texts = left.drop(numbers).equals(right.drop(numbers))
    apart = left.select((pl.col(c) - right[c]).abs().max() for c in numbers)
    return texts and all((value or 0.0) < 1e-9 for value in apart.row(0))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, WINDOWS), max_size=6, unique=True))
def test_wherever_a_range_is_cut_the_answer_is_the_same(edges: list[int]) -> None:
    windows, shares, found = answered(edges)
    assert close(windows, whole()[0])
    assert close(shares, whole()[1])
    assert found
    assert len(found) == len(whole()[2])
    for mine, other in zip(found, whole()[2], strict=True):
        assert mine["lost_gpu_seconds"] == pytest.approx(other["lost_gpu_seconds"])
        assert mine["confidence"] == pytest.approx(other["confidence"], abs=2e-3)
        for name in ("cause", "scope", "start", "end", "detected", "culprits", "severity", "next_steps"):
            assert mine[name] == other[name], name


def test_diagnose_is_what_a_live_hub_said_window_by_window() -> None:
    stream, lost = Stream(), 0.0
    opened: dict[str, datetime] = {}
    for segment in cut(lazy(given_tables()), 10.0, windows=1):
        ends = [rows.select(on_grid(10.0).max()).collect().item() for rows in segment.values()]
        if not any(ends):
            continue
        now = max(filter(None, ends))
        verdict = stream.update(segment, now)
        lost += float(verdict.partial.windows["lost_seconds"].sum())
        for finding in verdict.findings:
            if finding["end"] is None:
                opened.setdefault(finding["id"], now)
    document = diagnose(lazy(given_tables())).document
    assert lost == pytest.approx(document["totals"]["lost_seconds"])
    assert document["findings"]
    for finding in document["findings"]:
        assert opened[finding["id"]] == datetime.fromisoformat(finding["detected"])


def test_state_does_not_grow_with_time() -> None:
    state, sizes = State(10.0), []
    for segment in cut(lazy(given_tables()), 10.0, windows=12):
        map_segment(segment, state)
        sizes.append(len(pickle.dumps((state.levels, state.baselines, state.debounce))))
    assert sizes[-1] <= 1.02 * sizes[2]
