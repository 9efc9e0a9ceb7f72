"""AWS Trainium and Inferentia, from neuron-monitor.

What: the table `gpu`, one row a Neuron device: activity, memory, ECC errors, processes. `active` is the
busiest of its NeuronCores, `sm_active` the mean over them. Source: the JSON lines of a neuron-monitor that
runs as long as the agent does; each line covers the period it names, so nothing is lost between reads. Cost:
one line a second, 0.2 ms each; neuron-monitor's own process. Privilege: none. Not checked on hardware.
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/tools/neuron-sys-tools/neuron-monitor-user-guide.html
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Device", "Neuron", "parse"]

_PROGRAM = "neuron-monitor"
_PLACES = "/opt/aws/neuron/bin:/opt/aws/bin"
_LOOK_AGAIN = 30.0
#: A monitor silent for this long is replaced.
_SILENT = 15.0
#: No machine has more; a line that says so is broken.
_MOST_DEVICES = 1024
_LONGEST_BACKOFF = 60.0
_SUMS = ("observed_seconds", "active_seconds", "sm_active_seconds", "idle_seconds")
_CONFIG = {
    "period": "1s",
    "neuron_runtimes": [
        {"tag_filter": ".*", "metrics": [{"type": "neuroncore_counters"}, {"type": "memory_used"}]}
    ],
    "system_metrics": [{"type": "neuron_hw_counters"}],
}


@dataclass(slots=True)
class Device:
    """One line's news of one Neuron device. gpu: its id, by instance and place; seconds: covered; cores: busy
    fraction by core, those in use only.
    """

    gpu: str
    index: int
    seconds: float
    cores_per_device: int
    cores: dict[int, float] = field(default_factory=dict)
    memory_used: float = 0.0
    memory_total: float | None = None
    corrected: float | None = None
    uncorrected: float | None = None
    pids: set[int] = field(default_factory=set)
    info: dict[str, str] = field(default_factory=dict)

    @property
    def active(self) -> float:
        """Busy fraction of the busiest core."""
        return min(1.0, max(self.cores.values(), default=0.0))

    @property
    def share(self) -> float:
        """Mean busy fraction of all its cores."""
        return sum(min(1.0, busy) for busy in self.cores.values()) / self.cores_per_device


def parse(line: bytes) -> list[Device]:
    """The devices of one line of neuron-monitor. Raises ValueError on anything that is not such a line."""
    try:
        document = json.loads(line)
        hardware = document["neuron_hardware_info"]
        instance = document.get("instance_info", {})
        name = instance.get("instance_id") or "local"
        count = int(hardware["neuron_device_count"])
        if not 0 <= count <= _MOST_DEVICES:
            raise ValueError(f"neuron_device_count is {count}")
        per_device = max(1, int(hardware["neuroncore_per_device_count"]))
        total = hardware.get("neuron_device_memory_size")
        counters = document.get("system_data", {}).get("neuron_hw_counters") or {}
        model = hardware.get("neuron_device_type") or instance.get("instance_type") or "neuron"
        devices = [
            Device(
                f"neuron-{name}-{index}",
                index,
                float(counters.get("period", 0.0)),
                per_device,
                memory_total=total,
            )
            for index in range(count)
        ]
        for device in devices:
            device.info = {"vendor": "neuron", "model": str(model), "index": str(device.index)}
        for errors in counters.get("neuron_devices") or []:
            device = devices[int(errors["neuron_device_index"])]
            device.corrected = _sum(errors, "mem_ecc_corrected", "sram_ecc_corrected")
            device.uncorrected = _sum(errors, "mem_ecc_uncorrected", "sram_ecc_uncorrected")
        for runtime in document.get("neuron_runtime_data") or []:
            _add_runtime(devices, per_device, int(runtime["pid"]), runtime["report"])
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"{_PROGRAM}: unexpected output: {error!r}") from error
    return devices


def _sum(errors: Mapping[str, float], *names: str) -> float | None:
    known = [float(errors[name]) for name in names if name in errors]
    return sum(known) if known else None


def _add_runtime(
    devices: list[Device], per_device: int, pid: int, report: Mapping[str, Mapping[str, object]]
) -> None:
    """Adds what one process does to the devices it uses."""
    counters = report.get("neuroncore_counters", {})
    in_use = counters.get("neuroncores_in_use") or {}
    if not isinstance(in_use, dict):
        raise TypeError("neuroncores_in_use")
    for core, state in in_use.items():
        device = devices[int(core) // per_device]
        busy = float(state["neuroncore_utilization"]) / 100
        device.cores[int(core)] = device.cores.get(int(core), 0.0) + busy
        device.seconds = max(device.seconds, float(str(counters.get("period", 0.0))))
        device.pids.add(pid)
    used = report.get("memory_used", {}).get("neuron_runtime_used_bytes") or {}
    if not isinstance(used, dict):
        raise TypeError("neuron_runtime_used_bytes")
    by_core = used.get("usage_breakdown", {}).get("neuroncore_memory_usage") or {}
    for core, parts in by_core.items():
        devices[int(core) // per_device].memory_used += sum(float(part) for part in parts.values())


class _Monitor:
    """A running neuron-monitor, read without waiting."""

    def __init__(self, program: str, now: float) -> None:
        config = os.memfd_create("wellfed-neuron")
        try:
            os.write(config, json.dumps(_CONFIG).encode())
            self.process = subprocess.Popen(
                [program, "-c", f"/dev/fd/{config}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(config,),
            )
        finally:
            os.close(config)
        assert self.process.stdout is not None
        self._pipe = self.process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._rest = b""
        self.heard = now
        self.spoke = False

    def lines(self, now: float) -> Iterator[bytes]:
        """Whole lines that have arrived since the last call."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe, 1 << 20):
                self._rest += chunk
        *whole, self._rest = self._rest.split(b"\n")
        if whole:
            self.heard, self.spoke = now, True
        yield from (line for line in whole if line.strip())

    def end(self) -> None:
        """Kills it; it has nothing to lose."""
        self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)


@register
class Neuron:
    """The collector. path: where to look for neuron-monitor."""

    name = "neuron"
    interval = 1.0
    deadline = 2.0
    tables: tuple[str, ...] = ("gpu",)

    def __init__(self, path: str | None = None) -> None:
        self.reason = f"no AWS Neuron: {_PROGRAM} not found"
        self.remedy = ""
        self._path = f"{os.environ.get('PATH', os.defpath)}:{_PLACES}" if path is None else path
        self._monitor: _Monitor | None = None
        self._next_start = 0.0
        self._backoff = 1.0
        self._sums: dict[str, dict[str, float]] = {}
        self._latest: dict[str, Device] = {}

    def holders(self) -> dict[str, list[int]]:
        """Processes that use a device, as of the last line."""
        return {gpu: sorted(device.pids) for gpu, device in self._latest.items()}

    @property
    def starting(self) -> bool:
        """True until a neuron-monitor that runs has said its first line."""
        return self._monitor is not None and not self._monitor.spoke

    def close(self) -> None:
        """Ends neuron-monitor."""
        if self._monitor is not None:
            self._monitor.end()
            self._monitor = None

    def read(self, roots: Roots, now: float) -> list[Row]:
        """One row a device; their identities alone while neuron-monitor is silent. Raises ValueError."""
        clock = time.monotonic()
        if self._monitor is None and not self._start(clock):
            return self._identities()
        monitor = self._monitor
        assert monitor is not None
        ended = monitor.process.poll()
        for line in monitor.lines(clock):
            self._add(line)
            self.reason, self.remedy, self._backoff = "", "", 1.0
        if ended is not None or clock - monitor.heard > _SILENT:
            self.reason = f"{_PROGRAM} " + ("is silent" if ended is None else f"ended with status {ended}")
            self.remedy = f"run it by hand: {_PROGRAM}"
            self.close()
            self._next_start = clock + self._backoff
            self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)
        if self._monitor is None or not monitor.spoke:
            return self._identities()
        return [self._row(gpu, device) for gpu, device in self._latest.items()]

    def _start(self, clock: float) -> bool:
        if clock < self._next_start:
            return False
        program = shutil.which(_PROGRAM, path=self._path)
        if program is None:
            self._next_start = clock + _LOOK_AGAIN
            held = os.path.exists("/dev/neuron0")
            self.remedy = "install aws-neuronx-tools" if held else ""
            return False
        self.reason = f"{_PROGRAM} has not reported yet"
        self._monitor = _Monitor(program, clock)
        return True

    def _add(self, line: bytes) -> None:
        for device in parse(line):
            sums = self._sums.setdefault(device.gpu, dict.fromkeys(_SUMS, 0.0))
            sums["observed_seconds"] += device.seconds
            sums["active_seconds"] += device.active * device.seconds
            sums["sm_active_seconds"] += device.share * device.seconds
            sums["idle_seconds"] += device.seconds if device.active < 0.05 else 0.0
            self._latest[device.gpu] = device

    def _identities(self) -> list[Row]:
        return [Row("gpu", (gpu,), {}, dict(device.info)) for gpu, device in self._latest.items()]

    def _row(self, gpu: str, device: Device) -> Row:
        values: dict[str, float | None] = {
            **self._sums[gpu],
            "processes": float(len(device.pids)),
            "memory_used_bytes": device.memory_used,
            "memory_total_bytes": device.memory_total,
            "ecc_corrected": device.corrected,
            "ecc_uncorrected": device.uncorrected,
        }
        return Row("gpu", (gpu,), values, dict(device.info))
