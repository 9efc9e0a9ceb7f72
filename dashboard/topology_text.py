"""Reads what is wired to what: Slurm's topology.conf (topology/tree) and the output of ibnetdiscover.

Source: topology.conf(5) and slurm.conf(5) of Slurm for lines and host lists; ibnetdiscover(8) of rdma-core,
"Topology file format", and the output of its -p. Bad input raises ValueError with one line that says where.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

__all__ = ["Wires", "host_list", "parse", "switch_name"]

#: Names that one file may hold.
MOST = 1_000_000

_HEADER = re.compile(r'^Switch\s+\d+\s+"S-([0-9a-fA-F]+)"\s*#\s*"(.*)"\s')
_NODE = re.compile(r'^(?:Ca|Rt)\s+\d+\s+"')
_PORT = re.compile(
    r'^\[(\d+)\](?:\[ext \d+\])?\s+"([SHR])-([0-9a-fA-F]+)"\[(\d+)\](?:\[ext \d+\])?'
    r'(?:\([0-9a-fA-F]+\))?\s*#\s*"(.*)"(?:.*\s(\d+x\w+))?'
)
#: `ibnetdiscover -p`: a line a link.
_LINE = re.compile(
    r"^SW\s+\d+\s+(\d+)\s+0x([0-9a-fA-F]+)\s+(\d+x)\s+(\S+)\s+-\s+(SW|CA)\s+\d+\s+(\d+)"
    r"\s+0x([0-9a-fA-F]+)\s+\(\s*'(.*)'\s+-\s+'(.*)'\s*\)"
)
#: Gb/s of one lane, as the kernel tells the rate of a port.
_LANE = {
    "SDR": 2.5, "DDR": 5, "QDR": 10, "FDR10": 10, "FDR": 14, "EDR": 25, "HDR": 50, "NDR": 100, "XDR": 200
}  # fmt: skip
#: A channel adapter of a switch that sums up: no host.
_NO_HOST = re.compile(r"Aggregation Node|SHARP", re.IGNORECASE)
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9]*_\d+")
_MANAGED = re.compile(r"[^;]*;([^:;]+):[^;]*")
_PAIR = re.compile(r"(\w+)\s*=\s*(\S+)")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


@dataclass(slots=True)
class Wires:
    """names: of switches. aliases: `0x` and id of a switch -> its name. hosts: (host, port or "" for any,
    switch); switches: (one, port, other, port); rates: bits a second by (switch, port), where they are told.
    """

    names: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)
    hosts: list[tuple[str, str, str]] = field(default_factory=list)
    switches: list[tuple[str, str, str, str]] = field(default_factory=list)
    rates: dict[tuple[str, str], float] = field(default_factory=dict)


def parse(text: str) -> Wires:
    """Either format, told apart by its lines. Raises ValueError."""
    discovered = any(_HEADER.match(line) or _LINE.match(line) for line in text.splitlines())
    found = _discovered(text) if discovered else _configured(text)
    if not found.hosts:
        raise ValueError(
            "no switch has hosts: write Slurm's SwitchName=... Nodes=... lines or ibnetdiscover's output"
        )
    return found


def switch_name(description: str) -> str:
    """`leaf1` of `MF0;leaf1:SX6036/U1`, as managed switches describe themselves; else the description."""
    match = _MANAGED.fullmatch(description)
    return match[1].strip() if match else description.strip()


def host_list(text: str) -> list[str]:
    """`node[01-16,20],login1` one by one, zeros kept, several ranges a name. Raises ValueError."""
    names = [name for part in _parts(text) for name in _expanded(part)]
    if not all(names):
        raise ValueError(f"{_short(text)} is no list of names")
    return names


def _configured(text: str) -> Wires:
    found, inside = Wires(), []
    for number, line in _lines(text):
        keys = {key.lower(): value for key, value in _PAIR.findall(line)}
        rest = _PAIR.sub("", line).strip()
        unknown = keys.keys() - {"switchname", "nodes", "switches", "linkspeed"}
        if rest or unknown or "switchname" not in keys:
            raise ValueError(
                f"line {number}: {_short(line)}: write SwitchName=NAME with Nodes=LIST or Switches=LIST"
            )
        try:
            switches, nodes, below = (
                host_list(keys[key]) if key in keys else [] for key in ("switchname", "nodes", "switches")
            )
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if nodes and len(switches) > 1:
            raise ValueError(f"line {number}: {_short(line)}: name one switch for these nodes")
        for switch in switches:
            if switch in found.names:
                raise ValueError(f"line {number}: switch {switch} is there twice")
            found.names.add(switch)
            found.hosts += [(node, "", switch) for node in nodes]
            inside += [(number, child, switch) for child in below]
        if len(found.hosts) + len(inside) > MOST:
            raise ValueError(f"line {number}: more than {MOST:,} names")
    for number, child, parent in inside:
        if child not in found.names:
            raise ValueError(f"line {number}: switch {child} has no SwitchName line of its own")
        found.switches.append((child, "", parent, ""))
    return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, line) without comments, continued lines joined."""
    held, first = "", 0
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        line = raw.partition("#")[0].strip()
        first = first if held else number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        if (held + line).strip():
            yield first, (held + line).strip()
        held = ""


@dataclass(frozen=True, slots=True)
class _Link:
    """A port of a switch and what it leads to. rate: `4xNDR`, "" where it is not told."""

    switch: str
    port: str
    to_switch: bool
    far: str
    far_port: str
    description: str
    rate: str


def _discovered(text: str) -> Wires:
    described, links = _with_headers(text)
    told = Counter(map(switch_name, described.values()))
    # Switches that nobody named describe themselves alike: their ids tell them apart.
    names = {
        guid: name if told[name := switch_name(said)] == 1 and name else f"0x{guid}"
        for guid, said in described.items()
    }
    found, seen = Wires(set(names.values()), {f"0x{guid}": name for guid, name in names.items()}), set()
    for link in links:
        here, far = names[link.switch], names.get(link.far, "")
        if rate := _rate(link.rate):
            found.rates[here, link.port] = rate
        if not link.to_switch:
            found.hosts += _host(link.description, link.far_port, here)
        elif far and (far, link.far_port) not in seen:
            seen.add((here, link.port))
            found.switches.append((here, link.port, far, link.far_port))
    return found


def _with_headers(text: str) -> tuple[dict[str, str], list[_Link]]:
    """Id of each switch -> what it says of itself, and all links of switches, once from either end."""
    described, links, here = {}, [], ""
    for line in text.splitlines():
        if match := _HEADER.match(line):
            here = _id(match[1])
            described[here] = match[2]
        elif _NODE.match(line):
            here = ""
        elif here and (match := _PORT.match(line)):
            port, kind, far, far_port, said, rate = match.groups()
            links.append(_Link(here, port, kind == "S", _id(far), far_port, said, rate or ""))
        elif match := _LINE.match(line):
            port, switch, width, speed, kind, far_port, far, own, said = match.groups()
            described[_id(switch)] = own
            links.append(_Link(_id(switch), port, kind == "SW", _id(far), far_port, said, f"{width}{speed}"))
    for link in links:
        # A switch that tells nothing itself is known by what others say of it.
        if link.to_switch:
            described.setdefault(link.far, link.description)
    return described, links


def _id(guid: str) -> str:
    return guid.lower().lstrip("0").rjust(16, "0")


def _rate(text: str) -> float | None:
    """Bits a second of `4xNDR`; None for a speed that is not known."""
    width, _, speed = text.partition("x")
    lane = _LANE.get(speed)
    return float(width) * lane * 1e9 if lane else None


def _host(description: str, port: str, switch: str) -> list[tuple[str, str, str]]:
    """The host of a node description: `node01 mlx5_0`; of `node01 HCA-1` the device is not told."""
    host, _, device = description.strip().partition(" ")
    if not host or _NO_HOST.search(description):
        return []
    known = _DEVICE.fullmatch(device.strip())
    return [(host.strip("'"), f"{device.strip()}/{port}" if known else "", switch)]


def _parts(text: str) -> list[str]:
    """Names separated by commas outside brackets. Raises ValueError."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            break
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise ValueError(f"{_short(text)} has a bracket too many")
    return parts


def _expanded(part: str) -> list[str]:
    # Texts outside of brackets and lists inside them take turns.
    pieces = [_numbers(part, text) if n % 2 else [text] for n, text in enumerate(re.split(_BRACKET, part))]
    if prod(map(len, pieces)) > MOST:
        raise ValueError(f"{_short(part)} is more than {MOST:,} names")
    return ["".join(chosen) for chosen in product(*pieces)]


def _numbers(part: str, listed: str) -> list[str]:
    """`01`, `02` and `20` of `01-02,20`."""
    found: list[str] = []
    for piece in listed.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None:
            raise ValueError(f"{_short(part)}: {_short(piece)} is no number and no range such as 01-16")
        low, high = int(match[1]), int(match[2] or match[1])
        if not low <= high < low + MOST:
            raise ValueError(f"{_short(part)}: {piece} does not end after it begins, or far too late")
        found += [f"{n:0{len(match[1])}d}" for n in range(low, high + 1)]
    return found


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
