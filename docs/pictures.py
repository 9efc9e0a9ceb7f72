"""Takes the pictures of docs/pictures from the demo: `python docs/pictures.py` (make pictures)."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent / "pictures"
PAGES = {"fleet": "/", "gpu": "/gpu/r01-n01/0", "findings": "/findings", "pipeline": "/pipeline"}


def main() -> None:
    """Starts the demo on a free port, opens each page and saves what a user sees."""
    HERE.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "wellfed", "demo", f"--address={address}", "--gpus=256", "--seed=1"]
    demo = subprocess.Popen(command)
    pause = Event()
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://{address}/healthz", timeout=5).close()
                break
            except OSError:
                pause.wait(0.5)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="dark")
            now = datetime.now(UTC).replace(microsecond=0)
            # A range that does not move: no picture is dimmed because this machine was busy.
            shown = f"from={now - timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}&to={now:%Y-%m-%dT%H:%M:%SZ}"
            for name, path in PAGES.items():
                page.goto(f"http://{address}{path}?{shown}")
                page.wait_for_selector("#verdict", timeout=60_000)
                page.wait_for_timeout(2_500)
                page.screenshot(path=HERE / f"{name}-dark.png")
            browser.close()
    finally:
        demo.terminate()
        demo.wait()


if __name__ == "__main__":
    main()
