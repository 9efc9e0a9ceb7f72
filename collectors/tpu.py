"""Google TPUs, from the metrics service that libtpu runs beside a workload.

What: the table `gpu`, one row a chip: activity (duty cycle of the TensorCore) and memory. Source: PCI devices
in sysfs say which chips there are; gRPC RuntimeMetricService on localhost:8431 (and the other ports of
TPU_RUNTIME_METRICS_PORTS) tells their metrics while a workload with the runtime metrics on is running. Cost:
three calls a port and read; grpcio is imported only where there is a TPU. Privilege: none. Not checked on
hardware. Messages: the subset of tpu.monitoring.runtime that is read here, by field number.
https://cloud.google.com/tpu/docs/tpu-monitoring-library
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Protocol

from wellfed.collectors.messages import Messages
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Tpu", "metrics_of", "request", "tpu_chips"]

_METHOD = "/tpu.monitoring.runtime.RuntimeMetricService/GetRuntimeMetric"
_DUTY = "tpu.runtime.tensorcore.dutycycle.percent"
_USED = "tpu.runtime.hbm.memory.usage.bytes"
_TOTAL = "tpu.runtime.hbm.memory.total.bytes"
_TIMEOUT = 0.5
#: A workload that starts is found within seconds; a proxy for the world must not see loopback calls.
_OPTIONS = (("grpc.max_reconnect_backoff_ms", 5000), ("grpc.enable_http_proxy", 0))

_VENDOR = "0x1ae0"
#: PCI device -> chip; v2 and v3 share one and differ in the subsystem.
_CHIPS = {
    "0x005e": "TPU v4",
    "0x0063": "TPU v5e",
    "0x0062": "TPU v5p",
    "0x006f": "TPU v6e",
    "0x0076": "TPU7x",
}
_OLD_CHIPS = {"0x004e": "TPU v2", "0x004f": "TPU v3"}

_MESSAGES = Messages(
    "tpu.monitoring.runtime",
    {
        "MetricRequest": {"metric_name": (1, "string")},
        "MetricResponse": {"metric": (1, "TPUMetric")},
        "TPUMetric": {"name": (1, "string"), "metrics": (3, "repeated Metric")},
        "Metric": {"attribute": (1, "Attribute"), "gauge": (3, "Gauge")},
        "Attribute": {"key": (1, "string"), "value": (2, "AttrValue")},
        "AttrValue": {"int_attr": (3, "int64")},
        "Gauge": {"as_double": (1, "double"), "as_int": (2, "int64")},
    },
)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read().strip()
    return ""


def tpu_chips(sys: str) -> list[tuple[str, str]]:
    """(PCI address, model) of the TPU chips below the sysfs at `sys`, in the order of their numbers."""
    root = f"{sys}/bus/pci/devices"
    addresses: list[str] = []
    with contextlib.suppress(OSError):
        addresses = sorted(os.listdir(root))
    chips = []
    for address in addresses:
        if _read(f"{root}/{address}/vendor") == _VENDOR:
            device = _read(f"{root}/{address}/device")
            model = _CHIPS.get(device) or _OLD_CHIPS.get(_read(f"{root}/{address}/subsystem_device"))
            if model:
                chips.append((address, model))
    return chips


def request(metric: str) -> bytes:
    """A MetricRequest for that metric, as it goes over the wire."""
    encoded: bytes = _MESSAGES.of("MetricRequest")(metric_name=metric).SerializeToString()
    return encoded


def metrics_of(response: bytes) -> dict[int, float]:
    """Device number -> value, of a MetricResponse. Raises ValueError where it is none."""
    message = _MESSAGES.of("MetricResponse")()
    try:
        message.ParseFromString(response)
    except Exception as error:  # protobuf's DecodeError differs by implementation
        raise ValueError(f"TPU metrics: not a MetricResponse: {error}") from error
    return {
        metric.attribute.value.int_attr: metric.gauge.as_double or float(metric.gauge.as_int)
        for metric in message.metric.metrics
    }


def by_chip(values: dict[int, float], chips: int) -> dict[int, float]:
    """Sums a metric that is told by core into chips; v2, v3 and 7x have two cores a chip."""
    cores = _cores(values, chips)
    summed: dict[int, float] = {}
    for device, value in values.items():
        summed[device // cores] = summed.get(device // cores, 0.0) + value
    return summed


def _cores(values: dict[int, float], chips: int) -> int:
    return max(1, len(values) // chips)


class _Channel(Protocol):
    def close(self) -> None: ...


@register
class Tpu:
    """The collector. addresses: of the metrics services; by default those of TPU_RUNTIME_METRICS_PORTS."""

    name = "tpu"
    interval = 5.0
    deadline = 4.0
    tables: tuple[str, ...] = ("gpu",)

    def __init__(self, addresses: Iterable[str] | None = None) -> None:
        self.reason = "no TPU: no Google TPU on the PCI bus"
        self.remedy = ""
        ports = os.environ.get("TPU_RUNTIME_METRICS_PORTS", "8431")
        self._addresses = list(addresses or (f"localhost:{port}" for port in ports.split(",")))
        self._calls: dict[str, Callable[..., bytes]] = {}
        self._channels: list[_Channel] = []

    def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            channel.close()
        self._channels = []
        self._calls = {}

    def read(self, roots: Roots, now: float) -> list[Row]:
        """One row a chip; its identity alone while no workload tells metrics. Raises ValueError."""
        chips = tpu_chips(roots.sys)
        if not chips:
            self.reason, self.remedy = "no TPU: no Google TPU on the PCI bus", ""
            return []
        try:
            grpc = import_module("grpc")
        except ImportError:
            self.reason, self.remedy = "grpcio is not installed", "pip install grpcio"
            return _rows(chips, {}, {}, {})
        duty, used, total = (self._ask(grpc, metric) for metric in (_DUTY, _USED, _TOTAL))
        if duty or used:
            self.reason = self.remedy = ""
        else:
            self.reason = (
                f"no TPU metrics service at {', '.join(self._addresses)}: no workload with it is running"
            )
            self.remedy = "run the workload with TPU_RUNTIME_METRICS_PORTS=8431"
        cores = _cores(duty, len(chips))
        duty = {chip: share / cores for chip, share in by_chip(duty, len(chips)).items()}
        return _rows(chips, duty, by_chip(used, len(chips)), by_chip(total, len(chips)))

    def _ask(self, grpc: ModuleType, metric: str) -> dict[int, float]:
        """The metric from every service that answers in time."""
        found: dict[int, float] = {}
        for address in self._addresses:
            if address not in self._calls:
                channel = grpc.insecure_channel(address, options=_OPTIONS)
                self._channels.append(channel)
                self._calls[address] = channel.unary_unary(_METHOD)
            with contextlib.suppress(grpc.RpcError):
                answer = metrics_of(self._calls[address](request(metric), timeout=_TIMEOUT))
                # services of several processes may each number their chips from zero
                shift = 0 if found.keys().isdisjoint(answer) else max(found) + 1
                found |= {device + shift: value for device, value in answer.items()}
        return found


def _rows(
    chips: list[tuple[str, str]], duty: dict[int, float], used: dict[int, float], total: dict[int, float]
) -> list[Row]:
    rows = []
    for number, (address, model) in enumerate(chips):
        values: dict[str, float | None] = {}
        levels = {}
        if number in duty:
            levels["active_seconds"] = min(max(duty[number], 0.0), 100.0) / 100
            levels["idle_seconds"] = float(levels["active_seconds"] < 0.05)
        if number in used:
            values |= {"memory_used_bytes": used[number], "memory_total_bytes": total.get(number)}
        info = {"vendor": "tpu", "model": model, "index": str(number), "pci_address": address}
        rows.append(Row("gpu", (f"TPU-{address}",), values, info, levels))
    return rows
