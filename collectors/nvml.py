"""NVIDIA GPUs and MIG slices, by NVML, out of reach of a hanging driver.

What: the table `gpu`. Source: a worker process (nvml_worker) that talks to the driver and writes a page of
shared memory (nvml_page); this side reads the page and never waits. nvml_watchdog kills a worker that hangs.
Counters never go back: a new worker's sums continue those of the old. While nothing is known about a GPU its
row holds its identity alone. Inside a GPU without GPM it cannot look: there the levels of a dcgm-exporter
(dcgm.py) are integrated, once a read. Cost: 0.1 ms a read with 8 GPUs; the worker's is told there. Without a
driver: one look at the linker's cache every half minute, and no worker. Privilege: none; some signals need
root (see gpm).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from wellfed.collectors.board import Board
from wellfed.collectors.nvml_page import COLUMNS, DEVICE_COUNTERS, INDEX, INTEGRALS, Snapshot
from wellfed.collectors.nvml_watchdog import Watchdog
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Monotone", "Nvml", "library_present"]

_LIBRARY = "libnvidia-ml.so.1"
_NO_DRIVER = f"no NVIDIA driver: {_LIBRARY} not found"
_NO_DRIVER_REMEDY = (
    "on a GPU node install the driver; in a container let the runtime mount it "
    "(--gpus all, NVIDIA_DRIVER_CAPABILITIES=utility)"
)
_PLACES = ("/lib64", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib", "/usr/local/nvidia/lib64")
_LOOK_AGAIN = 30.0
#: Rows older than this are not shown.
_STALE = 3.0
_COUNTERS = len(INTEGRALS) + len(DEVICE_COUNTERS)
#: The device's own total as of its last reading, and an estimate on top: a new worker begins without that.
_ESTIMATED = frozenset({"energy_joules"})
#: What any GPU tells that is awake.
_AWAKE = INDEX["memory_used_bytes"]
#: Seconds for which what another program said of a GPU holds; it is asked every ten.
LEVELS_HOLD = 25.0


def library_present(environment: Mapping[str, str]) -> bool:
    """Whether the dynamic linker would find libnvidia-ml, without loading it."""
    places = [p for p in environment.get("LD_LIBRARY_PATH", "").split(":") if p]
    places += [*_PLACES, f"/usr/lib/{os.uname().machine}-linux-gnu"]
    if any(os.path.exists(f"{place}/{_LIBRARY}") for place in places):
        return True
    try:
        with open("/etc/ld.so.cache", "rb") as cache:
            return _LIBRARY.encode() in cache.read()
    except OSError:
        return False


class Monotone:
    """Keeps counters growing across workers, wraps and driver reloads."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}
        self._offset: dict[tuple[str, str], float] = {}

    def restart(self) -> None:
        """A new worker: its own sums begin at zero again."""
        for key in [k for k in self._last if k[1] in INTEGRALS]:
            self._offset[key] = self._offset.get(key, 0.0) + self._last.pop(key)

    def publish(self, gpu: str, column: str, value: float) -> float:
        """The counter as the world sees it. A value below the last one is a reset to zero; where it is partly
        estimated and falls a little, it waits until it has caught up.
        """
        key = (gpu, column)
        last = self._last.get(key, 0.0)
        if column in _ESTIMATED and last / 2 < value < last:
            value = last
        elif value < last:
            self._offset[key] = self._offset.get(key, 0.0) + last
        self._last[key] = value
        return self._offset.get(key, 0.0) + value

    def skip(self, gpu: str, column: str, value: float) -> None:
        """Takes note of a value without showing its growth: something better covers that time."""
        key = (gpu, column)
        self._offset[key] = self._offset.get(key, 0.0) + self._last.get(key, 0.0) - value
        self._last[key] = value

    def add(self, gpu: str, column: str, amount: float) -> float:
        """The counter after it grew by that much on the word of another source."""
        key = (gpu, column)
        self._offset[key] = self._offset.get(key, 0.0) + amount
        return self._offset[key] + self._last.get(key, 0.0)


@register
class Nvml:
    """The collector. environment: of the worker; the other arguments are the watchdog's."""

    name = "nvml"
    interval = 1.0
    deadline = 2.0
    tables: tuple[str, ...] = ("gpu",)

    def __init__(self, environment: Mapping[str, str] | None = None, **limits: float) -> None:
        self.reason = ""
        self.remedy = ""
        self._environment = os.environ if environment is None else environment
        self._watchdog = Watchdog(self._environment, **limits)
        self._monotone = Monotone()
        self._generation = 0
        self._known: dict[str, dict[str, str]] = {}
        self._pids: dict[str, list[int]] = {}
        self._last_xid: dict[str, float] = {}
        self._look_at = 0.0
        self._present = False
        self._read_at = 0.0

    @property
    def stuck(self) -> bool:
        """True from the moment a worker hangs in the driver until another one delivers."""
        return self._watchdog.stuck

    @property
    def worker_cpu_seconds(self) -> float:
        """CPU time of the worker processes so far."""
        return self._watchdog.cpu_seconds

    def holders(self) -> dict[str, list[int]]:
        """Processes with a compute context, by GPU or slice, as the driver last told: while it hangs, that is
        a while ago.
        """
        return {gpu: list(pids) for gpu, pids in self._pids.items()}

    def close(self) -> None:
        """Ends the worker, whatever it is doing, without waiting for it."""
        self._watchdog.close()

    def read(self, roots: Roots, now: float) -> list[Row]:
        """One row for each GPU and MIG slice. Never blocks; what it does not know is null."""
        clock = time.monotonic()
        if clock >= self._look_at and not self._watchdog.running:
            self._present = library_present(self._environment)
            self._look_at = clock + _LOOK_AGAIN
        if not self._present:
            self.reason, self.remedy = _NO_DRIVER, _NO_DRIVER_REMEDY
            self._known.clear()
            self._pids.clear()
            roots.board.devices, roots.board.unseen = {}, frozenset()
            return []
        self._watchdog.supervise(roots, clock)
        found = self._watchdog.snapshot()
        if found is None or clock - found[1].taken > _STALE:
            self.reason, self.remedy = self._watchdog.reason, self._watchdog.remedy
            return [Row("gpu", (gpu,), {}, dict(info)) for gpu, info in self._known.items()]
        return self._rows(roots.board, clock, *found)

    @property
    def starting(self) -> bool:
        """True while a worker opens the GPUs: what there is to read comes later."""
        return self._watchdog.starting

    def _rows(self, board: Board, clock: float, generation: int, snapshot: Snapshot) -> list[Row]:
        if generation != self._generation:
            self._generation = generation
            self._monotone.restart()
        text = snapshot.text
        self.reason = "; ".join(what for what, _ in text["problems"])
        self.remedy = next((remedy for _, remedy in text["problems"] if remedy), "")
        named = {described["gpu"]: described["info"] for described in text["rows"]}
        self._pids = {described["gpu"]: described["pids"] for described in text["rows"]}
        missing = [gpu for gpu in self._known if gpu not in named] if text["broken"] else []
        self._known = named | {gpu: self._known[gpu] for gpu in missing}
        board.devices = {
            row["gpu"]: (row["info"].get("parent", row["gpu"]), row["instance"]) for row in text["rows"]
        }
        # A GPU that is cut into slices has no inside of its own.
        cut = {gpu for gpu, instance in board.devices.values() if instance}
        board.unseen = frozenset(
            row["gpu"]
            for row, numbers in zip(text["rows"], snapshot.rows, strict=True)
            if not row["inside"] and row["gpu"] not in cut and numbers[_AWAKE] == numbers[_AWAKE]
        )
        levels = board.levels.by_gpu if clock - board.levels.taken < LEVELS_HOLD else {}
        seconds = min(clock - self._read_at, _STALE) if self._read_at else 0.0
        self._read_at = clock
        rows = []
        for (gpu, info), numbers in zip(named.items(), snapshot.rows, strict=True):
            told = levels.get(gpu, {}) if gpu in board.unseen else {}
            rows.append(Row("gpu", (gpu,), self._values(gpu, numbers, told, seconds), dict(info)))
        return rows + [Row("gpu", (gpu,), {}, dict(self._known[gpu])) for gpu in missing]

    def _values(
        self, gpu: str, numbers: tuple[float, ...], levels: Mapping[str, float], seconds: float
    ) -> dict[str, float | None]:
        """levels: what another program says of this GPU; its time replaces ours whole, its bytes only where
        we have none.
        """
        values: dict[str, float | None] = {}
        for place, (column, number) in enumerate(zip(COLUMNS, numbers, strict=True)):
            known = number == number
            if column in levels and (not known or column.endswith("_seconds")):
                if known:
                    self._monotone.skip(gpu, column, number)
                values[column] = self._monotone.add(gpu, column, levels[column] * seconds)
            elif known:
                counter = place < _COUNTERS
                values[column] = self._monotone.publish(gpu, column, number) if counter else number
        if "xid_last" in values:
            self._last_xid[gpu] = values["xid_last"] or 0.0
        elif "xid_errors" in values and gpu in self._last_xid:
            values["xid_last"] = self._last_xid[gpu]
        return values
