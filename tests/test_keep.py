"""`wellfed store` checks, repairs and exports."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from wellfed.analysis.schema import schema
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.collectors.catalog import TABLES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    row = {"ts": datetime(2026, 1, 1, tzinfo=UTC), "host": "n1", "load1": 1.0}
    with Store(str(tmp_path / "store")) as store:
        store.append({"host": pl.DataFrame([row], schema=schema(TABLES["host"]))})
    return tmp_path / "store"


def test_check_and_repair(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", f"--data={root}"]) == 0
    assert "whole" in capsys.readouterr().out
    (hot,) = root.rglob("*.arrow")
    hot.write_bytes(hot.read_bytes()[:-1] + b"\0")
    assert main(["store", "check", f"--data={root}"]) == 1
    assert hot.name in capsys.readouterr().out
    assert main(["store", "repair", f"--data={root}"]) == 0
    capsys.readouterr()
    assert main(["store", "check", f"--data={root}"]) == 0


def test_export_writes_an_input_and_never_over_something(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = root.parent / "out"
    assert main(["store", "export", f"--data={root}", f"--out={out}"]) == 0
    assert pl.read_parquet(out / "host.parquet")["load1"].to_list() == [1.0]
    capsys.readouterr()
    assert main(["store", "export", f"--data={root}", f"--out={out}"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["store", "export", f"--data={root}"]) == 2
    assert main(["store", "check", f"--data={root.parent}"]) == 2
