"""Prepared driver calls: arguments and output buffers are made once, a failing call backs off on its own.

What: `Call` wraps one NVML function for one device. Before it runs, its name and device go to the shared
page, so that the agent knows where a worker hangs. A call that fails leaves its signal null, says why in
`Problems` and is tried again after 1, 2, 4 ... 60 s. Source: libnvidia-ml through pynvml's loaded library.
Cost: 0.5 us over the bare call. Privilege: that of the call.
"""

from __future__ import annotations

import pynvml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wellfed.collectors.nvml_page import Writer

__all__ = ["Call", "Context", "DriverGoneError", "GpuLostError", "Problems", "explain", "remedy"]

_MIN_RETRY = 1.0
_MAX_RETRY = 60.0

_GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED: "the NVIDIA driver was reloaded",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver: libnvidia-ml.so.1 not found",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "libnvidia-ml and the loaded NVIDIA driver differ in version",
}
_LOST = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU is lost (it fell off the bus)",
    pynvml.NVML_ERROR_RESET_REQUIRED: "the GPU needs a reset",
}
_TEXT = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this GPU",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "missing in this driver",
    pynvml.NVML_ERROR_INSUFFICIENT_POWER: "the power cables are not attached",
    pynvml.NVML_ERROR_IRQ_ISSUE: "the driver has a problem with the GPU's interrupt",
    pynvml.NVML_ERROR_TIMEOUT: "timed out",
} | _LOST
_REMEDY = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load it: modprobe nvidia; then look into dmesg",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated while it ran: reload its modules "
    "or reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "give the agent access to /dev/nvidia*; for GPM run it as root or load "
    "the driver with NVreg_RestrictProfilingToAdminUsers=0",
    pynvml.NVML_ERROR_GPU_IS_LOST: "look for Xid 79 in dmesg; reset the GPU or reboot the node",
    pynvml.NVML_ERROR_RESET_REQUIRED: "drain the GPU and run nvidia-smi --gpu-reset",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "update the NVIDIA driver",
}


class DriverGoneError(Exception):
    """Nothing works any more in this process: the driver left, or the library no longer fits it."""

    def __init__(self, code: int) -> None:
        super().__init__(explain(code))
        self.remedy = remedy(code)


class GpuLostError(Exception):
    """One GPU answers no call any more."""

    def __init__(self, code: int) -> None:
        super().__init__(explain(code))
        self.remedy = remedy(code)


def explain(code: int) -> str:
    """What an NVML return code means, in words."""
    return _GONE.get(code) or _TEXT.get(code) or f"NVML error {code}"


def _who(devices: list[str]) -> str:
    return (devices[0] or "NVML") + (f" and {len(devices) - 1} more" if len(devices) > 1 else "")


def remedy(code: int) -> str:
    """What to do about an NVML return code; "" where nothing in particular helps."""
    return _REMEDY.get(code, "")


class Problems:
    """Why signals are null now, by device and call, for the agent's `reason`."""

    def __init__(self) -> None:
        self._by_call: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, device: str, call: str, text: str, remedy: str = "") -> None:
        """Remembers the problem until the call works again."""
        self._by_call[device, call] = (text, remedy)

    def clear(self, device: str, call: str) -> None:
        """Forgets it."""
        self._by_call.pop((device, call), None)

    def drop(self, device: str) -> None:
        """Forgets everything about the device."""
        self._by_call = {key: value for key, value in self._by_call.items() if key[0] != device}

    def listed(self) -> list[tuple[str, str]]:
        """All of them in a stable order, the same on several devices told once; 16 at most."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for (device, call), (text, remedy) in sorted(self._by_call.items()):
            groups.setdefault((call, text, remedy), []).append(device)
        return [
            (f"{_who(devices)}: {call}: {text}", remedy) for (call, text, remedy), devices in groups.items()
        ][:16]


class Context:
    """What every call of a worker shares. retry: factor on all waits (1.0; tests are impatient).
    skip: until when a call on a device is not made, because a worker before us hung in it.
    """

    def __init__(self, page: Writer, retry: float = 1.0) -> None:
        self.page = page
        self.retry = retry
        self.problems = Problems()
        self.skip: dict[tuple[int, str], float] = {}

    def symbol(self, *names: str) -> Callable[..., int] | None:
        """The first of these functions that the loaded library has."""
        for name in names:
            found: Callable[..., int] | None = getattr(pynvml.nvmlLib, name, None)
            if found is not None:
                return found
        return None


class Call:
    """One driver call on one device.

    names: the function, newest spelling first. fine: return codes that are no failure (the call then counts
    as not made). about: what is missing where the hardware does not support it; "" where that is nobody's
    problem.
    """

    def __init__(
        self,
        context: Context,
        number: int,
        device: str,
        name: str,
        names: tuple[str, ...],
        arguments: tuple[object, ...],
        *,
        fine: tuple[int, ...] = (),
        about: str = "",
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.code = pynvml.NVML_SUCCESS
        self._key = about or f"{name} ({names[0]})"
        self._context = context
        self._number = number
        self._device = device
        self._fine = fine
        self._about = about
        self._failures = 0
        self._due = context.skip.get((number, name), 0.0)
        self._function = context.symbol(*names)
        if self._function is None:
            self.code = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
            self._due = float("inf")
            self.note(self.code)

    @property
    def supported(self) -> bool:
        """False once the driver said that this hardware or this library cannot do it."""
        return self.code not in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    def run(self, now: float) -> bool:
        """Makes the call unless it backs off. True when the buffers hold fresh values.

        Raises DriverGoneError and GpuLostError; any other failure is noted and backed off.
        """
        if now < self._due or self._function is None:
            return False
        self._context.page.enter(self._number, self.name)
        code = self._function(*self.arguments)
        if code == 0:
            if self._failures:
                self._failures = 0
                self.clear()
            self.code = code
            return True
        if code not in self._fine:
            self.fail(code, now)
        return False

    def fail(self, code: int, now: float) -> None:
        """Notes a failure and backs off; also for one that only the call's output reports."""
        if code in _GONE:
            raise DriverGoneError(code)
        if code in _LOST:
            raise GpuLostError(code)
        self.code = code
        self._failures += 1
        wait = _MAX_RETRY if not self.supported else min(_MAX_RETRY, _MIN_RETRY * 2 ** (self._failures - 1))
        self._due = now + wait * self._context.retry
        self.note(self.code)

    def note(self, code: int) -> None:
        """Tells the problem without backing off: part of the output is null."""
        if code == pynvml.NVML_ERROR_NOT_SUPPORTED and not self._about:
            return
        self._context.problems.add(self._device, self._key, explain(code), remedy(code))

    def clear(self) -> None:
        """Takes the problem back."""
        self._context.problems.clear(self._device, self._key)
