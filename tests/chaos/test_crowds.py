"""Crowds at the hub: 10,000 labels, hosts and findings; clients that dawdle, hang, or speak no HTTP."""

from __future__ import annotations

import http.client
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import Note, scale
from inputs import OTLP, SPICE
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from programs import until
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wellfed import connections
from wellfed.analysis import receiver as receiving
from wellfed.analysis.live import Live
from wellfed.analysis.live_findings import Tracker
from wellfed.analysis.receiver import Limits, Receiver
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.collectors.exposition import Exposition
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.ingest import Ingest
from wellfed.otlp_server import OtlpServer
from wellfed.verdicts import MAX_FINDINGS, hub_families, verdicts

BOMB = 10_000
NOW = float(int(time.time()))


class Hub:
    """The receiving half of a hub on a free port."""

    def __init__(self, store: Store) -> None:
        self.receiver = Receiver(store)
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port = listener.getsockname()[1]
        self.server = OtlpServer(Ingest(self.receiver, None), listener)
        self.server.start()

    def close(self) -> None:
        self.server.close()
        self.receiver.close()

    def post(self, body: bytes) -> tuple[int, int]:
        """Status and points that were not taken."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/v1/metrics", body, {"content-type": "application/x-protobuf"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        taken = ExportMetricsServiceResponse.FromString(said) if answer.status == 200 else None
        return answer.status, taken.partial_success.rejected_data_points if taken else 0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def hub(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(receiving, "PAUSE", 0.0)
    monkeypatch.setattr(receiving, "GATHER", 0.0)
    running = Hub(store)
    yield running
    running.close()


def request(*rows: Row, host: str = "n1") -> bytes:
    return Encoder({"host.name": host}).encode(Window(NOW, list(rows)))


def load(host: str) -> bytes:
    return request(Row("host", (), {"load1": 1.0}), host=host)


def test_ten_thousand_labels_of_one_sender_cost_only_that_sender(hub: Hub, store: Store, note: Note) -> None:
    disks = [Row("disk", (f"disk-{n}",), {"reads": 1.0}) for n in range(BOMB)]
    status, refused = hub.post(request(*disks, host="bomber"))
    assert status == 200
    assert refused >= BOMB - Limits().things
    # Labels nobody asked for, in names and values, and metrics nobody asked for.
    strange = ExportMetricsServiceRequest()
    metrics = strange.resource_metrics.add()
    metrics.resource.attributes.add(key="host.name").value.string_value = "bomber"
    scope = metrics.scope_metrics.add()
    point = scope.metrics.add(name="wellfed.host.load1").gauge.data_points.add(as_double=1.0)
    point.time_unix_nano = int(NOW * 1e9)
    for number in range(BOMB):
        point.attributes.add(key=f"label-{number}").value.string_value = "v" * 100
        scope.metrics.add(name=f"metric-{number}").gauge.data_points.add(as_double=1.0).time_unix_nano = 1
    assert hub.post(strange.SerializeToString())[0] == 200
    assert hub.post(load("good")) == (200, 0)
    held = store.scan("disk").collect()
    assert held.height <= Limits().things
    page = Exposition(openmetrics=True).render((), hub_families(hub.receiver)).decode()
    families = {f.name: f for f in text_string_to_metric_families(page)}
    # However many labels come, the hub's own page has one series a reason.
    assert len(families["wellfed_hub_rejected_points"].samples) <= len(receiving.REASONS)
    assert "good" in store.scan("host").collect()["host"].to_list()
    note("labels of one sender", 3 * BOMB, 0)


def test_ten_thousand_senders_are_limited_and_the_known_ones_go_on(
    store: Store, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PAUSE", 0.0)
    monkeypatch.setattr(receiving, "GATHER", 0.0)
    receiver = Receiver(store, Limits(hosts=100))
    try:
        told = []
        for number in range(BOMB):
            decoded = receiver.decode(load(f"n{number}"), NOW)
            if decoded.parts:
                receiver.commit(decoded).result(10)
            told.append(decoded)
        assert sum(decoded.rejected.get("senders", 0) for decoded in told) == BOMB - 100
        assert dict(receiver.decode(load("n1"), NOW).rejected) == {}
        assert receiver.hosts(NOW) == {"fresh": 100, "stale": 0}
    finally:
        receiver.close()
    note("names of senders", BOMB, 0)


def test_ten_thousand_findings_are_a_thousand_series_that_every_parser_reads(
    store: Store, note: Note
) -> None:
    draw = random.Random(4711)
    nasty = ['"', "\\", "\n", "}", "{", ",", "é", "\u2028", "x" * 10_000, "# EOF"]
    live = Live(store, Streaming(store))
    when = "2026-03-01T10:00:00+00:00"
    found = [
        {
            "id": f"f{n}",
            "cause": "storage.read",
            "severity": "warning",
            "start": when,
            "end": None,
            "lost_gpu_seconds": float(n),
            "seen": when,
            "scope": {"job": f"{n}{draw.choice(nasty)}", "hosts": [draw.choice(nasty)], "resource": None},
        }
        for n in range(BOMB)
    ]
    live._tracker = Tracker(found)
    text = Exposition(openmetrics=True).render((), verdicts(live)).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert len(families["wellfed_finding_active"].samples) == MAX_FINDINGS
    assert families["wellfed_findings_dropped"].samples[0].value == BOMB - MAX_FINDINGS
    note("findings that are open at once", BOMB, 0)


def dawdlers(port: int, count: int, first: bytes) -> list[socket.socket]:
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for client in clients:
        client.sendall(first)
    return clients


@pytest.mark.parametrize(
    "first",
    [b"", b"POST /v1/metrics HT", b"POST /v1/metrics HTTP/1.1\r\nhost: a\r\nx: "],
    ids=["silent", "half a line", "half a head"],
)
def test_clients_that_never_finish_are_closed_and_keep_nobody_out(
    hub: Hub, note: Note, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 2.0)
    clients = dawdlers(hub.port, scale(2000, 300), first)
    assert hub.post(load("good")) == (200, 0)

    def drip() -> bool:
        """Another byte from each, which must buy no more time."""
        alive = 0
        for client in clients:
            try:
                client.send(b"x" if first else b"")
                client.setblocking(False)
                alive += client.recv(100) != b""
            except BlockingIOError:
                alive += 1
            except OSError:
                continue
        return alive == 0

    until(drip, 30, "the hub closes them all")
    assert hub.post(load("good")) == (200, 0)
    for client in clients:
        client.close()
    note("clients that never finish their request", len(clients), 0)


def test_bytes_that_are_no_http_cost_their_connection(hub: Hub, note: Note) -> None:
    draw = random.Random(4711)
    head = (
        b"POST /v1/metrics HTTP/1.1\r\nhost: hub\r\ncontent-type: application/x-protobuf\r\n"
        b"content-length: %d\r\n\r\n" % len(OTLP)
    )
    seed = head + OTLP
    tried = scale(20_000, 150)
    for _ in range(tried):
        at = draw.randrange(len(seed))
        bits = draw.choice([*SPICE, draw.randbytes(4)])
        data = seed[:at] + bits + seed[at + draw.choice([0, len(bits)]) :]
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(65536):
                    pass
            except ConnectionResetError:
                continue
    assert hub.post(load("good")) == (200, 0)
    assert hub.receiver.rejected["not_written"] == 0
    note("mutated HTTP requests to a hub", tried, 0)
