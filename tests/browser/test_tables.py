"""Tables that are ordered by a key press, one's own jobs, leaves by spines: by keyboard, and by deep link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import dashboards
import pytest
from dashboards import Fixed
from playwright.sync_api import Page
from served import serving

from wellfed.dashboard.app import create_app

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=300).wired()


@pytest.fixture(scope="module")
def hub(source: Fixed) -> Iterator[str]:
    with serving(create_app(source).server) as asked:
        yield asked.url


def cells(page: Page, caption: str, column: str) -> list[str]:
    """What a column of a table says, from its first row on."""
    return page.evaluate(
        """([caption, column]) => {
          const table = [...document.querySelectorAll('main table')]
            .find((t) => t.caption.textContent === caption);
          const heads = [...table.tHead.rows[0].cells].map((c) => c.textContent.replace(/ [▾▴]$/, ''));
          const place = heads.indexOf(column);
          return [...table.tBodies[0].rows].map((r) => r.cells[place].textContent);
        }""",
        [caption, column],
    )


def test_a_key_press_on_a_columns_name_orders_the_table(source: Fixed, hub: str, visit) -> None:  # type: ignore[no-untyped-def]
    counts = sorted((job["gpus"] for job in source.diagnosis.document["jobs"]), reverse=True)
    page = visit.open(hub + "/jobs?from=15m")
    assert page.get_attribute("main th:has-text('GPU-h lost')", "aria-sort") == "descending"
    page.focus("main th:has-text('GPUs') a")
    page.keyboard.press("Enter")
    page.wait_for_selector("main th[aria-sort=descending]:has-text('GPUs')")
    assert page.locator("main th[aria-sort]").count() == 1
    assert page.url.endswith("/jobs?from=15m&sort=-gpus")
    assert [int(text) for text in cells(page, "Jobs", "GPUs")] == counts
    # The focus stays on the name, so that a second press turns the order round.
    page.keyboard.press("Enter")
    page.wait_for_selector("main th[aria-sort=ascending]:has-text('GPUs')")
    assert [int(text) for text in cells(page, "Jobs", "GPUs")] == counts[::-1]
    page.go_back()
    page.wait_for_selector("main th[aria-sort=descending]:has-text('GPUs')")
    again = visit.open(page.url)
    assert [int(text) for text in cells(again, "Jobs", "GPUs")] == counts
    visit.clean()


def test_a_table_that_was_opened_stays_open_and_leaves_the_others_alone(hub: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(hub + "/storage")
    before = cells(page, "Targets with the parts of a read's time", "Target")
    page.click("main .twin summary")
    page.click("main .twin th:has-text('Best') a")
    page.wait_for_selector("main .twin[open] th[aria-sort=descending]:has-text('Best')")
    assert page.url.endswith("/storage?sort=-latency.best")
    assert cells(page, "Targets with the parts of a read's time", "Target") == before
    page.click("main th:has-text('Clients') a")
    page.wait_for_url("**/storage?sort=-latency.best%2C-clients")
    page.wait_for_selector("main th[aria-sort=descending]:has-text('Clients')")
    again = visit.open(page.url)
    again.wait_for_selector("main .twin[open] th[aria-sort=descending]:has-text('Best')")
    visit.clean()


def test_an_update_leaves_the_focus_and_what_was_opened_by_hand(source: Fixed, visit) -> None:  # type: ignore[no-untyped-def]
    moving = Fixed(source.tables, source.diagnosis)
    with serving(create_app(moving).server) as hub:
        page = visit.open(hub.url + "/storage")

        def update() -> None:
            """The next window: the page is made anew."""
            old = page.query_selector("#verdict")
            moving.made = replace(moving.made, revision=moving.made.revision + 1)
            page.wait_for_function("(old) => !old.isConnected", arg=old)
            page.wait_for_selector("#verdict")

        page.click("main .twin summary")
        page.wait_for_selector("main .twin[open]")
        page.focus("main th:has-text('Clients') a")
        update()
        assert page.evaluate("document.activeElement.closest('th').textContent") == "Clients"
        assert page.locator("main .twin[open]").count() == 1
        page.click("main .twin summary")
        page.wait_for_selector("main .twin:not([open])")
        update()
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert page.locator("main .twin[open]").count() == 0
        # Focus that was given up is not taken back.
        page.evaluate("document.activeElement.blur()")
        update()
        assert page.evaluate("document.activeElement.tagName") == "BODY"
    visit.clean()


def test_mine_is_the_jobs_of_who_looks(
    source: Fixed,
    visit,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGNAME", "bruno")
    own = sum(job["user"] == "bruno" for job in source.diagnosis.document["jobs"])
    with serving(create_app(source).server) as hub:
        page = visit.open(hub.url + "/jobs?from=15m")
        assert len(set(cells(page, "Jobs", "User"))) > 3
        page.click(f"main .chip:has-text('Mine {own}')")
        page.wait_for_selector("main .chip.on:has-text('Mine')")
        assert page.url.endswith("/jobs?from=15m&user=bruno")
        assert cells(page, "Jobs", "User") == ["bruno"] * own
        page.click("main .chip.on:has-text('Mine')")
        page.wait_for_selector("main .chip:not(.on):has-text('Mine')")
        assert page.url.endswith("/jobs?from=15m")
        page = visit.open(hub.url + "/findings?user=bruno")
        page.wait_for_selector("main .chip.on:has-text('Mine')")
        page.click("main .chip:has-text('All')")
        page.wait_for_url("**/findings")
        page = visit.open(hub.url + "/")
        page.click("main .chip:has-text('Mine')")
        page.wait_for_selector("main .chip.on:has-text('Mine')")
        page.click("main a:has-text('All findings')")
        page.wait_for_url("**/findings?user=bruno")
    visit.clean()


def test_leaves_by_spines_show_load_and_congestion_and_can_be_ordered(hub: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(hub + "/fabric")
    name = "Highest load of the links of each leaf and spine"
    assert cells(page, name, "Leaf") == ["leaf1", "leaf2", "leaf3", "leaf4"]
    assert all(text.endswith(" %") for text in cells(page, name, "spine1"))
    page.click("main .chip:has-text('Congestion')")
    page.wait_for_url("**/fabric?by=crowded")
    page.wait_for_selector("main th:has-text('spine2')")
    name = "Highest waits for credit of the links of each leaf and spine"
    page.wait_for_selector(f"main caption:text-is('{name}')", state="attached")
    page.focus("main th:has-text('spine2') a")
    page.keyboard.press("Enter")
    page.wait_for_selector("main th[aria-sort=descending]:has-text('spine2')")
    assert sorted(cells(page, name, "Leaf")) == ["leaf1", "leaf2", "leaf3", "leaf4"]
    assert page.url.endswith("/fabric?by=crowded&sort=-leaves.spine2")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    visit.clean()
