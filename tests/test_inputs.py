"""What `wellfed diagnose --data` is pointed at: a good folder gives every table, a bad one one clear line."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from wellfed.analysis.inputs import read_tables
from wellfed.analysis.schema import TS, schema
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
ROWS = pl.DataFrame(
    {"ts": [T0, T0 + timedelta(seconds=10), T0 + timedelta(seconds=20)], "host": "a", "load1": 1.0}
)


def refusal(folder: Path) -> str:
    """The line that a person is shown."""
    with pytest.raises(UserError) as caught:
        read_tables(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_with_one_table_gives_all_tables(tmp_path: Path) -> None:
    ROWS.write_parquet(tmp_path / "host.parquet")
    (tmp_path / "notes.txt").write_text("mine")
    tables = read_tables(tmp_path)
    assert list(tables) == list(TABLES)
    for name, frame in tables.items():
        assert frame.collect().schema == schema(TABLES[name])
    assert tables["host"].collect().height == 3
    assert tables["gpu"].collect().height == 0


def test_a_store_gives_all_tables_also_while_it_is_written(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.append({"host": ROWS})
        tables = read_tables(tmp_path / "s", start=T0)
        assert list(tables) == list(TABLES)
        assert tables["host"].collect().height == 2


def test_rows_are_those_of_windows_that_end_after_start_and_by_end(tmp_path: Path) -> None:
    ROWS.write_parquet(tmp_path / "host.parquet")
    frame = read_tables(tmp_path, T0, T0 + timedelta(seconds=10))["host"].collect()
    assert frame["ts"].to_list() == [T0 + timedelta(seconds=10)]
    with pytest.raises(ValueError, match="no time zone"):
        read_tables(tmp_path, datetime(2026, 3, 1))


def test_timestamps_of_other_programs_and_whole_numbers_are_understood(tmp_path: Path) -> None:
    naive = ROWS["ts"].dt.replace_time_zone(None).cast(pl.Datetime("ns"))
    other = ROWS.with_columns(ts=naive, load1=pl.lit(2, pl.Int32), extra=pl.lit("x"))
    other.write_parquet(tmp_path / "host.parquet")
    frame = read_tables(tmp_path)["host"].collect()
    assert frame.schema == schema(TABLES["host"])
    assert (frame["ts"][0], frame["load1"][0]) == (T0, 2.0)


def test_a_table_without_rows_is_fine(tmp_path: Path) -> None:
    ROWS.clear().write_parquet(tmp_path / "host.parquet")
    assert read_tables(tmp_path)["host"].collect().height == 0


def test_a_folder_name_with_pattern_signs_is_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    ROWS.write_parquet(folder / "host.parquet")
    assert read_tables(folder)["host"].collect().height == 3


def test_what_is_no_folder_of_tables_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"no such folder: {tmp_path / 'none'}"
    assert "expected a Wellfed store, or gpu.parquet, host.parquet and so on; found no files" in refusal(
        tmp_path
    )
    for number in range(7):
        (tmp_path / f"{number}.csv").touch()
    assert refusal(tmp_path).endswith("found 0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more")
    file = tmp_path / "gpu.parquet"
    ROWS.write_parquet(file)
    assert f"{file} is a file; give the folder that holds" in refusal(file)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "host.parquet"
    file.touch()
    assert refusal(tmp_path) == f"{file} is empty; expected a Parquet file"
    file.write_text("ts,host\n1,a\n")
    assert f"{file} is not a readable Parquet file" in refusal(tmp_path)
    ROWS.write_parquet(file)
    file.write_bytes(file.read_bytes()[:-30])
    assert f"{file} is not a readable Parquet file" in refusal(tmp_path)
    file.unlink()
    file.mkdir()
    assert refusal(tmp_path) == f"cannot read {file}: Is a directory"


def test_wrong_columns_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "host.parquet"
    for frame, message in (
        (ROWS.drop("ts"), "lacks the column ts; it has host, load1"),
        (ROWS.drop("host"), "lacks the column host; it has ts, load1"),
        (ROWS.with_columns(ts=pl.lit("now")), "column ts of table host is String, not a timestamp"),
        (ROWS.with_columns(load1=pl.lit("much")), "column load1 of table host is String, not a number"),
        (ROWS.with_columns(ts=pl.lit(None, TS)), "column ts of table host is null in 3 rows"),
    ):
        frame.write_parquet(file)
        line = refusal(tmp_path)
        assert message in line
        assert str(file) in line


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    os.symlink(tmp_path / "gone", tmp_path / "host.parquet")
    assert refusal(tmp_path) == f"cannot read {tmp_path / 'host.parquet'}: No such file or directory"


def test_damage_inside_a_file_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pl.concat([ROWS.with_columns(pl.lit(float(i)).alias("load1")) for i in range(500)])
    path = tmp_path / "host.parquet"
    rows.write_parquet(path, compression="zstd")
    content = bytearray(path.read_bytes())
    # Every page but the last columns' statistics and footer.
    for at in range(40, len(content) * 2 // 3, 7):
        content[at] ^= 0x55
    path.write_bytes(bytes(content))
    assert main(["diagnose", f"--data={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("wellfed: ")
    assert error.count("\n") == 1
