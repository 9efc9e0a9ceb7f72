"""The catalog as Polars schemas, and the check at the border: what comes in has these columns and types.

Source of every name and kind: wellfed.collectors.catalog. `ts` is the end of the window.
"""

from __future__ import annotations

import polars as pl

from wellfed.collectors.catalog import HOST, Table
from wellfed.errors import UserError

__all__ = ["TS", "conform", "keys", "schema"]

TS = pl.Datetime("ms", "UTC")


def schema(table: Table) -> pl.Schema:
    """Column -> type of a table: ts Datetime[ms, UTC], host and keys String, info String, signals Float64."""
    columns: dict[str, pl.DataType] = {"ts": TS, HOST: pl.String()}
    columns |= {key: pl.String() for key in table.keys}
    columns |= {c.name: pl.String() if c.kind == "info" else pl.Float64() for c in table.columns}
    return pl.Schema(columns)


def keys(table: Table) -> list[str]:
    """The columns that identify a row: host, the table's keys, ts."""
    return [*dict.fromkeys((HOST, *table.keys)), "ts"]


def conform(frame: pl.LazyFrame, table: Table, where: str) -> pl.LazyFrame:
    """The frame with exactly the table's columns, in order and type; missing signals become null.

    where: path or sender, for the message. Raises UserError when a key column or `ts` is missing or a
    column cannot be cast. Unknown columns are dropped: a newer writer may know more than we do.
    """
    want = schema(table)
    have = frame.collect_schema()
    needed = ["ts", *table.keys]
    missing = [key for key in needed if key not in have]
    if missing:
        raise UserError(
            f"{where}: table {table.name} lacks the column {missing[0]}; it has {', '.join(have)}"
        )
    exprs: list[pl.Expr] = []
    for name, dtype in want.items():
        if name not in have:
            exprs.append(pl.lit(None, dtype=dtype).alias(name))
        elif have[name] == dtype:
            exprs.append(pl.col(name))
        elif name == "ts":
            exprs.append(_timestamp(have[name], table, where))
        elif dtype == pl.Float64 and not (have[name].is_numeric() or have[name] in (pl.Boolean, pl.Null)):
            raise UserError(f"{where}: column {name} of table {table.name} is {have[name]}, not a number")
        else:
            exprs.append(pl.col(name).cast(dtype))
    return frame.select(exprs)


def _timestamp(dtype: pl.DataType, table: Table, where: str) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        aware = pl.col("ts") if dtype.time_zone else pl.col("ts").dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").cast(TS)
    raise UserError(f"{where}: column ts of table {table.name} is {dtype}, not a timestamp")
