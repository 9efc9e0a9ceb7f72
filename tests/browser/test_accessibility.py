"""No page breaks a WCAG A or AA rule that axe can check, in either theme, with data, without and while it is old."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import dashboards
import pytest
from axe_playwright_python.sync_playwright import Axe
from dashboards import EVIL, Fixed
from playwright.sync_api import Browser, Page
from served import serving

from wellfed.analysis.notes import Notes
from wellfed.analysis.trouble import key
from wellfed.dashboard.app import create_app
from wellfed.dashboard.data import Answer
from wellfed.dashboard.ranges import Range
from wellfed.dashboard.registry import PAGES

pytestmark = pytest.mark.browser

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


class Aged:
    """A fleet, or nothing, whose newest window is so many seconds old at any time."""

    simulated = True

    def __init__(self, source: Fixed, age: float = 0.0) -> None:
        self._made, self._age = source.made, timedelta(seconds=age)

    def answer(self, wanted: Range) -> Answer:
        now = datetime.now(UTC)
        last = now - self._age if self._made.last else None
        return replace(self._made, range=Range("1h", now - timedelta(hours=1), now, True), last=last, now=now)


@pytest.fixture(scope="module")
def fleet() -> Fixed:
    return dashboards.simulated_fleet(duration=600).wired()


@pytest.fixture(scope="module")
def hub(fleet: Fixed) -> Iterator[str]:
    notes = Notes()
    first = fleet.diagnosis.document["findings"][0]
    notes.say(first, "acknowledge", "ada", "on it")
    notes.say(first, "mute", "ada", until=datetime.now(UTC) + timedelta(hours=4))
    with serving(create_app(Aged(fleet), notes).server) as asked:
        yield asked.url


@pytest.fixture(scope="module", params=["dark", "light"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=request.param)
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


def show(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#verdict")
    # Names of charts are drawn after the page; the bones of a page that loads are gone.
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot:not(:has(.main-svg))').length === 0")
    page.wait_for_selector("body:not(.busy)")


def violations(page: Page) -> list[tuple[str, list[Any]]]:
    """(rule, elements that break it)."""
    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    return [(v["id"], [node["target"] for node in v["nodes"]]) for v in found]


def test_pages_with_data(fleet: Fixed, hub: str, page: Page) -> None:
    finding = fleet.diagnosis.document["findings"][0]
    things = ("/gpu/r01-n01/0", "/host/r01-n01", f"/job/{quote(EVIL, safe='')}", f"/findings/{key(finding)}")
    ways = ("/?by=sm", "/?by=cost", "/?by=job", "/findings?state=muted", "/fabric?by=errors", "/nonsense")
    ways += ("/fabric?by=crowded&sort=-leaves.spine1,port,highest.port", "/jobs?sort=name&user=bruno")
    ways += ("/?sort=-conf,gpus.gpu,causes.cause&user=bruno", "/storage?sort=latency.target,-read,jobs.job")
    for path in (*(known.path for known in PAGES), *things, *ways):
        show(page, hub + path)
        assert violations(page) == [], path


def test_leaves_whose_switches_are_silent(fleet: Fixed, page: Page) -> None:
    silent = dashboards.simulated_fleet(duration=300)
    silent.made = replace(silent.made, topology=fleet.made.topology)
    with serving(create_app(Aged(silent)).server) as asked:
        show(page, asked.url + "/fabric")
        page.wait_for_selector("main td:has-text('no counters')")
        assert violations(page) == []


def test_what_opens_over_a_page(hub: str, page: Page) -> None:
    show(page, hub + "/findings")
    for press, opened in (("?", "dialog#help[open]"), ("e", "#exports a")):
        page.keyboard.press(press)
        page.wait_for_selector(opened)
        assert violations(page) == [], opened
        page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.wait_for_selector("dialog#say[open]")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("r01")
    page.wait_for_selector("#hits a")
    assert violations(page) == []
    show(page, hub + "/")
    for summary in page.locator("main details summary").all():
        summary.click()
    page.keyboard.press("ArrowRight")
    assert violations(page) == []


def test_pages_without_data(page: Page) -> None:
    with serving(create_app(Aged(dashboards.no_data())).server) as asked:
        for known in PAGES:
            show(page, asked.url + known.path)
            assert violations(page) == [], known.path


def test_pages_of_a_machine_without_a_gpu(page: Page) -> None:
    with serving(create_app(Aged(dashboards.one_host())).server) as asked:
        for path in ("/", "/findings", "/pipeline", "/storage", "/hosts", "/host/r01-n01"):
            show(page, asked.url + path)
            assert violations(page) == [], path


def test_pages_whose_data_is_old(fleet: Fixed, page: Page) -> None:
    with serving(create_app(Aged(fleet, age=600)).server) as asked:
        for path in ("/", "/findings", "/gpu/r01-n01/0"):
            show(page, asked.url + path)
            page.wait_for_selector("body.stale")
            assert violations(page) == [], path
