"""CPU time, load and boot time of the host.

Source: /proc/stat and /proc/loadavg (Documentation/filesystems/proc.rst). Cost: two reads. Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from wellfed.collectors.files import count, counts, read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Cpu", "Stat", "parse_loadavg", "parse_stat"]

#: Ticks a second in /proc/stat.
USER_HZ = os.sysconf("SC_CLK_TCK")
#: btime is the wall clock minus the uptime: it moves when the clock is set. No machine boots this fast.
_SAME_BOOT_SECONDS = 30.0
_LOADAVG = re.compile(rb"(\d{1,9}\.\d{1,9}) ")


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
    lines = text if text.startswith(b"cpu") else text[text.find(b"\ncpu") + 1 :]
    name, _, rest = lines.partition(b"\n")[0].partition(b" ")
    if name != b"cpu":
        raise ValueError("no cpu line")
    fields = rest.split()
    if len(fields) < 4:
        raise ValueError(f"the cpu line has {len(fields)} fields, expected 4 or more")
    user, nice, system, _idle, wait, irq, softirq = counts(fields[:7]) + [0] * (7 - len(fields[:7]))
    boot = text.rpartition(b"\nbtime ")[2].partition(b"\n")[0].strip() if b"\nbtime " in text else b""
    return Stat(
        (user + nice + system + irq + softirq) / USER_HZ,
        wait / USER_HZ,
        lines.count(b"\ncpu"),
        float(count(boot)) if boot else None,
    )


def parse_loadavg(text: bytes) -> float:
    """The one-minute load average. Raises ValueError."""
    match = _LOADAVG.match(text)
    if match is None:
        raise ValueError(f"expected `1.25 1.00 ...`, found {text[:40]!r}")
    return float(match[1])


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
        same_boot = (
            stat.boot is not None
            and self._boot is not None
            and abs(stat.boot - self._boot) < _SAME_BOOT_SECONDS
        )
        # iowait may go back a little when a CPU wakes (proc.rst); a counter must not.
        self._iowait = max(self._iowait, stat.iowait) if same_boot else stat.iowait
        self._boot = self._boot if same_boot else stat.boot
        return [
            Row(
                "host",
                (),
                {
                    "cpu_count": float(stat.count) if stat.count else None,
                    "load1": _load(f"{roots.proc}/loadavg"),
                    "cpu_busy_seconds": stat.busy,
                    "cpu_iowait_seconds": self._iowait,
                    "boot_seconds": self._boot,
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
