"""Leaves by spines: how the links of each pair fare, as far as switches send counters, and the leaf's hosts.

What only hosts measure is never shown as a link's: a host's counters end at its own port.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from wellfed.dashboard.data import Answer
from wellfed.dashboard.heat import natural
from wellfed.dashboard.ports import MEASURES, SWITCH, fabric_ports, leaf_names, port_rows, switches

__all__ = ["Leaf", "Leaves", "Link", "by_leaf", "common_leaf"]


@dataclass(frozen=True, slots=True)
class Link:
    """What joins a leaf and a spine. ports: of both switches that report; value: the highest of theirs."""

    links: int
    ports: int
    value: float | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf. hosts: below it that report; value: mean of their ports; links: by spine, None without one."""

    name: str
    hosts: int
    value: float | None
    links: Sequence[Link | None]

    @property
    def highest(self) -> float:
        """Of its links."""
        return max((link.value or 0.0 for link in self.links if link), default=0.0)


@dataclass(frozen=True, slots=True)
class Leaves:
    """unknown: ports of hosts whose leaf the file does not tell."""

    spines: Sequence[str]
    leaves: Sequence[Leaf]
    unknown: int

    def highest(self, spine: int) -> float:
        """Of a spine's links."""
        cells = (leaf.links[spine] for leaf in self.leaves)
        return max((link.value or 0.0 for link in cells if link), default=0.0)

    @property
    def measured(self) -> bool:
        """Whether any switch reports a port between leaf and spine."""
        return any(link and link.ports for leaf in self.leaves for link in leaf.links)


def by_leaf(answer: Answer, by: str) -> Leaves | None:
    """Every leaf with its links to every spine; None without a topology. by: of MEASURES."""
    topology = answer.topology
    if topology is None:
        return None
    spines = sorted(topology.spines, key=natural)
    found, below = _links(answer, by), _below(answer, by)
    leaves = []
    for name in sorted(topology.leaves, key=natural):
        hosts, value = below.get(name, (0, None))
        cells: list[Link | None] = []
        for spine in spines:
            count = topology.links.get((name, spine), 0)
            cells.append(Link(count, *found.get((name, spine), (0, None))) if count else None)
        leaves.append(Leaf(name, hosts, value, cells))
    unknown = sum(1 for leaf in answer.once(leaf_names).values() if not leaf)
    return Leaves(spines, leaves, unknown)


def common_leaf(answer: Answer, finding: Mapping[str, Any]) -> str:
    """The only leaf that all hosts of a finding are below, "" where they share none, or the fabric is one."""
    topology, hosts = answer.topology, finding["scope"]["hosts"]
    if topology is None or len(topology.leaves) < 2 or not hosts:
        return ""
    common = set.intersection(*(topology.leaves_of(host) for host in hosts))
    return common.pop() if len(common) == 1 else ""


def _links(answer: Answer, by: str) -> dict[tuple[str, str], tuple[int, float | None]]:
    """(leaf, spine) -> ports that report, the highest of their values."""
    topology, named = answer.topology, answer.once(switches)
    assert topology is not None
    rows = answer.once(port_rows).filter(pl.col("link") == SWITCH)
    out: dict[tuple[str, str], tuple[int, float | None]] = {}
    for host, port, value in rows.select("host", "port", MEASURES[by].value.alias("value")).iter_rows():
        pair = topology.link_of(named[host], port)
        if pair is not None:
            count, most = out.get(pair, (0, None))
            out[pair] = count + 1, max((v for v in (most, value) if v is not None), default=None)
    return out


def _below(answer: Answer, by: str) -> dict[str, tuple[int, float | None]]:
    """leaf -> hosts that report, mean over their ports."""
    names = answer.once(leaf_names)
    if not names:
        return {}
    ports = answer.once(fabric_ports)
    leaf = pl.col("name").replace_strict(names, default="", return_dtype=pl.String)
    rows = (
        ports.group_by(leaf.alias("leaf"))
        .agg(pl.col("host").n_unique(), MEASURES[by].value.mean().alias("value"))
        .iter_rows()
    )
    return {name: (hosts, value) for name, hosts, value in rows if name}
