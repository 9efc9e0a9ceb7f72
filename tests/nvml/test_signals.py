"""What a GPU that works is measured as."""

from __future__ import annotations

import pytest

from tests.nvml.conftest import Node
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.nvml_page import COLUMNS, DEVICE_COUNTERS, INTEGRALS
from wellfed.collectors.registry import Row

GPU0, GPU1 = "GPU-00000000", "GPU-00000001"


def sampled(rows: dict[str, Row], gpu: str = GPU0, seconds: float = 0.3) -> bool:
    return gpu in rows and (rows[gpu].values.get("observed_seconds") or 0.0) >= seconds


def test_every_column_is_in_the_catalog_with_its_kind() -> None:
    kinds = {column: TABLES["gpu"].column(column).kind for column in COLUMNS}
    assert {c for c, kind in kinds.items() if kind == "counter"} == {*INTEGRALS, *DEVICE_COUNTERS}


def test_a_gpu_tells_its_identity_and_gauges(node: Node) -> None:
    row = node.until(sampled)[GPU0]
    assert row.info == {
        "vendor": "nvidia",
        "index": "0",
        "model": "Fake H100",
        "pci_address": "0000:10:00.0",
    }
    expected = {
        "temperature_celsius": 61,
        "sm_clock_hertz": 1755e6,
        "sm_clock_max_hertz": 1980e6,
        "power_limit_watts": 700,
        "pcie_gen": 4,
        "pcie_gen_max": 5,
        "pcie_width": 8,
        "pcie_width_max": 16,
        "memory_total_bytes": 80 << 30,
        "memory_used_bytes": 19 << 30,
        "processes": 1,
        "ecc_uncorrected": 0,
        "xid_errors": 0,
    }
    assert {column: row.values[column] for column in expected} == pytest.approx(expected)
    assert node.collector.reason == ""


def test_activity_is_integrated_between_reads(node: Node) -> None:
    values = node.until(sampled)[GPU0].values
    observed = values["observed_seconds"] or 0.0
    shares = {column: (values[column] or 0.0) / observed for column in COLUMNS[1:8]}
    assert shares == pytest.approx(
        {
            "active_seconds": 0.8,
            "sm_active_seconds": 0.5,
            "sm_occupancy_seconds": 0.3,
            "tensor_active_seconds": 0.2,
            "dram_active_seconds": 0.4,
            "idle_seconds": 0.0,
            "spin_seconds": 0.0,
        }
    )
    assert values["pcie_tx_bytes"] == pytest.approx(100 * 2**20 * observed)
    assert values["pcie_rx_bytes"] == pytest.approx(200 * 2**20 * observed)


def test_a_metric_that_the_gpu_lacks_is_null_and_not_zero(node: Node) -> None:
    node.script({"metric:5": None, "field:94": 3, "field:138": 3, "field:139": 3})
    values = node.until(sampled)[GPU0].values
    assert {"tensor_active_seconds", "spin_seconds", "pcie_replays"}.isdisjoint(values)
    assert values["sm_active_seconds"] is not None
    assert values["nvlink_rx_bytes"] == pytest.approx(300 * 2**20 * (values["observed_seconds"] or 0.0))


def test_without_gpm_the_drivers_own_samples_are_integrated_once_each(node: Node) -> None:
    node.script(gpm=0)
    values = node.until(sampled)[GPU0].values
    assert values["active_seconds"] == pytest.approx(0.5 * (values["observed_seconds"] or 0.0))
    assert values["idle_seconds"] == 0
    assert "sm_active_seconds" not in values
    assert "GPM" in node.collector.reason
    first = values["observed_seconds"] or 0.0
    assert first < 5.0, "what the driver kept from before the start must not count"


def test_power_between_reads_is_the_mean_of_the_drivers_samples(node: Node) -> None:
    node.script({"field:185": 3, "field:186": 3})
    values = node.until(lambda rows: sampled(rows) and rows[GPU0].values.get("power_watts") == 250)[
        GPU0
    ].values
    assert values["power_watts"] == 250


def test_without_samples_the_utilisation_rate_is_held(node: Node) -> None:
    node.script({"gpm": 0, "nvmlDeviceGetSamples": 3, "util": 4})
    values = node.until(sampled)[GPU0].values
    assert values["active_seconds"] == pytest.approx(0.04 * (values["observed_seconds"] or 0.0))
    assert values["idle_seconds"] == values["observed_seconds"]


def test_a_driver_that_takes_no_samples_for_a_while_is_asked_for_the_rate(node: Node) -> None:
    node.script({"gpm": 0, "nvmlDeviceGetSamples": 6})
    values = node.until(sampled)[GPU0].values
    assert values["active_seconds"] == pytest.approx(0.5 * (values["observed_seconds"] or 0.0))
    node.script({"nvmlDeviceGetSamples": None})
    node.until(lambda rows: sampled(rows, seconds=(values["observed_seconds"] or 0.0) + 0.5))


def test_the_pcie_throughput_call_that_sleeps_is_never_made(node: Node) -> None:
    node.script(gpm=0)
    node.until(sampled)
    assert "nvmlDeviceGetPcieThroughput" not in {name for name, _ in node.calls()}


def test_a_32_bit_counter_goes_on_after_its_wrap(node: Node) -> None:
    node.script({"type:94": 1, "value:94": 4294967290})
    node.until(lambda rows: rows and rows[GPU0].values.get("pcie_replays") == 4294967290)
    node.script({"value:94": 4})
    node.until(lambda rows: rows[GPU0].values.get("pcie_replays") == 4294967300)


def test_a_counter_that_the_driver_resets_does_not_go_back(node: Node) -> None:
    node.script({"value:3": 70})
    node.until(lambda rows: rows and rows[GPU0].values.get("ecc_corrected") == 70)
    node.script({"value:3": 2})
    node.until(lambda rows: rows[GPU0].values.get("ecc_corrected") == 72)


def test_time_under_the_brake_and_hot_is_summed(node: Node) -> None:
    node.script(reasons=0x80 | 0x40)
    values = node.until(lambda rows: rows and (rows[GPU0].values.get("throttle_brake_seconds") or 0) > 0.2)[
        GPU0
    ].values
    assert values["throttle_thermal_seconds"] == pytest.approx(values["throttle_brake_seconds"])


def test_without_its_counter_time_under_the_power_cap_is_summed_from_the_bits(node: Node) -> None:
    node.script({"field:74": 3, "reasons": 0x4})
    node.until(lambda rows: rows and (rows[GPU0].values.get("throttle_power_seconds") or 0) > 0.2)


def test_xids_are_counted_as_they_happen(node: Node) -> None:
    node.until(sampled)
    node.script({"xid:1": 79, "serial": 1})
    node.until(lambda rows: rows[GPU1].values.get("xid_last") == 79)
    node.script(serial=2)
    rows = node.until(lambda rows: rows[GPU1].values.get("xid_errors") == 2)
    assert rows[GPU0].values["xid_errors"] == 0
    assert "xid_last" not in rows[GPU0].values


def test_mig_slices_are_rows_of_their_own_and_take_the_activity(node: Node) -> None:
    node.script({"mig:1": 2, "gpus": 2})
    rows = node.until(lambda rows: sampled(rows, "MIG-00000001-1"))
    assert set(rows) == {GPU0, GPU1, "MIG-00000001-0", "MIG-00000001-1"}
    slice_ = rows["MIG-00000001-1"]
    assert slice_.info["parent"] == GPU1
    assert slice_.info["index"] == "1:1"
    assert slice_.info["model"] == "Fake H100 MIG 1g.10gb"
    assert "energy_joules" not in slice_.values
    assert "observed_seconds" not in rows[GPU1].values
    assert "energy_joules" in rows[GPU1].values
    node.script({"mig:1": None})
    node.until(lambda rows: set(rows) == {GPU0, GPU1} and sampled(rows, GPU1))


def test_links_that_went_down_are_counted_and_a_gpu_without_nvlink_has_none(node: Node) -> None:
    assert "nvlink_down" not in node.until(sampled)[GPU0].values
    node.script(links=18, down=3)
    node.until(lambda rows: rows[GPU0].values.get("nvlink_down") == 3)


def test_holders_are_told_by_gpu_however_many(node: Node) -> None:
    node.script(processes=100)
    node.until(lambda rows: rows and rows[GPU1].values.get("processes") == 100)
    assert node.collector.holders()[GPU1] == list(range(1100, 1200))


def test_a_gpu_that_is_plugged_in_appears(node: Node) -> None:
    node.script(gpus=1)
    node.until(lambda rows: set(rows) == {GPU0})
    node.script(gpus=2)
    node.until(lambda rows: set(rows) == {GPU0, GPU1} and sampled(rows, GPU1))
