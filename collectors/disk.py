"""Whole block devices: bytes, operations, time and queue.

Source: /proc/diskstats (Documentation/admin-guide/iostats.rst); /sys/block tells whole devices from
partitions and names device-mapper ones. Cost: one read, and a listing when devices change. Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from wellfed.collectors.files import read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Disk", "Unwrap", "parse"]

SECTOR_BYTES = 512
#: The kernel prints milliseconds as 32-bit integers: they wrap after 49.7 days.
_WRAP = 1 << 32

_VIRTUAL = re.compile(r"(loop|ram|zram|fd|sr)\d+")
_PARTITION = re.compile(r"((sd|vd|xvd|hd)[a-z]+\d+)|((nvme\d+n|mmcblk|md|nbd|pmem)\d+p\d+)")


def parse(text: bytes) -> dict[str, list[int]]:
    """Device -> its numbers, in the order of iostats.rst (11 or more). Raises ValueError."""
    out = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 14:
            raise ValueError(f"{len(fields)} fields, expected 14 or more: {line[:60]!r}")
        out[fields[2].decode("utf-8", "replace")] = [int(field) for field in fields[3:]]
    return out


class Unwrap:
    """Makes a 32-bit counter grow past its width. A fall by less than half the range is a reset."""

    __slots__ = ("_last", "_turns")

    def __init__(self) -> None:
        self._last = 0
        self._turns = 0

    def __call__(self, raw: int) -> int:
        """The counter without its wraps since the first call."""
        if raw < self._last:
            self._turns = self._turns + 1 if self._last - raw > _WRAP // 2 else 0
        self._last = raw
        return raw + self._turns * _WRAP


@register
class Disk:
    """Fills `disk`."""

    name = "disk"
    interval = 1.0
    deadline = 1.0
    tables = ("disk",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._seen: frozenset[str] = frozenset()
        self._names: Mapping[str, str] = {}
        self._times: dict[tuple[str, int], Unwrap] = {}

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a whole device."""
        path = f"{roots.proc}/diskstats"
        try:
            devices = parse(read(path))
        except FileNotFoundError:
            self.reason, self.remedy = f"no {path}", "mount procfs, or name it with --procfs"
            return []
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if devices.keys() != self._seen:
            self._seen = frozenset(devices)
            self._names = whole_devices(roots.sys, devices)
            self._times = {key: unwrap for key, unwrap in self._times.items() if key[0] in devices}
        if not self._names:
            self.reason = f"no whole block device in {path}"
            return []
        self.reason = self.remedy = ""
        return [self._row(label, device, devices[device]) for device, label in self._names.items()]

    def _row(self, label: str, device: str, n: list[int]) -> Row:
        return Row(
            "disk",
            (label,),
            {
                "reads": float(n[0]),
                "read_bytes": float(n[2] * SECTOR_BYTES),
                "read_seconds": self._seconds(device, 3, n),
                "writes": float(n[4]),
                "written_bytes": float(n[6] * SECTOR_BYTES),
                "write_seconds": self._seconds(device, 7, n),
                "inflight": float(n[8]),
                "busy_seconds": self._seconds(device, 9, n),
                "queue_seconds": self._seconds(device, 10, n),
            },
        )

    def _seconds(self, device: str, at: int, numbers: list[int]) -> float:
        unwrap = self._times.get((device, at))
        if unwrap is None:
            unwrap = self._times[device, at] = Unwrap()
        return unwrap(numbers[at]) / 1000.0


def whole_devices(sys: str, devices: Iterable[str]) -> dict[str, str]:
    """Whole device -> the name to publish. Without /sys/block, partitions are told by their names."""
    try:
        whole = {name.replace("!", "/") for name in os.listdir(f"{sys}/block")}
    except OSError:
        whole = {name for name in devices if not _PARTITION.fullmatch(name)}
    return {name: _label(sys, name) for name in devices if name in whole and not _VIRTUAL.fullmatch(name)}


def _label(sys: str, name: str) -> str:
    if name.startswith("dm-"):
        try:
            return read(f"{sys}/block/{name}/dm/name").decode("utf-8", "replace").strip() or name
        except OSError:
            return name
    return name
