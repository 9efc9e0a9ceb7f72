"""`wellfed demo` in a real browser: every page cold by deep link, marked, without errors or outside requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Programs, fetch, free_port, until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = Programs(tmp_path_factory.mktemp("demo"))
    address = f"127.0.0.1:{free_port()}"
    running.wellfed("demo", f"--address={address}", "--gpus=80", "--seed=2")
    until(lambda: fetch(f"http://{address}/healthz"), seconds=120, what="the demo answers")
    yield f"http://{address}"
    running.stop()


@pytest.mark.parametrize(
    "path", ["/", "/gpu/r01-n01/0", "/host/r01-n01", "/hosts", "/findings", "/jobs", "/telemetry"]
)
def test_each_page_opens_cold_and_clean(demo: str, visit, path: str) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + path)
    assert "SIMULATED DATA" in page.inner_text("header")
    assert page.get_attribute("html", "lang") == "en"
    assert page.locator("main h2, main p").count() >= 1
    visit.clean()


def test_a_cell_of_the_heat_map_leads_to_its_gpu(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    page.wait_for_selector("#heat .heatmaplayer image", timeout=20_000)
    box = page.locator("#heat .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 12, box["y"] + box["height"] * 0.3)
    page.mouse.move(box["x"] + 16, box["y"] + box["height"] * 0.3)
    page.wait_for_selector("#heat-tip:has-text('GPU')", timeout=10_000)
    told = page.inner_text("#heat-tip")
    match = re.fullmatch(r"(\S+) · GPU (\S+)", told)
    assert match is not None
    page.mouse.click(box["x"] + 16, box["y"] + box["height"] * 0.3)
    page.wait_for_url(f"**/gpu/{match[1]}/{match[2]}?from=15m", timeout=10_000)
    page.wait_for_selector(f"h1:has-text('GPU {match[2]}')", timeout=20_000)
    visit.clean()


def test_the_range_lives_in_the_url(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/")
    page.click(".ranges >> text=15m")
    page.wait_for_url("**/?from=15m", timeout=10_000)
    page.wait_for_selector(".ranges .on:has-text('15m')", timeout=10_000)
    page.click("nav >> text=Jobs")
    page.wait_for_url("**/jobs?from=15m", timeout=10_000)
    visit.clean()


def test_no_page_would_load_its_scripts_from_elsewhere(demo: str) -> None:
    body = fetch(demo + "/").decode()
    assert not re.search(r"(src|href)=\"(https?:)?//", body)
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert b"cdn" not in fetch(demo + path)
    assert json.loads(fetch(demo + "/_dash-dependencies"))


def test_a_scenario_that_does_not_exist_is_one_line(programs: Programs, tmp_path: Path) -> None:
    wrong = programs.wellfed("demo", "--scenario=nfs-slow-servr", f"--address=127.0.0.1:{free_port()}")
    assert wrong.wait(30) == 2
    text = wrong.log.read_text()  # type: ignore[attr-defined]
    assert "did you mean 'nfs-slow-server'?" in text
    assert "Traceback" not in text
