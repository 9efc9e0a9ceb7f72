"""Mechanisms: queues, threads, clocks and integrals behave as physics and arithmetic demand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wellfed.analysis.scenarios import simulate
from wellfed.analysis.scenarios.activities import activity
from wellfed.analysis.scenarios.clocks import Clocks
from wellfed.analysis.scenarios.faults import Parameters, level, shares
from wellfed.analysis.scenarios.kit import LLM, NFS, VIDEO
from wellfed.analysis.scenarios.plan import Fault, Identity, JobPlan, Node
from wellfed.analysis.scenarios.storage import respond
from wellfed.analysis.scenarios.timeline import Phase, Timeline, ramps

F = NDArray[np.float64]
WHO = Identity("slurm:1", "train", "ada", "lab", "slurm")
NODE = Node()


def answer(reading: float, **effects: float) -> tuple[float, float]:
    """(rtt, execution) of the filer with one host that has `reading` requests in flight."""
    parameters = Parameters([Fault("storage.remote", effects, 0.0)], 1, 1)
    parameters.update(1.0)
    flight = np.full((2, 1, 1), reading)
    found = respond(NFS, flight, 0.0 * flight, np.full((2, 1, 1), NFS.request), parameters)
    return float(found.rtt[0, 0, 0]), float(found.execution[0, 0, 0])


@given(st.floats(1, 400), st.floats(1.5, 50))
def test_a_slower_or_busier_server_takes_longer(reading: float, slower: float) -> None:
    assert answer(reading, service=slower)[0] > answer(reading)[0]
    assert answer(reading, capacity=1 / slower)[0] > answer(reading)[0]
    assert answer(reading + 20)[0] > answer(reading)[0]


def test_requests_beyond_the_slots_wait_in_the_client_and_not_at_the_server() -> None:
    rtt, execution = answer(64.0, slots=4 / NFS.slots)
    assert execution == pytest.approx(16 * rtt)
    assert rtt < 1.2 * answer(4.0)[0]


def test_an_idle_server_answers_in_its_service_time() -> None:
    assert answer(1.0)[0] == pytest.approx(NFS.rtt, rel=0.01)


@given(
    st.lists(st.floats(0.01, 30), min_size=1, max_size=20),
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_windows_cut_anywhere_add_up_to_the_whole(lengths: list[float], cuts: list[float]) -> None:
    rng = np.random.default_rng(len(lengths))
    parts = rng.dirichlet(np.ones(len(Phase)), len(lengths)) * np.array(lengths)[:, None]
    start = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    end = float(np.sum(lengths))
    edges = np.array([0.0, *sorted(end * cut for cut in cuts), end])
    line = Timeline(start, parts[:, :, None], edges)
    for phase in Phase:
        assert line.phase([phase]).sum() == pytest.approx(parts[:, phase].sum(), abs=1e-6)
    every = sum(line.phase([phase])[:, 0] for phase in Phase)
    np.testing.assert_allclose(every, np.diff(edges), atol=1e-6)


@given(st.lists(st.tuples(st.floats(-50, 150), st.floats(0, 60), st.floats(0, 5)), min_size=1, max_size=20))
def test_ramps_conserve_what_falls_inside(pieces: list[tuple[float, float, float]]) -> None:
    start, length, amount = (np.array(values)[:, None] for values in zip(*pieces, strict=True))
    edges = np.linspace(0.0, 100.0, 11)
    inside = np.clip(start + length, 0, 100) - np.clip(start, 0, 100)
    whole = np.where(length > 1e-6, inside / np.maximum(length, 1e-6), (start > 0) & (start < 100))
    if (length > 1e-6).all():
        assert ramps(start, start + length, amount, edges).sum() == pytest.approx(
            (whole * amount).sum(), abs=1e-4
        )


@given(st.lists(st.lists(st.floats(0.1, 5), min_size=8, max_size=8), min_size=1, max_size=6))
def test_the_parts_of_three_faults_add_up_to_what_all_cost(steps: list[list[float]]) -> None:
    durations = np.array(steps)
    parts = shares(durations, 3)
    np.testing.assert_allclose(parts.sum(axis=1), durations[:, 0] - durations[:, 1], atol=1e-9)


def test_faults_ramp_recur_and_end() -> None:
    fault = Fault("x", {}, 100.0, 500.0, ramp=10.0, every=200.0, length=50.0)
    assert [level(fault, at) for at in (99, 105, 120, 151, 310, 500)] == [0.0, 0.5, 1.0, 0.0, 1.0, 0.0]


def test_heat_lowers_the_clock_until_the_temperature_holds() -> None:
    shape = (2, 1, 1)
    none = np.zeros((1, 1))
    clocks = Clocks.at_rest(NODE, shape, 0.95, none)
    full, ones = np.ones(shape), np.ones(shape)
    for _ in range(120):
        clock = clocks.advance(10.0, full, 2.6 * ones, ones, 0.0 * ones, none)
    assert 0.5 < clock[0, 0, 0] < 0.9
    assert clocks.temperature[0, 0, 0] == pytest.approx(NODE.throttle_celsius, abs=2.0)


def test_a_power_cap_at_full_load_costs_little_clock_and_a_low_limit_much() -> None:
    shape = (2, 1, 1)
    ones, none = np.ones(shape), np.zeros((1, 1))
    clocks = Clocks.at_rest(NODE, shape, 1.05, none)
    assert clocks.advance(10.0, ones, ones, ones, 0 * ones, none)[0, 0, 0] > 0.92
    assert clocks.advance(10.0, ones, ones, 0.5 * ones, 0 * ones, none)[0, 0, 0] < 0.8


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 29), max_size=4, unique=True))
def test_a_job_read_out_in_pieces_is_the_job_read_out_at_once(cuts: list[int]) -> None:
    fault = Fault("storage.remote", {"capacity": 0.02}, 100.0, 200.0)
    work = replace(VIDEO, checkpoint=2e9, checkpoint_every=70.0, checkpoint_async=False)
    plan = JobPlan(WHO, work, hosts=2, gpus_each=2, storage=NFS, faults=(fault,))
    edges: F = np.arange(0.0, 310.0, 10.0)
    whole = activity(plan, NODE, 9).advance(edges)
    job = activity(plan, NODE, 9)
    bounds = [0, *sorted(cuts), 30]
    pieces = [job.advance(edges[a : b + 1]) for a, b in pairwise(bounds)]
    for name in ("steps", "data_wait_seconds", "checkpoint_seconds"):
        joined = np.concatenate([piece.steps[name] for piece in pieces])
        np.testing.assert_allclose(joined, whole.steps[name], atol=1e-6)
    for name in ("read_bytes", "read_rtt_seconds", "written_bytes"):
        joined = np.concatenate([piece.mounts[0].columns[name] for piece in pieces])
        np.testing.assert_allclose(joined, whole.mounts[0].columns[name], rtol=1e-6, atol=1.0)
    lost = np.concatenate([piece.losses[0].seconds for piece in pieces])
    np.testing.assert_allclose(lost, whole.losses[0].seconds, atol=1e-6)


def test_the_parts_of_a_step_are_all_of_it() -> None:
    step = simulate("checkpoint-heavy", duration=1200.0).tables["step"]
    parts = [
        "data_wait_seconds",
        "h2d_seconds",
        "compute_seconds",
        "comm_seconds",
        "checkpoint_seconds",
        "eval_seconds",
    ]
    keys = ["host", "rank"]
    deltas = step.sort(*keys, "ts").select(
        (pl.col(c) - pl.col(c).shift(1)).over(keys).alias(c) for c in ("step_seconds", *parts)
    )
    error = deltas.select((pl.sum_horizontal(parts) - pl.col("step_seconds")).abs().max()).item()
    assert error < 1e-6


def per_window(table: pl.DataFrame, top: str, bottom: str) -> list[float]:
    """Mean of top / bottom over the things of a table, per window."""
    return (
        table.group_by("ts")
        .agg(pl.col(top).sum(), pl.col(bottom).sum())
        .sort("ts")
        .select(pl.col(top).diff() / pl.col(bottom).diff())
        .to_series()[1:]
        .to_list()
    )


def test_a_slow_filer_raises_round_trips_and_pressure_and_lowers_activity() -> None:
    tables = simulate("nfs-contended", duration=1500.0).tables
    calm, sick = slice(20, 40), slice(80, 100)
    rtt = per_window(tables["mount"], "read_rtt_seconds", "reads")
    activity_ = per_window(tables["gpu"], "sm_active_seconds", "observed_seconds")
    assert np.mean(rtt[sick]) > 4 * np.mean(rtt[calm])
    assert np.mean(activity_[sick]) < 0.7 * np.mean(activity_[calm])
    job = tables["job"].with_columns(elapsed=pl.col("ts").dt.epoch("ms") / 1e3)
    pressure = per_window(job, "psi_io_some_seconds", "elapsed")
    assert np.mean(pressure[sick]) > 0.9


def test_a_saturated_server_delivers_its_capacity_and_no_more() -> None:
    store = replace(NFS, capacity=0.5e9)
    plan = JobPlan(WHO, VIDEO, hosts=1, gpus_each=8, storage=store)
    usage = activity(plan, NODE, 3).advance(np.arange(0.0, 910.0, 10.0))
    delivered = usage.mounts[0].columns["read_bytes"][30:].sum() / 600.0
    assert 0.85 * store.capacity < delivered < 1.05 * store.capacity


def test_a_job_without_faults_loses_nothing() -> None:
    plan = JobPlan(WHO, LLM, hosts=1, gpus_each=8)
    usage = activity(plan, NODE, 4).advance(np.arange(0.0, 130.0, 10.0))
    assert not usage.losses
    assert usage.steps["compute_seconds"].sum() > 0.9 * 120 * 8
