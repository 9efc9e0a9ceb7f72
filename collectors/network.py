"""Bytes of the physical interfaces, TCP retransmits, and the Ethernet ports themselves.

Source: /proc/net/dev, /proc/net/snmp; /sys/class/net tells which interfaces are physical, their speed and
state. Where none has a device behind it (a container), every interface but loopback, bridges and tunnels
counts. Cost: two reads, and two sysfs files a port. Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from wellfed.collectors.files import Held, read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Network", "parse_dev", "parse_snmp", "physical"]

#: ARPHRD_ETHER of include/uapi/linux/if_arp.h.
_ETHERNET = b"1"
_VIRTUAL = re.compile(
    r"lo|(veth|docker|br-|virbr|cni|flannel|cali|cilium|tun|tap|vxlan|geneve|dummy|bond|team|kube|nodelocaldns)"
    r".*|(sit|gre|gretap|erspan|ip6tnl|tunl|ip_vti|ip6_vti|ip6gre|ifb)\d+|.*\.\d+"
)


def parse_dev(text: bytes) -> dict[str, tuple[int, int]]:
    """Interface -> bytes received and sent. Raises ValueError."""
    out = {}
    for line in text.splitlines()[2:]:
        name, colon, rest = line.rpartition(b":")
        fields = rest.split()
        if not colon or len(fields) < 16:
            raise ValueError(f"expected `name: 16 numbers`, found {line[:60]!r}")
        out[name.strip().decode("utf-8", "replace")] = (int(fields[0]), int(fields[8]))
    return out


def parse_snmp(text: bytes) -> dict[str, int]:
    """The Tcp line of /proc/net/snmp by column name. Raises ValueError."""
    lines = [line.split() for line in text.splitlines() if line.startswith(b"Tcp:")]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        raise ValueError("expected two Tcp: lines of the same length")
    return {
        name.decode("ascii", "replace"): int(value)
        for name, value in zip(*lines, strict=True)
        if name != b"Tcp:"
    }


def physical(sys: str, names: Iterable[str]) -> list[str]:
    """Interfaces with a device behind them; where there is none, those whose names are not virtual ones."""
    names = list(names)
    with_device = [name for name in names if os.path.exists(f"{sys}/class/net/{name}/device")]
    return with_device or [name for name in names if not _VIRTUAL.fullmatch(name)]


@register
class Network:
    """Fills net and tcp columns of `host`, and one `port` row an Ethernet interface."""

    name = "network"
    interval = 1.0
    deadline = 1.0
    tables = ("host", "port")

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._seen: frozenset[str] = frozenset()
        self._physical: list[str] = []
        self._held = Held()

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One `host` row and the `port` rows."""
        path = f"{roots.proc}/net/dev"
        try:
            interfaces = parse_dev(read(path))
        except FileNotFoundError:
            self.reason, self.remedy = f"no {path}", "mount procfs, or name it with --procfs"
            return []
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if interfaces.keys() != self._seen:
            self._seen = frozenset(interfaces)
            self._physical = physical(roots.sys, interfaces)
        values = _tcp(f"{roots.proc}/net/snmp")
        if self._physical:
            values["net_rx_bytes"] = float(sum(interfaces[name][0] for name in self._physical))
            values["net_tx_bytes"] = float(sum(interfaces[name][1] for name in self._physical))
        self.reason = "" if self._physical else f"no physical interface in {path}"
        self.remedy = "" if self._physical else "run the agent in the host's network namespace"
        rows = [Row("host", (), values)]
        for name in self._physical:
            port = self._port(roots.sys, name, *interfaces[name])
            if port is not None:
                rows.append(port)
        return rows

    def close(self) -> None:
        """Closes the files held open."""
        self._held.close()

    def _port(self, sys: str, name: str, received: int, sent: int) -> Row | None:
        base = f"{sys}/class/net/{name}"
        kind = self._text(f"{base}/type")
        if kind is not None and kind != _ETHERNET:
            return None
        state = self._text(f"{base}/operstate")
        speed = self._text(f"{base}/speed")
        megabits = int(speed) if speed and speed.lstrip(b"-").isdigit() else 0
        return Row(
            "port",
            (name,),
            {
                "rx_bytes": float(received),
                "tx_bytes": float(sent),
                # A driver without a speed says 0 or -1.
                "rate_bps": megabits * 1e6 if megabits > 0 else None,
                "up": None if state in (None, b"unknown") else float(state == b"up"),
            },
            {"link": "ethernet"},
        )

    def _text(self, path: str) -> bytes | None:
        try:
            return self._held.read(path).strip()
        except OSError:
            # An interface that is down refuses to tell its speed (EINVAL).
            return None


def _tcp(path: str) -> dict[str, float | None]:
    try:
        tcp = parse_snmp(read(path))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = {"tcp_segments_out": tcp.get("OutSegs"), "tcp_retransmits": tcp.get("RetransSegs")}
    return {column: float(value) for column, value in found.items() if value is not None}
