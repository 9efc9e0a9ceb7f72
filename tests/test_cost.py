"""Energy, tokens and money: what a waiting GPU drew, and that the parts add up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from wellfed.analysis.cost import USAGE, efficiency, mean_price, priced, tokens, usage
from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.scenarios import Artefacts, simulate
from wellfed.prices import Prices

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def windows(lost: list[float], joules: list[float | None], **columns: Any) -> pl.LazyFrame:
    rows = {
        "ts": [T0 + timedelta(seconds=10 * i) for i in range(len(lost))],
        "host": "n", "gpu": "g", "job": "j", "model": "NVIDIA H100", "dt": 10.0, "observed_seconds": 10.0,
        "covered_seconds": 10.0, "lost_seconds": lost, "energy_joules": joules, "sm_clock_hertz": 1.98e9,
        "sm_clock_max_hertz": 1.98e9, "act": 1.0, "sm": 0.8, "tensor": 0.5, "dram": 0.3, "idle": 0.0, "spin": 0.0,
    }  # fmt: skip
    shape = pl.Schema({"energy_joules": pl.Float64, "lost_seconds": pl.Float64})
    return pl.DataFrame(rows | columns, schema_overrides=shape).lazy()


def test_a_waiting_gpu_loses_what_it_draws_beyond_its_work() -> None:
    # 600 W while fed, 120 W while it waits: half a window of waiting draws 600 J beyond 3,000 J of work.
    used = usage(windows([0.0, 0.0, 5.0], [6000.0, 6000.0, 3600.0])).collect()
    assert used["joules"].item() == 15_600
    assert used["joules_lost"].item() == pytest.approx(600)


def test_energy_of_a_gpu_that_was_never_fed_is_divided_by_time() -> None:
    assert usage(windows([4.0], [1000.0])).collect()["joules_lost"].item() == pytest.approx(400)


def test_what_was_not_measured_is_null_and_never_zero() -> None:
    used = usage(windows([1.0, 1.0], [None, None], tensor=None)).collect()
    assert used["joules"].item() is None
    assert used["joules_lost"].item() is None
    figures = efficiency(used, None, None)
    assert set(figures.values()) == {None}


def test_hardware_flop_utilisation_is_tensor_activity_times_clock() -> None:
    used = usage(windows([0.0], [6000.0], sm_clock_hertz=0.99e9)).collect()
    assert efficiency(used, None, None)["hardware_flop_utilization"] == pytest.approx(0.25)


def test_money_follows_the_model_of_each_gpu() -> None:
    used = pl.concat(
        [
            usage(windows([5.0], [1.0])).collect(),
            usage(windows([5.0], [1.0], gpu="h", model="NVIDIA A100")).collect(),
        ]
    )
    prices = Prices.parse("H100=4,A100=2")
    assert mean_price(prices, used) == pytest.approx(3.0)
    assert efficiency(used, None, prices)["cost_lost"] == pytest.approx(10 / 3600 * 3)
    scope = {"hosts": ["n"], "gpus": ["h"]}
    finding = {"scope": scope, "lost_gpu_seconds": 3600.0, "cost": None}
    assert priced([finding], prices, used)[0]["cost"] == pytest.approx(2.0)
    assert priced([finding], Prices.parse("H100=4"), used)[0]["cost"] is None
    assert efficiency(USAGE.to_frame(), None, prices)["cost_lost"] is None


def test_a_server_counts_for_the_job_of_its_gpu_or_the_only_job_of_its_host() -> None:
    used = pl.LazyFrame({"host": ["a", "b", "b"], "gpu": ["1", "2", "3"], "job": ["alone", "left", "right"]})
    step = pl.LazyFrame({"job": ["left"], "tokens": [7.0]})
    server = pl.LazyFrame(
        {
            "host": ["a", "b", "b"], "server": ["x", "y", "z"], "gpu": [None, "3", None],
            "prompt_tokens": [1.0, 10.0, 99.0], "generation_tokens": [2.0, 20.0, 99.0],
        }
    )  # fmt: skip
    assert dict(tokens(step, server, used).collect().iter_rows()) == {
        "alone": 3.0,
        "left": 7.0,
        "right": 30.0,
    }


@pytest.mark.parametrize("name", ["healthy-decode", "healthy-llm"])
def test_tokens_a_joule_are_told_where_somebody_counts_tokens(name: str) -> None:
    tables = {n: f.lazy() for n, f in simulate(name, seed=4, duration=900.0).tables.items()}
    totals = diagnose(tables).document["totals"]
    assert totals["tokens"] > 0
    assert totals["joules_per_token"] * totals["tokens_per_joule"] == pytest.approx(1)
    assert 0 <= totals["joules_lost"] < 0.05 * totals["joules"]


@pytest.mark.parametrize(
    ("name", "kind", "bound"),
    [
        ("healthy-decode", "inference", "memory"),
        ("healthy-llm", "training", "compute"),
        ("lustre-slow", "training", "input"),
        ("idle-bursts", "notebook", None),
    ],
)
def test_a_job_is_recognised_by_its_node_signals(name: str, kind: str, bound: str | None) -> None:
    made = simulate(name, seed=4, artefacts=Artefacts(no_step=True))
    document = diagnose({n: f.lazy() for n, f in made.tables.items()}).document
    lines = {(j["workload"]["kind"], j["workload"]["bound"]) for j in document["jobs"]}
    assert (kind, bound) in lines


def test_a_job_that_nobody_can_tell_is_not_named() -> None:
    made = simulate("healthy-llm", seed=4, duration=600.0, artefacts=Artefacts(no_step=True, no_gpm=True))
    tables = {n: f.lazy() for n, f in made.tables.items() if n == "gpu"}
    empty = {n: f.head(0).lazy() for n, f in made.tables.items() if n != "gpu"}
    work = diagnose(tables | empty).document["jobs"][0]["workload"]
    assert work["bound"] is None
    assert work["confidence"] <= 0.6
