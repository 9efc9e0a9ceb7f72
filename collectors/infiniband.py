"""InfiniBand and RoCE ports: bytes, waits, errors, congestion, rate and state.

Source: /sys/class/infiniband/<device>/ports/<port>/{counters,counters_ext,hw_counters}, state, rate and
link_layer (Documentation/ABI/stable/sysfs-class-infiniband; RoCE counters: drivers/infiniband/hw/mlx5).
Cost: one pread a file, held open. Privilege: none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from wellfed.collectors.files import Held
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Infiniband", "parse_number", "parse_rate"]

#: Data counters count 32-bit words.
WORD_BYTES = 4
#: A 32-bit data counter stays at its maximum until it is cleared: the bytes are unknown from then on.
_SATURATED_WORDS = (1 << 32) - 1

#: Column -> files below the port that may hold it, first found wins.
FILES = {
    "rx_bytes": ("counters_ext/port_rcv_data_64", "counters/port_rcv_data"),
    "tx_bytes": ("counters_ext/port_xmit_data_64", "counters/port_xmit_data"),
    "xmit_wait_ticks": ("counters/port_xmit_wait",),
    "symbol_errors": ("counters/symbol_error",),
    "link_downed": ("counters/link_downed",),
    "link_recovery": ("counters/link_error_recovery",),
    "rcv_errors": ("counters/port_rcv_errors",),
    "xmit_discards": ("counters/port_xmit_discards",),
    "buffer_overruns": ("counters/excessive_buffer_overrun_errors",),
    "integrity_errors": ("counters/local_link_integrity_errors",),
    "out_of_sequence": ("hw_counters/out_of_sequence",),
    "packet_seq_errors": ("hw_counters/packet_seq_err",),
    "ack_timeouts": ("hw_counters/local_ack_timeout_err",),
    "cnp_sent": ("hw_counters/np_cnp_sent", "hw_counters/cnpSent"),
    "cnp_handled": ("hw_counters/rp_cnp_handled", "hw_counters/cnpHandled"),
    "ecn_marked": ("hw_counters/np_ecn_marked_roce_packets", "hw_counters/RxECNMrkd"),
    "rnr_nak_retries": ("hw_counters/rnr_nak_retry_err",),
}
_BYTES = ("rx_bytes", "tx_bytes")


def parse_number(text: bytes) -> float | None:
    """A counter, or None for `N/A (no PMA)`. Raises ValueError."""
    stripped = text.strip()
    return None if stripped.startswith(b"N/A") else float(int(stripped))


def parse_rate(text: bytes) -> float:
    """`400 Gb/sec (4X NDR)` in bits a second. Raises ValueError."""
    match = re.match(rb"\s*(\d+(?:\.\d+)?) Gb/sec", text)
    if match is None:
        raise ValueError(f"expected `N Gb/sec`, found {text[:40]!r}")
    return float(match[1]) * 1e9


@dataclass(frozen=True, slots=True)
class _Port:
    name: str
    path: str
    files: tuple[tuple[str, str], ...]


@register
class Infiniband:
    """Fills `port` with one row a port, `mlx5_0/1`."""

    name = "infiniband"
    interval = 1.0
    deadline = 1.0
    tables = ("port",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        self._held = Held()
        self._root: tuple[str, tuple[str, ...]] = ("", ())
        self._ports: tuple[_Port, ...] = ()

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a port."""
        root = f"{roots.sys}/class/infiniband"
        try:
            devices = tuple(sorted(os.listdir(root)))
        except FileNotFoundError:
            devices = ()
        if not devices:
            self.reason = f"no InfiniBand or RoCE device in {root}"
            self.remedy = "none needed without such a card; with one, load its driver (modprobe mlx5_ib)"
            return []
        if (root, devices) != self._root:
            self._held.close()
            self._ports = tuple(_find(root, devices))
            self._root = (root, devices)
        self.reason = self.remedy = ""
        return [self._row(port) for port in self._ports]

    def close(self) -> None:
        """Closes the files held open."""
        self._held.close()
        self._root = ("", ())

    def _row(self, port: _Port) -> Row:
        values: dict[str, float | None] = {}
        for column, path in port.files:
            try:
                value = parse_number(self._held.read(path))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            if value is not None and column in _BYTES:
                value = None if value == _SATURATED_WORDS else value * WORD_BYTES
            values[column] = value
        state = self._text(f"{port.path}/state")
        if state is not None:
            values["up"] = float(state.partition(b":")[0].strip() == b"4")
        rate = self._text(f"{port.path}/rate")
        if rate is not None:
            try:
                values["rate_bps"] = parse_rate(rate)
            except ValueError as error:
                raise ValueError(f"{port.path}/rate: {error}") from error
        layer = self._text(f"{port.path}/link_layer")
        info = {} if layer is None else {"link": "roce" if layer.strip() == b"Ethernet" else "infiniband"}
        return Row("port", (port.name,), values, info)

    def _text(self, path: str) -> bytes | None:
        try:
            return self._held.read(path)
        except FileNotFoundError:
            return None


def _find(root: str, devices: Iterable[str]) -> Iterable[_Port]:
    for device in devices:
        try:
            numbers = sorted(os.listdir(f"{root}/{device}/ports"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for number in numbers:
            path = f"{root}/{device}/ports/{number}"
            there = {
                f"{folder}/{name}"
                for folder in ("counters", "counters_ext", "hw_counters")
                for name in _listing(f"{path}/{folder}")
            }
            files = tuple(
                (column, f"{path}/{name}")
                for column, names in FILES.items()
                for name in [next((n for n in names if n in there), "")]
                if name
            )
            yield _Port(f"{device}/{number}", path, files)


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
