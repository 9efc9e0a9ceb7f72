"""Metrics of other senders land in the tables that our own agent fills."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from wellfed.analysis.receiver import Receiver, frames

NOW = 1_772_359_200.0
#: name, whether it is a sum, value, attributes
Said = tuple[str, bool, float, dict[str, str]]


def request(
    said: Iterable[Said], ts: float = NOW, host: str = "n1", delta: bool = False, whole: bool = False
) -> bytes:
    """Metrics as the Collector's hostmetrics receiver sends them: a resource for each scraper."""
    out = ExportMetricsServiceRequest()
    for index, (name, is_sum, value, attributes) in enumerate(said):
        metrics = out.resource_metrics.add()
        metrics.resource.attributes.add(key="host.name").value.string_value = host
        scope = metrics.scope_metrics.add()
        scope.scope.name = (
            "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/hostmetricsreceiver"
        )
        metric = scope.metrics.add(name=name)
        if is_sum:
            metric.sum.is_monotonic = True
            metric.sum.aggregation_temporality = (
                AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
                if delta
                else AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            )
        point = (metric.sum if is_sum else metric.gauge).data_points.add()
        # Each scraper has its own clock reading.
        point.time_unix_nano = int(ts * 1e9) + index * 1_000_000
        if whole:
            point.as_int = int(value)
        else:
            point.as_double = value
        for key, text in attributes.items():
            point.attributes.add(key=key).value.string_value = text
    return out.SerializeToString()


@pytest.fixture
def receiver() -> Iterable[Receiver]:
    taking = Receiver(None)  # type: ignore[arg-type]
    yield taking
    taking.close()


def stored(receiver: Receiver, body: bytes) -> dict[str, list[dict[str, object]]]:
    """Table -> rows without what is null."""
    decoded = receiver.decode(body, NOW)
    return {
        name: [{k: v for k, v in row.items() if v is not None} for row in frame.drop("ts").to_dicts()]
        for name, frame in frames(decoded.parts).items()
    }


@pytest.mark.parametrize("state", ["state", "cpu.mode"])
def test_cpu_times_of_all_cores_are_one_host(receiver: Receiver, state: str) -> None:
    said: list[Said] = []
    for cpu in ("cpu0", "cpu1"):
        for mode, seconds in (
            ("user", 10.0),
            ("system", 5.0),
            ("nice", 1.0),
            ("softirq", 0.5),
            ("interrupt", 0.25),
            ("wait", 2.0),
            ("idle", 100.0),
            ("steal", 7.0),
        ):
            said.append(("system.cpu.time", True, seconds, {"cpu": cpu, state: mode}))
    said.append(("system.cpu.load_average.1m", False, 1.5, {}))
    (row,) = stored(receiver, request(said))["host"]
    assert row == {
        "host": "n1",
        "cpu_busy_seconds": 33.5,
        "cpu_iowait_seconds": 4.0,
        "cpu_count": 2.0,
        "load1": 1.5,
    }


def test_memory_is_the_sum_of_its_states_and_the_cache_of_two(receiver: Receiver) -> None:
    states = {"used": 4e9, "free": 1e9, "cached": 2e9, "buffered": 5e8, "slab_reclaimable": 1e8}
    said: list[Said] = [("system.memory.usage", False, v, {"state": k}) for k, v in states.items()]
    (row,) = stored(receiver, request(said, whole=True))["host"]
    assert row == {"host": "n1", "memory_total_bytes": 7.5e9, "page_cache_bytes": 2.5e9}


def test_only_whole_disks_and_physical_interfaces_count(receiver: Receiver) -> None:
    said: list[Said] = []
    for device in ("nvme0n1", "nvme0n1p1", "sda", "sda2", "loop3", "dm-0"):
        for direction in ("read", "write"):
            said.append(("system.disk.io", True, 100.0, {"device": device, "direction": direction}))
        said.append(("system.disk.io_time", True, 3.0, {"device": device}))
        said.append(("system.disk.pending_operations", False, 1.0, {"device": device}))
    for device in ("eth0", "ib0", "lo", "veth12ab", "docker0", "cali9"):
        said.append(("system.network.io", True, 10.0, {"device": device, "direction": "receive"}))
    found = stored(receiver, request(said))
    assert [row["device"] for row in found["disk"]] == ["nvme0n1", "sda", "dm-0"]
    assert found["disk"][0] == {
        "host": "n1",
        "device": "nvme0n1",
        "read_bytes": 100.0,
        "written_bytes": 100.0,
        "busy_seconds": 3.0,
        "inflight": 1.0,
    }
    assert found["host"] == [{"host": "n1", "net_rx_bytes": 20.0}]


def test_gpus_by_the_semantic_conventions(receiver: Receiver) -> None:
    gpu = {"hw.id": "GPU-1", "hw.name": "H100", "hw.vendor": "NVIDIA"}
    typed = {**gpu, "hw.type": "gpu"}
    said: list[Said] = [
        ("hw.gpu.memory.usage", False, 5e9, gpu),
        ("hw.gpu.io", True, 7.0, {**gpu, "network.io.direction": "receive"}),
        ("hw.energy", True, 9.0, typed),
        ("hw.power", False, 300.0, typed),
        ("hw.errors", True, 2.0, {**typed, "error.type": "corrected"}),
        ("hw.temperature", False, 40.0, {"hw.id": "cpu-0", "hw.type": "cpu"}),
    ]
    (row,) = stored(receiver, request(said))["gpu"]
    assert row == {
        "host": "n1",
        "gpu": "GPU-1",
        "model": "H100",
        "vendor": "nvidia",
        "memory_used_bytes": 5e9,
        "pcie_rx_bytes": 7.0,
        "energy_joules": 9.0,
        "power_watts": 300.0,
        "ecc_corrected": 2.0,
    }


def test_a_utilisation_is_integrated_and_a_gap_is_not(receiver: Receiver) -> None:
    said: list[Said] = [("hw.gpu.utilization", False, 0.5, {"hw.id": "GPU-1", "hw.gpu.task": "general"})]
    found = []
    for ts in (0, 10, 20, 10, 30, 400, 410):
        (row,) = stored(receiver, request(said, NOW + ts))["gpu"]
        found.append((row["active_seconds"], row["observed_seconds"]))
    assert found == [(0, 0), (5, 10), (10, 20), (10, 20), (15, 30), (15, 30), (20, 40)]


def test_what_no_column_holds_is_counted_and_not_held_against_the_sender(receiver: Receiver) -> None:
    said: list[Said] = [
        ("process.cpu.time", True, 1.0, {}),
        ("system.processes.count", False, 1.0, {}),
        ("system.cpu.load_average.1m", False, 1.5, {"x": "y" * 2000}),
    ]
    decoded = receiver.decode(request(said), NOW)
    assert (decoded.points, decoded.rejected, decoded.parts) == (3, {"unknown": 3}, [])


def test_changes_instead_of_totals_and_senders_without_a_name_are_refused(receiver: Receiver) -> None:
    said: list[Said] = [("system.disk.io_time", True, 3.0, {"device": "sda"})]
    assert receiver.decode(request(said, delta=True), NOW).rejected == {"delta": 1}
    assert receiver.decode(request(said, host=""), NOW).rejected == {"no_host": 1}


def test_two_windows_in_one_request_are_two_rows(receiver: Receiver) -> None:
    body = request([("system.cpu.load_average.1m", False, 1.0, {})], NOW - 10)
    body += request([("system.cpu.load_average.1m", False, 2.0, {})], NOW)
    frame = frames(receiver.decode(body, NOW).parts)["host"].sort("ts")
    assert frame["load1"].to_list() == [1.0, 2.0]


def test_a_layout_is_not_taken_for_known_when_its_times_have_moved_apart(receiver: Receiver) -> None:
    found = []
    for apart in (0, 10, 0):
        body = request([("system.cpu.load_average.1m", False, 1.0, {})], NOW - apart)
        body += request([("system.cpu.logical.count", False, 2.0, {})], NOW)
        rows = frames(receiver.decode(body, NOW).parts)["host"].sort("ts")
        found.append(rows.select("load1", "cpu_count").rows())
    assert found == [[(1.0, 2.0)], [(1.0, None), (None, 2.0)], [(1.0, 2.0)]]
