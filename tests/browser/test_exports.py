"""What is exported opens: CSV in a reader, pictures as pictures, the report in a browser without a server."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import dashboards
import pytest
from dashboards import EVIL, Fixed
from playwright.sync_api import Page
from served import serving

from wellfed.dashboard.app import create_app

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=600)


@pytest.fixture(scope="module")
def hub(source: Fixed) -> Iterator[str]:
    with serving(create_app(source).server) as asked:
        yield asked.url


def saved(page: Page, folder: Path, choose: str) -> Path:
    """The file that a choice of the menu downloads."""
    page.click("#export summary")
    with page.expect_download() as waiting:
        page.locator("#exports > *").filter(has_text=choose).first.click()
    file = folder / waiting.value.suggested_filename
    waiting.value.save_as(file)
    page.keyboard.press("Escape")
    page.wait_for_selector("#exports", state="hidden")
    return file


def test_a_table_is_saved_as_csv(source: Fixed, hub: str, visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(hub + "/jobs")
    file = saved(page, tmp_path, "Jobs")
    assert file.name.startswith("wellfed-simulated-jobs-jobs-2026")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert len(rows) == len(source.diagnosis.document["jobs"])
    assert EVIL in {row["Job"] for row in rows}
    visit.clean()


def test_a_chart_is_saved_as_a_picture_with_its_name(hub: str, visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for path, chart in (("/", "Lost GPU-hours by cause"), ("/gpu/r01-n01/0", "Signals")):
        page = visit.open(hub + path)
        page.wait_for_selector("main .js-plotly-plot .main-svg")
        page.click("#export summary")
        with page.expect_download() as waiting:
            page.locator("#exports button").filter(has_text=chart).click()
        file = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(file)
        assert file.name.startswith("wellfed-simulated-")
        visit.clean()
        page.goto(file.as_uri())
        size = page.evaluate("[document.images[0].naturalWidth, document.images[0].naturalHeight]")
        assert size[0] > 600
        assert size[1] > 300
        visit.outside.clear()


def test_the_report_opens_without_a_server(hub: str, visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(hub + "/")
    file = saved(page, tmp_path, "Report of this range")
    document = json.loads(saved(page, tmp_path, "Diagnosis of this range").read_text())
    visit.clean()
    page.goto(file.as_uri())
    text = page.inner_text("body")
    assert "SIMULATED DATA" in text
    assert f"{document['totals']['au']:.1%}" in text
    assert EVIL in text
    assert page.locator("img, script").count() == 0
    assert visit.outside == [file.as_uri()]


def test_the_menu_works_by_keyboard(hub: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(hub + "/jobs")
    page.keyboard.press("e")
    page.wait_for_selector("#exports a:focus")
    assert page.inner_text("#exports a:focus").startswith("Report of this range")
    with page.expect_download() as waiting:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename.endswith(".json")
    page.keyboard.press("Escape")
    page.wait_for_selector("#exports", state="hidden")
    visit.clean()
