"""What only a network driver's own statistics tell: time paused by the fabric, discards, congestion marks.

Source: the ETHTOOL_GSTATS request through pyroute2, for drivers that count pauses as time: mlx5_core
(Documentation/networking/device_drivers/ethernet/mellanox/mlx5/counters.rst) and bnxt_en. Congestion
notification packets are RoCE's: these drivers count them in hw_counters (infiniband). Cost: about 10 us an
interface, and 18 MiB of memory for pyroute2, which is therefore imported only where such a card is.
Privilege: none. The request goes to the network namespace of this process: an interface that the given /sys
describes and this namespace does not have is left out.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from wellfed.collectors.files import RECHECK, count, read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Ethtool", "Statistics", "columns"]

DRIVERS = ("mlx5_core", "bnxt_en")

#: Microseconds for which this port sent nothing because the far end paused it, by priority or as a whole.
_PAUSE = re.compile(r"rx_prio\d_pause_duration|rx_global_pause_duration|pfc_pri\d_rx_duration_us")
_COUNTS = {
    "rx_symbol_err_phy": "symbol_errors",
    "rx_discards_phy": "buffer_overruns",
    "rx_ecn_mark": "ecn_marked",
}


class Statistics(Protocol):
    """What pyroute2's IoctlEthtool answers with: (name, value) pairs of one interface."""

    def get_statistics(self) -> Sequence[tuple[str, int]]:
        """All of them. Raises OSError."""
        ...

    def close(self) -> None:
        """Gives the socket back."""
        ...


def columns(statistics: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Columns of `port`.

    Pauses of several priorities overlap in time: the longest is at most the time paused, their sum could
    exceed the time that passed.
    """
    out: dict[str, float] = {}
    for name, value in statistics:
        column = _COUNTS.get(name)
        if column is not None:
            out[column] = max(out.get(column, 0.0), float(value))
        elif _PAUSE.fullmatch(name):
            out["pause_seconds"] = max(out.get("pause_seconds", 0.0), value / 1e6)
    return out


def _connect(interface: str) -> Statistics:
    from pyroute2.ethtool.ioctl import IoctlEthtool

    opened: Statistics = IoctlEthtool(interface)
    return opened


@register
class Ethtool:
    """Adds to the `port` rows of Ethernet interfaces. connect: opens an interface's statistics."""

    name = "ethtool"
    interval = 5.0
    deadline = 4.0
    tables = ("port",)

    def __init__(self, connect: Callable[[str], Statistics] = _connect) -> None:
        self.reason = ""
        self.remedy = ""
        self._connect = connect
        self._open: Mapping[str, Statistics] = {}
        self._reads = 0

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row an interface whose driver counts pauses as time."""
        if not self._open or self._reads % RECHECK == 0:
            self._find(roots)
        self._reads += 1
        try:
            found = {name: columns(opened.get_statistics()) for name, opened in self._open.items()}
        except Exception:
            # pyroute2 has its own errors beside OSError. The interface went away or its driver was reloaded,
            # and then its counters have other names or none.
            self.close()
            raise
        return [
            Row("port", (name,), {**values}, {"link": "ethernet"}) for name, values in found.items() if values
        ]

    def close(self) -> None:
        """Closes the sockets."""
        for opened in self._open.values():
            opened.close()
        self._open = {}

    def _find(self, roots: Roots) -> None:
        self.close()
        folder = f"{roots.sys}/class/net"
        there = {name: os.path.basename(_driver(folder, name)) for name in _listing(folder)}
        wanted = [name for name, driver in sorted(there.items()) if driver in DRIVERS]
        ours = [name for name in wanted if _index(folder, name) == _own_index(name)]
        self._open = {name: self._connect(name) for name in ours}
        self.reason = self.remedy = ""
        if not wanted:
            self.reason = (
                f"no interface in {folder} whose driver counts pauses as time ({', '.join(DRIVERS)})"
            )
        elif not ours:
            self.reason = f"{', '.join(wanted)} of {folder} are not in this network namespace"
            self.remedy = "run the agent in the host's network namespace (hostNetwork: true)"


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _driver(folder: str, name: str) -> str:
    try:
        return os.readlink(f"{folder}/{name}/device/driver")
    except OSError:
        return ""


def _index(folder: str, name: str) -> int | None:
    try:
        return count(read(f"{folder}/{name}/ifindex").strip())
    except (OSError, ValueError):
        return None


def _own_index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return -1
