"""Which NVIDIA GPUs and MIG slices this machine has, opened for sampling; sleeping ones are left asleep.

What: opens NVML, finds the GPUs, keeps a Device for each that is awake and for its MIG slices. Source: sysfs
(PCI devices and power/runtime_status), /proc/driver/nvidia/gpus for the identity of a sleeping GPU, NVML for
the rest. Opening a handle wakes a GPU, so with one asleep the others are opened by PCI address instead of by
number. Cost: opening 0.1 s to some seconds a GPU, once; then one read of sysfs a GPU and tick. Privilege:
none.

Not checked on hardware: that nvmlInit and the count leave a suspended GPU asleep, as NVML's documents say. An
open GPU may keep itself from falling asleep, as with any other reader of NVML.
"""

from __future__ import annotations

import contextlib
import os

import pynvml

from wellfed.collectors.files import read
from wellfed.collectors.nvml_calls import Context, DriverGoneError, explain, remedy
from wellfed.collectors.nvml_device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _T = TypeVar("_T")

__all__ = ["Gpu", "Session", "sysfs_address", "sysfs_gpus"]

_FATAL = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)


def sysfs_address(bus_id: str) -> str:
    """NVML's bus id as sysfs spells it.

    >>> sysfs_address("00000000:3B:00.0")
    '0000:3b:00.0'
    """
    domain, _, rest = bus_id.partition(":")
    return f"{int(domain, 16):04x}:{rest.lower()}"


def _read(path: str) -> str:
    try:
        return read(path).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _or_gone(function: Callable[[], _T]) -> _T:
    """The function's result; an NVML error here means that there is no working driver."""
    try:
        return function()
    except pynvml.NVMLError as error:
        raise DriverGoneError(error.value) from None


def sysfs_gpus(sys: str) -> list[str]:
    """PCI addresses of the NVIDIA GPUs below the sysfs at `sys`, in PCI order; empty where it has no PCI."""
    root = f"{sys}/bus/pci/devices"
    try:
        addresses = sorted(os.listdir(root))
    except OSError:
        return []
    return [
        address
        for address in addresses
        if _read(f"{root}/{address}/vendor") == "0x10de"
        and _read(f"{root}/{address}/class").startswith("0x03")
    ]


class Gpu:
    """One GPU: what tells it from others, its Device while it is awake, and its slices."""

    def __init__(self, number: int, address: str, sys: str) -> None:
        self.number = number
        self.address = ""
        self.info = {"vendor": "nvidia"}
        self.uuid = ""
        self.handle: object = None
        self.device: Device | None = None
        self.slices: dict[str, tuple[Device, dict[str, str]]] = {}
        self.instances: dict[str, int] = {}
        self.lost = False
        self.dozing = False
        self._sys = sys
        self._status = ""
        if address:
            self.locate(address)

    def locate(self, address: str) -> None:
        """Tells where it is, once that is known."""
        self.address = address
        self.info["pci_address"] = address
        self._status = f"{self._sys}/bus/pci/devices/{address}/power/runtime_status"

    def devices(self) -> list[Device]:
        """The GPU and its slices, as far as they are open."""
        return [d for d in (self.device, *(device for device, _ in self.slices.values())) if d is not None]

    def asleep(self) -> bool:
        """Whether the kernel has suspended it: then it must not be touched."""
        return bool(self._status) and _read(self._status) in ("suspended", "suspending")


class Session:
    """NVML opened once. Raises DriverGoneError where it cannot be opened."""

    def __init__(self, context: Context, sys: str, proc: str) -> None:
        self._context = context
        self._sys = sys
        self._proc = proc
        context.page.enter(-1, "init")
        _or_gone(pynvml.nvmlInit)
        self.gpus = self._find()
        #: A GPU could not be opened: only a new process may find it.
        self.incomplete = False
        #: All were awake and counted by the driver.
        self.counted = not any(gpu.address for gpu in self.gpus)
        for gpu in self.gpus:
            self.open(gpu)

    def count(self) -> int:
        """GPUs that the driver sees now."""
        self._context.page.enter(-1, "count")
        found: int = pynvml.nvmlDeviceGetCount()
        return found

    def _find(self) -> list[Gpu]:
        addresses = sysfs_gpus(self._sys)
        gpus = [Gpu(number, address, self._sys) for number, address in enumerate(addresses)]
        if any(gpu.asleep() for gpu in gpus):
            return gpus
        return [Gpu(number, "", self._sys) for number in range(_or_gone(self.count))]

    def open(self, gpu: Gpu) -> None:
        """Makes the GPU's Device, unless it sleeps, was skipped or refuses."""
        gpu.dozing = gpu.asleep()
        if gpu.dozing:
            self._identify_asleep(gpu)
            return
        if (gpu.number, "handle") in self._context.skip or (gpu.number, "identity") in self._context.skip:
            self.incomplete = True
            return
        name = gpu.address or f"GPU {gpu.number}"
        try:
            self._context.page.enter(gpu.number, "handle")
            if gpu.address:
                gpu.handle = pynvml.nvmlDeviceGetHandleByPciBusId(gpu.address)
            else:
                gpu.handle = pynvml.nvmlDeviceGetHandleByIndex(gpu.number)
            self._context.page.enter(gpu.number, "identity")
            self._identify(gpu)
        except pynvml.NVMLError as error:
            if error.value in _FATAL:
                raise DriverGoneError(error.value) from None
            self.incomplete = True
            self._context.problems.add(name, "open", explain(error.value), remedy(error.value))
            return
        self._context.problems.clear(name, "open")
        self.slice(gpu)

    def _identify(self, gpu: Gpu) -> None:
        gpu.uuid = _text(pynvml.nvmlDeviceGetUUID(gpu.handle))
        if not gpu.address:
            gpu.locate(sysfs_address(_text(pynvml.nvmlDeviceGetPciInfo(gpu.handle).busId)))
        gpu.info["index"] = str(gpu.number)
        with contextlib.suppress(pynvml.NVMLError):
            gpu.info["index"] = str(pynvml.nvmlDeviceGetIndex(gpu.handle))
        gpu.info["model"] = _text(pynvml.nvmlDeviceGetName(gpu.handle))

    def _identify_asleep(self, gpu: Gpu) -> None:
        """Takes the identity from the driver's procfs, which does not touch the GPU."""
        if gpu.uuid:
            return
        text = _read(f"{self._proc}/driver/nvidia/gpus/{gpu.address}/information")
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        uuid = facts.get("GPU UUID", "").strip()
        gpu.info |= {"index": str(gpu.number), "model": facts.get("Model", "").strip()}
        if uuid and "?" not in uuid:
            gpu.uuid = uuid
        else:
            self._context.problems.add(
                gpu.address, "identity", "asleep, and its id is not known before it wakes"
            )

    def slice(self, gpu: Gpu) -> None:
        """Finds the GPU's MIG slices and makes a Device for the GPU and for each that is new."""
        found = self._mig(gpu)
        cut = found is not None
        if gpu.device is None or cut != gpu.device.cut:
            gpu.device = Device(self._context, gpu.number, gpu.uuid, gpu.handle, cut=cut)
        gpu.slices = {uuid: gpu.slices[uuid] for uuid in gpu.slices if found and uuid in found}
        for place, (uuid, (handle, instance, model)) in enumerate((found or {}).items()):
            info = gpu.info | {"parent": gpu.uuid, "model": model, "index": f"{gpu.info['index']}:{place}"}
            if uuid not in gpu.slices:
                device = Device(self._context, gpu.number, uuid, handle, parent=gpu.handle, instance=instance)
                gpu.slices[uuid] = (device, info)
            gpu.instances[uuid] = instance

    def _mig(self, gpu: Gpu) -> dict[str, tuple[object, int, str]] | None:
        """Slices by UUID: handle, GPU instance, model. None where MIG is off or there is none."""
        if self._context.skip.get((gpu.number, "mig")):
            return None
        self._context.page.enter(gpu.number, "mig")
        try:
            current, _ = pynvml.nvmlDeviceGetMigMode(gpu.handle)
            if current != pynvml.NVML_DEVICE_MIG_ENABLE:
                return None
            most = pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle)
        except pynvml.NVMLError:
            return None
        slices = {}
        for place in range(most):
            with contextlib.suppress(pynvml.NVMLError):
                handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, place)
                uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
                instance = pynvml.nvmlDeviceGetGpuInstanceId(handle)
                slices[uuid] = (handle, instance, _text(pynvml.nvmlDeviceGetName(handle)))
        return slices
