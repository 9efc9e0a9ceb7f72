"""Pressure stall information of the host: time that tasks waited for CPU, I/O and memory.

Source: /proc/pressure/{cpu,io,memory} (Documentation/accounting/psi.rst), totals in microseconds.
Cost: three reads. Privilege: none.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from wellfed.collectors.files import read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Pressure", "parse"]

#: Resource -> its lines that the catalog has.
_LINES = {"cpu": ("some",), "io": ("some", "full"), "memory": ("some", "full")}


def parse(text: bytes) -> dict[str, float]:
    """`some` and `full` totals in seconds. Raises ValueError."""
    out = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(b" ")
        total = rest.rpartition(b"total=")
        if kind not in (b"some", b"full") or not total[1]:
            raise ValueError(f"expected `some ... total=N`, found {line[:60]!r}")
        out[kind.decode()] = int(total[2]) / 1e6
    if not out:
        raise ValueError("empty")
    return out


@register
class Pressure:
    """Fills the psi columns of `host`."""

    name = "pressure"
    interval = 1.0
    deadline = 1.0
    tables = ("host",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One `host` row, or none on a kernel without pressure stall information."""
        values: dict[str, float | None] = {}
        for resource, lines in _LINES.items():
            path = f"{roots.proc}/pressure/{resource}"
            try:
                totals = parse(read(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                # A kernel built with PSI and booted without it has the files and refuses to read them.
                if error.errno != errno.EOPNOTSUPP:
                    raise
                continue
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            for line in lines:
                if line in totals:
                    values[f"psi_{resource}_{line}_seconds"] = totals[line]
        if not values:
            self.reason = f"no pressure stall information below {roots.proc}/pressure"
            self.remedy = "boot with psi=1 on a kernel 4.20 or later built with CONFIG_PSI"
            return []
        self.reason = self.remedy = ""
        return [Row("host", (), values)]
