"""GPUs without GPM, whose inside a dcgm-exporter tells: the levels on the board, integrated by the collector."""

from __future__ import annotations

import time

import pytest
from exporters import exporter

from tests.nvml.conftest import Node
from wellfed.collectors.board import Levels
from wellfed.collectors.dcgm import Dcgm
from wellfed.collectors.endpoints import Endpoints
from wellfed.collectors.fetch import target
from wellfed.collectors.nvml import LEVELS_HOLD, Monotone
from wellfed.collectors.registry import Roots, Row
from wellfed.collectors.sampler import Sampler

GPU0, GPU1 = "GPU-00000000", "GPU-00000001"
LEVELS = {
    "observed_seconds": 1.0,
    "active_seconds": 0.9,
    "sm_active_seconds": 0.25,
    "idle_seconds": 0.0,
    "pcie_rx_bytes": 1e9,
}


def tell(node: Node, *gpus: str, age: float = 0.0) -> None:
    node.roots.board.levels = Levels(time.monotonic() - age, dict.fromkeys(gpus, LEVELS))


def grown(node: Node, gpu: str, before: dict[str, Row], seconds: float = 0.5) -> dict[str, float]:
    """What the counters of a GPU grew by until `seconds` more were observed."""

    def value(rows: dict[str, Row], column: str) -> float:
        return rows[gpu].values.get(column) or 0.0

    begin = value(before, "observed_seconds")
    after = node.until(lambda rows: value(rows, "observed_seconds") - begin > seconds)
    return {column: value(after, column) - value(before, column) for column in (*LEVELS, "spin_seconds")}


def test_levels_are_integrated_over_the_same_time_as_they_are_observed(node: Node) -> None:
    node.script(gpm=0)
    node.until(lambda _: node.roots.board.unseen == {GPU0, GPU1})
    tell(node, GPU0)
    first = node.until(lambda rows: "sm_active_seconds" in rows[GPU0].values)
    found = grown(node, GPU0, first)
    assert found["sm_active_seconds"] / found["observed_seconds"] == pytest.approx(0.25)
    assert found["active_seconds"] / found["observed_seconds"] == pytest.approx(0.9)
    assert "sm_active_seconds" not in node.read()[GPU1].values


def test_gpm_is_never_overridden(node: Node) -> None:
    node.until(lambda rows: rows.get(GPU0) and "sm_active_seconds" in rows[GPU0].values)
    assert node.roots.board.unseen == frozenset()
    tell(node, GPU0, GPU1)
    found = grown(node, GPU0, node.read())
    assert found["sm_active_seconds"] / found["observed_seconds"] == pytest.approx(0.5)


def test_counters_neither_jump_nor_fall_when_the_exporter_comes_and_goes(node: Node) -> None:
    node.script(gpm=0, util=50)
    rows = node.until(lambda rows: rows.get(GPU0) and (rows[GPU0].values.get("observed_seconds") or 0) > 0.5)
    begin = time.monotonic()
    last = rows[GPU0].values["observed_seconds"] or 0.0
    start = last
    for turn in range(4):
        if turn % 2:
            node.roots.board.levels = Levels()
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            if turn % 2 == 0:
                tell(node, GPU0)
            now = node.read()[GPU0].values["observed_seconds"] or 0.0
            assert now >= last
            last = now
            time.sleep(0.01)
    # Two clocks, the driver's and ours, each with a tick of slack at every change.
    assert last - start <= (time.monotonic() - begin) * 1.05 + 1.0


def test_what_the_driver_counts_itself_is_not_replaced(node: Node) -> None:
    node.script(gpm=0)
    rows = node.until(lambda rows: rows.get(GPU0) and "pcie_rx_bytes" in rows[GPU0].values)
    tell(node, GPU0)
    after = node.until(lambda rows: "sm_active_seconds" in rows[GPU0].values)
    assert after[GPU0].values["pcie_rx_bytes"] == rows[GPU0].values["pcie_rx_bytes"]


def test_levels_that_are_old_hold_no_longer(node: Node) -> None:
    node.script(gpm=0)
    node.until(lambda _: GPU0 in node.roots.board.unseen)
    tell(node, GPU0, age=LEVELS_HOLD)
    for _ in range(5):
        assert "sm_active_seconds" not in node.read()[GPU0].values


def test_slices_without_gpm_are_named_by_gpu_and_instance_and_their_gpu_is_not(node: Node) -> None:
    node.script({"gpm": 0, "mig:0": 2})
    node.until(lambda rows: len(rows) == 4)
    board = node.roots.board
    node.until(lambda _: len(board.unseen) == 3)
    slices = {gpu: place for gpu, place in board.devices.items() if gpu.startswith("MIG-")}
    assert board.unseen == {GPU1, *slices}
    assert {parent for parent, _ in slices.values()} == {GPU0}
    assert len({instance for _, instance in slices.values()}) == 2
    tell(node, *slices)
    rows = node.until(lambda rows: all("sm_active_seconds" in rows[gpu].values for gpu in slices))
    assert "sm_active_seconds" not in rows[GPU0].values


def test_a_counter_may_grow_on_anothers_word_and_skip_what_that_covers() -> None:
    sums = Monotone()
    assert sums.publish("g", "active_seconds", 10.0) == 10.0
    sums.skip("g", "active_seconds", 14.0)
    assert sums.add("g", "active_seconds", 1.5) == 11.5
    assert sums.publish("g", "active_seconds", 15.0) == 12.5
    sums.restart()
    assert sums.publish("g", "active_seconds", 1.0) == 13.5
    sums.skip("g", "active_seconds", 0.5)
    assert sums.add("g", "active_seconds", 0.0) == 13.5


def test_a_single_read_waits_for_the_gpus_and_only_then_asks_who_looks_into_them(node: Node) -> None:
    node.script(gpm=0)
    text = f'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{UUID="{GPU0}"}} 1\nDCGM_FI_PROF_SM_ACTIVE{{UUID="{GPU0}"}} 1\n'
    with exporter(text.encode()) as server:
        endpoints = Endpoints(dcgm=target(server.url))
        collectors = [Dcgm(), node.collector]
        sampler = Sampler(collectors, Roots(node.roots.proc, node.roots.sys, endpoints))
        rows = sampler.read_once().rows
        sampler.stop(timeout=0)
    assert {row.key[0] for row in rows if row.table == "gpu" and row.values} == {GPU0, GPU1}
    assert "activity inside 1 GPU is by" in collectors[0].reason
