"""Every scenario: what it declares is what its truth holds, and its tables are what the catalog says."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from datetime import UTC, datetime
from functools import cache
from importlib import import_module

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from wellfed.analysis import scenarios
from wellfed.analysis.scenarios import SCENARIOS, Simulation, simulate
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

#: Losses a healthy job has too.
ORDINARY = {"checkpoint", "idle.startup", "phase.evaluation"}
SHORT = 900.0


@cache
def short(name: str) -> Simulation:
    return simulate(name, seed=3, duration=SHORT)


def changes(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Differences of all counters between consecutive rows of the same thing."""
    keys = list(dict.fromkeys(["host", *TABLES[name].keys]))
    counters = [c.name for c in TABLES[name].columns if c.kind == "counter"]
    return table.sort([*keys, "ts"]).select(
        *keys, *[(pl.col(c) - pl.col(c).shift(1)).over(keys) for c in counters]
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_tables_follow_the_catalog_and_counters_only_grow(name: str) -> None:
    tables = short(name).tables
    assert set(tables) == set(TABLES)
    for table, frame in tables.items():
        assert frame.schema == schema(TABLES[table])
        if frame.is_empty():
            continue
        deltas = changes(frame, table).drop(*TABLES[table].keys, "host", strict=False)
        for counter in deltas.columns:
            assert deltas.filter(pl.col(counter) < -1e-3).is_empty()


@pytest.mark.parametrize("name", SCENARIOS)
def test_truth_holds_the_declared_causes_and_healthy_scenarios_none(name: str) -> None:
    simulation, scenario = short(name), SCENARIOS[name]
    lost = dict(simulation.truth.group_by("cause").agg(pl.col("lost_seconds").sum()).iter_rows())
    gpus = simulation.tables["gpu"]["gpu"].n_unique()
    for cause in scenario.causes:
        assert lost[cause] > 0.002 * gpus * SHORT
    for cause in set(lost) - set(scenario.causes) - ORDINARY:
        assert not scenario.healthy
        assert cause.partition(".")[0] in {c.partition(".")[0] for c in scenario.causes} | {"straggler"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_gpu_loses_or_shows_more_than_the_window(name: str) -> None:
    simulation = short(name)
    most = simulation.truth.group_by("ts", "gpu").agg(pl.col("lost_seconds").sum())["lost_seconds"].max()
    assert most is None or float(str(most)) <= 10.0 + 1e-9
    deltas = changes(simulation.tables["gpu"], "gpu").drop_nulls("active_seconds")
    for column in ("active_seconds", "sm_active_seconds", "idle_seconds", "spin_seconds"):
        assert deltas.filter(pl.col(column) > 10.0 + 1e-3).is_empty()
    both = deltas.filter(pl.col("idle_seconds") + pl.col("spin_seconds") > 10.0 + 1e-3)
    assert both.is_empty() or simulation.tables["gpu"]["ts"].n_unique() < int(SHORT / 10)


def test_there_are_scenarios_for_every_cause_that_a_node_can_see() -> None:
    declared = {cause for scenario in SCENARIOS.values() for cause in scenario.causes}
    assert len(SCENARIOS) >= 40
    assert sum(scenario.healthy for scenario in SCENARIOS.values()) >= 15
    assert declared == {
        "storage.read", "storage.remote", "storage.metadata", "storage.object", "cpu.preprocess", "cpu.quota",
        "memory.pressure", "pcie.copy", "pcie.degraded", "fabric.collective", "fabric.link",
        "fabric.congested", "straggler", "checkpoint", "host.launch", "throttle.thermal", "throttle.power",
        "hardware.fault", "idle.held", "idle.startup", "idle.gap", "phase.evaluation", "serve.no_traffic",
        "serve.low_load", "serve.kv_full",
    }  # fmt: skip


def test_same_seed_gives_the_same_frames_and_another_seed_does_not() -> None:
    first = simulate("throttle-one-gpu", seed=5, duration=300.0)
    again = simulate("throttle-one-gpu", seed=5, duration=300.0)
    other = simulate("throttle-one-gpu", seed=6, duration=300.0)
    for name, table in first.tables.items():
        assert_frame_equal(table, again.tables[name])
    assert_frame_equal(first.truth, again.truth)
    assert not first.tables["gpu"].equals(other.tables["gpu"])


def test_size_length_and_end_are_those_asked_for() -> None:
    end = datetime(2026, 1, 5, 8, 0, 7, tzinfo=UTC)
    simulation = simulate("healthy-llm", gpus=24, duration=120.0, end=end)
    gpu = simulation.tables["gpu"]
    assert gpu["gpu"].n_unique() == 24
    assert gpu["ts"].max() == datetime(2026, 1, 5, 8, 0, 0, tzinfo=UTC) == simulation.end
    assert gpu["ts"].n_unique() == 12


def test_culprits_name_the_hit_ranks_only() -> None:
    simulation = short("throttle-one-gpu")
    assert simulation.culprits.select("cause", "root").rows() == [("straggler", "throttle.thermal")]
    guilty = simulation.culprits["gpu"][0]
    victims = simulation.truth.filter(pl.col("cause") == "straggler")["gpu"].unique()
    assert guilty not in victims.to_list()
    assert victims.len() == simulation.tables["gpu"]["gpu"].n_unique() - 1


def test_unknown_scenario_is_a_user_error_that_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="nfs-slow-server"):
        simulate("nfs-fast-server")


def test_the_simulator_knows_nothing_of_the_diagnosis() -> None:
    allowed = (
        "wellfed.analysis.scenarios",
        "wellfed.analysis.schema",
        "wellfed.collectors.catalog",
        "wellfed.errors",
    )
    for module in pkgutil.iter_modules(scenarios.__path__):
        source = inspect.getsource(import_module(f"wellfed.analysis.scenarios.{module.name}"))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wellfed"):
                assert (node.module or "").startswith(allowed)
