"""One table out of what several families of names tell: each thing from one of them, and once.

A host that has our own agent is read from it alone, though node_exporter runs there too; a GPU likewise. What
was chosen stays chosen, so that no counter jumps from one exporter's value to another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from wellfed.analysis.promql_plan import OWN
from wellfed.analysis.schema import keys, schema
from wellfed.collectors.catalog import HOST, TABLES

__all__ = ["Owners", "united"]

#: The most trustworthy first.
_FAMILIES = (OWN, "dcgm", "nvidia_smi", "node_exporter", "infiniband_exporter")


@dataclass(slots=True)
class Owners:
    """chosen: (table, GPU or host) -> family. homes: GPU -> host. hosts: so far. notes: for the reader."""

    chosen: dict[tuple[str, str], str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)
    notes: dict[str, None] = field(default_factory=dict)


def united(parts: Mapping[tuple[str, str], pl.DataFrame], owners: Owners) -> dict[str, pl.DataFrame]:
    """Table -> rows, each key and ts once. parts: (table, family) -> rows."""
    parts = {place: frame for place, frame in parts.items() if frame.height}
    by_table: dict[str, dict[str, pl.DataFrame]] = {}
    renamed = _short_names(parts, owners)
    for (table, family), frame in renamed.items():
        by_table.setdefault(table, {})[family] = frame
    found = {table: _each_once(table, families, owners) for table, families in by_table.items()}
    if "gpu" in found:
        hosts = set(found["host"]["host"].unique()) if "host" in found else set()
        found["gpu"] = _at_home(found["gpu"], hosts, owners)
        told = [gpu for (table, gpu), family in owners.chosen.items() if table == "gpu" and family != OWN]
        jobs = _jobs(found["gpu"].filter(pl.col("gpu").is_in(told)))
        if jobs.height:
            both = {OWN: found["job"]} if "job" in found else {}
            found["job"] = _each_once("job", {**both, "dcgm": jobs}, owners)
    return {table: frame for table, frame in found.items() if frame.height}


def _short_names(
    parts: Mapping[tuple[str, str], pl.DataFrame], owners: Owners
) -> dict[tuple[str, str], pl.DataFrame]:
    """`n1.cluster.example` is `n1` where another exporter calls it so."""
    for frame in parts.values():
        owners.hosts |= set(frame[HOST].drop_nulls().unique())
    shorter = {
        name: short
        for name in owners.hosts
        if not name.replace(".", "").isdigit() and (short := name.partition(".")[0]) in owners.hosts - {name}
    }
    if not shorter:
        return dict(parts)
    return {place: frame.with_columns(pl.col(HOST).replace(shorter)) for place, frame in parts.items()}


def _each_once(table: str, families: Mapping[str, pl.DataFrame], owners: Owners) -> pl.DataFrame:
    by = "gpu" if table == "gpu" else HOST if HOST in TABLES[table].keys else TABLES[table].keys[0]
    for family in _FAMILIES:
        for thing in families[family][by].unique() if family in families else []:
            owners.chosen.setdefault((table, thing), family)
    kept = []
    for family, frame in families.items():
        mine = [thing for thing in frame[by].unique() if owners.chosen[table, thing] == family]
        kept.append(frame.filter(pl.col(by).is_in(mine)))
        if len(mine) < frame[by].n_unique():
            owners.notes.setdefault(
                f"{table} of some {by}s is told by {family} and by a better source: read from the better one"
            )
    every = pl.concat(kept)
    return every.unique(keys(TABLES[table]), keep="first", maintain_order=True)


def _at_home(gpu: pl.DataFrame, hosts: Iterable[str], owners: Owners) -> pl.DataFrame:
    """A GPU that two hosts report at once belongs to one: where other metrics are, else the first by name."""
    twice = gpu.group_by("gpu", "ts").agg(pl.col("host").unique()).filter(pl.col("host").list.len() > 1)
    for name, claims in twice.group_by("gpu").agg(pl.col("host").explode().unique()).iter_rows():
        known = sorted(set(claims) & set(hosts)) or sorted(claims)
        home = owners.homes.setdefault(name, known[0])
        owners.notes.setdefault(f"two hosts report {name} ({', '.join(sorted(claims))}): taken as {home}'s")
    if not owners.homes:
        return gpu
    home_of = pl.col("gpu").replace_strict(owners.homes, default=None, return_dtype=pl.String)
    return gpu.filter(home_of.is_null() | (home_of == pl.col("host")))


def _jobs(gpu: pl.DataFrame) -> pl.DataFrame:
    """A row a host and job, as far as labels of GPUs tell of them."""
    parts = pl.col("job").str.splitn(":", 2).struct
    found = (
        gpu.filter(pl.col("job").is_not_null())
        .group_by("ts", "host", "job", maintain_order=True)
        .agg(pl.len().cast(pl.Float64).alias("gpus"))
        .with_columns(parts.field("field_0").alias("kind"), parts.field("field_1").alias("name"))
        .with_columns(
            pl.when(pl.col("name").str.contains("/"))
            .then(pl.col("name").str.split("/").list.first())
            .alias("namespace")
        )
    )
    want = schema(TABLES["job"])
    return found.select(
        *(pl.col(c) if c in found.columns else pl.lit(None, dtype=t).alias(c) for c, t in want.items())
    )
