"""Findings are acknowledged, muted and commented on, by mouse and by key, and everybody sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dashboards
import pytest
from dashboards import EVIL, Fixed
from playwright.sync_api import Browser, Page
from served import serving

from wellfed.analysis.notes import Notes
from wellfed.analysis.trouble import key
from wellfed.dashboard.app import create_app

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=600)


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(str(tmp_path / "notes.jsonl"))


@pytest.fixture
def hub(source: Fixed, notes: Notes) -> Iterator[str]:
    with serving(create_app(source, notes).server) as asked:
        yield f"http://127.0.0.1:{asked.port}"


@pytest.fixture
def other(browser: Browser) -> Iterator[Page]:
    """Another viewer."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    context.close()


def test_what_one_says_another_sees_at_the_next_refresh(source, notes, hub, visit, other) -> None:  # type: ignore[no-untyped-def]
    finding = source.diagnosis.document["findings"][0]
    address = f"{hub}/findings/{key(finding)}"
    other.goto(address)
    other.wait_for_selector("button:has-text('Acknowledge')")
    page = visit.open(address)
    page.click("main button:has-text('Acknowledge')")
    for viewer in (page, other):
        viewer.wait_for_selector("main .pill:has-text('acknowledged by local')")
        viewer.wait_for_selector("ul.said li:has-text('Acknowledged')")
    page.click("main button:has-text('Note')")
    page.fill("#say-text", EVIL)
    page.click("#say-save")
    other.wait_for_selector("ul.said li p")
    assert other.inner_text("ul.said li p") == EVIL
    assert other.locator("img[src=x]").count() == 0
    assert [(n.kind, n.who, n.text) for n in notes.history()] == [
        ("comment", "local", EVIL),
        ("acknowledge", "local", ""),
    ]
    other.click("main button:has-text('Take back')")
    page.wait_for_selector("main button:has-text('Acknowledge')")
    visit.clean()


def test_a_muted_finding_is_behind_a_filter_until_it_is_unmuted(source, hub, visit) -> None:  # type: ignore[no-untyped-def]
    findings = source.diagnosis.document["findings"]
    page = visit.open(hub + "/findings")
    page.wait_for_selector("main tr[data-href]")
    badge = page.inner_text(".nb")
    page.click("main tr[data-href] a")
    page.wait_for_selector("main .acts")
    page.click("main button:has-text('Mute 4 h')")
    page.wait_for_selector("main .pill:has-text('muted by local until')")
    page.click(".nav >> text=Findings")
    page.wait_for_selector(".chip:has-text('Muted 1')")
    assert page.locator("main tr[data-href]").count() == len(findings) - 1
    assert int(page.inner_text(".nb")) == int(badge) - 1
    page.click(".chip:has-text('Muted 1')")
    page.wait_for_url("**/findings?state=muted")
    page.wait_for_selector("main tr:has-text('muted')")
    assert page.locator("main tr[data-href]").count() == 1
    page.click("main tr[data-href] a")
    page.click("main button:has-text('Unmute')")
    page.wait_for_selector("main button:has-text('Mute 4 h')")
    visit.clean()


def test_notes_are_taken_by_keyboard_alone(source, notes, hub, visit) -> None:  # type: ignore[no-untyped-def]
    findings = source.diagnosis.document["findings"]
    page = visit.open(hub + "/findings")
    page.wait_for_selector("main tr[data-href]")
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.wait_for_selector("main tr.chosen [role=img][aria-label^='acknowledged by local']")
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.wait_for_selector("dialog#say[open]")
    page.keyboard.type("filer is being replaced, m and a are letters here")
    with page.expect_response(lambda answer: "_dash-update-component" in answer.url):
        page.keyboard.press("Control+Enter")
    page.wait_for_selector("dialog#say[open]", state="detached")
    page.wait_for_selector("main tr.chosen")
    page.keyboard.press("m")
    page.wait_for_selector(".chip:has-text('Muted 1')")
    said = [(n.kind, n.about.cause, n.text) for n in notes.history()[::-1]]
    assert said == [
        ("acknowledge", findings[0]["cause"], ""),
        ("comment", findings[1]["cause"], "filer is being replaced, m and a are letters here"),
        ("mute", findings[1]["cause"], ""),
    ]
    visit.clean()


def test_a_note_that_could_not_be_kept_is_told(source, notes, hub, visit, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wellfed.analysis.notes._append", full)
    page = visit.open(f"{hub}/findings/{key(source.diagnosis.document['findings'][0])}")
    page.click("main button:has-text('Acknowledge')")
    page.wait_for_selector("#toast.on:has-text('No space left on device')")
    assert notes.history() == []
    assert page.locator("main button:has-text('Acknowledge')").count() == 1
