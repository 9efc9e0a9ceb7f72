"""Cells are where the browser looks for them, figures are small, bins add up, gaps are hatched."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.schema import conform, schema
from wellfed.collectors.catalog import TABLES
from wellfed.dashboard.data import Answer
from wellfed.dashboard.derive import binned, grid_of
from wellfed.dashboard.figures import Line, lines, plain
from wellfed.dashboard.heat import rack_map, rack_of, racks
from wellfed.dashboard.panes import GAP, Pane, panes
from wellfed.dashboard.ranges import Range
from wellfed.dashboard.theme import DARK

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_cells_are_where_the_browser_looks_for_them() -> None:
    gpus = [
        (f"r{rack:02d}-n{node:02d}", str(i), f"GPU-{rack}-{node}-{i}")
        for rack in range(5)
        for node in range(3)
        for i in range(8)
    ]
    where = racks(gpus)
    y, x = where.cells[gpus.index(("r03-n01", "5", "GPU-3-1-5"))].tolist()
    index = where.index
    block = index["blocks"][y // (index["tall"] + 2) * index["across"] + x // (index["wide"] + 1)]
    host, cells = block[y % (index["tall"] + 2)]
    assert (host, cells[x % (index["wide"] + 1)]) == ("r03-n01", "5")
    assert len({tuple(cell) for cell in where.cells.tolist()}) == len(gpus)
    assert [rack_of(name) for name in ("r01-n02", "node7", "gpu-12.example")] == ["r01", "hosts", "gpu-12"]


def test_ten_thousand_gpus_are_a_small_picture() -> None:
    gpus = [(f"r{n // 16:02d}-n{n % 16:02d}", str(i), f"GPU-{n}-{i}") for n in range(1280) for i in range(8)]
    where = racks(gpus)
    figure = rack_map(DARK, where, np.zeros(len(gpus), dtype=np.uint8), [DARK.productive])
    assert len(json.dumps(figure)) < 40_000
    assert where.shape[0] * where.shape[1] < 2 * 10_240
    assert len(figure["layout"]["annotations"]) == 80


def test_small_racks_share_a_block_where_there_are_many_and_r9_comes_before_r10() -> None:
    gpus = [(f"r{n // 4}-n{n % 4}", str(i), f"GPU-{n}-{i}") for n in range(1280) for i in range(8)]
    names = [name for _, _, name in racks(gpus).labels]
    assert names[:3] == ["r0–r3", "r4–r7", "r8–r11"]
    assert len(names) == 80


def test_a_gap_is_hatched_and_a_line_does_not_bridge_it() -> None:
    stamps = np.arange(6) * 10_000.0
    y = np.array([1.0, 1.0, np.nan, np.nan, 1.0, 1.0])
    figure = panes(DARK, stamps, [Pane("A", [Line("a", y, "%")], 100)], [None, "cpu", GAP, GAP, None, None])
    hatched = [t for t in figure["data"] if "fillpattern" in t]
    assert len(hatched) == 1
    assert hatched[0]["x"][:2] == [15_000.0, 35_000.0]
    assert all(
        t["connectgaps"] is False
        for t in figure["data"]
        if t["type"] == "scatter" and "y" in t and "fill" not in t
    )


def test_names_at_the_end_of_lines_do_not_overlap() -> None:
    stamps = np.arange(3) * 10_000.0
    flat = [Line(f"n{i}", np.full(3, 1.0), "%") for i in range(6)]
    heights = [note["y"] for note in lines(DARK, stamps, flat, 100)["layout"]["annotations"]]
    assert min(np.diff(sorted(heights))) >= 0.099
    assert 0 <= min(heights) <= max(heights) <= 1


def test_plotly_gets_names_without_markup() -> None:
    assert plain("<b>%{x}&</b>") == "&lt;b>% {x}&amp;&lt;/b>"


def port_rows(values: list[float | None], seconds: list[int]) -> Answer:
    stamps = [NOW + timedelta(seconds=s) for s in seconds]
    rows = pl.LazyFrame({"ts": stamps, "host": "a", "port": "p", "rx_bytes": values, "rate_bps": 8.0})
    tables = {name: pl.LazyFrame(schema=schema(table)) for name, table in TABLES.items()}
    tables["port"] = conform(rows.cast({"ts": pl.Datetime("ms", "UTC")}), TABLES["port"], "test")
    return Answer(Range("1h", NOW - timedelta(hours=1), NOW, True), tables, diagnose(tables), NOW, NOW)


def test_amounts_in_bins_leave_out_falls_and_gaps() -> None:
    answer = port_rows([0.0, 10.0, 20.0, 5.0, 15.0, 900.0], [0, 10, 20, 30, 40, 400])
    rows = binned(answer, "port", ("rx_bytes",), ("rate_bps",), points=1)
    # 10 + 10, a reset, 10, and 885 across a gap.
    assert rows["rx_bytes"].sum() == 30.0
    assert rows["seconds"].sum() == 40.0
    assert rows["rate_bps"].unique().to_list() == [8.0]


def test_a_grid_has_no_number_where_nothing_was_measured() -> None:
    rows = pl.DataFrame({"at": [0, 10, 10], "name": ["a", "a", "b"], "v": [1.0, 2.0, None]})
    stamps, values = grid_of(rows, "name", "v", ["b", "a"])
    assert stamps.tolist() == [0.0, 10.0]
    assert np.isnan(values[0]).all()
    assert values[1].tolist() == [1.0, 2.0]
