"""What pages send at 10,240 GPUs stays within its budget; how long they take is told by `make bench-ui`."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import dashboards
import pytest
from dashboards import Fixed
from playwright.sync_api import Response
from served import serving

from wellfed.dashboard.app import create_app
from wellfed.dashboard.registry import PAGES

pytestmark = pytest.mark.browser

GPUS = 10_240
#: Bytes of a page's callback and of a cold load, both compressed.
CALLBACK, COLD = 30_000, 3_000_000


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(gpus=GPUS, duration=200).wired()


@pytest.fixture(scope="module")
def hub(source: Fixed) -> Iterator[str]:
    with serving(create_app(source).server) as asked:
        yield asked.url


def is_page(response: Response) -> bool:
    # 204: nothing to change.
    asked = "_dash-update-component" in response.url and response.status == 200
    return asked and "main.children" in (response.request.post_data or "")


def test_every_page_sends_little(source: Fixed, hub: str, visit) -> None:  # type: ignore[no-untyped-def]
    document = source.diagnosis.document
    assert len(document["gpus"]) == GPUS
    gpu = document["gpus"][-1]
    job = max(document["jobs"], key=lambda j: j["gpus"])
    things = [
        f"/gpu/{gpu['host']}/{gpu['index']}",
        f"/host/{gpu['host']}",
        f"/job/{quote(job['job'], safe='')}",
    ]
    things += [f"/findings/{f['id']}" for f in document["findings"][:1]]
    for path in (*(known.path for known in PAGES), *things, "/?by=sm", "/?by=cost", "/?by=job"):
        with visit.page.expect_response(is_page) as waiting:
            visit.page.goto(hub + path)
        response = waiting.value
        response.finished()
        assert response.headers["content-encoding"] == "gzip"
        assert response.request.sizes()["responseBodySize"] < CALLBACK, path
        visit.page.wait_for_selector("#verdict")
    visit.clean()


def test_a_cold_load_is_small(hub: str, visit) -> None:  # type: ignore[no-untyped-def]
    page = visit.open(hub + "/")
    page.wait_for_selector("#heat .heatmaplayer image")
    sent = page.evaluate("performance.getEntries().reduce((n, e) => n + (e.transferSize || 0), 0)")
    assert 500_000 < sent < COLD
    visit.clean()
