"""InfiniBand and RoCE ports: bytes, waits, errors, congestion, rate and state.

Source: /sys/class/infiniband/<device>/ports/<port>/{counters,counters_ext,hw_counters}, state, rate and
link_layer (Documentation/ABI/stable/sysfs-class-infiniband; RoCE counters: drivers/infiniband/hw/mlx5,
bnxt_re, irdma and efa). Error counters of the InfiniBand port management stay at their maximum (15, 255 or
65535) until somebody clears them: the number is published as it stands, and grows no more. Cost: one pread a
file, held open. Each second: bytes, waits, congestion, state. Error counters, which hardly ever move: at each
fifth second of the wall clock, where windows end, and as soon as the state changes, so what a scrape in
between says of them is up to 5 s old. Rate, which asks the card's firmware: once a minute and when the state
changes. Privilege: none.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from itertools import count as natural
from operator import ne

from wellfed.collectors.files import RECHECK, SELDOM, STALE, Held, count, tell
from wellfed.collectors.registry import Roots, Row, register
from wellfed.collectors.unwrap import Unwrap

__all__ = ["Infiniband", "parse_number", "parse_rate"]

#: Data counters count 32-bit words.
WORD_BYTES = 4
#: A 32-bit data counter stays at its maximum until it is cleared: the bytes are unknown from then on.
_SATURATED_WORDS = (1 << 32) - 1
#: What a card answers that has the file and not the counter.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EIO})

#: Column -> files below the port that may hold it, first found wins.
FILES = {
    "rx_bytes": ("counters_ext/port_rcv_data_64", "counters/port_rcv_data", "hw_counters/rx_bytes"),
    "tx_bytes": ("counters_ext/port_xmit_data_64", "counters/port_xmit_data", "hw_counters/tx_bytes"),
    "xmit_wait_ticks": ("counters/port_xmit_wait",),
    "symbol_errors": ("counters/symbol_error",),
    "link_downed": ("counters/link_downed",),
    "link_recovery": ("counters/link_error_recovery",),
    "rcv_errors": ("counters/port_rcv_errors",),
    "xmit_discards": ("counters/port_xmit_discards",),
    "buffer_overruns": ("counters/excessive_buffer_overrun_errors",),
    "integrity_errors": ("counters/local_link_integrity_errors",),
    "out_of_sequence": ("hw_counters/out_of_sequence", "hw_counters/oos_drop_count"),
    "packet_seq_errors": ("hw_counters/packet_seq_err", "hw_counters/seq_err_naks_rcvd"),
    "ack_timeouts": ("hw_counters/local_ack_timeout_err", "hw_counters/to_retransmits"),
    "cnp_sent": ("hw_counters/np_cnp_sent", "hw_counters/cnpSent", "hw_counters/tx_cnp_pkts"),
    "cnp_handled": ("hw_counters/rp_cnp_handled", "hw_counters/cnpHandled", "hw_counters/rx_cnp_pkts"),
    "ecn_marked": (
        "hw_counters/np_ecn_marked_roce_packets",
        "hw_counters/RxECNMrkd",
        "hw_counters/rx_ecn_marked_pkts",
    ),
    "rnr_nak_retries": ("hw_counters/rnr_nak_retry_err",),
}
#: Columns that are read each time; the others count errors.
_OFTEN = frozenset({"rx_bytes", "tx_bytes", "xmit_wait_ticks", "cnp_sent", "cnp_handled", "ecn_marked"})
#: Bytes are counted in words here; adapters that have only hw_counters (efa, bnxt_re) count bytes.
_WORDS = re.compile(r"counters(_ext)?/port_(rcv|xmit)_data(_64)?")
#: mlx5 keeps these in 32-bit registers of its queue counters.
_SHORT = re.compile(r"hw_counters/(out_of_sequence|packet_seq_err|local_ack_timeout_err|rnr_nak_retry_err)")
_LINKS = {b"InfiniBand": "infiniband", b"Ethernet": "roce"}


def parse_number(text: bytes) -> int | None:
    """A counter, or None for `N/A (no PMA)`. Raises ValueError."""
    stripped = text.strip()
    return None if stripped.startswith(b"N/A") else count(stripped)


def parse_rate(text: bytes) -> float:
    """`400 Gb/sec (4X NDR)` in bits a second. Raises ValueError."""
    match = re.match(rb"\s*(\d{1,6}(?:\.\d{1,3})?) Gb/sec", text)
    if match is None:
        raise ValueError(f"expected `N Gb/sec`, found {text[:40]!r}")
    return float(match[1]) * 1e9


@dataclass(slots=True)
class _Port:
    """A port and what it said last."""

    name: str
    path: str
    info: dict[str, str]
    values: dict[str, float | None]


@dataclass(slots=True)
class _Counter:
    """A file of a port and what its number stands for."""

    port: _Port
    column: str
    path: str
    words: bool
    unwrap: Unwrap | None


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
        self._seen: tuple[str, ...] = ()
        self._ports: tuple[_Port, ...] = ()
        self._unwraps: dict[str, Unwrap] = {}
        self._reads = 0
        self._fifth = -1.0
        #: Counters read each time, then those of errors, and what each said last.
        self._counters: tuple[_Counter, ...] = ()
        self._texts: Sequence[bytes | OSError | None] = ()
        #: Files of states and of the former, and of the latter; all of them.
        self._often: tuple[str, ...] = ()
        self._seldom: tuple[str, ...] = ()
        self._paths: tuple[str, ...] = ()
        self._states: list[bytes | None] = []
        self._known: list[bytes | OSError] = []
        self._errors: list[bytes | OSError] = []

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """One row a port."""
        root = f"{roots.sys}/class/infiniband"
        devices = tuple(sorted(_listing(root)))
        if not devices:
            self.reason = f"no InfiniBand or RoCE device in {root}"
            self.remedy = "none needed without such a card; with one, load its driver (modprobe mlx5_ib)"
            return []
        self.reason = self.remedy = ""
        self._reads += 1
        if devices != self._seen or self._reads % RECHECK == 0:
            self._find(root, devices)
        fifth = now // SELDOM
        due, self._fifth = fifth != self._fifth, fifth
        try:
            self._look(due=due)
        except OSError as error:
            if error.errno not in STALE:
                raise
            # The driver was reloaded between two reads: same names, other counters.
            self._find(root, devices)
            self._look(due=True)
        tell(root, self._paths, [*self._known, *self._errors])
        return [Row("port", (port.name,), dict(port.values), dict(port.info)) for port in self._ports]

    def close(self) -> None:
        """Closes the files held open."""
        self._held.close()
        self._seen = ()

    def _find(self, root: str, devices: tuple[str, ...]) -> None:
        self._held.close()
        places = [
            (f"{device}/{number}", f"{root}/{device}/ports/{number}")
            for device in devices
            for number in sorted(_listing(f"{root}/{device}/ports"))
        ]
        self._ports = tuple(self._port(name, path) for name, path in places)
        found = [counter for port in self._ports for counter in self._of(port)]
        found.sort(key=lambda counter: counter.column not in _OFTEN)
        often = [counter.path for counter in found if counter.column in _OFTEN]
        self._counters = tuple(found)
        self._texts = [None] * len(found)
        self._often = (*(f"{port.path}/state" for port in self._ports), *often)
        self._seldom = tuple(counter.path for counter in found[len(often) :])
        self._paths = self._often + self._seldom
        self._states = []
        self._seen = devices

    def _port(self, name: str, path: str) -> _Port:
        link = _LINKS.get((self._text(f"{path}/link_layer") or b"").strip())
        return _Port(name, path, {"link": link} if link else {}, {"up": None, "rate_bps": None})

    def _of(self, port: _Port) -> list[_Counter]:
        """The counters of a port."""
        there = {
            f"{folder}/{file}"
            for folder in ("counters", "counters_ext", "hw_counters")
            for file in _listing(f"{port.path}/{folder}")
        }
        chosen = [(column, next((f for f in files if f in there), "")) for column, files in FILES.items()]
        return [
            _Counter(
                port,
                column,
                f"{port.path}/{file}",
                bool(_WORDS.fullmatch(file)),
                self._unwrap(port.path, file),
            )
            for column, file in chosen
            if file
        ]

    def _unwrap(self, path: str, file: str) -> Unwrap | None:
        return self._unwraps.setdefault(f"{path}/{file}", Unwrap()) if _SHORT.fullmatch(file) else None

    def _look(self, *, due: bool) -> None:
        """Brings the ports up to date. due: the error counters are to be read too."""
        known = self._held.together(self._often)
        count = len(self._ports)
        states = [self._state(text) for text in known[:count]]
        if due or states != self._states:
            self._errors = self._held.together(self._seldom)
        texts = known[count:] + self._errors
        # What has not changed is not parsed again.
        for place in compress(natural(), map(ne, texts, self._texts)):
            counter = self._counters[place]
            counter.port.values[counter.column] = self._value(counter, texts[place])
        if states != self._states or self._reads % RECHECK == 0:
            for port, state in zip(self._ports, states, strict=True):
                up = None if state is None else float(state.partition(b":")[0].strip() == b"4")
                port.values |= {"up": up, "rate_bps": self._rate(f"{port.path}/rate")}
        self._known, self._texts, self._states = known, texts, states

    def _state(self, text: bytes | OSError) -> bytes | None:
        if isinstance(text, OSError) and not isinstance(text, FileNotFoundError):
            raise text
        return None if isinstance(text, OSError) else text

    def _value(self, counter: _Counter, text: bytes | OSError) -> float | None:
        if isinstance(text, OSError):
            if text.errno not in _UNSUPPORTED:
                raise text
            return None
        try:
            number = parse_number(text)
        except ValueError as error:
            raise ValueError(f"{counter.path}: {error}") from error
        if number is None or (counter.words and number == _SATURATED_WORDS):
            return None
        if counter.unwrap is not None:
            number = counter.unwrap(number)
        return float(number * WORD_BYTES if counter.words else number)

    def _rate(self, path: str) -> float | None:
        text = self._text(path)
        try:
            return None if text is None else parse_rate(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _text(self, path: str) -> bytes | None:
        try:
            return self._held.read(path)
        except FileNotFoundError:
            return None


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
