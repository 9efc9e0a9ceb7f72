"""XID errors as they happen: one thread that waits for the driver's events.

What: count and number of the last XID by GPU and MIG slice. Source: an NVML event set, which blocks until
something happens, hence its own thread. Cost: one wake-up in five seconds. Privilege: none.
Events from before the agent's start are not delivered: the count is since then.
"""

from __future__ import annotations

import ctypes
import threading

import pynvml

from wellfed.collectors.nvml_calls import Context, explain, remedy

__all__ = ["Xids"]

_WAIT_MS = 5000
_NO_INSTANCE = 0xFFFFFFFF
_XID = pynvml.nvmlEventTypeXidCriticalError


class Xids:
    """Counts XIDs of the registered GPUs."""

    def __init__(self, context: Context, handles: dict[str, object]) -> None:
        """handles: NVML's handle of each GPU, by its UUID."""
        self._context = context
        self._handles = handles
        self._addresses = {_address(handle): uuid for uuid, handle in handles.items()}
        #: (UUID, GPU instance or None) -> [count, last XID]; GPUs that deliver events have one with None.
        self.seen: dict[tuple[str, int | None], list[float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="xid", daemon=True)

    def start(self) -> None:
        """Begins to wait for events."""
        self._thread.start()

    def _watch(self) -> None:
        delay = 1.0
        while not self._stop.is_set():
            try:
                events = self._register()
                while events is not None:
                    self._wait(events)
                    delay = 1.0
                return
            except pynvml.NVMLError as error:
                self._context.problems.add("", "XID events", explain(error.value), remedy(error.value))
            self._stop.wait(delay * self._context.retry)
            delay = min(60.0, delay * 2)

    def _register(self) -> object | None:
        events: object = pynvml.nvmlEventSetCreate()
        registered = False
        for uuid, handle in self._handles.items():
            try:
                pynvml.nvmlDeviceRegisterEvents(handle, _XID, events)
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:
                    self._context.problems.add(uuid, "XID events", explain(error.value), remedy(error.value))
                continue
            self._context.problems.clear(uuid, "XID events")
            self.seen.setdefault((uuid, None), [0.0, float("nan")])
            registered = True
        self._context.problems.clear("", "XID events")
        return events if registered else None

    def _wait(self, events: object) -> None:
        try:
            event = pynvml.nvmlEventSetWait_v2(events, _WAIT_MS)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return
            raise
        uuid = self._addresses.get(_address(event.device))
        if uuid is None or not event.eventType & _XID:
            return
        self._count(uuid, None, event.eventData)
        if event.gpuInstanceId != _NO_INSTANCE:
            self._count(uuid, event.gpuInstanceId, event.eventData)

    def _count(self, uuid: str, instance: int | None, xid: int) -> None:
        entry = self.seen.setdefault((uuid, instance), [0.0, float("nan")])
        entry[0] += 1
        entry[1] = float(xid)


def _address(handle: object) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value  # type: ignore[arg-type]
