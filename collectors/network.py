"""Bytes of the physical interfaces, TCP retransmits, and the Ethernet ports themselves.

Source: /proc/net/dev, /proc/net/snmp; /sys/class/net tells which interfaces are physical, their speed and
state. Where none has a device behind it (a container's veth), every interface but loopback, bridges and
tunnels counts, without a rate: a veth's speed is made up. Cost: two reads, and three small files a port,
held open; speed, which asks the card's firmware, is read once a minute and when the state changes.
Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from wellfed.collectors.files import RECHECK, Held, count, counts, read
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Interface", "Network", "parse_dev", "parse_snmp", "physical"]

#: ARPHRD_ETHER of include/uapi/linux/if_arp.h.
_ETHERNET = b"1"
_VIRTUAL = re.compile(
    r"lo|(veth|docker|br-|virbr|cni|flannel|cali|cilium|tun|tap|vxlan|geneve|dummy|bond|team|kube|nodelocaldns)"
    r".*|(sit|gre|gretap|erspan|ip6tnl|tunl|ip_vti|ip6_vti|ip6gre|ifb)\d+|.*\.\d+"
)


class Interface(NamedTuple):
    """Bytes, packets received in error and packets dropped before sending."""

    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_dropped: int


def parse_dev(text: bytes) -> dict[str, Interface]:
    """Interface -> its counters. Raises ValueError."""
    out = {}
    lines = text.splitlines()
    if len(lines) < 2 or b"|bytes" not in lines[1]:
        raise ValueError(f"expected two lines of headings, found {text[:60]!r}")
    for line in lines[2:]:
        name, colon, rest = line.rpartition(b":")
        fields = rest.split()
        if not colon or len(fields) < 16:
            raise ValueError(f"expected `name: 16 numbers`, found {line[:60]!r}")
        wanted = counts([fields[0], fields[2], fields[8], fields[11]])
        out[name.strip().decode("utf-8", "replace")] = Interface(*wanted)
    return out


def parse_snmp(text: bytes) -> dict[str, int]:
    """OutSegs and RetransSegs of the Tcp line. Raises ValueError."""
    lines = [line.split() for line in text.splitlines() if line.startswith(b"Tcp:")]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        raise ValueError("expected two Tcp: lines of the same length")
    found = zip(*lines, strict=True)
    return {name.decode(): count(value) for name, value in found if name in (b"OutSegs", b"RetransSegs")}


def physical(sys: str, names: Iterable[str]) -> tuple[list[str], bool]:
    """Interfaces that count, and whether they have a device behind them; else they are told by name."""
    names = list(names)
    with_device = [name for name in names if os.path.exists(f"{sys}/class/net/{name}/device")]
    if with_device:
        return with_device, True
    return [name for name in names if not _VIRTUAL.fullmatch(name)], False


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
        self._real = False
        self._ethernet: list[str] = []
        self._files: list[str] = []
        self._held = Held()
        self._rates: dict[str, tuple[bytes | None, float | None]] = {}
        self._reads = 0

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
        self._reads += 1
        if interfaces.keys() != self._seen or self._reads % RECHECK == 0:
            self._seen = frozenset(interfaces)
            self._physical, self._real = physical(roots.sys, interfaces)
            self._rates.clear()
            self._held.close()
            self._find(f"{roots.sys}/class/net")
        values = _tcp(f"{roots.proc}/net/snmp")
        if self._physical:
            values["net_rx_bytes"] = float(sum(interfaces[name].rx_bytes for name in self._physical))
            values["net_tx_bytes"] = float(sum(interfaces[name].tx_bytes for name in self._physical))
        self.reason = "" if self._physical else f"no physical interface in {path}"
        self.remedy = "" if self._physical else "run the agent in the host's network namespace"
        return [Row("host", (), values), *self._ports(roots.sys, interfaces)]

    def close(self) -> None:
        """Closes the files held open."""
        self._held.close()

    def _find(self, root: str) -> None:
        # IP over InfiniBand is traffic of a port that the infiniband collector has already.
        self._ethernet = [n for n in self._physical if self._text(f"{root}/{n}/type") in (None, _ETHERNET)]
        files = [f"{root}/{n}/{file}" for n in self._ethernet for file in ("operstate", "carrier_down_count")]
        self._files = [path for path in files if os.path.exists(path)]

    def _ports(self, sys: str, interfaces: Mapping[str, Interface]) -> Iterable[Row]:
        root = f"{sys}/class/net"
        # An interface that goes refuses to answer.
        read = zip(self._files, self._held.together(self._files), strict=True)
        texts = {path: text.strip() for path, text in read if isinstance(text, bytes)}
        for name in self._ethernet:
            yield self._port(f"{root}/{name}", name, interfaces[name], texts)

    def _port(self, base: str, name: str, interface: Interface, texts: Mapping[str, bytes]) -> Row:
        state = texts.get(f"{base}/operstate")
        downs = texts.get(f"{base}/carrier_down_count")
        return Row(
            "port",
            (name,),
            {
                "rx_bytes": float(interface.rx_bytes),
                "tx_bytes": float(interface.tx_bytes),
                "rcv_errors": float(interface.rx_errors),
                "xmit_discards": float(interface.tx_dropped),
                "link_downed": float(downs) if downs is not None and downs.isdigit() else None,
                "rate_bps": self._rate(base, state) if self._real else None,
                "up": None if state in (None, b"unknown") else float(state == b"up"),
            },
            {"link": "ethernet"},
        )

    def _rate(self, base: str, state: bytes | None) -> float | None:
        known = self._rates.get(base)
        if known is None or known[0] != state:
            speed = self._text(f"{base}/speed") or b""
            # A driver without a speed says 0 or -1.
            megabits = int(speed) if speed.isdigit() and len(speed) < 10 else 0
            known = self._rates[base] = (state, megabits * 1e6 if megabits else None)
        return known[1]

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
