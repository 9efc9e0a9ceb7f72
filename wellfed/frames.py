"""Windows of the sampler as frames of the store: for whoever keeps them in process, without OTLP between."""

from __future__ import annotations

import polars as pl

from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import HOST, TABLES
from wellfed.collectors.sampler import Window, by_table

__all__ = ["frames"]


def frames(window: Window, host: str) -> dict[str, pl.DataFrame]:
    """A window as one frame a table, in the catalog's schema, stamped with its end and this host."""
    out = {}
    for name, rows in by_table(window.rows).items():
        table = TABLES[name]
        keys = [key for key in table.keys if key != HOST]
        records = [
            {
                "ts": round(window.ts * 1000),
                HOST: host if HOST in table.keys else None,
                **dict(zip(keys, row.key, strict=True)),
                **row.values,
                **{column: text for column, text in row.info.items() if text},
            }
            for row in rows
        ]
        shape = schema(table)
        loose = pl.Schema({**shape, "ts": pl.Int64()})
        out[name] = pl.DataFrame(records, schema=loose).cast({"ts": shape["ts"]})
    return out
