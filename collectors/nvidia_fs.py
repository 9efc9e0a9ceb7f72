"""GPUDirect Storage: what went between storage and GPU memory without passing through the page cache.

Source: /proc/driver/nvidia-fs/stats (the nvidia-fs module, statistics version 4.0). Cost: one read.
Privilege: none. The byte counts carry whole MiB. The module counts only while rw_stats_enabled is set: where
it is not, nothing is published, because its zeros would say that no such traffic exists. Its bandwidth and
latency are momentary averages, no counters, and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from wellfed.collectors.files import count, read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["NvidiaFs", "parse"]

MIB = 1 << 20
_SWITCH = re.compile(rb"^IO stats: (Enabled|Disabled)", re.MULTILINE)
_LINES = {
    b"Reads": {b"n": ("reads", 1), b"readMiB": ("read_bytes", MIB)},
    b"Writes": {b"n": ("writes", 1), b"writeMiB": ("written_bytes", MIB)},
}


def parse(text: bytes) -> dict[str, float] | None:
    """Columns of `mount`, or None while counting is switched off. Raises ValueError."""
    switch = _SWITCH.search(text)
    if switch is None:
        raise ValueError("no `IO stats: Enabled` or `Disabled`")
    if switch[1] == b"Disabled":
        return None
    out: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(b":")
        wanted = _LINES.get(name.strip(), {})
        for field in rest.split():
            label, equals, value = field.partition(b"=")
            if equals and label in wanted:
                column, unit = wanted[label]
                out[column] = float(count(value) * unit)
    if len(out) < sum(map(len, _LINES.values())):
        raise ValueError("expected `Reads : n=N ... readMiB=N` and `Writes : n=N ... writeMiB=N`")
    return out


@register
class NvidiaFs:
    """Fills one `mount` row, `nvidia-fs`."""

    name = "nvidia_fs"
    interval = 1.0
    deadline = 1.0
    tables = ("mount",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row, or none where the module is not loaded or does not count."""
        path = f"{roots.proc}/driver/nvidia-fs/stats"
        try:
            values = parse(read(path))
        except FileNotFoundError:
            self.reason = f"no {path}"
            self.remedy = "none needed without GPUDirect Storage; with it, modprobe nvidia-fs"
            return []
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if values is None:
            self.reason = f"{path} says IO stats: Disabled"
            self.remedy = "echo 1 > /sys/module/nvidia_fs/parameters/rw_stats_enabled"
            return []
        self.reason = self.remedy = ""
        return [Row("mount", ("nvidia-fs",), {**values}, {"fstype": "nvidia-fs"})]
