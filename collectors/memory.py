"""Memory of the host: size, what is available, page cache, swap-in and major faults.

Source: /proc/meminfo and /proc/vmstat (Documentation/filesystems/proc.rst). Cost: two reads. Privilege: none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from wellfed.collectors.files import read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Memory", "parse_meminfo", "parse_vmstat"]

PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def parse_meminfo(text: bytes) -> dict[str, float]:
    """Name -> bytes (or a plain count for lines without a unit). Raises ValueError."""
    out = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(b":")
        fields = rest.split()
        if not colon or not fields:
            raise ValueError(f"expected `Name: N kB`, found {line[:60]!r}")
        out[name.decode("ascii", "replace")] = int(fields[0]) * (1024.0 if fields[1:] == [b"kB"] else 1.0)
    if "MemTotal" not in out:
        raise ValueError("no MemTotal")
    return out


def parse_vmstat(text: bytes) -> dict[str, int]:
    """Name -> events since boot. Raises ValueError."""
    out = {}
    for line in text.splitlines():
        name, _, value = line.partition(b" ")
        out[name.decode("ascii", "replace")] = int(value)
    return out


@register
class Memory:
    """Fills the memory columns, swap_in_bytes and major_faults of `host`."""

    name = "memory"
    interval = 1.0
    deadline = 1.0
    tables = ("host",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One `host` row."""
        path = f"{roots.proc}/meminfo"
        try:
            values = _sizes(parse_meminfo(read(path)))
        except FileNotFoundError:
            self.reason, self.remedy = f"no {path}", "mount procfs, or name it with --procfs"
            return []
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        path = f"{roots.proc}/vmstat"
        try:
            events = parse_vmstat(read(path))
        except FileNotFoundError:
            events = {}
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if "pswpin" in events:
            values["swap_in_bytes"] = float(events["pswpin"] * PAGE_BYTES)
        if "pgmajfault" in events:
            values["major_faults"] = float(events["pgmajfault"])
        self.reason = self.remedy = ""
        return [Row("host", (), values)]


def _sizes(info: dict[str, float]) -> dict[str, float | None]:
    cache = None
    if "Cached" in info and "Buffers" in info:
        # Shmem counts as cached and cannot be dropped.
        cache = info["Cached"] + info["Buffers"] - info.get("Shmem", 0.0)
    return {
        "memory_total_bytes": info["MemTotal"],
        "memory_available_bytes": info.get("MemAvailable"),
        "page_cache_bytes": cache,
    }
