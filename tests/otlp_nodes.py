"""Requests that simulated nodes would send: windows of a simulated fleet, encoded as the agent does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import polars as pl

from wellfed.collectors.catalog import HOST, TABLES
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window


def host_rows(tables: Mapping[str, pl.DataFrame], host: str) -> Iterator[Row]:
    """The rows of one host as its collectors would have yielded them."""
    for name, frame in tables.items():
        table = TABLES[name]
        keys = [key for key in table.keys if key != HOST]
        infos = {column.name for column in table.infos}
        for record in frame.filter(pl.col(HOST) == host).drop("ts", HOST).iter_rows(named=True):
            values = {
                k: v
                for k, v in record.items()
                if k not in infos and k not in keys and v is not None and not math.isnan(v)
            }
            info = {k: v for k, v in record.items() if k in infos and v}
            yield Row(name, tuple(record[key] for key in keys), values, info)


class Nodes:
    """Encoders of many hosts."""

    def __init__(self) -> None:
        self._encoders: dict[str, Encoder] = {}

    def requests(self, tables: Mapping[str, pl.DataFrame]) -> dict[str, bytes]:
        """Host -> its request, for tables that hold one window."""
        ts = tables["host"]["ts"][0].timestamp()
        out = {}
        for host in tables["host"]["host"].unique().sort():
            encoder = self._encoders.setdefault(
                host, Encoder({"host.name": host, "service.name": "wellfed-agent"})
            )
            out[host] = encoder.encode(Window(ts, list(host_rows(tables, host))))
        return out
