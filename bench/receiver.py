"""What taking OTLP costs: a hub that stores it, beside the bare decoding and VictoriaMetrics, in one run.

    python -m bench.receiver [--nodes 128] [--windows 8]

Each node sends windows of some 3,000 points, gzip, as fast as they are acknowledged; nodes share the cores with
the server. The first two windows are the storm of first connections: nothing is known of the senders yet.
VictoriaMetrics gets the same points (by OTLP where it takes that, else as Prometheus text). It only prints.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from wellfed.analysis.receiver_layout import Integrals
from wellfed.analysis.receiver_learn import learn
from wellfed.collectors.catalog import HOST, TABLES
from wellfed.collectors.exposition import Exposition
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window

ROOT = Path(__file__).parent.parent
#: Things on a large node.
THINGS = {"gpu": 8, "host": 1, "job": 8, "disk": 12, "mount": 10, "port": 90, "step": 8, "collector": 24}
PARALLEL = 128
#: Windows in which a sender is new: the second has the utilisation since the first, which is another layout.
NEW = 2

Post = tuple[str, dict[str, str], bytes]


def node_rows() -> list[Row]:
    """A node's rows with counters of many digits, which compress as badly as real ones."""
    out = []
    for name, count in THINGS.items():
        table = TABLES[name]
        for number in range(count):
            key = tuple(f"{k}-{number}-{random.getrandbits(32):08x}" for k in table.keys if k != HOST)
            info = {c.name: f"{c.name} {number}" for c in table.infos}
            out.append(Row(name, key, {c.name: random.random() * 1e6 for c in table.signals}, info))
    return out


def windows(nodes: int, count: int) -> tuple[list[list[Post]], list[list[Post]], list[bytes], int]:
    """By window: what each node posts as OTLP and as text; one node's bodies; points of a request."""
    start = time.time() // 10 * 10 - 10 * count
    fleet = [
        (Encoder({"host.name": f"node{n}", "service.name": "wellfed-agent"}), node_rows())
        for n in range(nodes)
    ]
    otlp: list[list[Post]] = [[] for _ in range(count)]
    text: list[list[Post]] = [[] for _ in range(count)]
    one: list[bytes] = []
    for number, (encoder, rows) in enumerate(fleet):
        page = Exposition(labels=[("host", f"node{number}")])
        for window in range(count):
            for row in rows:
                for name, value in row.values.items():
                    row.values[name] = (value or 0.0) + random.random() * 10
            ts = start + 10 * window
            body = encoder.encode(Window(ts, rows))
            otlp[window].append(("/v1/metrics", OTLP, gzip.compress(body, 1)))
            lines = [line for line in page.render(rows).decode().splitlines() if not line.startswith("#")]
            stamped = "".join(f"{line} {int(ts * 1000)}\n" for line in lines)
            text[window].append(("/api/v1/import/prometheus", TEXT, gzip.compress(stamped.encode(), 1)))
            if number == 0:
                one.append(body)
    points = learn(one[-1]).kind.points
    return otlp, text, one, points


OTLP = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
TEXT = {"Content-Encoding": "gzip"}


def post(port: int, posts: Sequence[Post]) -> None:
    """One sender's requests over one connection, each after the answer to the one before."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for path, headers, body in posts:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{path}: HTTP {answer.status}")
    connection.close()


def drive(process: psutil.Process, port: int, rounds: Sequence[Sequence[Post]]) -> tuple[float, float]:
    """Seconds that all nodes need for all rounds, and CPU seconds of the server."""
    used = process.cpu_times()
    began = time.perf_counter()
    with ThreadPoolExecutor(PARALLEL) as senders:
        list(senders.map(lambda posts: post(port, posts), zip(*rounds, strict=True)))
    took = time.perf_counter() - began
    spent = process.cpu_times()
    return took, spent.user + spent.system - used.user - used.system


def wait(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=1).read()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def serve(
    name: str, command: list[str], ready: str, port: int, rounds: list[list[Post]], points: int
) -> None:
    """Starts a server, sends everything and prints what it took."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        wait(ready)
        server = psutil.Process(process.pid)
        storm, storm_cpu = drive(server, port, rounds[:NEW])
        took, cpu = drive(server, port, rounds[NEW:])
        first = points * len(rounds[0]) * NEW
        rest = points * len(rounds[0]) * (len(rounds) - NEW)
        memory = server.memory_info().rss / 2**20
        print(
            f"{name:28}{rest / took:12,.0f}{cpu / rest * 1e6:10.2f}{storm:12.2f}{storm_cpu / first * 1e6:10.2f}{memory:9.0f}"
        )
    finally:
        process.terminate()
        process.wait()


def decoding(bodies: Sequence[bytes], points: int) -> None:
    """One core, in this process: what the bytes alone cost."""
    layout = learn(bodies[1])
    ways = {
        "official messages, a loop": loop,
        "walk (an unknown sender)": learn,
        "layout (a known sender)": lambda body: layout.fits(body) and layout.read(body, Integrals()),
    }
    print("decoding, one core          points/s    us/point")
    for name, way in ways.items():
        times = []
        for body in [*bodies[1:]] * 5:
            began = time.perf_counter()
            way(body)
            times.append(time.perf_counter() - began)
        print(f"  {name:26}{points / min(times):12,.0f}{min(times) / points * 1e6:10.2f}")


def loop(body: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every point with its attributes, as the official library gives them."""
    found = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points:
                    found[metric.name, tuple((a.key, a.value.string_value) for a in point.attributes)] = (
                        point.as_double
                    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--windows", type=int, default=8)
    options = parser.parse_args()
    otlp, text, one, points = windows(options.nodes, options.windows)
    size = sum(len(body) for _, _, body in otlp[-1]) / len(otlp[-1]) / 1024
    print(
        f"{options.nodes} nodes x {points:,} points x {options.windows} windows, {size:.0f} KiB a request, {os.cpu_count()} cores"
    )
    decoding(one, points)
    print("\nserver                          points/s  us/point  storm, s  us/point  RSS MiB")
    with tempfile.TemporaryDirectory() as folder:
        ports = [18900 + 7 * (os.getpid() % 500) + n for n in range(3)]
        hub = [sys.executable, "-m", "wellfed", "hub", "--data", f"{folder}/hub", "--otlp-grpc-address", ""]
        for flag, port in zip(("--address", "--otlp-address", "--metrics-address"), ports, strict=True):
            hub += [flag, f"127.0.0.1:{port}"]
        serve("wellfed hub, OTLP", hub, f"http://127.0.0.1:{ports[2]}/-/ready", ports[1], otlp, points)
        if shutil.which("victoria-metrics"):
            peer = [
                "victoria-metrics",
                f"-storageDataPath={folder}/vm",
                f"-httpListenAddr=127.0.0.1:{ports[0]}",
            ]
            serve(
                "VictoriaMetrics, text", peer, f"http://127.0.0.1:{ports[0]}/health", ports[0], text, points
            )


if __name__ == "__main__":
    main()
