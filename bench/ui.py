"""What the pages cost at 1,024 and 10,240 GPUs: callbacks, payloads, cold load, redraw. It only prints.

    python -m bench.ui [--gpus 1024 10240] [--minutes 10] [--rounds 10]

The cluster is simulated into a real store, diagnosed once per range as the hub does, and asked over HTTP by a
client and by Chromium. "first" is the callback that derives what a page shows; a live page gets that done
beside the diagnosis. CPU is of the whole process: on a busy machine it says more than the wall clock.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import quote

import uvicorn
from playwright.sync_api import sync_playwright

from wellfed.analysis.scenarios import FleetStream
from wellfed.analysis.scenarios.kit import host_names
from wellfed.analysis.scenarios.switches import topology_conf, with_switches
from wellfed.analysis.store import Store
from wellfed.dashboard.app import create_app
from wellfed.dashboard.data import StoreSource
from wellfed.dashboard.ranges import parse_range
from wellfed.dashboard.registry import PAGES
from wellfed.dashboard.topology import arranged
from wellfed.dashboard.topology_text import parse
from wellfed.prices import Prices
from wellfed.serve import keep_imports

BUDGET = {"p95": 150.0, "kB": 30.0, "cold": 3.5, "MB": 3.0}
RANGE = "1h"


def main() -> None:
    """Prints one table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1024, 10_240])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    # As `wellfed hub` does.
    keep_imports()
    for gpus in options.gpus:
        with tempfile.TemporaryDirectory(prefix="wellfed-bench-") as folder, Store(folder) as store:
            begin = datetime.fromtimestamp(time.time() // 10 * 10 - 60 * options.minutes, UTC)
            hosts = host_names(gpus // 8)
            for part in FleetStream(seed=1, gpus=gpus, start=begin).history(60 * options.minutes):
                store.append(with_switches(part, hosts))
            wired = arranged(parse(topology_conf(hosts)))
            source = StoreSource(store, price=Prices(2.5), simulated=True, topology=lambda wired=wired: wired)
            wall, cpu = time.monotonic(), time.process_time()
            answer = source.answer(parse_range(RANGE, None, datetime.now(UTC)))
            told = f"diagnosis {time.monotonic() - wall:.1f} s, CPU {time.process_time() - cpu:.1f} s"
            print(f"\n{gpus:,} GPUs, {options.minutes:g} minutes; {told}", flush=True)
            with served(source) as address:
                callbacks(address, paths(answer.diagnosis.document), options.rounds)
                browser(address)


def paths(document: dict[str, list[dict[str, str]]]) -> list[str]:
    """Every page, and one thing of each kind: the job that lost most, its finding, a GPU, a host."""
    gpu = document["gpus"][0]
    job = max(document["jobs"], key=lambda j: j["lost_seconds"])
    things = [
        f"/gpu/{gpu['host']}/{gpu['index']}",
        f"/host/{gpu['host']}",
        f"/job/{quote(job['job'], safe='')}",
    ]
    things += [f"/findings/{finding['id']}" for finding in document["findings"][:1]]
    return [*(page.path for page in PAGES), *things]


@contextmanager
def served(source: StoreSource) -> Iterator[str]:
    """The app on a free port of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(source).server, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def callbacks(address: str, pages: list[str], rounds: int) -> None:
    """Times of the render callback by page, and what it sends."""
    wanted = json.loads(urllib.request.urlopen(f"{address}/_dash-dependencies", timeout=60).read())
    spec = next(d for d in wanted if "main.children" in d["output"])
    print(f"{'callback':<44} {'first':>7} {'p50':>7} {'p95':>7} {'CPU':>6} ms {'sent':>6} kB gz")
    worst, largest = 0.0, 0.0
    for path in pages:
        values = {
            "url.pathname": path,
            "url.search": f"?from={RANGE}",
            "theme.data": "dark",
            "beat.data": 1,
        }
        body = json.dumps(
            {
                "output": spec["output"],
                "outputs": [
                    {"id": o.split(".")[0], "property": o.split(".")[1]} for o in outputs(spec["output"])
                ],
                "inputs": [{**i, "value": values[f"{i['id']}.{i['property']}"]} for i in spec["inputs"]],
                "changedPropIds": ["url.pathname"],
                "state": [{**s, "value": None} for s in spec["state"]],
            }
        ).encode()
        first, _ = asked(address, body)
        cpu, times, sent = time.process_time(), [], 0
        for _ in range(rounds):
            took, sent = asked(address, body)
            times.append(took)
        cpu = (time.process_time() - cpu) / rounds
        p95 = sorted(times)[max(0, round(0.95 * rounds) - 1)]
        worst, largest = max(worst, p95), max(largest, sent / 1000)
        print(
            f"{path:<44} {first:7.0f} {statistics.median(times):7.0f} {p95:7.0f} {1000 * cpu:6.0f}"
            f"    {sent / 1000:6.1f}",
            flush=True,
        )
    print(f"{'worst':<44} p95 {worst:.0f} ms of {BUDGET['p95']:.0f}, {largest:.1f} kB of {BUDGET['kB']:.0f}")


def outputs(joined: str) -> list[str]:
    """The single outputs of a callback's name."""
    return joined.strip(".").split("...")


def asked(address: str, body: bytes) -> tuple[float, int]:
    """Milliseconds and compressed bytes of one callback."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
    request = urllib.request.Request(f"{address}/_dash-update-component", body, headers)
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=600) as response:
        sent = len(response.read())
    return 1000 * (time.monotonic() - began), sent


def browser(address: str) -> None:
    """Cold load of the fleet, and a redraw of its heat map."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        began = time.monotonic()
        page.goto(f"{address}/?from={RANGE}")
        page.wait_for_selector("#heat .heatmaplayer image", timeout=120_000)
        cold = time.monotonic() - began
        sent = page.evaluate("performance.getEntries().reduce((n, e) => n + (e.transferSize || 0), 0)")
        redraw = page.evaluate(
            """async () => {
              const gd = document.querySelector('#heat .js-plotly-plot'), times = [];
              for (let i = 0; i < 7; i++) {
                const z = Object.assign({}, gd.data[0], { zmax: gd.data[0].zmax + 1e-9 * i });
                const began = performance.now();
                await Plotly.react(gd, [z, ...gd.data.slice(1)], gd.layout);
                times.push(performance.now() - began);
              }
              return times.sort((a, b) => a - b)[3];
            }"""
        )
        print(
            f"cold load {cold:.1f} s of {BUDGET['cold']}, {sent / 1e6:.2f} MB gz of {BUDGET['MB']:.0f}; "
            f"heat map redrawn in {redraw:.0f} ms"
        )
        chromium.close()


if __name__ == "__main__":
    main()
