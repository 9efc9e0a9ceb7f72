"""`wellfed demo` in a real browser: every page cold by deep link, marked, without errors or outside requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from programs import Programs, fetch, free_port, until

from wellfed.dashboard.registry import PAGES

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "store"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[str]:
    running = Programs(tmp_path_factory.mktemp("demo"))
    address = f"127.0.0.1:{free_port()}"
    running.wellfed("demo", f"--address={address}", "--gpus=80", "--seed=2", f"--data={store}")
    until(lambda: fetch(f"http://{address}/healthz"), seconds=120, what="the demo answers")
    yield f"http://{address}"
    running.stop()


#: The live tail is on; on a busy machine its badge may say how old the data is.
LIVE = "#live[aria-pressed=true]"
THINGS = ("/gpu/r01-n01/0", "/host/r01-n01", "/job/kubernetes%3Aplatform%2Fmoe-32e")


@pytest.mark.parametrize("path", [*(page.path for page in PAGES), *THINGS])
def test_each_page_opens_cold_and_clean(demo: str, visit, path: str) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(f"{demo}{path}?from=15m")
    assert "SIMULATED DATA" in page.inner_text("header")
    assert page.get_attribute("html", "lang") == "en"
    assert page.locator("h1").count() == 1
    assert page.locator("#verdict").count() == 1
    assert page.locator("main h2").count() >= 1
    # Nothing is wider than the window.
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    visit.clean()


def test_a_finding_opens_cold_by_its_link(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/findings?from=15m")
    link = page.get_attribute("main tr[data-href]", "data-href")
    page.goto("about:blank")
    page = visit.open(demo + link)
    page.wait_for_selector("h3:has-text('Do next')")
    page.wait_for_selector("main button:has-text('Acknowledge')")
    assert page.locator("h1").count() == 1
    visit.clean()


def test_what_is_said_about_a_finding_is_in_the_stores_folder(demo: str, store: Path, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/findings?from=15m")
    page.click("main tr[data-href] a")
    page.wait_for_selector("main .acts")
    page.keyboard.press("a")
    page.wait_for_selector("main .pill:has-text('acknowledged by local')")
    (note,) = (json.loads(line) for line in (store / "notes.jsonl").read_text().splitlines())
    assert (note["kind"], note["who"]) == ("acknowledge", "local")
    page.keyboard.press("n")
    page.fill("#say-text", "seen by mistake")
    page.click("#say-save")
    page.wait_for_selector("ul.said p:has-text('seen by mistake')")
    page.click("main button:has-text('Take back')")
    page.wait_for_selector("main button:has-text('Acknowledge')")
    assert len((store / "notes.jsonl").read_text().splitlines()) == 3
    visit.clean()


def test_a_finding_opens_from_the_list_by_keyboard_alone(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url("**/findings?from=15m")
    page.wait_for_selector("main tr[data-href]")
    # A live update may order the list anew between the look at a row and the key that opens it.
    page.keyboard.press("l")
    page.wait_for_selector("#live[aria-pressed=false]")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    wanted = page.get_attribute("main tr.chosen", "data-href")
    assert wanted == page.locator("main tr[data-href]").first.get_attribute("data-href")
    page.keyboard.press("Enter")
    page.wait_for_url("**" + wanted)
    page.wait_for_selector("h3:has-text('Do next')")
    visit.clean()


def heat_cell(page) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """The middle of the first cell of the heat map."""
    page.wait_for_selector("#heat .heatmaplayer image")
    return tuple(
        page.evaluate(
            """() => {
              const gd = document.querySelector('#heat .js-plotly-plot'), box = gd.getBoundingClientRect();
              const l = gd._fullLayout;
              return [box.x + l.xaxis._offset + l.xaxis.d2p(0), box.y + l.yaxis._offset + l.yaxis.d2p(0)];
            }"""
        )
    )


def test_a_cell_of_the_heat_map_leads_to_its_gpu(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    tip = page.locator("#heat-tip:has-text('r01-n01 · GPU 0 · ')")

    def hovers() -> bool:
        # An update may move the cell from under the pointer.
        x, y = heat_cell(page)
        page.mouse.move(x - 3, y)
        page.mouse.move(x, y)
        return tip.is_visible()

    until(hovers, what="the tip of the first cell")
    page.mouse.click(*heat_cell(page))
    page.wait_for_url("**/gpu/r01-n01/0?from=15m")
    page.wait_for_selector("h1:has-text('GPU 0')")
    visit.clean()


def test_arrows_choose_a_gpu_which_the_address_remembers(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    heat_cell(page)
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    page.wait_for_selector("#heat-tip:has-text('r01-n02 · GPU 1 · ')")
    assert page.url.endswith("sel=r01-n02%2F1")
    again = visit.open(page.url)
    heat_cell(again)
    again.wait_for_selector("#heat-tip:has-text('r01-n02 · GPU 1 · ')")
    again.keyboard.press("Enter")
    again.wait_for_url("**/gpu/r01-n02/1?from=15m")
    visit.clean()


def test_the_range_lives_in_the_url(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    page.click(".ranges >> text=1h")
    page.wait_for_url("**/?from=1h")
    page.wait_for_selector(".ranges .on:has-text('1h')")
    page.click(".nav >> text=Jobs")
    page.wait_for_url("**/jobs?from=1h")
    page.wait_for_selector("h1:has-text('Jobs')")
    page.go_back()
    page.wait_for_selector("h1:has-text('Fleet')")

    page.click("#custom summary")
    page.fill("#from", "15m")
    # A live update does not take the form away from under the hand.
    shown = page.get_attribute("#frame", "data-shown")
    page.wait_for_selector(f"#frame:not([data-shown='{shown}'])")
    assert page.input_value("#from") == "15m"
    page.click("#apply")
    page.wait_for_url("**/?from=15m")
    page.wait_for_selector(".ranges .on:has-text('15m')")
    visit.clean()


def test_a_copied_link_stays_as_it_is_and_live_takes_it_back(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/jobs?from=15m")
    page.wait_for_selector(LIVE)
    page.keyboard.press("c")
    page.wait_for_selector("#copy[data-done]")
    link = page.get_attribute("#copy", "data-done")
    assert re.search(r"/jobs\?from=\d{4}-\d\d-\d\dT[\d%A-Z]+Z&to=\d{4}-\d\d-\d\dT[\d%A-Z]+Z$", link)
    page = visit.open(link)
    page.wait_for_selector("#age:has-text('History')")
    page.keyboard.press("l")
    page.wait_for_url("**/jobs")
    page.wait_for_selector(LIVE)
    page.keyboard.press("l")
    page.wait_for_selector("#age:has-text('Paused')")
    visit.clean()


def test_brackets_shift_the_range_by_half(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/telemetry?from=15m")
    page.wait_for_selector(LIVE)
    page.keyboard.press("[")
    page.wait_for_url("**/telemetry?from=*&to=*")
    query = dict(parse_qsl(urlsplit(page.url).query))
    start, end = (datetime.fromisoformat(query[name]) for name in ("from", "to"))
    assert (end - start).total_seconds() == 900
    assert 400 < (datetime.now(UTC) - end).total_seconds() < 600
    visit.clean()


def test_a_drag_over_a_chart_looks_closer_and_a_double_click_goes_back(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/gpu/r01-n01/0?from=15m")
    page.wait_for_selector(LIVE)
    page.wait_for_selector("#signals .js-plotly-plot[data-heard]")
    box = until(lambda: page.locator("#signals .nsewdrag").first.bounding_box(), what="the chart")
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], y, steps=4)
    page.mouse.up()
    page.wait_for_url("**/gpu/r01-n01/0?from=*&to=*")
    page.wait_for_selector("#age:has-text('History')")
    box = until(lambda: page.locator("#signals .nsewdrag").first.bounding_box(), what="the chart, closer")
    page.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_url("**/gpu/r01-n01/0?from=15m")
    visit.clean()


def test_search_finds_by_keyboard(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    page.keyboard.press("/")
    page.keyboard.type("bruno")
    page.wait_for_selector("#hits a:has-text('bruno')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs?from=15m&user=bruno")
    page.wait_for_selector("main tr:has-text('llama-70b-pretrain')")
    visit.clean()


def test_help_lists_the_keys_and_the_theme_is_remembered(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]:has-text('search GPUs, hosts, jobs and users')")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    before = page.get_attribute("html", "data-theme")
    page.keyboard.press("d")
    page.wait_for_selector(f"html:not([data-theme={before}])")
    after = page.get_attribute("html", "data-theme")
    page.reload()
    page.wait_for_selector("#verdict")
    assert page.get_attribute("html", "data-theme") == after
    assert {before, after} == {"dark", "light"}
    visit.clean()


def test_the_heat_map_is_coloured_by_what_the_address_says(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/?from=15m")
    for name, way in (("SM active", "sm"), ("$ lost", "cost"), ("Job", "job")):
        page.click(f"main .chips >> text={name}")
        page.wait_for_url(f"**/?from=15m&by={way}")
        page.wait_for_selector(f"main .chip.on:has-text('{name}')")
    visit.clean()


def test_exports_are_files_that_open(demo: str, visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/efficiency?from=15m")
    files = {}
    for name in ("CSV", "HTML report"):
        with page.expect_download() as waiting:
            page.click(f"main a:has-text('{name}')")
        files[name] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(files[name])
    rows = files["CSV"].read_text().splitlines()
    assert rows[0].startswith("by,name,gpus,gpu_hours")
    assert len(rows) > 20
    visit.clean()
    page.goto(files["HTML report"].as_uri())
    assert "Cost and energy by team and user" in page.inner_text("body")
    assert visit.outside == [files["HTML report"].as_uri()]


def test_the_page_moves_on_with_the_data(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(demo + "/telemetry?from=15m")
    shown = page.wait_for_selector("#frame[data-shown]").get_attribute("data-shown")
    page.wait_for_selector(f"#frame:not([data-shown='{shown}'])")
    visit.clean()


def test_no_script_may_be_made_from_text(demo: str, visit) -> None:  # type: ignore[no-untyped-def]
    response = visit.page.goto(demo + "/")
    policy = response.headers["content-security-policy"]
    assert "unsafe-eval" not in policy
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy


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
