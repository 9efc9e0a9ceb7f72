"""Every page renders over a simulated fleet, over nothing, and over names that try to be markup."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import numpy as np
import plotly
import polars as pl
import pytest

from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.scenarios import fleet
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES
from wellfed.dashboard import app, figures
from wellfed.dashboard.data import Answer, Range, parse_range
from wellfed.dashboard.pages.fleet import grid
from wellfed.dashboard.series import gather

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
EVIL = "<img src=x onerror=alert(1)>"


class Fixed:
    """A source with one answer."""

    price = 2.5
    simulated = True

    def __init__(self, tables: dict[str, pl.LazyFrame], diagnosis: Diagnosis) -> None:
        self.tables = tables
        self.diagnosis = diagnosis

    def answer(self, wanted: Range) -> Answer:
        last = self.tables["host"].select(pl.col("ts").max()).collect().item()
        return Answer(
            Range("1h", NOW - timedelta(hours=1), NOW, True), self.tables, self.diagnosis, last, NOW
        )


@pytest.fixture(scope="module")
def source() -> Fixed:
    made = fleet(seed=3, gpus=80, duration=900, end=NOW)
    tables = {name: frame.lazy() for name, frame in made.tables.items()}
    job = made.tables["gpu"]["job"].drop_nulls()[0]
    tables["gpu"] = tables["gpu"].with_columns(pl.col("job").replace(job, EVIL))
    tables["job"] = tables["job"].with_columns(
        pl.when(pl.col("job") == job).then(pl.lit(EVIL)).otherwise("name").alias("name"),
        pl.col("job").replace(job, EVIL),
    )
    return Fixed(tables, diagnose(tables, price=2.5))


@pytest.fixture(scope="module")
def nothing() -> Fixed:
    tables = {name: pl.LazyFrame(schema=schema(table)) for name, table in TABLES.items()}
    return Fixed(tables, diagnose(tables))


def rendered(source: Fixed, path: str, search: str = "") -> str:
    return json.dumps(app.page(source, path, search), cls=plotly.utils.PlotlyJSONEncoder)


def paths(source: Fixed) -> Iterator[str]:
    yield from (
        "/",
        "/findings",
        "/jobs",
        "/hosts",
        "/telemetry",
        "/nonsense",
        "/host/nobody",
        "/gpu/nobody/0",
        "/job/none",
    )
    document = source.diagnosis.document
    for gpu in document["gpus"][:2]:
        yield f"/gpu/{gpu['host']}/{gpu['index']}"
        yield f"/gpu/{gpu['host']}/{gpu['gpu']}"
        yield f"/host/{gpu['host']}"
    for finding in document["findings"]:
        yield f"/findings/{finding['id']}"
    for job in document["jobs"]:
        yield f"/job/{quote(job['job'], safe='')}"


def test_every_page_renders_and_says_that_it_is_simulated(source: Fixed) -> None:
    seen = list(paths(source))
    assert len(seen) > 20
    for path in seen:
        text = rendered(source, path)
        assert "SIMULATED DATA" in text, path
        assert '"H1"' in text, path


def test_every_page_renders_over_nothing(nothing: Fixed) -> None:
    for path in paths(nothing):
        assert rendered(nothing, path)
    assert "wellfed up" in rendered(nothing, "/")


def test_a_name_that_is_markup_stays_text(source: Fixed) -> None:
    def raw(node: object) -> list[str]:
        if isinstance(node, dict):
            found = [k for k in node if k in ("dangerouslySetInnerHTML", "dangerously_allow_html")]
            return found + [x for v in node.values() for x in raw(v)]
        return [x for v in node for x in raw(v)] if isinstance(node, list) else []

    def texts(node: object) -> list[str]:
        if isinstance(node, dict):
            return [x for v in node.values() for x in texts(v)]
        return [x for v in node for x in texts(v)] if isinstance(node, list) else [str(node)]

    page = json.loads(rendered(source, "/jobs"))
    assert EVIL in texts(page)
    assert raw(page) == []


def test_the_numbers_of_the_page_are_those_of_the_document(source: Fixed) -> None:
    totals = source.diagnosis.document["totals"]
    text = rendered(source, "/")
    assert f"{100 * totals['au']:.1f}" in text
    assert f"{totals['au']:.0%} of GPU time was productive" in text


def test_callbacks_are_async_so_that_none_blocks_the_loop(source: Fixed) -> None:
    made = app.create_app(source)
    server_side = [c for c in made.callback_map.values() if "callback" in c]
    assert server_side
    for entry in server_side:
        function: Callable[..., object] = inspect.unwrap(entry["callback"])
        assert asyncio.iscoroutinefunction(function)


@pytest.mark.parametrize(
    ("start", "end", "text", "live"),
    [
        (None, None, "1h", True),
        ("6h", None, "6h", True),
        ("6h", "x", "1h", True),
        ("2026-01-01T00:00", "2026-01-01T06:00", "2026-01-01 00:00 – 2026-01-01 06:00", False),
        ("2026-01-02T00:00", "2026-01-01T00:00", "1h", True),
        ("<script>", None, "1h", True),
    ],
)
def test_ranges_of_the_url(start: str | None, end: str | None, text: str, live: bool) -> None:
    found = parse_range(start, end, NOW)
    assert (found.text, found.live) == (text, live)
    assert found.start < found.end


def test_cells_are_where_the_browser_looks_for_them() -> None:
    gpus = [
        (f"r{rack:02d}-n{node:02d}", str(i), f"GPU-{rack}-{node}-{i}")
        for rack in range(5)
        for node in range(3)
        for i in range(8)
    ]
    state = {gpu: ("", 0.0) for _, _, gpu in gpus} | {"GPU-3-1-5": ("storage", 0.9)}
    z, _, index = grid(gpus, state, ["storage"])
    ((y, x),) = np.argwhere(z == 4)
    block = index["blocks"][y // (index["tall"] + 2) * index["across"] + x // (index["wide"] + 1)]
    host, cells = block[y % (index["tall"] + 2)]
    assert (host, cells[x % (index["wide"] + 1)]) == ("r03-n01", "5")
    assert (z != 255).sum() == len(gpus)


def test_ten_thousand_gpus_are_a_small_picture() -> None:
    gpus = [(f"r{n // 16:02d}-n{n % 16:02d}", str(i), f"GPU-{n}-{i}") for n in range(1280) for i in range(8)]
    z, blocks, _ = grid(gpus, {gpu: ("", 0.0) for _, _, gpu in gpus}, [])
    figure = figures.heat_map(z, [], blocks)
    assert len(json.dumps(figure)) < 150_000
    assert z.shape[0] * z.shape[1] < 2 * 10_240


def test_rates_have_gaps_where_the_data_has() -> None:
    seconds = [0, 10, 20, 80, 90, 100]
    values = [0.0, 5.0, 10.0, 40.0, 20.0, 25.0]
    frame = pl.LazyFrame(
        {"ts": [NOW + timedelta(seconds=s) for s in seconds], "host": "n", "net_rx_bytes": values}
    ).cast({"ts": pl.Datetime("ms", "UTC")})
    found = gather(frame, ["net_rx_bytes"], [], 10.0)
    rates = dict(
        zip(((found.stamps - found.stamps[0]) / 1000).tolist(), found["net_rx_bytes"].tolist(), strict=True)
    )
    known = {s: r for s, r in rates.items() if not np.isnan(r)}
    assert known == {10.0: 0.5, 20.0: 0.5, 100.0: 0.5}
    assert len(rates) == 11
    assert np.isnan(found["cpu_busy_seconds"]).all()


def test_a_month_is_at_most_1500_points() -> None:
    stamps = [NOW + timedelta(seconds=10 * i) for i in range(5000)]
    frame = pl.LazyFrame({"ts": stamps, "host": "n", "load1": 1.0}).cast({"ts": pl.Datetime("ms", "UTC")})
    assert gather(frame, [], ["load1"], 10.0).stamps.size <= 1501
