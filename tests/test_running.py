"""What is remembered from window to window: right, in constant memory, and forgotten in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.analysis.running import RETAIN, Event, Mean, Quantile, Top, Track
from wellfed.analysis.schema import TS

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)


def rows(values: list[float | None], key: str = "a", step: float = 10.0) -> pl.DataFrame:
    stamps = [T0 + timedelta(seconds=step * n) for n in range(len(values))]
    return pl.DataFrame(
        {"ts": stamps, "key": [key] * len(values), "x": values},
        schema={"ts": TS, "key": pl.String, "x": pl.Float64},
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([0.1, 0.5, 0.95]))
def test_a_running_quantile_is_the_quantile_so_far_to_half_a_bin(values: list[float], q: float) -> None:
    track = Track(["key"], {"q": ("x", Quantile(q, 0, 1, 100))})
    told = track.run(rows(list(values)))["q"].to_list()
    for n, answer in enumerate(told, 1):
        exact = float(np.quantile(values[:n], q, method="inverted_cdf"))
        assert answer == pytest.approx(exact, abs=0.0051)


def test_geometric_bins_keep_the_relative_error() -> None:
    track = Track(["key"], {"q": ("x", Quantile(0.5, 1e-5, 100, 80, log=True))})
    told = track.run(rows([0.001, 0.002, 0.003]))["q"].to_list()
    assert told[-1] == pytest.approx(0.002, rel=0.12)


def test_a_fading_mean_starts_as_a_plain_one() -> None:
    track = Track(["key"], {"m": ("x", Mean(0.25, least=2))})
    told = track.run(rows([1.0, 3.0, None, 5.0, 5.0, 9.0]))["m"].to_list()
    assert told == [None, 2.0, 2.0, 3.0, 3.5, 3.5 + 0.25 * 5.5]


def test_the_largest_value_and_the_last_event_are_kept() -> None:
    track = Track(["key"], {"top": ("x", Top()), "at": ("x", Event())})
    told = track.run(rows([-2.0, -1.0, 4.0, None, 0.0]))
    assert told["top"].to_list() == [-2, -1, 4, 4, 4]
    event = (T0 + timedelta(seconds=20)).timestamp() * 1000
    assert told["at"].to_list() == [None, None, event, event, event]


def test_keys_are_apart_and_row_order_does_not_matter() -> None:
    both = pl.concat([rows([1.0, 2.0], "a"), rows([7.0, 3.0], "b")]).sample(fraction=1, shuffle=True, seed=3)
    told = Track(["key"], {"top": ("x", Top())}).run(both).sort("key", "ts")
    assert told["top"].to_list() == [1, 2, 7, 7]


def test_a_key_that_comes_back_after_long_starts_anew_and_is_forgotten_meanwhile() -> None:
    track = Track(["key"], {"top": ("x", Top())})
    track.run(pl.concat([rows([9.0], f"old-{n}") for n in range(10)]))
    later = rows([1.0]).with_columns(pl.col("ts") + timedelta(milliseconds=RETAIN + 20_000))
    track.run(later)
    store = track.inputs["top"][1]
    assert len(store.arrays["top"]) == 1
    back = rows([2.0], "old-3").with_columns(pl.col("ts") + timedelta(milliseconds=RETAIN + 30_000))
    assert track.run(back)["top"].to_list() == [2]
