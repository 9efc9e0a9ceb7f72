"""The page of memory that the NVML worker writes and the agent reads; neither ever waits for the other.

What: a heartbeat with the driver call in progress, one row of numbers per GPU or MIG slice, and a text part
(identities, process ids, problems) that changes rarely. Source: an anonymous file (memfd) shared by both
processes. A CRC over each part tells a half-written part from a whole one, on every memory model.
Cost: 20 us to write 8 rows, 15 us to read them. Privilege: none.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib

TYPE_CHECKING = False  # typing is not imported: 1 MiB in a process that has 15

__all__ = [
    "ACTIVITY",
    "CALLS",
    "COLUMNS",
    "DEVICE_COUNTERS",
    "INDEX",
    "INTEGRALS",
    "NULLS",
    "OPENING",
    "Reader",
    "Snapshot",
    "Writer",
    "create",
]

#: What GPM measures: seconds, then bytes.
ACTIVITY = (
    "observed_seconds",
    "active_seconds",
    "sm_active_seconds",
    "sm_occupancy_seconds",
    "tensor_active_seconds",
    "dram_active_seconds",
    "idle_seconds",
    "spin_seconds",
    "pcie_rx_bytes",
    "pcie_tx_bytes",
    "nvlink_rx_bytes",
    "nvlink_tx_bytes",
)
#: Counters that the worker sums from zero since its start.
INTEGRALS = (*ACTIVITY, "throttle_thermal_seconds", "throttle_brake_seconds", "xid_errors")
#: Counters that the device or its driver keeps: they go on while no worker runs.
DEVICE_COUNTERS = (
    "energy_joules",
    "throttle_power_seconds",
    "pcie_replays",
    "ecc_corrected",
    "ecc_uncorrected",
)
_GAUGES = (
    "processes",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_watts",
    "power_limit_watts",
    "temperature_celsius",
    "sm_clock_hertz",
    "sm_clock_max_hertz",
    "pcie_gen",
    "pcie_gen_max",
    "pcie_width",
    "pcie_width_max",
    "xid_last",
    "remap_pending",
    "remap_failed",
    "nvlink_down",
)
#: Columns of the catalog's table `gpu`, in the order of a row of the page.
COLUMNS = INTEGRALS + DEVICE_COUNTERS + _GAUGES
INDEX = {name: i for i, name in enumerate(COLUMNS)}

#: Where the worker can be, by number on the page. The first ones open devices and may take long.
CALLS = (
    "start",
    "init",
    "count",
    "handle",
    "identity",
    "support",
    "sleep",
    "fields",
    "counters",
    "memory",
    "temperature",
    "clocks",
    "reasons",
    "link",
    "power",
    "processes",
    "samples",
    "utilization",
    "gpm",
    "nvlink",
    "mig",
    "fabric",
    "status",
)
OPENING = frozenset({"start", "init", "count", "handle", "identity", "support"})
_CODE = {name: i for i, name in enumerate(CALLS)}

_SIZE = 1 << 20
_VALUES_AT = 64
_TEXT_AT = 256 << 10
_VALUES = struct.Struct("=IIId")  # CRC, layout, rows, monotonic time
_TEXT = struct.Struct("=III")  # CRC, layout, length
_ROW = struct.Struct(f"={len(COLUMNS)}d")
#: A row of a GPU that tells nothing now.
NULLS = _ROW.pack(*[float("nan")] * len(COLUMNS))


if TYPE_CHECKING:
    from typing import TypedDict

    class Described(TypedDict):
        """A row's identity. number: of the GPU on its machine. instance: GPU instance of a slice, else "".
        inside: whether GPM looks inside it.
        """

        gpu: str
        number: int
        instance: str
        inside: bool
        info: dict[str, str]
        pids: list[int]

    class Text(TypedDict):
        """The part of the page that seldom changes. problems: (what, remedy). broken: a GPU is not open."""

        rows: list[Described]
        problems: list[tuple[str, str]]
        broken: bool


class Snapshot:
    """What the page held. taken: CLOCK_MONOTONIC; rows: one tuple per GPU in the order of COLUMNS, NaN =
    null.
    """

    __slots__ = ("rows", "taken", "text")

    def __init__(self, taken: float, rows: list[tuple[float, ...]], text: Text) -> None:
        self.taken = taken
        self.rows = rows
        self.text = text


def create() -> int:
    """Descriptor of a new empty page, to be inherited by one worker."""
    page = os.memfd_create("wellfed-nvml")
    os.ftruncate(page, _SIZE)
    return page


class Writer:
    """The worker's side."""

    def __init__(self, page: int) -> None:
        self._memory = mmap.mmap(page, _SIZE)
        self._beat = memoryview(self._memory)[:16].cast("d")
        self._layout = 0
        self._told: Text | None = None

    def enter(self, number: int, call: str) -> None:
        """Marks that the driver call begins, on the device of that number (-1 for the library itself)."""
        self._beat[1] = (number + 1) * 64 + _CODE[call]
        self._beat[0] = time.monotonic()

    def describe(self, text: Text) -> None:
        """Replaces the text part, if it changed. Rows that follow belong to it. The text is kept."""
        if text == self._told:
            return
        self._told = text
        encoded = json.dumps(text, separators=(",", ":")).encode()
        self._layout += 1
        self._memory[_TEXT_AT + _TEXT.size : _TEXT_AT + _TEXT.size + len(encoded)] = encoded
        crc = zlib.crc32(encoded, self._layout)
        _TEXT.pack_into(self._memory, _TEXT_AT, crc, self._layout, len(encoded))

    def rows(self, rows: list[bytes]) -> None:
        """Replaces the rows; each is a packed array of doubles in the order of COLUMNS."""
        payload = b"".join(rows)
        now = time.monotonic()
        crc = zlib.crc32(payload, self._layout)
        self._memory[_VALUES_AT + _VALUES.size : _VALUES_AT + _VALUES.size + len(payload)] = payload
        _VALUES.pack_into(self._memory, _VALUES_AT, crc, self._layout, len(rows), now)


class Reader:
    """The agent's side. Never blocks; a part caught half-written is read once more, then kept as it was."""

    def __init__(self, page: int) -> None:
        self._memory = mmap.mmap(page, _SIZE, access=mmap.ACCESS_READ)
        self._beat = memoryview(self._memory)[:16].cast("d")
        self._layout = 0
        self._text: Text = {"rows": [], "problems": [], "broken": True}
        self._last: Snapshot | None = None

    def position(self) -> tuple[float, int, str]:
        """Time of the worker's last mark (0.0 before the first), number of the device, name of the call."""
        code = int(self._beat[1])
        return self._beat[0], code // 64 - 1, CALLS[min(code % 64, len(CALLS) - 1)]

    def snapshot(self) -> Snapshot | None:
        """The newest whole rows with the text that belongs to them; None before the first."""
        for _ in range(3):
            crc, layout, count, taken = _VALUES.unpack_from(self._memory, _VALUES_AT)
            begin = _VALUES_AT + _VALUES.size
            payload = self._memory[begin : begin + count * _ROW.size]
            if layout and zlib.crc32(payload, layout) == crc and self._read_text() == layout:
                self._last = Snapshot(taken, list(_ROW.iter_unpack(payload)), self._text)
                break
        return self._last

    def text(self) -> Text:
        """The text part alone: what a worker left behind that ended before it had rows."""
        self._read_text()
        return self._text

    def _read_text(self) -> int:
        crc, layout, length = _TEXT.unpack_from(self._memory, _TEXT_AT)
        if layout != self._layout:
            begin = _TEXT_AT + _TEXT.size
            encoded = self._memory[begin : begin + min(length, _SIZE)]
            if zlib.crc32(encoded, layout) == crc:
                self._text = json.loads(encoded)
                self._layout = layout
        return self._layout
