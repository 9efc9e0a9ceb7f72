"""Fabric ports over the range: load, errors, congestion; by leaf or rack and rail; the highest over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from wellfed.dashboard.data import Answer
from wellfed.dashboard.derive import binned, grid_of, per_second
from wellfed.dashboard.figures import Array
from wellfed.dashboard.heat import natural, rack_of

__all__ = [
    "MEASURES",
    "SWITCH",
    "Highest",
    "Measure",
    "Rails",
    "State",
    "by_rail",
    "fabric_ports",
    "highest",
    "is_crowded",
    "leaf_names",
    "port_rows",
    "state_of",
    "switches",
]

_ERRORS = (
    "symbol_errors",
    "link_downed",
    "link_recovery",
    "rcv_errors",
    "xmit_discards",
    "packet_seq_errors",
    "out_of_sequence",
    "ack_timeouts",
    "buffer_overruns",
    "integrity_errors",
    "rnr_nak_retries",
)
_CROWDED = ("xmit_wait_ticks", "cnp_handled", "ecn_marked", "pause_seconds")
_LOAD = ("rx_bytes", "tx_bytes")
#: Kind of the ports that a switch reports.
SWITCH = "switch"
#: Leaf of ports of which the topology does not tell it.
_ELSEWHERE = "not told"


@dataclass(frozen=True, slots=True)
class Measure:
    """What a port is compared by. unit: "" for a number."""

    name: str
    value: pl.Expr
    unit: str


#: `by=` of the URL -> measure.
MEASURES = {
    "": Measure("load", 100 * pl.col("load"), "%"),
    "errors": Measure("errors", pl.col("errors"), ""),
    "crowded": Measure("waits for credit", pl.col("xmit_wait_ticks") / pl.col("seconds"), "/s"),
}


@dataclass(frozen=True, slots=True)
class Rails:
    """Means by leaf and rail; without a topology by rack, where a leaf or a plane that is bad shows too."""

    racks: Sequence[str]
    rails: Sequence[str]
    values: Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Highest:
    """The ports with the highest value, over time: (ports, stamps). tops: their highest."""

    names: Sequence[str]
    tops: Sequence[float | None]
    stamps: Array
    values: Array


def switches(answer: Answer) -> Mapping[str, str]:
    """Hosts of the port table that are switches of the topology -> their names there."""
    topology = answer.topology
    if topology is None:
        return {}
    hosts = answer.tables["port"].select(pl.col("host").unique()).collect(engine="streaming")
    names = {host: topology.switch(host) for host in hosts["host"].drop_nulls().to_list()}
    return {host: name for host, name in names.items() if name}


def _rates(answer: Answer) -> pl.DataFrame:
    """host, port, told_bps: the rates of switches' ports, which not every exporter of theirs tells."""
    topology, named = answer.topology, answer.once(switches)
    rates = topology.rates if topology else {}
    known = {name: host for host, name in named.items()}
    rows = [(known[name], port, rate) for (name, port), rate in rates.items() if name in known]
    return pl.DataFrame(rows, {"host": pl.String, "port": pl.String, "told_bps": pl.Float64}, orient="row")


def _binned(answer: Answer) -> pl.DataFrame:
    rows = binned(answer, "port", (*_LOAD, *_ERRORS, *_CROWDED), ("rate_bps", "up"), ("link",), points=96)
    bits = 8 * pl.max_horizontal(*_LOAD) / pl.col("seconds")
    errors = pl.sum_horizontal(*(pl.col(c).fill_null(0.0) for c in _ERRORS if c != "out_of_sequence"))
    of_switch = pl.col("host").is_in(list(answer.once(switches)))
    rows = rows.join(answer.once(_rates), on=["host", "port"], how="left").with_columns(
        pl.coalesce("rate_bps", "told_bps").alias("rate_bps")
    )
    return rows.with_columns(
        pl.when(of_switch).then(pl.lit(SWITCH)).otherwise("link").alias("link"),
        pl.when(pl.col("rate_bps") > 0).then(bits / pl.col("rate_bps")).alias("load"),
        errors.alias("errors"),
        per_second("xmit_wait_ticks").alias("waits"),
        pl.format("{} {}", "host", "port").alias("name"),
    )


def port_rows(answer: Answer) -> pl.DataFrame:
    """A row a port: load, rates, errors and signs of congestion over the range."""
    rows = answer.once(_binned)
    ports = rows.group_by("host", "port", "name").agg(
        pl.col("link").last(),
        pl.col("rate_bps").last(),
        pl.col("up").last(),
        pl.col("load").mean(),
        pl.col("seconds").sum(),
        pl.col(*_LOAD, "errors", "link_downed", *_CROWDED).sum(),
        pl.col("load").max().alias("peak"),
    )
    usual = pl.col("rate_bps").mode().first().over("link")
    waits = pl.col("xmit_wait_ticks") / pl.col("seconds")
    return ports.with_columns(
        # The ports of a switch are of several kinds.
        ((pl.col("rate_bps") < usual) & (pl.col("link") != SWITCH)).alias("slow"),
        waits.alias("waits"),
        (waits.median().over("link")).alias("usual_waits"),
    ).sort("host", "port")


def is_crowded() -> pl.Expr:
    """Ports that wait well above the others of their kind, are paused, or are told to slow down."""
    waits = pl.col("waits") > pl.max_horizontal(10 * pl.col("usual_waits"), pl.lit(1e5))
    paused = pl.col("pause_seconds").fill_null(0.0) > 0.01 * pl.col("seconds")
    told = pl.col("cnp_handled").fill_null(0.0) > pl.col("seconds")
    return (waits | paused | told).fill_null(False)


@dataclass(frozen=True, slots=True)
class State:
    """The ports in numbers. bad: with errors, down or below their rate; worst, fullest: names of the first.

    faulty: with errors; links: (kind, ports).
    """

    ports: int
    down: int
    slow: int
    errors: float
    faulty: int
    bad: int
    worst: str
    crowded: int
    fullest: str
    links: Sequence[tuple[str, int]]


def state_of(answer: Answer) -> State:
    """What the page says about all ports."""
    ports = answer.once(port_rows)
    faulty = pl.col("errors") > 0
    down = (pl.col("up") == 0).fill_null(False)
    bad = ports.filter((pl.col("link_downed") > 0) | faulty | pl.col("slow") | down)
    crowded = ports.filter(is_crowded())
    return State(
        ports=ports.height,
        down=ports.filter(down).height,
        slow=int(ports["slow"].sum()),
        errors=float(ports["errors"].sum() or 0.0),
        faulty=ports.filter(faulty).height,
        bad=bad.height,
        worst=next(iter(bad.sort("link_downed", "errors", descending=True)["name"]), ""),
        crowded=crowded.height,
        fullest=next(iter(crowded.sort("waits", descending=True)["name"]), ""),
        links=ports.group_by("link").len().sort("link").rows(),
    )


def fabric_ports(answer: Answer) -> pl.DataFrame:
    """Rows of `port_rows` of hosts' ports in the fabric; Ethernet only where there is nothing else."""
    ports = answer.once(port_rows).filter(pl.col("link").ne_missing(SWITCH))
    fabric = ports.filter(pl.col("link") != "ethernet")
    return fabric if fabric.height else ports


def leaf_names(answer: Answer) -> Mapping[str, str]:
    """Name of each of `fabric_ports` -> its leaf, "" where the topology does not tell; empty without one."""
    topology = answer.topology
    if topology is None:
        return {}
    rows = answer.once(fabric_ports).select("name", "host", "port").iter_rows()
    return {name: topology.leaf_of(host, port) for name, host, port in rows}


def by_rail(answer: Answer, by: str) -> Rails:
    """Means of a measure by leaf, or rack, and rail."""
    chosen, leaves = answer.once(fabric_ports), answer.once(leaf_names)
    names = {host: rack_of(host) for host in chosen["host"].unique().to_list()}
    rack = pl.col("host").replace_strict(names, return_dtype=pl.String)
    leaf = pl.col("name").replace_strict(leaves, return_dtype=pl.String) if leaves else rack
    wide = (
        chosen.with_columns(leaf.replace("", _ELSEWHERE).alias("rack"))
        .group_by("rack", "port")
        .agg(MEASURES[by].value.mean().alias("value"))
        .pivot("port", index="rack", values="value")
    )
    order = sorted(range(wide.height), key=lambda n: natural(wide["rack"][n]))
    wide = wide[order]
    rails = sorted(c for c in wide.columns if c != "rack")
    return Rails(wide["rack"].to_list(), rails, wide.select(rails).rows())


def highest(answer: Answer, by: str, most: int) -> Highest:
    """The `most` ports that reach the highest value of a measure."""
    rows = answer.once(_binned).select("at", "name", MEASURES[by].value.alias("value"))
    top = rows.group_by("name").agg(pl.col("value").max())
    top = top.sort("value", "name", descending=[True, False], nulls_last=True).head(most)
    names = top["name"].to_list()
    return Highest(names, top["value"].to_list(), *grid_of(rows, "name", "value", names))
