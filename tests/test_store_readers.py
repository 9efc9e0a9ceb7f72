"""Whoever reads the store with another program does it as docs/store.md says: its examples run here."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from wellfed.analysis.schema import TS
from wellfed.analysis.store import Store

PAGE = Path(__file__).parent.parent / "docs" / "store.md"
T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data`: an hour sealed, another still hot."""
    ends = [T0 + timedelta(minutes=n) for n in range(1, 91)]
    rows = {"ts": pl.Series(ends, dtype=TS), "host": "a", "gpu": "GPU-1", "job": "j"}
    with Store(tmp_path / "data") as store:
        gpu = pl.DataFrame(rows)
        store.append(
            {
                "gpu": gpu.with_columns(active_seconds=pl.int_range(1, 91).cast(pl.Float64)),
                "verdict_loss": gpu.with_columns(cause=pl.lit("storage.read"), lost_seconds=60.0),
            }
        )
        store.seal(T0 + timedelta(minutes=75))
    monkeypatch.chdir(tmp_path)


def test_duckdb_reads_the_sealed_hours(data: None) -> None:
    rows, verdicts = blocks("sql")
    assert duckdb.sql(rows).fetchall() == [("a", "GPU-1", 58.0)]
    assert duckdb.sql(verdicts).fetchall() == [("j", "storage.read", pytest.approx(59 / 60))]


def test_pandas_and_polars_read_what_the_page_says(data: None) -> None:
    pandas, polars = blocks("python")
    *imports, last = pandas.strip().splitlines()
    scope: dict[str, object] = {}
    exec("\n".join(imports), scope)
    answer = eval(last, scope)
    assert answer.loc["GPU-1"].tolist() == [1.0, 59.0]
    *imports, last = polars.strip().splitlines()
    exec("\n".join(imports), scope)
    assert eval(last, scope).height == 90
