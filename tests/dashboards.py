"""What the tests of the dashboard share: a simulated fleet with hostile names, and an empty range."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import polars as pl

from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.scenarios import fleet
from wellfed.analysis.scenarios.switches import topology_conf, with_switches
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.ranges import Range
from wellfed.dashboard.registry import PAGES
from wellfed.dashboard.topology import Topology, arranged
from wellfed.dashboard.topology_text import parse
from wellfed.prices import Prices

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
EVIL = "<img src=x onerror=alert(1)>"


class Fixed:
    """A source with one answer."""

    simulated = True

    def __init__(self, tables: dict[str, pl.LazyFrame], diagnosis: Diagnosis) -> None:
        last = tables["host"].select(pl.col("ts").max()).collect().item()
        shown = Range("1h", NOW - timedelta(hours=1), NOW, True)
        self.tables = tables
        self.diagnosis = diagnosis
        self.made = Answer(shown, tables, diagnosis, last, NOW, prices=Prices(2.5))

    def answer(self, wanted: Range) -> Answer:
        return self.made

    def wired(self, topology: Topology | None = None) -> Fixed:
        """The same with leaves and spines, whose switches report; with another topology they are strangers."""
        hosts = sorted(self.tables["host"].select("host").collect()["host"].unique())
        tables = with_switches({name: table.collect() for name, table in self.tables.items()}, hosts)
        found = Fixed({name: table.lazy() for name, table in tables.items()}, self.diagnosis)
        found.made = replace(found.made, topology=topology or arranged(parse(topology_conf(hosts))))
        return found


def simulated_fleet(gpus: int = 80, duration: float = 900) -> Fixed:
    """A fleet in which a job, its user and its team have markup for a name."""
    made = fleet(seed=3, gpus=gpus, duration=duration, end=NOW)
    tables = {name: frame.lazy() for name, frame in made.tables.items()}
    job = made.tables["gpu"]["job"].drop_nulls()[0]
    tables["gpu"] = tables["gpu"].with_columns(pl.col("job").replace(job, EVIL))
    tables["job"] = tables["job"].with_columns(
        *(
            pl.when(pl.col("job") == job).then(pl.lit(EVIL)).otherwise(pl.col(name)).alias(name)
            for name in ("name", "user", "namespace")
        ),
        pl.col("job").replace(job, EVIL),
    )
    tables["mount"] = tables["mount"].with_columns(pl.col("mount").replace("/mnt/datasets", EVIL))
    return Fixed(tables, diagnose(tables, price=2.5))


def one_host() -> Fixed:
    """A machine without a GPU."""
    made = fleet(seed=3, gpus=80, duration=300, end=NOW)
    tables = {name: frame.filter(pl.col("host") == "r01-n01").lazy() for name, frame in made.tables.items()}
    tables["gpu"] = tables["gpu"].clear()
    tables["step"] = tables["step"].clear()
    return Fixed(tables, diagnose(tables))


def no_data() -> Fixed:
    """A range in which nothing reported."""
    tables = {name: pl.LazyFrame(schema=schema(table)) for name, table in TABLES.items()}
    return Fixed(tables, diagnose(tables))


def paths(source: Fixed) -> Iterator[str]:
    """Addresses of all pages, of things that exist, and of things that do not."""
    yield from (page.path for page in PAGES)
    yield from ("/nonsense", "/host/nobody", "/gpu/nobody/0", "/job/none", "/findings/none", "/gpu/short")
    document = source.diagnosis.document
    for gpu in document["gpus"][:2]:
        yield f"/gpu/{gpu['host']}/{gpu['index']}"
        yield f"/gpu/{gpu['host']}/{gpu['gpu']}"
        yield f"/host/{gpu['host']}"
    yield from (f"/findings/{finding['id']}" for finding in document["findings"])
    yield from (f"/job/{quote(job['job'], safe='')}" for job in document["jobs"])
