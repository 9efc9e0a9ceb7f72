"""Which leaf a host's ports reach, and which spines a leaf: what no host tells, from a file of --topology.

Source: Slurm's topology.conf or the output of ibnetdiscover, read again when the file changes (topology_text
reads both). Cost: one stat a look.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wellfed.dashboard.topology_text import Wires, parse, switch_name
from wellfed.errors import UserError

__all__ = ["Topology", "TopologyFile", "arranged"]

log = logging.getLogger("wellfed.dashboard")


@dataclass(frozen=True, slots=True)
class Topology:
    """Leaves are switches with hosts, spines those that leaves are linked to and that have none.

    places: host -> (port, leaf), port "" for all its ports. links: how many by (leaf, spine). ends: what a
    switch's port is a part of, by (switch, port number or name of the switch at its other end). aliases:
    other names of switches; rates: bits a second by (switch, port).
    """

    places: Mapping[str, Sequence[tuple[str, str]]]
    links: Mapping[tuple[str, str], int]
    ends: Mapping[tuple[str, str], tuple[str, str]]
    leaves: Sequence[str]
    spines: Sequence[str]
    switches: frozenset[str]
    aliases: Mapping[str, str]
    rates: Mapping[tuple[str, str], float]

    def switch(self, host: str) -> str:
        """The switch that a sender of port counters is, by its name, description or id; "" for a host."""
        name = self.aliases.get(host.lower()) or switch_name(host)
        return name if name in self.switches else ""

    def leaf_of(self, host: str, port: str) -> str:
        """The leaf that a host's port reaches; "" where the file does not tell which of several it is."""
        known = self.places.get(host) or self.places.get(host.partition(".")[0]) or ()
        told = {leaf for name, leaf in known if name == port} or {leaf for _, leaf in known}
        return next(iter(told)) if len(told) == 1 else ""

    def leaves_of(self, host: str) -> set[str]:
        """The leaves that a host's ports reach."""
        return {leaf for _, leaf in self.places.get(host) or self.places.get(host.partition(".")[0]) or ()}

    def link_of(self, switch: str, port: str) -> tuple[str, str] | None:
        """(leaf, spine) that a port of a switch links: `33`, `x/33`, `spine1` or `spine1/2`."""
        for end in (port, port.rpartition("/")[2], port.partition("/")[0]):
            if (switch, end) in self.ends:
                return self.ends[switch, end]
        return None


def arranged(wires: Wires) -> Topology:
    """What is wired, from the leaves' side."""
    places: dict[str, list[tuple[str, str]]] = {}
    for host, port, leaf in wires.hosts:
        # `n1.cluster.example` is `n1` where an agent calls it so.
        for name in {host, host.partition(".")[0]}:
            places.setdefault(name, []).append((port, leaf))
    leaves = {leaf for _, _, leaf in wires.hosts}
    links: dict[tuple[str, str], int] = {}
    ends: dict[tuple[str, str], tuple[str, str]] = {}
    for one, one_port, other, other_port in wires.switches:
        if (one in leaves) == (other in leaves):
            continue
        pair = (one, other) if one in leaves else (other, one)
        links[pair] = links.get(pair, 0) + 1
        for switch, port, far in ((one, one_port, other), (other, other_port, one)):
            ends[switch, far] = pair
            if port:
                ends[switch, port] = pair
    spines = {spine for _, spine in links}
    names = frozenset(wires.names)
    return Topology(places, links, ends, sorted(leaves), sorted(spines), names, wires.aliases, wires.rates)


class TopologyFile:
    """The topology that a file holds now. Raises UserError when it cannot be read at the start."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp = self._look()
        self._held = self._read()

    def __call__(self) -> Topology:
        """The newest that could be read: what is half written or gone leaves what was there."""
        try:
            stamp = self._look()
            if stamp != self._stamp:
                try:
                    self._held = self._read()
                finally:
                    # Last, for another thread to read it too rather than to take what was there.
                    self._stamp = stamp
        except UserError as error:
            log.warning("the topology stays as it was: %s", error)
        return self._held

    def _look(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise UserError(f"cannot read the topology {self._path}: {error.strerror}") from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Topology:
        try:
            with open(self._path, encoding="utf-8") as file:
                return arranged(parse(file.read()))
        except OSError as error:
            raise UserError(f"cannot read the topology {self._path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{self._path}: {error}") from error
