"""What surrounds the pages: hostile names, a hub that goes away, data that grows old, hosts that fall silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import dashboards
import pytest
import uvicorn
from dashboards import EVIL, Fixed

from wellfed.dashboard.app import create_app
from wellfed.dashboard.data import Answer
from wellfed.dashboard.ranges import Range

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=300)


class Shown:
    """A source whose answer a test changes. An error is raised."""

    simulated = True

    def __init__(self, made: Answer) -> None:
        self.made: Answer | Exception = made

    def answer(self, wanted: Range) -> Answer:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


@contextmanager
def served(source: Shown) -> Iterator[tuple[str, uvicorn.Server]]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(source).server, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def fresh(source: Fixed, age: float = 0.0) -> Answer:
    """The fleet's answer as if its last window had ended `age` seconds ago."""
    now = datetime.now(UTC)
    last = now - timedelta(seconds=age)
    return replace(source.made, range=Range("1h", now - timedelta(hours=1), now, True), last=last, now=now)


def test_a_job_whose_name_is_markup_is_text_on_every_page(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    visit.page.on("dialog", lambda dialog: visit.errors.append(f"dialog: {dialog.message}"))
    with served(Shown(fresh(source))) as (address, _):
        for path in (
            "/jobs",
            f"/job/{quote(EVIL, safe='')}",
            "/?by=job",
            "/storage",
            "/efficiency",
            "/pipeline",
        ):
            page = visit.open(address + path)
            page.wait_for_selector("main h2")
            assert page.locator("img[src=x]").count() == 0, path
            assert EVIL in page.inner_text("body"), path
    visit.clean()


def test_the_state_of_a_page_goes_through_the_address_and_back(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    finding = source.diagnosis.document["findings"][-1]
    cause, grade = finding["cause"], finding["severity"]
    with served(Shown(fresh(source))) as (address, _):
        state = f"cause={quote(cause)}&sev={grade}&sort=-since"
        page = visit.open(f"{address}/findings?{state}")
        page.wait_for_selector(f".chip.on:has-text('{grade.capitalize()}')")
        page.wait_for_selector("th[aria-sort=descending]:has-text('Since')")
        rows = page.locator("main tr[data-href]").count()
        found = source.diagnosis.document["findings"]
        assert rows == sum((f["cause"], f["severity"]) == (cause, grade) for f in found)
        page.click("th a:has-text('GPU-h lost')")
        page.wait_for_url("**/findings?*sort=-lost")
        page.wait_for_selector("th[aria-sort=descending]:has-text('GPU-h lost')")
        page.click("main tr[data-href] a")
        page.wait_for_selector("main .acts")
        page.go_back()
        page.wait_for_selector("th[aria-sort=descending]:has-text('GPU-h lost')")
        page.go_back()
        page.wait_for_selector("th[aria-sort=descending]:has-text('Since')")
        assert page.url.endswith(f"/findings?{state}")
        page.click(f".chip.on:has-text('{grade.capitalize()}')")
        page.wait_for_url(lambda url: "sev=" not in url and "sort=-since" in url)
    visit.clean()


def test_a_hub_that_goes_away_leaves_its_last_page_and_a_banner(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    with served(Shown(fresh(source))) as (address, server):
        page = visit.open(address + "/jobs")
        rows = page.locator("main tr[data-href]").count()
        server.should_exit = True
        page.wait_for_selector("#offline:has-text('does not answer')")
        assert page.locator("main tr[data-href]").count() == rows > 5


def test_a_page_that_fails_keeps_what_it_showed_under_a_banner(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    shown = Shown(fresh(source))
    with served(shown) as (address, _):
        page = visit.open(address + "/jobs")
        page.wait_for_selector("main tr[data-href]")
        shown.made = OSError("disk on fire")
        page.wait_for_selector("#banner [role=alert]:has-text('from before')")
        assert page.locator("main tr[data-href]").count() > 5
        assert "disk on fire" not in page.inner_text("body")
        shown.made = replace(fresh(source), revision=7)
        page.wait_for_selector("#banner [role=alert]", state="detached")
    visit.clean()


def test_the_chosen_finding_stays_chosen_while_the_range_moves(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    shown = Shown(fresh(source))
    with served(shown) as (address, _):
        page = visit.open(address + "/findings")
        page.wait_for_selector("main tr[data-href]")
        page.keyboard.press("j")
        page.keyboard.press("j")
        chosen = page.get_attribute("main tr.chosen", "data-href")
        document = source.diagnosis.document
        moved = [
            {
                **f,
                "id": f"{n}",
                "start": (datetime.fromisoformat(f["start"]) + timedelta(minutes=1)).isoformat(),
            }
            for n, f in enumerate(document["findings"][1::-1])
        ]
        diagnosis = replace(source.diagnosis, document={**document, "findings": moved})
        shown.made = replace(fresh(source), diagnosis=diagnosis, revision=9, _derived={})
        page.wait_for_selector(f"main tr[data-href='{chosen}']", state="detached")
        page.wait_for_selector(f"main tr.chosen[data-href^='{chosen.rpartition('-')[0]}']")
        assert page.locator("main tr.chosen").count() == 1
    visit.clean()


def test_a_page_that_takes_long_shows_its_bones_and_then_its_data(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    class Slow(Shown):
        def answer(self, wanted: Range) -> Answer:
            assert ready.wait(60)
            return super().answer(wanted)

    ready = threading.Event()
    with served(Slow(fresh(source))) as (address, _):
        visit.page.goto(address + "/jobs")
        visit.page.wait_for_selector("main .bones .bone")
        assert visit.page.locator("#verdict").count() == 0
        ready.set()
        visit.page.wait_for_selector("#verdict")
        assert visit.page.locator("main .bones").count() == 0
    visit.clean()


def test_old_data_is_dimmed_and_says_its_age(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    with served(Shown(fresh(source, age=125))) as (address, _):
        page = visit.open(address + "/")
        page.wait_for_selector("body.stale #age:has-text('2 min old')")
    visit.clean()


def test_silent_hosts_are_counted_in_a_banner(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    hosts = source.diagnosis.hosts
    silent = hosts.filter(
        (hosts["host"] != "r01-n01") | (hosts["ts"] < hosts["ts"].max() - timedelta(seconds=60))
    )
    made = replace(source.made, diagnosis=replace(source.diagnosis, hosts=silent), _derived={})
    with served(Shown(made)) as (address, _):
        page = visit.open(address + "/jobs")
        page.wait_for_selector("#banner:has-text('9 of 10 hosts reporting')")
        page.click("#banner a")
        page.wait_for_selector("main td:has-text('r01-n01')")
    visit.clean()
