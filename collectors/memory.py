"""Memory of the host: size, what is available, page cache, swap-in and major faults.

Source: /proc/meminfo and /proc/vmstat (Documentation/filesystems/proc.rst). Cost: two reads. Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from wellfed.collectors.files import count, read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Memory", "parse_meminfo", "parse_vmstat"]

PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_NAMES = (b"MemTotal", b"MemAvailable", b"Buffers", b"Cached", b"Shmem")
#: Two of some 180 lines.
_EVENTS = re.compile(rb"^(pswpin|pgmajfault) (\d+)$", re.MULTILINE)


def parse_meminfo(text: bytes) -> dict[str, float]:
    """Bytes by name, of those that are published. Raises ValueError."""
    out = {}
    for name in _NAMES:
        # Looked for one by one: they are five of some 55 lines.
        at = text.find(b"\n" + name + b":") + 1
        if not at and not text.startswith(name + b":"):
            continue
        line = text[at : text.find(b"\n", at) + 1 or None]
        fields = line.partition(b":")[2].split()
        if not fields or fields[1:] not in ([], [b"kB"]):
            raise ValueError(f"expected `Name: N kB`, found {line[:60]!r}")
        out[name.decode()] = count(fields[0]) * (1024.0 if fields[1:] else 1.0)
    if "MemTotal" not in out:
        raise ValueError("no MemTotal")
    return out


def parse_vmstat(text: bytes) -> dict[str, int]:
    """pswpin and pgmajfault, events since boot; a kernel without swap has no pswpin. Raises ValueError."""
    out = {name.decode(): count(value) for name, value in _EVENTS.findall(text)}
    if "pgmajfault" not in out:
        raise ValueError("no pgmajfault")
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
        cache = max(0.0, info["Cached"] + info["Buffers"] - info.get("Shmem", 0.0))
    return {
        "memory_total_bytes": info["MemTotal"],
        "memory_available_bytes": info.get("MemAvailable"),
        "page_cache_bytes": cache,
    }
