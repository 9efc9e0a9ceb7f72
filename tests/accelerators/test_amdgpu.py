"""AMD GPUs, from trees that look like the kernel's."""

from __future__ import annotations

import doctest
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors import amdgpu
from wellfed.collectors.amdgpu import AmdGpu, parse_energy
from wellfed.collectors.registry import Roots, Row

FILES = {
    "unique_id": "5e1b1c6fd1e7ab31",
    "device": "0x74a1",
    "product_name": "AMD Instinct MI300X",
    "power/runtime_status": "active",
    "gpu_busy_percent": "87",
    "mem_busy_percent": "31",
    "mem_info_vram_total": "206141652992",
    "mem_info_vram_used": "20614165299",
    "current_link_speed": "16.0 GT/s PCIe",
    "max_link_speed": "32.0 GT/s PCIe",
    "current_link_width": "16",
    "max_link_width": "16",
    "pcie_replay_count": "4",
    "pp_dpm_sclk": "0: 132Mhz\n1: 2100Mhz *",
    "ras/umc_err_count": "ue: 1\nce: 20",
    "hwmon/hwmon5/power1_input": "412000000",
    "hwmon/hwmon5/power1_cap": "750000000",
    "hwmon/hwmon5/temp2_input": "55000",
    "hwmon/hwmon5/freq1_input": "1900000000",
}
GPU = "GPU-5e1b1c6fd1e7ab31"


def metrics(minor: int, offset: int, units: int, size: int = 288) -> bytes:
    table = bytearray(size)
    struct.pack_into("<HBB", table, 0, size, 1, minor)
    struct.pack_into("<Q", table, offset, units)
    return bytes(table)


def card(sys: Path, address: str = "0000:03:00.0", **changes: str) -> Path:
    folder = sys / "bus/pci/drivers/amdgpu" / address
    for name, text in (FILES | changes).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    (folder / "gpu_metrics").write_bytes(metrics(4, 24, 1000 << 16))
    return folder


@pytest.fixture
def collector() -> Iterator[AmdGpu]:
    collector = AmdGpu()
    yield collector
    collector.close()


def read(collector: AmdGpu, sys: Path) -> list[Row]:
    return collector.read(Roots(sys=str(sys)), 0.0)


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(amdgpu)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_card_is_read_in_si_units(tmp_path: Path, collector: AmdGpu) -> None:
    card(tmp_path)
    (row,) = read(collector, tmp_path)
    assert row.key == (GPU,)
    assert row.info == {
        "vendor": "amd",
        "model": "AMD Instinct MI300X",
        "index": "0",
        "pci_address": "0000:03:00.0",
    }
    assert {column: value for column, value in row.values.items() if value is not None} == pytest.approx(
        {
            "memory_used_bytes": 20614165299,
            "memory_total_bytes": 206141652992,
            "pcie_gen": 4,
            "pcie_gen_max": 5,
            "pcie_width": 16,
            "pcie_width_max": 16,
            "pcie_replays": 4,
            "power_watts": 412,
            "power_limit_watts": 750,
            "temperature_celsius": 55,
            "sm_clock_hertz": 1.9e9,
            "sm_clock_max_hertz": 2.1e9,
            "energy_joules": 1000,
            "ecc_corrected": 20,
            "ecc_uncorrected": 1,
        }
    )
    assert row.levels == {"active_seconds": 0.87, "idle_seconds": 0.0, "dram_active_seconds": 0.31}
    assert collector.reason == ""


def test_an_idle_card_is_idle(tmp_path: Path, collector: AmdGpu) -> None:
    card(tmp_path, gpu_busy_percent="4")
    assert read(collector, tmp_path)[0].levels["idle_seconds"] == 1.0


def test_a_sleeping_card_gives_its_identity_and_is_not_read(tmp_path: Path, collector: AmdGpu) -> None:
    folder = card(tmp_path, **{"power/runtime_status": "suspended"})
    (folder / "gpu_busy_percent").unlink()
    (folder / "gpu_busy_percent").mkdir()  # reading it would raise
    (row,) = read(collector, tmp_path)
    assert (row.values, row.levels) == ({}, {})
    assert row.info["model"] == "AMD Instinct MI300X"


def test_what_an_older_card_lacks_is_null(tmp_path: Path, collector: AmdGpu) -> None:
    folder = card(tmp_path)
    for name in ("unique_id", "mem_busy_percent", "ras/umc_err_count", "gpu_metrics"):
        (folder / name).unlink()
    (row,) = read(collector, tmp_path)
    assert row.key == ("GPU-0000:03:00.0",)
    assert "dram_active_seconds" not in row.levels
    assert row.values.get("ecc_corrected") is None
    assert row.values["energy_joules"] is None


def test_processes_are_told_by_gpu(tmp_path: Path, collector: AmdGpu) -> None:
    card(tmp_path)
    node = tmp_path / "class/kfd/kfd/topology/nodes/1"
    node.mkdir(parents=True)
    (node / "gpu_id").write_text("28851\n")
    (node / "properties").write_text("simd_count 1216\nlocation_id 768\ndomain 0\n")
    for pid, used in ((4242, "1048576"), (4243, "0")):
        process = tmp_path / f"class/kfd/kfd/proc/{pid}"
        process.mkdir(parents=True)
        (process / "vram_28851").write_text(f"{used}\n")
    (row,) = read(collector, tmp_path)
    assert row.values["processes"] == 1
    assert collector.holders() == {GPU: [4242]}


def test_without_a_card_there_is_a_reason(tmp_path: Path, collector: AmdGpu) -> None:
    assert read(collector, tmp_path) == []
    assert "no AMD GPU" in collector.reason


@pytest.mark.parametrize(("minor", "offset"), [(1, 24), (3, 24), (4, 24), (5, 88)])
def test_energy_is_found_in_every_revision_that_has_it(minor: int, offset: int) -> None:
    assert parse_energy(metrics(minor, offset, 3 << 16)) == 3


def test_energy_of_an_unknown_revision_is_null() -> None:
    assert parse_energy(metrics(9, 24, 3 << 16)) is None
    assert parse_energy(metrics(3, 24, (1 << 64) - 1)) is None


@given(st.binary(max_size=300))
def test_no_table_breaks_the_parser(table: bytes) -> None:
    energy = parse_energy(table)
    assert energy is None or energy >= 0
