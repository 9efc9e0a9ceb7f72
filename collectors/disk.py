"""Whole block devices: bytes, operations, time and queue.

Source: /proc/diskstats (Documentation/admin-guide/iostats.rst); /sys/block tells whole devices from
partitions and names device-mapper ones. Cost: one read, and a listing when devices change. Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from wellfed.collectors.files import RECHECK, counts, read
from wellfed.collectors.registry import Roots, Row, register
from wellfed.collectors.unwrap import Unwrap

__all__ = ["Disk", "parse", "whole_devices"]

SECTOR_BYTES = 512
#: Some kernels let the number in flight fall below zero and print it unsigned.
_MOST_INFLIGHT = 1 << 31

_VIRTUAL = re.compile(r"(loop|ram|zram|fd|sr)\d+")
#: A partition's name is its device's and a number, with a p between where the device's ends in a digit.
_PARTITION = re.compile(r".*\dp\d+|(.*\D)\d+")


def parse(text: bytes) -> dict[str, list[int]]:
    """Device -> its numbers, the first 11 of iostats.rst. Raises ValueError."""
    out = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 14:
            raise ValueError(f"{len(fields)} fields, expected 14 or more: {line[:60]!r}")
        out[fields[2].decode("utf-8", "replace")] = counts(fields[3:14])
    return out


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
        self._reads = 0

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
        self._reads += 1
        if devices.keys() != self._seen or self._reads % RECHECK == 0:
            self._seen = frozenset(devices)
            self._names = whole_devices(roots.sys, devices)
            self._times = {key: unwrap for key, unwrap in self._times.items() if key[0] in devices}
        if not self._names:
            self.reason, self.remedy = f"no whole block device in {path}", ""
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
                "inflight": float(n[8]) if n[8] < _MOST_INFLIGHT else None,
                "busy_seconds": self._seconds(device, 9, n),
                "queue_seconds": self._seconds(device, 10, n),
            },
        )

    def _seconds(self, device: str, at: int, numbers: list[int]) -> float:
        # Milliseconds are printed as unsigned int: they wrap after 49.7 days, the weighted ones far sooner.
        unwrap = self._times.get((device, at))
        if unwrap is None:
            unwrap = self._times[device, at] = Unwrap()
        return unwrap(numbers[at]) / 1000.0


def whole_devices(sys: str, devices: Iterable[str]) -> dict[str, str]:
    """Whole device -> the name to publish. Without /sys/block, partitions are told by their names.

    A device of size 0 is an empty drive or a network block device that nobody attached.
    """
    devices = list(devices)
    try:
        whole = {name.replace("!", "/") for name in os.listdir(f"{sys}/block")}
    except OSError:
        whole = {name for name in devices if not _is_partition(name, devices)}
    whole = {name for name in whole if not _is_empty(sys, name)}
    return {name: _label(sys, name) for name in devices if name in whole and not _VIRTUAL.fullmatch(name)}


def _is_partition(name: str, devices: Iterable[str]) -> bool:
    match = _PARTITION.fullmatch(name)
    # xvda1 without an xvda is a whole device that its hypervisor named so.
    return match is not None and (match[1] is None or match[1] in devices)


def _is_empty(sys: str, name: str) -> bool:
    try:
        return read(f"{sys}/block/{name.replace('/', '!')}/size").strip() == b"0"
    except OSError:
        return False


def _label(sys: str, name: str) -> str:
    if name.startswith("dm-"):
        try:
            return read(f"{sys}/block/{name}/dm/name").decode("utf-8", "replace").strip() or name
        except OSError:
            return name
    return name
