"""What happens when the driver hangs, goes, comes back, forbids or lacks something: the rest goes on."""

from __future__ import annotations

import os
import signal

import pytest

from tests.nvml.conftest import Node
from tests.nvml.test_signals import GPU0, GPU1, sampled
from wellfed.collectors.nvml import Nvml
from wellfed.collectors.registry import Row


def observed(rows: dict[str, Row], gpu: str) -> float:
    return rows[gpu].values.get("observed_seconds") or 0.0


def test_without_a_driver_there_is_no_row_no_worker_and_a_reason(node: Node) -> None:
    del node.environment["LD_LIBRARY_PATH"]
    collector = Nvml(node.environment)
    assert collector.read(node.roots, 0.0) == []
    assert collector.reason == "no NVIDIA driver: libnvidia-ml.so.1 not found"
    assert "install the driver" in collector.remedy
    assert not collector._watchdog.running


@pytest.mark.parametrize(
    ("function", "column"),
    [
        ("nvmlDeviceGetFieldValues", "energy_joules"),
        ("nvmlDeviceGetMemoryInfo_v2", "memory_used_bytes"),
        ("nvmlGpmSampleGet", "sm_active_seconds"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "processes"),
    ],
)
def test_a_call_that_hangs_on_one_gpu_costs_that_signal_alone(node: Node, function: str, column: str) -> None:
    before = observed(node.until(lambda rows: sampled(rows) and sampled(rows, GPU1)), GPU0)
    node.script({f"{function}:1": "hang"})
    rows = node.until(lambda rows: not rows[GPU1].values)
    assert set(rows) == {GPU0, GPU1}, "the GPUs stay visible"
    assert rows[GPU1].info["model"] == "Fake H100"
    assert node.collector.stuck
    assert "hangs" in node.collector.reason
    assert "GPU 1" in node.collector.reason

    rows = node.until(lambda rows: observed(rows, GPU0) > before + 0.2)
    assert column not in rows[GPU1].values
    assert rows[GPU1].values["temperature_celsius"] == 61
    assert column in rows[GPU0].values
    assert "left out" in node.collector.reason
    assert not node.collector.stuck

    node.script({f"{function}:1": None})
    node.until(lambda rows: column in rows[GPU1].values and not node.collector.reason)


def test_reading_never_waits_for_a_hanging_driver(node: Node) -> None:
    node.script(nvmlInitWithFlags="hang")
    node.collector = Nvml(node.environment, hang=0.2, opening=1.0, tick=0.1, retry=0.02)
    # On a busy machine a worker may not even have started within the limit.
    node.until(lambda rows: "hangs in init" in node.collector.reason, seconds=30)
    node.until(lambda rows: node.collector._watchdog.generation >= 2)
    assert node.slowest < 0.5
    node.script(nvmlInitWithFlags=None)
    node.until(sampled)


def test_a_gpu_that_hangs_when_opened_stays_visible_while_the_others_go_on(node: Node) -> None:
    before = observed(node.until(lambda rows: sampled(rows) and sampled(rows, GPU1)), GPU0)
    node.script({"nvmlDeviceGetHandleByIndex_v2:1": "hang"})
    os.kill(node.worker(), signal.SIGKILL)
    rows = node.until(lambda rows: observed(rows, GPU0) > before + 0.2)
    assert rows[GPU1].values == {}
    assert rows[GPU1].info["pci_address"] == "0000:11:00.0"
    node.script({"nvmlDeviceGetHandleByIndex_v2:1": None})
    node.until(lambda rows: rows[GPU1].values)


def test_counters_grow_across_workers(node: Node) -> None:
    rows = node.until(sampled)
    worker = node.worker()
    node.script({"xid:0": 43, "serial": 1})
    node.until(lambda rows: rows[GPU0].values.get("xid_last") == 43)
    before = node.read()[GPU0].values
    os.kill(worker, signal.SIGKILL)
    fallen: list[str] = []

    def beyond(rows: dict[str, Row]) -> bool:
        values = rows[GPU0].values
        fallen.extend(c for c, v in values.items() if c.endswith("_seconds") and (v or 0) < (before[c] or 0))
        return observed(rows, GPU0) > (before["observed_seconds"] or 0.0) + 0.2

    rows = node.until(beyond)
    assert not fallen
    assert node.worker() != worker
    assert rows[GPU0].values["xid_last"] == 43
    assert rows[GPU0].values["xid_errors"] == 1


def test_a_worker_that_dies_says_how(node: Node) -> None:
    node.until(sampled)
    os.kill(node.worker(), signal.SIGSEGV)
    node.until(lambda rows: "died: signal 11" in node.collector.reason)
    node.until(lambda rows: rows[GPU0].values)


def test_a_stopped_worker_is_replaced(node: Node) -> None:
    node.until(sampled)
    worker = node.worker()
    os.kill(worker, signal.SIGSTOP)
    node.until(lambda rows: not rows[GPU0].values)
    node.until(lambda rows: rows[GPU0].values)
    assert node.worker() != worker


def test_a_lost_gpu_is_null_until_it_is_back_and_the_other_goes_on(node: Node) -> None:
    node.until(lambda rows: sampled(rows, GPU1))
    node.script({"lost:1": 1})
    rows = node.until(lambda rows: not rows[GPU1].values.keys() - {"xid_errors", "xid_last"})
    assert rows[GPU0].values
    node.until(lambda rows: "lost" in node.collector.reason)
    assert "reset the GPU" in node.collector.remedy
    before = observed(node.until(lambda rows: sampled(rows)), GPU0)
    node.until(lambda rows: rows and observed(rows, GPU0) > before + 0.2)
    node.script({"lost:1": None})
    node.until(lambda rows: rows[GPU1].values.get("energy_joules") and not node.collector.reason)


@pytest.mark.parametrize(("code", "reason"), [(1, "reloaded"), (9, "not loaded"), (18, "differ in version")])
def test_a_driver_that_goes_is_found_again(node: Node, code: int, reason: str) -> None:
    node.until(sampled)
    node.script(driver=code)
    rows = node.until(lambda rows: not rows[GPU0].values)
    assert rows[GPU0].info["model"] == "Fake H100"
    node.until(lambda rows: reason in node.collector.reason)
    node.script(driver=None)
    node.until(lambda rows: rows[GPU0].values and not node.collector.reason)


def test_an_old_driver_gives_what_it_has_and_the_reason_names_what_it_lacks(old_node: Node) -> None:
    values = old_node.until(sampled)[GPU0].values
    assert values["memory_used_bytes"] == 20 << 30
    assert values["processes"] == 1
    assert values["throttle_brake_seconds"] == 0
    assert "sm_active_seconds" not in values
    assert (
        "GPM, the source of SM, tensor and memory activity: missing in this driver"
        in old_node.collector.reason
    )
    assert old_node.collector.remedy == "update the NVIDIA driver"


def test_a_permission_lost_takes_its_signals_and_gives_them_back(node: Node) -> None:
    node.until(sampled)
    node.script(nvmlGpmSampleGet=4)
    node.until(lambda rows: "sm_active_seconds" not in rows[GPU0].values)
    node.until(lambda rows: "no permission" in node.collector.reason)
    assert "as root" in node.collector.remedy
    before = observed(node.until(lambda rows: "observed_seconds" in rows[GPU0].values), GPU0)
    node.until(lambda rows: observed(rows, GPU0) > before + 0.2)
    node.script(nvmlGpmSampleGet=None)
    node.until(lambda rows: "sm_active_seconds" in rows[GPU0].values and not node.collector.reason)


def test_a_field_that_is_forbidden_is_null_while_the_others_are_read(node: Node) -> None:
    node.script({"field:83": 4})
    values = node.until(sampled)[GPU0].values
    assert "energy_joules" not in values
    assert values["ecc_corrected"] == 0
    assert "no permission" in node.collector.reason
    node.script({"field:83": None})
    node.until(lambda rows: rows[GPU0].values.get("energy_joules") and not node.collector.reason)


def test_a_gpu_that_cannot_be_opened_is_named_and_the_other_is_read(node: Node) -> None:
    node.script({"nvmlDeviceGetHandleByIndex_v2:1": 8})
    rows = node.until(sampled)
    assert set(rows) == {GPU0}
    assert "GPU 1: open: the power cables are not attached" in node.collector.reason


def test_a_fabric_that_is_not_ready_is_told(node: Node) -> None:
    node.script(fabric=1)
    node.until(lambda rows: "fabric manager has not started" in node.collector.reason)
    node.script(fabric=3)
    node.until(lambda rows: not node.collector.reason)


def asleep_node(node: Node, status: str) -> None:
    for place in range(2):
        device = f"bus/pci/devices/0000:{0x10 + place:02x}:00.0"
        node.put("sys", f"{device}/vendor", "0x10de\n")
        node.put("sys", f"{device}/class", "0x030200\n")
        node.put("sys", f"{device}/power/runtime_status", f"{status if place else 'active'}\n")


def test_a_sleeping_gpu_is_not_touched_until_it_wakes(node: Node) -> None:
    asleep_node(node, "suspended")
    node.put(
        "proc",
        "driver/nvidia/gpus/0000:11:00.0/information",
        "Model: \t\t Fake H100\nIRQ:   \t\t 46\nGPU UUID: \t GPU-00000001\nBus Type: \t PCIe\n",
    )
    rows = node.until(sampled)
    assert rows[GPU1].values == {}
    assert rows[GPU1].info == {
        "vendor": "nvidia",
        "index": "1",
        "model": "Fake H100",
        "pci_address": "0000:11:00.0",
    }
    assert 1 not in {gpu for _, gpu in node.calls()}
    asleep_node(node, "active")
    node.until(lambda rows: sampled(rows, GPU1))
    asleep_node(node, "suspended")
    node.until(lambda rows: "temperature_celsius" not in rows[GPU1].values)
    calls = len(node.calls())
    node.until(lambda rows: len(node.calls()) > calls + 200)
    assert 1 not in {gpu for _, gpu in node.calls()[calls:]}
