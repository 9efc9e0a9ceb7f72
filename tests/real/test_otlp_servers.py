"""What the agent pushes by OTLP is in real servers: every series, value and time, through restart and outage."""

from __future__ import annotations

import gzip
import http.server
import importlib.util
import itertools
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from programs import Programs, fetch, free_port, until

pytestmark = pytest.mark.real

NODE = Path(__file__).parent.parent / "fixtures" / "node"
VICTORIA = Path(sys.prefix) / "opt/victoria-metrics/usr/bin/victoria-metrics"
#: (name, labels) -> {milliseconds: value}
Series = dict[tuple[str, frozenset[tuple[str, str]]], dict[int, float]]


def points(body: bytes) -> Series:
    """What a request says, with the resource's attributes as labels, decoded by the official classes."""
    found: Series = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        common = [(a.key, a.value.string_value) for a in resource.resource.attributes]
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            for point in getattr(metric, metric.WhichOneof("data") or "").data_points:
                own = [(a.key, a.value.string_value) for a in point.attributes]
                key = (metric.name, frozenset([*common, *own]))
                found.setdefault(key, {})[point.time_unix_nano // 10**6] = point.as_double
    return found


def merged(bodies: list[bytes]) -> Series:
    found: Series = {}
    for body in bodies:
        for key, samples in points(body).items():
            assert not samples.keys() & found.get(key, {}).keys(), "a window was sent twice"
            found.setdefault(key, {}).update(samples)
    return found


def same(stored: Series, sent: Series) -> None:
    """Fails unless every series, time and value is there. VictoriaMetrics keeps 12 decimal digits or more."""
    assert stored.keys() == sent.keys()
    for key, samples in sent.items():
        assert stored[key].keys() == samples.keys()
        assert stored[key] == pytest.approx(samples, rel=1e-11, abs=0, nan_ok=True)


class Relay:
    """Passes requests on to a server and keeps those that it acknowledged."""

    def __init__(self, to: str) -> None:
        self.acknowledged: list[bytes] = []
        self.refused = 0
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                names = ("Content-Type", "Content-Encoding")
                request = urllib.request.Request(to, body, {name: self.headers[name] for name in names})
                try:
                    with urllib.request.urlopen(request, timeout=5) as answer:
                        status, kind, content = answer.status, answer.headers["Content-Type"], answer.read()
                    relay.acknowledged.append(gzip.decompress(body))
                except OSError:
                    status, kind, content = 503, "text/plain", b""
                    relay.refused += 1
                self.send_response(status)
                self.send_header("Content-Type", kind or "application/x-protobuf")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/metrics"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def relay() -> Iterator[Callable[[str], Relay]]:
    made: list[Relay] = []

    def make(to: str) -> Relay:
        made.append(Relay(to))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


class Victoria:
    """A VictoriaMetrics that can be stopped and started on the same data."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._process = self._programs.start(
            str(VICTORIA),
            f"-storageDataPath={self._folder}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-search.latencyOffset=0s",
        )
        until(lambda: fetch(f"{self.url}/health") == b"OK", what="VictoriaMetrics is ready")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)

    def read(self) -> Series:
        """Every raw sample of the last ten minutes, by PromQL."""
        fetch(f"{self.url}/internal/force_flush")
        query = urllib.parse.quote('{__name__=~".+"}[10m]')
        answer = json.loads(fetch(f"{self.url}/api/v1/query?query={query}"))
        assert answer["status"] == "success"
        found: Series = {}
        for series in answer["data"]["result"]:
            labels = dict(series["metric"])
            name = labels.pop("__name__")
            samples = {round(float(at) * 1000): float(value) for at, value in series["values"]}
            assert len(samples) == len(series["values"])
            found[name, frozenset(labels.items())] = samples
        return found


@pytest.fixture
def victoria(programs: Programs, tmp_path: Path) -> Victoria:
    return Victoria(programs, tmp_path / "victoria")


def agent(programs: Programs, endpoint: str, spool: Path, **environ: str) -> subprocess.Popen[bytes]:
    return programs.wellfed(
        "agent",
        f"--metrics-address=127.0.0.1:{free_port()}",
        f"--procfs={NODE / 'proc'}",
        f"--sysfs={NODE / 'sys'}",
        f"--otlp-endpoint={endpoint}",
        f"--spool={spool}",
        "--host=n1",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_RESOURCE_ATTRIBUTES="cloud.region=eu-1",
        **environ,
    )


def test_victoriametrics_has_every_sample_after_an_outage_and_restarts_of_both(
    programs: Programs, victoria: Victoria, relay: Callable[[str], Relay], tmp_path: Path
) -> None:
    between = relay(f"{victoria.url}/opentelemetry/v1/metrics")
    first = agent(programs, between.url, tmp_path / "spool")
    until(lambda: len(between.acknowledged) >= 2, what="two windows")
    victoria.stop()
    until(lambda: between.refused >= 1, what="a window is refused")
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    second = agent(programs, between.url, tmp_path / "spool")
    refused = between.refused
    until(lambda: between.refused > refused, what="the new agent tries what the old one left")
    victoria.start()
    known = len(between.acknowledged)
    until(lambda: len(between.acknowledged) >= known + 4, what="the backlog and more")
    second.send_signal(signal.SIGTERM)
    assert second.wait(5) == 0
    sent = merged(between.acknowledged)
    assert len(sent) > 150
    assert all(("cloud.region", "eu-1") in labels for _, labels in sent)
    # The agent tells by the same way how delivery fares.
    # Both runs write to the same series.
    (failed,) = (samples for (name, _), samples in sent.items() if name == "wellfed.export.failed")
    assert max(failed.values()) >= 1
    times = sorted({at for samples in sent.values() for at in samples})
    # One window each second, but for the moment in which no agent ran.
    assert sum(later - earlier > 1000 for earlier, later in itertools.pairwise(times)) <= 1
    victoria.stop()
    victoria.start()
    same(victoria.read(), sent)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_rotel_passes_every_sample_on(
    programs: Programs, victoria: Victoria, relay: Callable[[str], Relay], tmp_path: Path, protocol: str
) -> None:
    between = relay(f"{victoria.url}/opentelemetry/v1/metrics")
    package = importlib.util.find_spec("rotel")
    assert package is not None
    assert package.origin is not None
    web, grpc = free_port(), free_port()
    rotel = programs.start(
        str(Path(package.origin).with_name("rotel-agent")),
        "start",
        f"--otlp-http-endpoint=127.0.0.1:{web}",
        f"--otlp-grpc-endpoint=127.0.0.1:{grpc}",
        "--exporter=otlp",
        "--otlp-exporter-protocol=http",
        f"--otlp-exporter-endpoint={between.url.removesuffix('/v1/metrics')}",
        "--otlp-exporter-compression=gzip",
    )
    until(lambda: _listens(web) and _listens(grpc), what="rotel listens")
    endpoint = f"http://127.0.0.1:{grpc if protocol == 'grpc' else web}"
    spool = tmp_path / "spool"
    sender = agent(programs, endpoint, spool, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    until(lambda: len(between.acknowledged) >= 3, what="three windows")
    sender.send_signal(signal.SIGTERM)
    assert sender.wait(5) == 0
    rotel.send_signal(signal.SIGTERM)
    rotel.wait(10)
    sent = merged(between.acknowledged)
    assert {("wellfed.host.load1", "n1")} <= {(name, dict(labels)["host.name"]) for name, labels in sent}
    assert len(sent) > 150
    same(victoria.read(), sent)


def _listens(port: int) -> bool:
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
