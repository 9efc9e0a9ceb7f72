"""Energy, throttling, PCIe, ECC, row remapping and NVLink of one GPU, many numbers in one driver call.

What: a prepared buffer for nvmlDeviceGetFieldValues, filled again at each tick. Source: the driver's field
values. Fields the GPU does not have are left out of the buffer; all are asked again each minute.
Cost, on an H100 with driver 580: what EACH_TICK names lies ready in the driver (4 us); energy takes 3.3 ms of
CPU, a PCIe field 0.2 to 0.5 ms, each time. Privilege: none.

Units, by NVML's header: energy mJ, throttling ns, power mW (these seen on the H100), NVLink KiB (scope
UINT_MAX is all links), PCIe bytes. PCIe and NVLink bytes come from here only where GPM does not give them.
The nanoseconds of thermal slowdown are not asked for: 1 ms of CPU for the driver's own, and those of the
brake and of the hardware's slowdown changed their numbers between driver branches (251..253 in 575 and 580,
269..271 later, power smoothing in 570). The integral of the clock event bits, which never moved, tells both
(nvml_device).
"""

from __future__ import annotations

import ctypes
import struct
from array import array

import pynvml

from wellfed.collectors.nvml_calls import Call, Context
from wellfed.collectors.nvml_page import INDEX
from wellfed.collectors.rising import Rising

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EACH_TICK", "FIELDS", "SELDOM", "WITHOUT_GPM", "Energy", "Fields", "advance", "decode"]

_NAN = float("nan")
_ALL_LINKS = 0xFFFFFFFF
_REPROBE = 60.0
_VALUE = struct.Struct("=IIqqIiQ")  # field, scope, timestamp, latency, type, return code, value

#: Field -> (column, unit in SI, scope, how: the device's running total, its growth since we look, a level).
_TOTAL, _SUM, _LEVEL = range(3)
FIELDS = {
    pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: ("energy_joules", 1e-3, 0, _TOTAL),
    pynvml.NVML_FI_DEV_PERF_POLICY_POWER: ("throttle_power_seconds", 1e-9, 0, _TOTAL),
    pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER: ("pcie_replays", 1.0, 0, _TOTAL),
    pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL: ("ecc_corrected", 1.0, 0, _TOTAL),
    pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL: ("ecc_uncorrected", 1.0, 0, _TOTAL),
    pynvml.NVML_FI_DEV_REMAPPED_PENDING: ("remap_pending", 1.0, 0, _LEVEL),
    pynvml.NVML_FI_DEV_REMAPPED_FAILURE: ("remap_failed", 1.0, 0, _LEVEL),
    pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX: ("nvlink_tx_bytes", 1024.0, _ALL_LINKS, _SUM),
    pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX: ("nvlink_rx_bytes", 1024.0, _ALL_LINKS, _SUM),
    pynvml.NVML_FI_DEV_POWER_INSTANT: ("power_watts", 1e-3, 0, _LEVEL),
    # Of the last second, where there is one: the later of two fields for a column wins.
    pynvml.NVML_FI_DEV_POWER_AVERAGE: ("power_watts", 1e-3, 0, _LEVEL),
    pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES: ("pcie_tx_bytes", 1.0, 0, _SUM),
    pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES: ("pcie_rx_bytes", 1.0, 0, _SUM),
}
#: What the driver has at hand, what it asks the GPU for, and what GPM tells for less.
SELDOM = (pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER)
WITHOUT_GPM = (
    pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
    pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
    pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
    pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
)
EACH_TICK = tuple(field for field in FIELDS if field not in SELDOM + WITHOUT_GPM)


def decode(kind: int, raw: int) -> float:
    """A field's 8 bytes, read as little-endian unsigned, as the number of its NVML value type.

    >>> decode(pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 0xDEADBEEF_00000007)
    7
    """
    if kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
        return raw & 0xFFFFFFFF
    if kind == pynvml.NVML_VALUE_TYPE_DOUBLE:
        value: float = struct.unpack("=d", raw.to_bytes(8, "little"))[0]
        return value
    if kind == pynvml.NVML_VALUE_TYPE_SIGNED_INT:
        return (raw & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
    if kind == pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG:
        return (raw ^ 1 << 63) - (1 << 63)
    if kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT:
        return raw & 0xFFFF
    return raw


def advance(last: float, value: float) -> float:
    """Growth of a counter from last to value, never negative.

    A fall from the upper half of 32 bits is a wrap of a 32-bit counter; any other fall is a reset to zero.

    >>> advance(4294967290, 4), advance(1000, 4)
    (10, 4)
    """
    if value >= last:
        return value - last
    if 1 << 31 <= last < 1 << 32:
        return value + (1 << 32) - last
    return value


class Fields:
    """Some fields of one GPU. tick() writes them into the row.

    name: of the call. about: what is missing where the GPU answers none of them; "" where that is nobody's
    problem.
    """

    def __init__(
        self,
        context: Context,
        number: int,
        device: str,
        handle: object,
        fields: Sequence[int],
        *,
        name: str,
        about: str = "",
    ) -> None:
        self._retry = context.retry
        self._wanted = fields
        self._handle = handle
        self._last: dict[int, float] = {}
        self._totals: dict[int, float] = {}
        self._call = Call(context, number, device, name, ("nvmlDeviceGetFieldValues",), (), about=about)
        self._prepare(fields)
        self._probed = 0.0

    def _prepare(self, fields: Sequence[int]) -> None:
        self._buffer = (pynvml.c_nvmlFieldValue_t * len(fields))()
        for entry, field in zip(self._buffer, fields, strict=True):
            entry.fieldId = field
            entry.scopeId = FIELDS[field][2]
        self._call.arguments = (self._handle, ctypes.c_int(len(fields)), self._buffer)

    def tick(self, row: array[float], now: float) -> None:
        """Fills the row's columns; null where the field does not answer."""
        probing = now - self._probed >= _REPROBE * self._retry
        if probing:
            self._prepare(self._wanted)
            self._probed = now
        for field in self._wanted:
            row[INDEX[FIELDS[field][0]]] = _NAN
        if not self._call.run(now):
            return
        answered = []
        denied = 0
        for field, _, _, _, kind, code, raw in _VALUE.iter_unpack(self._buffer):
            if code:
                denied = code if code == pynvml.NVML_ERROR_NO_PERMISSION else denied
                continue
            answered.append(field)
            column, unit, _, how = FIELDS[field]
            value = decode(kind, raw)
            grown = advance(self._last.get(field, value), value)
            self._last[field] = value
            first = value if how == _TOTAL else 0.0
            self._totals[field] = self._totals[field] + grown if field in self._totals else first
            row[INDEX[column]] = unit * (value if how == _LEVEL else self._totals[field])
        if not answered:
            self._call.fail(denied or pynvml.NVML_ERROR_NOT_SUPPORTED, now)
            return
        if denied:
            self._call.note(denied)
        elif probing:
            self._call.clear()
        if len(answered) < len(self._buffer):
            self._prepare(answered)


class Energy:
    """Joules of one GPU: the driver's counter when it is read, and power over time on top until then."""

    def __init__(self) -> None:
        #: NaN before the first reading and after one that failed.
        self.joules = _NAN
        self._counted = _NAN
        self._told = 0.0
        self._rising = Rising()

    def read(self, counted: float) -> None:
        """Takes the counter's value, NaN where the driver does not answer."""
        if self._counted == self._counted and counted == counted:
            self.joules += self._rising.step(counted - self._counted - self._told)
        else:
            self.joules = counted
            self._rising = Rising()
        self._counted = counted
        self._told = 0.0

    def add(self, joules: float) -> None:
        """What flowed since the last time, as far as the power tells; NaN where it does not."""
        if joules == joules:
            self._told += joules
            self.joules += self._rising.step(joules)
