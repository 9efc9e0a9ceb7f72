"""CPU time, load and boot time of the host.

Source: /proc/stat and /proc/loadavg (Documentation/filesystems/proc.rst). Cost: two reads. Privilege: none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from wellfed.collectors.files import read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Cpu", "Stat", "parse_loadavg", "parse_stat"]

#: Ticks a second in /proc/stat.
USER_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """busy, iowait: seconds over all CPUs. count: CPUs online. boot: seconds since the epoch."""

    busy: float
    iowait: float
    count: int
    boot: float | None


def parse_stat(text: bytes) -> Stat:
    """The `cpu` line, the number of `cpuN` lines and `btime`. Raises ValueError.

    guest is part of user and guest_nice of nice, so neither is added; steal was somebody else's time.
    """
    busy = iowait = boot = None
    count = 0
    for line in text.split(b"\n"):
        name, _, rest = line.partition(b" ")
        if name == b"cpu":
            fields = rest.split()
            if len(fields) < 4:
                raise ValueError(f"the cpu line has {len(fields)} fields, expected 4 or more")
            ticks = [int(field) for field in fields[:7]] + [0] * (7 - len(fields))
            user, nice, system, _idle, wait, irq, softirq = ticks
            busy = (user + nice + system + irq + softirq) / USER_HZ
            iowait = wait / USER_HZ
        elif name.startswith(b"cpu"):
            count += 1
        elif name == b"btime":
            boot = float(int(rest))
    if busy is None or iowait is None:
        raise ValueError("no cpu line")
    return Stat(busy, iowait, count, boot)


def parse_loadavg(text: bytes) -> float:
    """The one-minute load average. Raises ValueError."""
    fields = text.split()
    if not fields:
        raise ValueError("empty")
    return float(fields[0])


@register
class Cpu:
    """Fills cpu_count, load1, cpu_busy_seconds, cpu_iowait_seconds and boot_seconds of `host`."""

    name = "cpu"
    interval = 1.0
    deadline = 1.0
    tables = ("host",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._boot: float | None = None
        self._iowait = 0.0

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One `host` row."""
        path = f"{roots.proc}/stat"
        try:
            stat = parse_stat(read(path))
        except FileNotFoundError:
            self.reason, self.remedy = f"no {path}", "mount procfs, or name it with --procfs"
            return []
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.reason = self.remedy = ""
        # iowait may go back a little when a CPU wakes (proc.rst); a counter must not.
        same_boot = stat.boot == self._boot
        self._iowait = max(self._iowait, stat.iowait) if same_boot else stat.iowait
        self._boot = stat.boot
        return [
            Row(
                "host",
                (),
                {
                    "cpu_count": float(stat.count) if stat.count else None,
                    "load1": _load(f"{roots.proc}/loadavg"),
                    "cpu_busy_seconds": stat.busy,
                    "cpu_iowait_seconds": self._iowait,
                    "boot_seconds": stat.boot,
                },
            )
        ]


def _load(path: str) -> float | None:
    try:
        return parse_loadavg(read(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
