"""What the agent itself costs and how it fares: CPU by collector, memory, build, how the last run ended.

Source: the thread's CPU clock around each read (slot.py), /proc/self and the NVML worker's /proc entry. Cost:
a microsecond a read. Privilege: none. Of the standard process_* names those that matter are here, because
importing prometheus_client for them would cost 14 MiB.
"""

from __future__ import annotations

import os
import platform
import resource
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache

from wellfed import __version__
from wellfed.collectors.exposition import Family, labelled
from wellfed.collectors.files import read
from wellfed.collectors.slot import Slot

__all__ = ["Marker", "families", "profile"]

PAGE_BYTES = os.sysconf("SC_PAGESIZE")
#: Seconds before the profile begins to count: opening files and devices is paid once.
WARM_UP = 3.0


class Marker:
    """A file that exists while the agent runs; found at the start, the previous run did not end cleanly.

    folder: where it may write, "" for nowhere. clean: None where nothing is known of a previous run.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "running") if folder else ""
        self.clean: bool | None = None
        if not self._path:
            return
        known = os.path.isdir(folder)
        try:
            os.makedirs(folder, exist_ok=True)
            self.clean = not os.path.exists(self._path) if known else None
            with open(self._path, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        except OSError:
            self._path = ""

    def close(self) -> None:
        """The end of this run is clean."""
        if self._path and os.path.exists(self._path):
            os.unlink(self._path)


def families(slots: Iterable[Slot], marker: Marker | None = None) -> list[Family]:
    """The agent's own metrics."""
    found = [
        Family("wellfed_build", "info", "Version of the agent", [(_build(), 1.0)]),
        Family(
            "wellfed_agent_collector_cpu_seconds",
            "counter",
            "CPU time spent in reads of a collector, its worker process included",
            [(_label(slot.collector.name), cost(slot)) for slot in slots],
        ),
    ]
    if marker is not None and marker.clean is not None:
        text = "1 if the previous run ended by itself, 0 if it was killed"
        found.append(
            Family("wellfed_agent_previous_shutdown_clean", "gauge", text, [("", float(marker.clean))])
        )
    process = (
        ("cpu_seconds", "counter", "CPU time of the agent's process", _own()),
        ("resident_memory_bytes", "gauge", "Resident memory", _resident()),
        ("threads", "gauge", "Threads", float(threading.active_count())),
    )
    return found + [
        Family(f"process_{name}", kind, text, [("", value)])
        for name, kind, text, value in process
        if value is not None
    ]


@lru_cache(maxsize=1)
def _build() -> str:
    return labelled([("version", __version__), ("python", platform.python_version())])


@lru_cache(maxsize=128)
def _label(collector: str) -> str:
    return labelled([("collector", collector)])


def _resident() -> float | None:
    """Bytes in memory, None where /proc is not mounted. Unlike stat, statm does not ask every thread."""
    try:
        return float(int(read("/proc/self/statm").split()[1]) * PAGE_BYTES)
    except OSError:
        return None


def cost(slot: Slot) -> float:
    """CPU seconds of a collector so far, with those of a process that it keeps."""
    return slot.cpu_seconds + _worker(slot)


def profile(slots: Sequence[Slot], stop: threading.Event, seconds: float) -> None:
    """Watches a running sampler for some seconds and prints what each collector costs."""
    stop.wait(WARM_UP)
    own, began = _own(), {slot.collector.name: (cost(slot), slot.reads, _worker(slot)) for slot in slots}
    if stop.wait(seconds):
        return
    print(f"{'collector':16} {'ms of CPU a second':>18} {'reads':>6} {'rows':>6}")
    whole = _own() - own
    rows = []
    for slot in slots:
        before, reads, worker = began[slot.collector.name]
        whole += _worker(slot) - worker
        rows.append((cost(slot) - before, slot.collector.name, slot.reads - reads, len(slot.rows)))
    for spent, name, reads, found in sorted(rows, reverse=True):
        print(f"{name:16} {spent / seconds * 1e3:18.3f} {reads:6} {found:6}")
    print(f"{'whole agent':16} {whole / seconds * 1e3:18.3f}")
    print(f"resident memory: {(_resident() or 0.0) / 2**20:.1f} MiB", flush=True)


def _worker(slot: Slot) -> float:
    found: float = getattr(slot.collector, "worker_cpu_seconds", 0.0)
    return found


def _own() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
