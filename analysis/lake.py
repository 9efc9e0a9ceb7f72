"""History on object storage: `s3://`, `gs://` and `az://` folders with the sealed hours of a store.

URL/<table>/<hour>.parquet, as in the store's own folder: `wellfed store export --out URL` and a plain copy of
a store give the same. URL/<table>.parquet is read too. Polars does the transfers and takes credentials
and endpoint from the environment (AWS_*, GOOGLE_*, AZURE_*).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from wellfed.analysis.judged import STORED
from wellfed.analysis.schema import keys, schema
from wellfed.collectors.catalog import TABLES, Table
from wellfed.errors import UserError

__all__ = ["export_hours", "is_url", "read_lake"]

SCHEMES = ("s3://", "gs://", "az://")


def is_url(path: str) -> bool:
    """Whether a path names object storage."""
    return path.startswith(SCHEMES)


def read_lake(url: str) -> dict[str, pl.LazyFrame]:
    """Every table of the catalog; a table without a file is empty. Raises UserError, one line."""
    found = {name: _scan(url.rstrip("/"), table) for name, table in TABLES.items()}
    if not any(frame is not None for frame in found.values()):
        raise UserError(
            f"nothing to read in {url}: expected gpu/<hour>.parquet, host/<hour>.parquet and so on"
        )
    empty = {name: schema(table).to_frame().lazy() for name, table in TABLES.items()}
    return {name: empty[name] if frame is None else frame for name, frame in found.items()}


def _scan(url: str, table: Table) -> pl.LazyFrame | None:
    for pattern in (f"{url}/{table.name}/*.parquet", f"{url}/{table.name}.parquet"):
        try:
            # A look at one key shows whether there is something, and whether it may be read.
            pl.scan_parquet(pattern).select(table.keys[-1]).head(1).collect(engine="streaming")
        except FileNotFoundError:
            continue
        except (pl.exceptions.PolarsError, OSError) as error:
            if "expanded paths were empty" in str(error):
                continue
            raise UserError(f"cannot read {pattern}: {_reason(error)}") from error
        return pl.scan_parquet(
            pattern, schema=schema(table), missing_columns="insert", extra_columns="ignore"
        )
    return None


def export_hours(scans: Mapping[str, Mapping[str, pl.LazyFrame]], url: str) -> dict[str, int]:
    """Writes table -> hour -> rows to URL/<table>/<hour>.parquet, over what is there; returns path -> rows.

    Raises UserError, one line, when the storage does not take it.
    """
    written = {}
    for name, hours in scans.items():
        for hour, rows in hours.items():
            target = f"{url.rstrip('/')}/{name}/{hour}.parquet"
            frame = rows.collect(engine="streaming").sort(keys(STORED[name]))
            if frame.is_empty():
                continue
            try:
                frame.write_parquet(target, compression="zstd", compression_level=1)
            except (pl.exceptions.PolarsError, OSError) as error:
                raise UserError(f"cannot write {target}: {_reason(error)}") from error
            written[target] = frame.height
    return written


def _reason(error: BaseException) -> str:
    """The first line; what follows is the storage's own XML."""
    return str(error).strip().partition("\n")[0][:300]
