"""A range of a store tells the same numbers on the command line, in the API, on the pages and in exports."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from dash import html
from dash.development.base_component import Component
from served import Asked, serving

from wellfed.analysis.notes import Notes
from wellfed.analysis.scenarios import fleet
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.dashboard import app
from wellfed.dashboard.data import StoreSource
from wellfed.dashboard.words import hours, money, share
from wellfed.prices import Prices

END = datetime(2026, 3, 2, 12, tzinfo=UTC)
PRICE = 2.5
#: Begins and ends inside the data and between two windows.
RANGE = {
    "from": (END - timedelta(seconds=545)).isoformat(),
    "to": (END - timedelta(seconds=35)).isoformat(),
}
SEARCH = urlencode(RANGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("agreement") / "store"
    with Store(str(path)) as store:
        store.append(fleet(seed=5, gpus=80, duration=600, end=END).tables)
    return str(path)


@pytest.fixture(scope="module")
def printed(folder: str) -> dict[str, Any]:
    """What `wellfed diagnose --json` prints."""
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr("sys.stdout", out)
        flags = [f"--data={folder}", f"--from={RANGE['from']}", f"--to={RANGE['to']}", f"--price={PRICE}"]
        assert main(["diagnose", "--json", *flags]) == 0
    document: dict[str, Any] = json.loads(out.getvalue())
    assert len(document["findings"]) > 3
    assert document["totals"]["lost_seconds"] > 0
    return document


@pytest.fixture(scope="module")
def source(folder: str) -> Iterator[StoreSource]:
    with Store(folder) as store:
        yield StoreSource(store, price=Prices(PRICE))


@pytest.fixture(scope="module")
def hub(source: StoreSource) -> Iterator[Asked]:
    with serving(app.create_app(source).server) as asked:
        yield asked


def same(one: object, two: object) -> bool:
    """Equal but for the last bits of a float: threads add up in any order."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-9)
    return type(one) is type(two) and one == two


def items(hub: Asked, name: str) -> list[dict[str, Any]]:
    answer = hub.get(f"/api/v1/{name}?{SEARCH}&limit=1000&order=name").json
    assert answer["next"] is None
    listed: list[dict[str, Any]] = answer["items"]
    return listed


def texts(part: object) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, list | tuple):
        for inner in part:
            yield from texts(inner)
    elif isinstance(part, Component):
        yield from texts(getattr(part, "children", None))


def shown(source: StoreSource, path: str) -> str:
    """All that a page says."""
    return " ".join(texts(list(app.page(source, path, SEARCH).main)))


def tile(source: StoreSource, path: str, name: str) -> list[str]:
    """The texts of one of the figures at the top of a page."""

    def walk(part: object) -> Iterator[Component]:
        if isinstance(part, list | tuple):
            for inner in part:
                yield from walk(inner)
        elif isinstance(part, Component):
            yield part
            yield from walk(getattr(part, "children", None))

    tiles = [p for p in walk(list(app.page(source, path, SEARCH).main)) if isinstance(p, html.Div)]
    (found,) = (p for p in tiles if getattr(p, "className", "") == "kpi" and name in list(texts(p)))
    return list(texts(found))


def exported(hub: Asked, path: str, table: str) -> list[dict[str, str]]:
    text = hub.get(f"/export/table.csv?path={quote(path)}&table={quote(table)}&{SEARCH}").body.decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_the_hub_diagnoses_what_the_command_line_does(hub: Asked, printed: dict[str, Any]) -> None:
    assert same(hub.get(f"/export/diagnosis.json?{SEARCH}").json, printed)


def test_the_api_tells_the_numbers_of_the_command_line(hub: Asked, printed: dict[str, Any]) -> None:
    summary = hub.get(f"/api/v1/summary?{SEARCH}").json
    for name in ("from", "to", "window_seconds", "price_per_gpu_hour", "totals", "warnings"):
        assert same(summary[name], printed[name]), name
    assert (summary["gpus"], summary["jobs"]) == (len(printed["gpus"]), len(printed["jobs"]))
    assert summary["findings"]["total"] == len(printed["findings"])
    assert same(items(hub, "gpus"), printed["gpus"])
    assert same(items(hub, "jobs"), printed["jobs"])
    found = [{k: v for k, v in f.items() if k != "standing"} for f in items(hub, "findings")]
    assert same(found, printed["findings"])
    assert same(hub.get(f"/api/v1/coverage?{SEARCH}").json["items"], printed["coverage"])


def test_the_pages_tell_the_numbers_of_the_command_line(source: StoreSource, printed: dict[str, Any]) -> None:
    totals, findings = printed["totals"], printed["findings"]
    opened = sum(f["end"] is None for f in findings)
    assert f"{100 * totals['au']:.1f}" in tile(source, "/", "Productive GPU time")
    assert hours(totals["lost_seconds"]) in tile(source, "/", "Lost GPU-hours")
    assert f"of {hours(totals['covered_seconds'])} h measured" in tile(source, "/", "Lost GPU-hours")
    assert money(totals["cost_lost"]) in tile(source, "/", "Cost of loss")
    assert str(opened) in tile(source, "/", "Open findings")
    coverage = f"{100 * totals['covered_seconds'] / totals['gpu_seconds']:.1f}"
    assert coverage in tile(source, "/", "Telemetry coverage")
    assert share(totals["au"]) in tile(source, "/efficiency", "Productive")
    assert f"{opened} open of {len(findings)} findings" in shown(source, "/findings")
    for finding in findings:
        page = shown(source, f"/findings/{finding['id']}")
        assert hours(finding["lost_gpu_seconds"]) in page
        assert money(finding["cost"]) in page
        assert f"confidence {finding['confidence']:.2f}" in page
    for job in printed["jobs"]:
        page = shown(source, f"/job/{quote(job['job'], safe='')}")
        assert job["au"] is None or f"{job['au']:.0%} of its GPU time was productive" in page
    for gpu in printed["gpus"]:
        page = shown(source, f"/gpu/{quote(gpu['host'])}/{quote(gpu['gpu'], safe='')}")
        assert hours(gpu["lost_seconds"]) in page


def test_tables_of_different_pages_add_up_to_the_same_totals(hub: Asked, printed: dict[str, Any]) -> None:
    totals = printed["totals"]
    lost = totals["lost_seconds"] / 3600
    causes = exported(hub, "/efficiency", "Cost of loss by cause")
    assert sum(float(row["GPU-h lost"]) for row in causes) == pytest.approx(lost)
    assert sum(float(row["Cost ($)"]) for row in causes) == pytest.approx(totals["cost_lost"])
    teams = exported(hub, "/efficiency", "Cost by team")
    assert sum(float(row["GPU-h lost"]) for row in teams) == pytest.approx(lost)
    assert sum(float(row["GPU-h"]) for row in teams) == pytest.approx(totals["covered_seconds"] / 3600)
    gpus = exported(hub, "/", "State of GPUs")
    assert len(gpus) == len(printed["gpus"])
    assert sum(float(row["GPU-h lost in the range"]) for row in gpus) == pytest.approx(lost)
    jobs = {row["Job"]: row for row in exported(hub, "/jobs", "Jobs")}
    for job in printed["jobs"]:
        row = jobs[job["name"] or job["job"]]
        assert float(row["GPU-h lost"]) == pytest.approx(job["lost_seconds"] / 3600)
    found = exported(hub, "/findings", "Findings")
    costs = [f["lost_gpu_seconds"] / 3600 for f in printed["findings"]]
    assert [float(row["GPU-h lost"]) for row in found] == pytest.approx(costs)


def test_notes_change_no_number_but_what_is_counted_as_open(
    source: StoreSource, printed: dict[str, Any]
) -> None:
    notes = Notes()
    finding = printed["findings"][0]
    notes.say(finding, "mute", "ada", until=datetime.now(UTC) + timedelta(hours=1))
    view = app.view_of(source, "/", SEARCH, notes=notes)
    assert same(view.document["totals"], printed["totals"])
    assert view.standing(finding).muted is not None
    page = " ".join(texts(list(app.page(source, "/findings", SEARCH, notes=notes).main)))
    assert f"of {len(printed['findings']) - 1} findings" in page
