"""TPUs, through a metrics service that runs in the test."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.registry import Roots, Row
from wellfed.collectors.tpu import Tpu, by_chip, metrics_of, request

DUTY = "tpu.runtime.tensorcore.dutycycle.percent"
USED = "tpu.runtime.hbm.memory.usage.bytes"
TOTAL = "tpu.runtime.hbm.memory.total.bytes"


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def nested(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def response(values: dict[int, float | int]) -> bytes:
    """A MetricResponse, encoded by hand: wire format, unknown fields and all."""
    metrics = b""
    for device, value in values.items():
        key = nested(1, b"device-id") + nested(2, varint(3 << 3) + varint(device))
        gauge = varint(1 << 3 | 1) + struct.pack("<d", value)
        if isinstance(value, int):
            gauge = varint(2 << 3) + varint(value)
        timestamp = nested(2, varint(1 << 3) + varint(1_700_000_000))
        metrics += nested(3, nested(1, key) + timestamp + nested(3, gauge))
    return nested(1, nested(1, b"name") + nested(2, b"description") + metrics)


class Service(grpc.GenericRpcHandler):
    """Answers every GetRuntimeMetric from a table."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = {request(metric): answer for metric, answer in answers.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method != "/tpu.monitoring.runtime.RuntimeMetricService/GetRuntimeMetric":
            return None
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, asked: bytes, context: grpc.ServicerContext) -> bytes:
        if asked not in self.answers:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such metric")
        return self.answers[asked]


class Machine:
    def __init__(self, sys: Path) -> None:
        self.sys = sys
        self.servers: list[grpc.Server] = []

    def chips(self, count: int, device: str = "0x0063", subsystem: str = "0x0000") -> None:
        for number in range(count):
            folder = self.sys / f"bus/pci/devices/0000:00:{4 + number:02x}.0"
            folder.mkdir(parents=True)
            for name, text in (("vendor", "0x1ae0"), ("device", device), ("subsystem_device", subsystem)):
                (folder / name).write_text(f"{text}\n")

    def serve(self, answers: dict[str, bytes]) -> str:
        server = grpc.server(ThreadPoolExecutor(1), handlers=[Service(answers)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.servers.append(server)
        return f"127.0.0.1:{port}"

    def read(self, *addresses: str) -> tuple[list[Row], Tpu]:
        collector = Tpu(addresses)
        try:
            return collector.read(Roots(sys=str(self.sys)), 0.0), collector
        finally:
            collector.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for server in machine.servers:
        server.stop(None).wait()


def test_chips_tell_their_duty_cycle_and_memory(machine: Machine) -> None:
    machine.chips(2)
    address = machine.serve(
        {
            DUTY: response({0: 87.5, 1: 2.0}),
            USED: response({0: 12 << 30, 1: 0}),
            TOTAL: response({0: 16 << 30, 1: 16 << 30}),
        }
    )
    (first, second), collector = machine.read(address)
    assert collector.reason == ""
    assert first.key == ("TPU-0000:00:04.0",)
    assert first.info == {
        "vendor": "tpu",
        "model": "TPU v5e",
        "index": "0",
        "pci_address": "0000:00:04.0",
    }
    assert first.levels == {"active_seconds": 0.875, "idle_seconds": 0.0}
    assert first.values == {"memory_used_bytes": 12 << 30, "memory_total_bytes": 16 << 30}
    assert second.levels == {"active_seconds": 0.02, "idle_seconds": 1.0}
    assert second.values["memory_used_bytes"] == 0


def test_two_cores_of_an_old_chip_are_one_row(machine: Machine) -> None:
    machine.chips(1, "0x0027", "0x004f")
    address = machine.serve(
        {DUTY: response({0: 50.0}), USED: response({0: 100, 1: 50}), TOTAL: response({0: 200, 1: 200})}
    )
    (row,), _ = machine.read(address)
    assert row.info["model"] == "TPU v3"
    assert row.levels["active_seconds"] == 0.5
    assert row.values == {"memory_used_bytes": 150, "memory_total_bytes": 400}


def test_one_service_for_each_process_gives_all_chips(machine: Machine) -> None:
    machine.chips(2)
    addresses = [machine.serve({DUTY: response({0: duty}), USED: response({0: 1})}) for duty in (10.0, 20.0)]
    rows, _ = machine.read(*addresses)
    assert [row.levels["active_seconds"] for row in rows] == [0.1, 0.2]


def test_without_a_workload_chips_are_known_but_nothing_about_them(machine: Machine) -> None:
    machine.chips(1)
    (row,), collector = machine.read("127.0.0.1:1")
    assert (row.values, row.levels) == ({}, {})
    assert row.info["model"] == "TPU v5e"
    assert "no TPU metrics service at 127.0.0.1:1" in collector.reason
    assert "TPU_RUNTIME_METRICS_PORTS" in collector.remedy


def test_without_a_tpu_there_is_a_reason(machine: Machine) -> None:
    rows, collector = machine.read("127.0.0.1:1")
    assert rows == []
    assert collector.reason.startswith("no TPU")


@given(st.dictionaries(st.integers(0, 10**6), st.floats(0, 1e300) | st.integers(0, 2**60), max_size=20))
def test_every_response_is_read_as_it_was_sent(values: dict[int, float | int]) -> None:
    assert metrics_of(response(values)) == {device: float(value) for device, value in values.items()}


@given(st.binary(max_size=60))
def test_other_bytes_are_no_reading_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(value, float) for value in metrics_of(data).values())


def test_a_response_cut_short_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="not a MetricResponse"):
        metrics_of(response({0: 1.0})[:-1])


def test_a_duty_cycle_told_by_core_is_averaged(machine: Machine) -> None:
    machine.chips(1, "0x0076")
    (row,), _ = machine.read(machine.serve({DUTY: response({0: 100.0, 1: 50.0})}))
    assert row.levels["active_seconds"] == 0.75


def test_memory_told_by_chip_stays_as_it_is() -> None:
    assert by_chip({0: 1.0, 1: 2.0}, 2) == {0: 1.0, 1: 2.0}
