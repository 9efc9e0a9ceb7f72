"""Bad input is one clear line; good input is every table."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from wellfed.analysis.inputs import read_tables
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

ROWS = pl.DataFrame(
    [{"ts": datetime(2026, 1, 1, tzinfo=UTC), "host": "n", "load1": 1.0}], schema=schema(TABLES["host"])
)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_tables(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_folder_a_file_and_an_empty_folder(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nothing")
    (tmp_path / "gpu.parquet").touch()
    assert "is a file" in refused(tmp_path / "gpu.parquet")
    (tmp_path / "empty").mkdir()
    assert "it holds nothing" in refused(tmp_path / "empty")


def test_an_empty_file_and_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "host.parquet").touch()
    assert "is empty" in refused(tmp_path)
    (tmp_path / "host.parquet").write_text("ts,host\n1,2\n" * 50)
    assert "cannot be read as Parquet" in refused(tmp_path)
    ROWS.write_parquet(tmp_path / "host.parquet")
    content = (tmp_path / "host.parquet").read_bytes()
    (tmp_path / "host.parquet").write_bytes(content[: len(content) // 2])
    assert "cannot be read as Parquet" in refused(tmp_path)


def test_wrong_columns_and_types(tmp_path: Path) -> None:
    ROWS.drop("ts").write_parquet(tmp_path / "host.parquet")
    assert "table host lacks the column ts" in refused(tmp_path)
    ROWS.with_columns(load1=pl.lit("high")).write_parquet(tmp_path / "host.parquet")
    assert "column load1 of table host is String, not a number" in refused(tmp_path)
    ROWS.with_columns(ts=pl.lit(5)).write_parquet(tmp_path / "host.parquet")
    assert "column ts of table host is Int32, not a timestamp" in refused(tmp_path)


def test_other_timestamps_integers_and_missing_columns_are_understood(tmp_path: Path) -> None:
    naive = ROWS.select(
        pl.col("ts").dt.replace_time_zone(None).dt.cast_time_unit("ns"), "host", load1=pl.lit(3)
    )
    naive.write_parquet(tmp_path / "host.parquet")
    tables = read_tables(str(tmp_path))
    assert set(tables) == set(TABLES)
    frame = tables["host"].collect()
    assert frame.schema == schema(TABLES["host"])
    assert frame.row(0, named=True)["ts"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert frame.row(0, named=True)["load1"] == 3.0
    assert tables["gpu"].collect().schema == schema(TABLES["gpu"])
