"""One NVIDIA GPU, or one MIG slice of it, as a row of numbers that its prepared driver calls keep up to date.

What: everything of the table `gpu` that NVML knows. Source: prepared calls into libnvidia-ml; GPM where there
is one, else the driver's utilisation samples; slices have memory, processes and GPM of their own, the rest
belongs to their GPU. nvmlDeviceGetPcieThroughput is never called: it sleeps 20 ms. Processes are those with a
compute context. Cost: 40 us a tick beside the driver's own, which is in docs/hardware.md. Privilege: none.
"""

from __future__ import annotations

import ctypes
from array import array

import pynvml

from wellfed.collectors.gpm import Gpm
from wellfed.collectors.nvml_calls import Call, Context
from wellfed.collectors.nvml_fields import EACH_TICK, SELDOM, WITHOUT_GPM, Energy, Fields
from wellfed.collectors.nvml_page import INDEX, NULLS
from wellfed.collectors.nvml_samples import PLACES, Samples, Utilization

__all__ = ["Device"]

_NAN = float("nan")
_NULLS = array("d", NULLS)
_SM = pynvml.NVML_CLOCK_SM

#: Asked for at each tick, each slow one, or each thirtieth of those: some take the driver 0.2 and 2 ms.
_ALWAYS, _SLOW, _SELDOM = range(3)
#: Call, its functions, argument before the output or None, column, unit in SI, when.
_GAUGES: tuple[tuple[str, tuple[str, ...], int | None, str, float, int], ...] = (
    ("temperature", ("nvmlDeviceGetTemperature",), 0, "temperature_celsius", 1.0, _ALWAYS),
    ("clocks", ("nvmlDeviceGetClockInfo",), _SM, "sm_clock_hertz", 1e6, _ALWAYS),
    ("clocks", ("nvmlDeviceGetMaxClockInfo",), _SM, "sm_clock_max_hertz", 1e6, _SELDOM),
    ("power", ("nvmlDeviceGetEnforcedPowerLimit",), None, "power_limit_watts", 1e-3, _SLOW),
    ("link", ("nvmlDeviceGetCurrPcieLinkGeneration",), None, "pcie_gen", 1.0, _ALWAYS),
    ("link", ("nvmlDeviceGetCurrPcieLinkWidth",), None, "pcie_width", 1.0, _SLOW),
    ("link", ("nvmlDeviceGetMaxPcieLinkGeneration",), None, "pcie_gen_max", 1.0, _SELDOM),
    ("link", ("nvmlDeviceGetMaxPcieLinkWidth",), None, "pcie_width_max", 1.0, _SELDOM),
)
_THERMAL = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
_POWER = pynvml.nvmlClocksThrottleReasonSwPowerCap
_BRAKE = pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
_UNREADY_FABRIC = {
    pynvml.NVML_GPU_FABRIC_STATE_NOT_STARTED: "the fabric manager has not started on it",
    pynvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS: "the fabric manager is still setting it up",
}


class Device:
    """A GPU (instance None) or a MIG slice (instance = its GPU instance id).

    number: of the GPU among those of the machine, for the page. handle: NVML's, of the GPU or the slice.
    parent: the GPU's handle, for a slice. cut: whether it is cut into slices, which then have its activity.
    """

    def __init__(
        self,
        context: Context,
        number: int,
        uuid: str,
        handle: object,
        *,
        parent: object = None,
        instance: int | None = None,
        cut: bool = False,
    ) -> None:
        self.uuid = uuid
        self.row = array("d", _NULLS)
        self.pids: list[int] = []
        self.gpm: Gpm | None = None
        self._context = context
        self._number = number
        self._handle = handle
        self._where = handle if instance is None else parent
        self._instance = instance
        self.cut = cut
        self._sums = array("d", bytes(len(NULLS)))
        self._ticked = 0.0
        self._whole = instance is None
        self._seldom: Fields | None = None
        self._memory = _Memory(context, number, uuid, handle)
        self._processes = _Processes(context, number, uuid, handle)
        support = pynvml.c_nvmlGpmSupport_t()
        support.version = pynvml.NVML_GPM_SUPPORT_VERSION
        self._support = support
        self._asked = Call(
            context,
            number,
            uuid,
            "support",
            ("nvmlGpmQueryDeviceSupport",),
            (self._where, ctypes.byref(support)),
            about="GPM, the source of SM, tensor and memory activity",
        )
        if self._whole:
            self._prepare_whole()

    def _call(self, name: str, names: tuple[str, ...], *arguments: object) -> Call:
        return Call(self._context, self._number, self.uuid, name, names, (self._handle, *arguments))

    def _prepare_whole(self) -> None:
        context, number, handle = self._context, self._number, self._handle
        self._gauges = []
        for name, names, argument, column, unit, always in _GAUGES:
            value = (ctypes.c_uint * 1)()
            inputs = () if argument is None else (ctypes.c_uint(argument),)
            call = self._call(name, names, *inputs, value)
            self._gauges.append((call, value, INDEX[column], unit, always))
        self._reasons = ctypes.c_ulonglong()
        self._events = self._call(
            "reasons",
            ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
            ctypes.byref(self._reasons),
        )
        self._watts = (ctypes.c_uint * 1)()
        self._power = self._call("power", ("nvmlDeviceGetPowerUsage",), self._watts)
        self._power_samples = Samples(context, number, self.uuid, handle, pynvml.NVML_TOTAL_POWER_SAMPLES)
        self._utilization = Utilization(context, number, self.uuid, handle, self._sums)
        about = "throttling and ECC counters (nvmlDeviceGetFieldValues)"
        self._fields = Fields(context, number, self.uuid, handle, EACH_TICK, name="fields", about=about)
        self._energy = Energy()
        self._slow_ticks = 0
        self._links = _Links(context, number, self.uuid, handle)
        self._fabric = pynvml.c_nvmlGpuFabricInfo_v2_t()
        self._fabric_call = self._call("fabric", ("nvmlDeviceGetGpuFabricInfoV",), ctypes.byref(self._fabric))

    def blank(self) -> None:
        """Makes every signal null: the GPU sleeps or is lost."""
        self.row[:] = _NULLS
        self.pids = []

    def packed(self, xids: tuple[float, float]) -> bytes:
        """The row for the page. xids: count and number of the last."""
        self.row[INDEX["xid_errors"]], self.row[INDEX["xid_last"]] = xids
        return self.row.tobytes()

    def tick(self, now: float, *, slow: bool) -> None:
        """Brings the row up to date. slow: also what hardly ever changes."""
        if slow and self.gpm is None and not self.cut:
            self._open_gpm(now)
        self._memory.tick(self.row, now)
        self.pids = self._processes.tick(self.row, now)
        if self._whole:
            self._tick_whole(now, slow)
        if self.gpm is not None:
            self.gpm.store(self.row)
        if self._whole and not self.cut:
            if self.gpm is None or self.gpm.failing:
                self._store_utilization(now, slow)
            else:
                self._utilization.restart()
        self._ticked = now

    def _open_gpm(self, now: float) -> None:
        if not self._asked.run(now):
            return
        if not self._support.isSupportedDevice:
            self._asked.fail(pynvml.NVML_ERROR_NOT_SUPPORTED, now)
            return
        try:
            self.gpm = Gpm(self._context, self._number, self.uuid, self._where, self._instance, self._sums)
        except pynvml.NVMLError as error:
            self._asked.fail(error.value, now)

    def _tick_whole(self, now: float, slow: bool) -> None:
        row = self.row
        seldom = slow and self._slow_ticks % 30 == 0
        for call, value, place, unit, when in self._gauges:
            if when == _ALWAYS or (slow and (when == _SLOW or seldom or row[place] != row[place])):
                row[place] = value[0] * unit if call.run(now) else _NAN
        self._slow_ticks += slow
        self._fields.tick(row, now)
        if slow:
            if self._seldom is None:
                self._seldom = self._prepare_seldom()
            self._seldom.tick(row, now)
            row[INDEX["nvlink_down"]] = self._links.down(now)
            self._check_fabric(now)
        self._throttled(now)
        self._store_power(now)
        self._store_energy(now, read=slow)

    def _prepare_seldom(self) -> Fields:
        fields = SELDOM if self.gpm is not None else SELDOM + WITHOUT_GPM
        context, number, handle = self._context, self._number, self._handle
        about = "energy, PCIe and NVLink counters (nvmlDeviceGetFieldValues)"
        return Fields(context, number, self.uuid, handle, fields, name="counters", about=about)

    def _throttled(self, now: float) -> None:
        """Adds the time since the last tick to what slows the clocks now."""
        seconds = self._since(now)
        known = self._events.run(now)
        reasons = self._reasons.value if known else 0
        self._sum("throttle_thermal_seconds", seconds if reasons & _THERMAL else 0.0, known)
        self._sum("throttle_brake_seconds", seconds if reasons & _BRAKE else 0.0, known)
        capped = self.row[INDEX["throttle_power_seconds"]]
        if capped != capped:
            self._sum("throttle_power_seconds", seconds if reasons & _POWER else 0.0, known)

    def _store_energy(self, now: float, *, read: bool) -> None:
        place = INDEX["energy_joules"]
        if read:
            self._energy.read(self.row[place])
        else:
            self._energy.add(self.row[INDEX["power_watts"]] * self._since(now))
        self.row[place] = self._energy.joules

    def _since(self, now: float) -> float:
        """Seconds since the last tick; a GPU that slept longer than two did not go on as it does now."""
        return min(now - self._ticked, 2.0) if self._ticked else 0.0

    def _sum(self, column: str, grown: float, known: bool) -> None:
        place = INDEX[column]
        if known:
            self._sums[place] += grown
        self.row[place] = self._sums[place] if known else _NAN

    def _store_power(self, now: float) -> None:
        place = INDEX["power_watts"]
        if self.row[place] == self.row[place]:
            return
        samples = dict(self._power_samples.read(now)) if self._power_samples.supported else {}
        if samples:
            self.row[place] = sum(samples.values()) / len(samples) * 1e-3
        elif self._power.run(now):
            self.row[place] = self._watts[0] * 1e-3

    def _store_utilization(self, now: float, slow: bool) -> None:
        known = self._utilization.tick(now, slow=slow)
        for place in PLACES:
            self.row[place] = self._sums[place] if known else _NAN

    def _check_fabric(self, now: float) -> None:
        if self._fabric_call.run(now):
            unready = _UNREADY_FABRIC.get(self._fabric.state)
            if unready:
                self._context.problems.add(
                    self.uuid, "fabric", unready, "systemctl status nvidia-fabricmanager"
                )
            else:
                self._context.problems.clear(self.uuid, "fabric")


class _Memory:
    """Device memory: without what the driver reserves for itself, where the driver can tell it apart."""

    def __init__(self, context: Context, number: int, uuid: str, handle: object) -> None:
        names = ("nvmlDeviceGetMemoryInfo_v2",)
        self._value = pynvml.c_nvmlMemory_v2_t()
        self._value.version = pynvml.nvmlMemory_v2
        if context.symbol(*names) is None:
            names = ("nvmlDeviceGetMemoryInfo",)
            self._value = pynvml.c_nvmlMemory_t()
        self._call = Call(context, number, uuid, "memory", names, (handle, ctypes.byref(self._value)))

    def tick(self, row: array[float], now: float) -> None:
        known = self._call.run(now)
        row[INDEX["memory_used_bytes"]] = self._value.used if known else _NAN
        row[INDEX["memory_total_bytes"]] = self._value.total if known else _NAN


class _Processes:
    """Processes with a compute context; hidden in a container without the host's PID namespace."""

    def __init__(self, context: Context, number: int, uuid: str, handle: object) -> None:
        self._handle = handle
        self._count = ctypes.c_uint(0)
        self._call = Call(
            context,
            number,
            uuid,
            "processes",
            ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"),
            (),
            fine=(pynvml.NVML_ERROR_INSUFFICIENT_SIZE,),
        )
        self._prepare(64)

    def _prepare(self, size: int) -> None:
        self._buffer = (pynvml.c_nvmlProcessInfo_v2_t * size)()
        self._call.arguments = (self._handle, ctypes.byref(self._count), self._buffer)

    def tick(self, row: array[float], now: float) -> list[int]:
        self._count.value = len(self._buffer)
        known = self._call.run(now)
        if not known and self._count.value > len(self._buffer):
            self._prepare(self._count.value * 2)
            self._count.value = len(self._buffer)
            known = self._call.run(now)
        row[INDEX["processes"]] = self._count.value if known else _NAN
        if not known:
            return []
        return sorted({p.pid for p in self._buffer[: self._count.value] if p.pid})


class _Links:
    """NVLink links that are down. A GPU none of whose links was ever up has no NVLink: null."""

    def __init__(self, context: Context, number: int, uuid: str, handle: object) -> None:
        self._state = ctypes.c_uint(0)
        self._calls = [
            Call(
                context,
                number,
                uuid,
                "nvlink",
                ("nvmlDeviceGetNvLinkState",),
                (handle, ctypes.c_uint(link), ctypes.byref(self._state)),
                fine=(pynvml.NVML_ERROR_INVALID_ARGUMENT,),
            )
            for link in range(pynvml.NVML_NVLINK_MAX_LINKS)
        ]
        self._seen_up = False

    def down(self, now: float) -> float:
        states = []
        for call in self._calls:
            if call.run(now):
                states.append(self._state.value)
            elif not call.supported:
                break
        self._seen_up = self._seen_up or any(states)
        return float(states.count(0)) if states and self._seen_up else _NAN
