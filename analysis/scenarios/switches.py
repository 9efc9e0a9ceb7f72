"""Leaves and spines of a simulated cluster, and the counters that their switches would publish.

Made from what the hosts' ports counted, without chance, so that a cluster is the same with and without them.
Half of what a leaf's hosts send leaves it, evenly over the spines; most of their waiting is for one spine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import polars as pl

__all__ = ["topology_conf", "with_switches"]

#: Share of a leaf's traffic that leaves it.
_AWAY = 0.5
#: Of the ticks that its ports wait, those that are spent on its worst and on each other link; and at a spine.
_WORST, _OTHER, _BACK = 0.8, 0.05, 0.02
_QUIET = (
    "symbol_errors",
    "link_downed",
    "link_recovery",
    "rcv_errors",
    "xmit_discards",
    "buffer_overruns",
    "integrity_errors",
)
_SUMMED = ("rx_bytes", "tx_bytes", "xmit_wait_ticks")


def topology_conf(hosts: Sequence[str]) -> str:
    """A topology.conf in Slurm's form: as many leaves as each has hosts, half as many spines."""
    leaves, spines = _plan(hosts)
    lines = [f"SwitchName={leaf} Nodes={','.join(below)}" for leaf, below in leaves.items()]
    lines += [f"SwitchName={spine} Switches={','.join(leaves)}" for spine in spines]
    return "\n".join(lines) + "\n"


def with_switches(tables: Mapping[str, pl.DataFrame], hosts: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The tables with a row more in `port` for either end of each link. hosts: of the cluster, none for none.

    A switch's ports are called by the switch at their other end.
    """
    if not hosts:
        return dict(tables)
    leaves, spines = _plan(hosts)
    port = tables["port"]
    leaf_of = {host: leaf for leaf, below in leaves.items() for host in below}
    fabric = port.filter((pl.col("link") != "ethernet") & pl.col("host").is_in(list(leaf_of)))
    leaf = pl.col("host").replace_strict(leaf_of, return_dtype=pl.String).alias("leaf")
    summed = fabric.group_by("ts", leaf, maintain_order=True).agg(
        pl.col(*_SUMMED).sum(), pl.col("rate_bps").sum(), pl.col("link").first(), pl.len().alias("ports")
    )
    number = {name: n for n, name in enumerate(leaves)}
    parts = [port]
    for n, spine in enumerate(spines):
        worst = pl.col("leaf").replace_strict(number, return_dtype=pl.Int64) % len(spines) == n
        wait = pl.col("xmit_wait_ticks") / pl.col("ports")
        up = summed.with_columns(
            pl.col("rx_bytes", "tx_bytes") * (_AWAY / len(spines)),
            pl.col("rate_bps") / len(spines),
            host="leaf",
            port=pl.lit(spine),
            up=pl.lit(1.0),
            **dict.fromkeys(_QUIET, pl.lit(0.0)),
            xmit_wait_ticks=wait * pl.when(worst).then(_WORST).otherwise(_OTHER),
        )
        down = up.with_columns(
            host=pl.lit(spine),
            port="leaf",
            rx_bytes="tx_bytes",
            tx_bytes="rx_bytes",
            xmit_wait_ticks=summed["xmit_wait_ticks"] / summed["ports"] * _BACK,
        )
        parts += [rows.select(c for c in rows.columns if c in port.columns) for rows in (up, down)]
    return {**tables, "port": pl.concat(parts, how="diagonal_relaxed").cast(port.schema)}


def _plan(hosts: Sequence[str]) -> tuple[dict[str, Sequence[str]], list[str]]:
    each = max(1, math.isqrt(len(hosts)))
    leaves = {
        f"leaf{n + 1}": hosts[first : first + each] for n, first in enumerate(range(0, len(hosts), each))
    }
    return leaves, [f"spine{n + 1}" for n in range(max(2, len(leaves) // 2))]
