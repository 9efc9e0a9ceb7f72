"""GPUs without GPM, seen by a dcgm-exporter: what is read of its page, and what is said where there is none."""

from __future__ import annotations

import contextlib
import time

import pytest
from exporters import exporter
from hypothesis import given
from hypothesis import strategies as st
from programs import free_port

from wellfed.collectors.dcgm import Dcgm, parse
from wellfed.collectors.endpoints import Endpoints
from wellfed.collectors.fetch import target
from wellfed.collectors.registry import Roots
from wellfed.collectors.sampler import Sampler

GPU = "GPU-11111111-2222-3333-4444-555555555555"
MIG = "MIG-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


def series(field: str, value: float, uuid: str = GPU, **labels: str) -> str:
    pairs = {"gpu": "0", "UUID": uuid, "pci_bus_id": "00000000:17:00.0", "modelName": "NVIDIA A100", **labels}
    inner = ",".join(f'{label}="{text}"' for label, text in pairs.items())
    return f"{field}{{{inner}}} {value}\n"


def page(uuid: str = GPU, sm: float | None = 0.2, **labels: str) -> bytes:
    fields = {
        "DCGM_FI_DEV_GPU_UTIL": 99.0,
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.8,
        "DCGM_FI_PROF_SM_ACTIVE": sm,
        "DCGM_FI_PROF_SM_OCCUPANCY": 0.1,
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.01,
        "DCGM_FI_PROF_DRAM_ACTIVE": 0.05,
        "DCGM_FI_PROF_PCIE_RX_BYTES": 5e6,
        "DCGM_FI_PROF_NVLINK_TX_BYTES": 7e9,
        "DCGM_FI_DEV_POWER_USAGE": 300.0,
    }
    known = {field: value for field, value in fields.items() if value is not None}
    return "".join(series(field, value, uuid, **labels) for field, value in known.items()).encode()


def roots(url: str) -> Roots:
    return Roots(endpoints=Endpoints(dcgm=target(url)))


def test_prof_gauges_become_seconds_and_bytes_a_second() -> None:
    (inside,) = parse(page()).values()
    assert inside.gpu == GPU
    assert inside.levels == {
        "observed_seconds": 1.0,
        "active_seconds": 0.8,
        "sm_active_seconds": 0.2,
        "sm_occupancy_seconds": 0.1,
        "tensor_active_seconds": 0.01,
        "dram_active_seconds": 0.05,
        "idle_seconds": 0.0,
        "spin_seconds": 1.0,
        "pcie_rx_bytes": 5e6,
        "nvlink_tx_bytes": 7e9,
    }
    assert inside.info == {
        "index": "0",
        "model": "NVIDIA A100",
        "pci_address": "00000000:17:00.0",
        "vendor": "nvidia",
    }


def test_without_sm_activity_nothing_is_said_of_spinning() -> None:
    (inside,) = parse(page(sm=None)).values()
    assert inside.levels["tensor_active_seconds"] == 0.01
    assert not {"sm_active_seconds", "spin_seconds"} & inside.levels.keys()


def test_a_gpu_that_pods_share_counts_once_and_shares_of_time_end_at_one() -> None:
    both = page(pod="a") + page(pod="b").replace(b"} 0.8\n", b"} 1.5\n")
    (inside,) = parse(both).values()
    assert inside.levels["active_seconds"] == 1.0
    assert inside.levels["pcie_rx_bytes"] == 5e6


def test_slices_of_one_gpu_are_told_apart_and_blanks_are_not_measured() -> None:
    text = page(GPU_I_ID="1") + page(GPU_I_ID="2").replace(b"} 0.05\n", b"} 140737488355328\n")
    found = {inside.gpu: inside.levels for inside in parse(text).values()}
    assert found.keys() == {f"{GPU}/1", f"{GPU}/2"}
    assert "dram_active_seconds" in found[f"{GPU}/1"]
    assert "dram_active_seconds" not in found[f"{GPU}/2"]


def test_an_exporter_with_utilisation_alone_says_nothing_that_the_driver_does_not() -> None:
    (inside,) = parse(series("DCGM_FI_DEV_GPU_UTIL", 50).encode()).values()
    assert inside.levels == {}


@given(st.binary(max_size=120))
def test_hostile_bytes_are_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse(b'DCGM_FI_PROF_SM_ACTIVE{UUID="GPU-1"' + text)


def test_where_there_is_no_driver_the_rows_are_its_own_and_integrated() -> None:
    with exporter(page()) as server:
        collector = Dcgm()
        sampler = Sampler([collector], roots(server.url))
        sampler.slots[0].tick(sampler.roots, 1000.0, 50.0)
        sampler.slots[0].tick(sampler.roots, 1010.0, 60.0)
        (row,) = sampler.slots[0].rows
        status = sampler.slots[0].status(60.0)
        collector.close()
    assert row.key == (GPU,)
    assert row.values["observed_seconds"] == 10.0
    assert row.values["sm_active_seconds"] == pytest.approx(2.0)
    assert row.values["pcie_rx_bytes"] == pytest.approx(5e7)
    assert status.values["success"] == 1.0
    assert "lower fidelity than GPM" in status.info["reason"]


def test_levels_of_gpus_that_the_driver_cannot_look_into_go_to_the_board_alone() -> None:
    with exporter(page(GPU_I_ID="3") + page("GPU-other") + page(MIG.upper())) as server:
        there = roots(server.url)
        mig = "MIG-other"
        there.board.devices = {MIG: (GPU, "7"), mig: (GPU.upper(), "3"), "GPU-other": ("GPU-other", "")}
        there.board.unseen = frozenset({MIG, mig})
        collector = Dcgm()
        before = time.monotonic()
        assert collector.read(there, 0.0) == []
        collector.close()
    assert collector.delivers
    assert there.board.levels.by_gpu.keys() == {MIG, mig}
    assert there.board.levels.taken >= before
    assert "2 GPUs" in collector.reason


def test_it_is_not_asked_while_the_driver_looks_into_every_gpu() -> None:
    with exporter(page()) as server:
        there = roots(server.url)
        there.board.devices = {GPU: (GPU, "")}
        collector = Dcgm()
        assert collector.read(there, 0.0) == []
        assert not server.requests
    assert collector.reason == "not needed: the driver looks into every GPU by itself"
    assert collector.remedy == ""


def test_without_an_exporter_the_reason_names_the_gpus_and_what_it_costs_the_verdict() -> None:
    there = roots(f"127.0.0.1:{free_port()}")
    there.board.devices = {GPU: (GPU, "")}
    there.board.unseen = frozenset({GPU})
    collector = Dcgm()
    assert collector.read(there, 0.0) == []
    assert GPU in collector.reason
    assert "nothing listens at" in collector.reason
    assert "spins in a collective" in collector.reason
    assert "--dcgm-url" in collector.remedy
    assert not collector.delivers


def test_an_exporter_that_went_or_broke_takes_its_levels_back() -> None:
    with exporter(page()) as server:
        there = roots(server.url)
        there.board.devices = {GPU: (GPU, "")}
        there.board.unseen = frozenset({GPU})
        collector = Dcgm()
        collector.read(there, 0.0)
        assert there.board.levels.by_gpu
        server.body = b'DCGM_FI_PROF_SM_ACTIVE{UUID="GPU-1"} much\n'
        with pytest.raises(ValueError, match="expected"):
            collector.read(there, 0.0)
        assert not there.board.levels.by_gpu
        server.body = page(sm=None)
        collector.read(there, 0.0)
        assert there.board.levels.by_gpu
        assert "SM_ACTIVE" in collector.remedy
        server.status = 503
        collector.read(there, 0.0)
        assert not there.board.levels.by_gpu
        collector.close()
