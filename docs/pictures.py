"""Takes the pictures of docs/pictures, every page in both themes, from the demo: `make pictures`.

python docs/pictures.py [NAME ...]      only those, such as fabric or finding
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from wellfed.dashboard.registry import PAGES
from wellfed.dashboard.theme import SKINS

HERE = Path(__file__).parent / "pictures"
#: Colours of a picture that are kept as they are, and how many stand for all others.
KEPT, OTHERS = 160, 96
GPU, HOST = "/gpu/r01-n01/0", "/host/r01-n01"


def main(names: Sequence[str]) -> None:
    """Starts the demo on a free port, opens each page and saves what a user sees."""
    HERE.mkdir(exist_ok=True)
    with demo() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        now = datetime.now(UTC).replace(microsecond=0)
        # A range that does not move: no picture is dimmed because this machine was busy.
        shown = f"from={now - timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}&to={now:%Y-%m-%dT%H:%M:%SZ}"
        for theme in SKINS:
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=theme)
            page.set_default_timeout(120_000)
            known = paths(page, address, shown)
            if unknown := set(names) - known.keys():
                sys.exit(f"no picture is called {', '.join(sorted(unknown))}: {', '.join(known)}")
            for name, path in known.items():
                if names and name not in names:
                    continue
                show(page, f"{address}{path}?{shown}")
                save(page.screenshot(), HERE / f"{name}-{theme}.png")
            page.close()
        browser.close()


@contextmanager
def demo() -> Iterator[str]:
    """The address of a running demo."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running: subprocess.Popen[Any] = subprocess.Popen(
        [sys.executable, "-m", "wellfed", "demo", f"--address={address}", "--gpus=256", "--seed=1"],
        # One of the simulated users looks at it.
        env={**os.environ, "LOGNAME": "bruno"},
    )
    pause = Event()
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"http://{address}/healthz", timeout=5).close()
                break
            except OSError:
                pause.wait(0.5)
        yield f"http://{address}"
    finally:
        running.terminate()
        running.wait()


def paths(page: Page, address: str, shown: str) -> dict[str, str]:
    """Name of a picture -> address of its page; of a finding and a job those that lost most."""
    found = {known.name.lower(): known.path for known in PAGES}
    for name, listed in (("finding", "/findings"), ("job", "/jobs")):
        show(page, f"{address}{listed}?{shown}")
        first = page.get_attribute("main tr[data-href]", "data-href") or listed
        found[name] = urlsplit(first).path
    return {**found, "gpu": GPU, "host": HOST}


def show(page: Page, address: str) -> None:
    """Opens an address and waits until all of it is drawn."""
    page.goto(address)
    page.wait_for_selector("#verdict")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot:not(:has(.main-svg))').length === 0")
    page.wait_for_selector("body:not(.busy)")
    page.wait_for_timeout(1_000)


def save(picture: bytes, path: Path) -> None:
    """The picture with few colours, which its file is a third as large for."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    counted = image.getcolors(image.width * image.height) or []
    kept = [colour for _, colour in sorted(counted, reverse=True)[:KEPT]]
    # This way of choosing finds a colour that only a small mark has.
    others = image.quantize(OTHERS, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(part for colour in kept for part in colour), *others][: 3 * 256])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
