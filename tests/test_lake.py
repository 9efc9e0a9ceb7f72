"""History on a real S3 server: exported, copied, read back, and one line for what goes wrong."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from programs import Programs, fetch, free_port, until

from wellfed.analysis.inputs import read_tables
from wellfed.analysis.schema import TS, keys
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of an S3 server on loopback, which the environment points to."""
    programs = Programs(tmp_path)
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    programs.start(
        sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    )
    until(lambda: fetch(f"{server}/moto-api/"), what="the S3 server")
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{server}/lake", method="PUT"), timeout=10).close()
    yield "s3://lake/cluster-a"
    programs.stop()


def rows(hours: int) -> dict[str, pl.DataFrame]:
    ends = [T0 + timedelta(minutes=10 * n) for n in range(6 * hours)]
    columns = {"ts": pl.Series(ends, dtype=TS), "host": "a"}
    return {
        "host": pl.DataFrame(columns).with_columns(load1=pl.int_range(len(ends)).cast(pl.Float64)),
        "disk": pl.DataFrame({**columns, "device": "sda", "inflight": 1.0}),
    }


def whole(frame: pl.LazyFrame, table: str) -> pl.DataFrame:
    return frame.collect(engine="streaming").sort(keys(TABLES[table]))


def test_an_exported_store_is_read_back_from_the_bucket(bucket: str, tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.append(rows(3))
        store.seal(T0 + timedelta(hours=2, minutes=30))
        written = store.export(bucket)
        assert len(written) == 6
        assert sum(written.values()) == 36
        for table in ("host", "disk"):
            assert_frame_equal(whole(read_tables(bucket)[table], table), whole(store.scan(table), table))
        late = read_tables(f"{bucket}/", T0 + timedelta(hours=1), T0 + timedelta(hours=2))["host"]
        assert late.collect()["load1"].sort().to_list() == [7, 8, 9, 10, 11, 12]
        assert read_tables(bucket)["gpu"].collect().is_empty()
        # Half an hour asked for writes the whole hour: the object that is there is not cut short.
        store.append({"host": rows(1)["host"].tail(1).with_columns(load1=pl.lit(99.0))})
        assert list(
            store.export(bucket, ["host"], T0 + timedelta(minutes=40), T0 + timedelta(minutes=55))
        ) == [f"{bucket}/host/2026-03-01T10.parquet"]
        assert_frame_equal(whole(read_tables(bucket)["host"], "host"), whole(store.scan("host"), "host"))


def test_a_column_of_today_reads_as_null_from_an_object_of_yesterday(bucket: str) -> None:
    old = rows(1)["host"].with_columns(retired=pl.lit("x")).drop("load1")
    old.write_parquet(f"{bucket}/host/2026-02-01T10.parquet")
    new = rows(1)["host"].with_columns(ts=pl.col("ts") + timedelta(days=1))
    new.write_parquet(f"{bucket}/host/2026-03-02T10.parquet")
    found = whole(read_tables(bucket)["host"], "host")
    assert found["load1"].to_list() == [None] * 6 + [0, 1, 2, 3, 4, 5]
    assert "retired" not in found.columns


def test_the_commands_export_to_and_diagnose_from_a_bucket(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(tmp_path / "s") as store:
        store.append(rows(1))
    assert main(["store", "export", f"--data={tmp_path / 's'}", f"--out={bucket}"]) == 0
    assert f"{bucket}/host/2026-03-01T10.parquet: 6 rows" in capsys.readouterr().out
    assert main(["diagnose", f"--data={bucket}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"][0]["host"] == "a"


def test_what_is_not_there_or_not_readable_is_one_line(bucket: str) -> None:
    for url, says in (
        (f"{bucket}/nothing", "nothing to read in s3://lake/cluster-a/nothing"),
        ("s3://no-such-bucket/x", "cannot read s3://no-such-bucket/x/gpu"),
    ):
        with pytest.raises(UserError, match=says) as error:
            read_tables(url)
        assert "\n" not in str(error.value)
