"""The hub's front door: who may write, how much, in what shape; and what it says to those it turns away."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from programs import Programs, fetch, free_port, until

from wellfed import ingest
from wellfed.analysis import receiver as receiving
from wellfed.analysis.receiver import Receiver
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.errors import UserError
from wellfed.ingest import Ingest, Token
from wellfed.otlp_http import MAX_PASSED
from wellfed.otlp_server import OtlpServer

NODE = Path(__file__).parent / "fixtures" / "node"
NOW = float(int(time.time()))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "PAUSE", 0.0)
    monkeypatch.setattr(receiving, "GATHER", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


class Hub:
    """The receiving half of a hub on free ports."""

    def __init__(self, store: Store, token: Token | None = None) -> None:
        self.receiver = Receiver(store)
        self.grpc = free_port()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.ingest = Ingest(self.receiver, token)
        self.server = OtlpServer(self.ingest, listener, f"127.0.0.1:{self.grpc}")
        self.server.start()

    def close(self) -> None:
        self.server.close()
        self.receiver.close()

    def post(
        self, body: bytes, path: str = "/v1/metrics", method: str = "POST", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        said = {"content-type": "application/x-protobuf"}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, said)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


@pytest.fixture
def hub(store: Store) -> Iterator[Hub]:
    running = Hub(store)
    yield running
    running.close()


def body(load: float = 1.0, ts: float = NOW, host: str = "n1") -> bytes:
    return Encoder({"host.name": host}).encode(Window(ts, [Row("host", (), {"load1": load})]))


def loads(store: Store) -> list[float]:
    return store.scan("host").collect().sort("ts")["load1"].to_list()


def test_every_encoding_and_transport_lands_in_the_same_table(hub: Hub, store: Store) -> None:
    assert hub.post(body(1.0))[0] == 200
    assert hub.post(gzip.compress(body(2.0, NOW + 10)), content_encoding="gzip")[0] == 200
    as_json = json_format.MessageToJson(ExportMetricsServiceRequest.FromString(body(3.0, NOW + 20)))
    status, headers, answer = hub.post(as_json.encode(), content_type="application/json; charset=utf-8")
    assert (status, headers["content-type"], json.loads(answer)) == (200, "application/json", {})
    with grpc.insecure_channel(f"127.0.0.1:{hub.grpc}", compression=grpc.Compression.Gzip) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
        assert ExportMetricsServiceResponse.FromString(call(body(4.0, NOW + 30), timeout=20)) is not None
    assert loads(store) == [1.0, 2.0, 3.0, 4.0]
    assert hub.receiver.points == 4


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"path": "/v1/traces"}, 404, "/v1/metrics"),
        ({"method": "GET"}, 405, "only POST"),
        ({"content_type": "text/plain"}, 415, "application/x-protobuf"),
        ({"content_encoding": "br"}, 415, "gzip"),
        ({"content_encoding": "gzip"}, 400, "not gzip"),
    ],
)
def test_what_is_not_a_request_is_told_so(hub: Hub, change: dict[str, str], status: int, says: str) -> None:
    got, _, answer = hub.post(body(), **change)
    assert (got, says in answer.decode(errors="replace")) == (status, True)


def test_broken_requests_are_refused_for_good(hub: Hub) -> None:
    for broken, headers in (
        (b"\xff" * 20, {}),
        (b"{", {"content_type": "application/json"}),
        (gzip.compress(body())[:-9], {"content_encoding": "gzip"}),
        (gzip.compress(bytes(ingest.MAX_BODY + 10)), {"content_encoding": "gzip"}),
    ):
        status, _, answer = hub.post(broken, **headers)
        assert (status, b"not an OTLP metrics request" in answer) == (400, True)
    assert hub.receiver.rejected["malformed"] == 4
    with grpc.insecure_channel(f"127.0.0.1:{hub.grpc}") as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\xff" * 20, timeout=20)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_points_that_were_not_taken_are_said_in_the_answer(hub: Hub, store: Store) -> None:
    status, _, answer = hub.post(body(ts=NOW - 10 * 86_400))
    said = ExportMetricsServiceResponse.FromString(answer).partial_success
    assert (status, said.rejected_data_points, said.error_message) == (200, 1, "1 too_old")
    assert loads(store) == []


def test_too_large_is_for_good_and_too_many_is_for_later(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MAX_REQUEST", 10)
    assert hub.post(body())[0] == 413
    monkeypatch.setattr(ingest, "MAX_REQUEST", 10**6)
    monkeypatch.setattr(ingest, "MAX_PENDING", 10)
    status, headers, _ = hub.post(body())
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 5
    with grpc.insecure_channel(f"127.0.0.1:{hub.grpc}") as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
        with pytest.raises(grpc.RpcError) as error:
            call(body(), timeout=20)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert (hub.receiver.rejected["size"], hub.receiver.rejected["busy"]) == (1, 2)


def test_one_that_is_turned_away_sees_it_whole_and_keeps_its_connection(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MAX_PENDING", 10)
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)
    for size in (10**6, 100, 2 * MAX_PASSED):
        connection.putrequest("POST", "/v1/metrics")
        connection.putheader("content-type", "application/x-protobuf")
        connection.putheader("content-length", str(size))
        connection.endheaders()
        kept = connection.sock
        connection.send(bytes(min(size, MAX_PASSED)))
        answer = connection.getresponse()
        assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (429, True)
        answer.read()
        assert (connection.sock is kept) == (size <= MAX_PASSED)
    connection.close()


def test_the_more_are_turned_away_the_later_they_should_come_back(hub: Hub) -> None:
    few = [hub.ingest._after(float(second)) for second in range(20)]
    many = [hub.ingest._after(30.0 + number / 2000) for number in range(20_000)]
    calm = [hub.ingest._after(300.0 + second) for second in range(20)]
    assert max(few) <= 5
    assert max(calm) <= 5
    assert min(many) >= 1
    assert max(many) == 60
    # Those of the last second come back at about the rate that the hub can bear.
    last = many[-2000:]
    assert len(last) / (sum(last) / len(last)) < ingest.RETURNS


def test_room_is_given_back_whatever_became_of_the_request(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MAX_PENDING", 3 * len(body()))
    for _ in range(5):
        assert hub.post(b"\xff" * len(body()))[0] == 400
        assert hub.post(body())[0] == 200


def test_a_full_disk_asks_the_sender_to_keep_the_window(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "append", full)
    status, headers, _ = hub.post(body())
    assert (status, headers["retry-after"]) == (503, "30")


def test_only_the_token_opens_and_it_may_change(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    hub = Hub(store, Token(str(file)))
    try:
        wrong = (
            "",
            "Bearer",
            "Bearer second-token",
            "Basic first-token",
            "Bearer first-token2",
            "first-token",
        )
        for said in wrong:
            status, headers, _ = hub.post(body(), authorization=said)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert hub.post(body(), authorization="Bearer first-token")[0] == 200
        file.write_text("first-token\nsecond-token\n")
        assert hub.post(body(), authorization="bearer second-token")[0] == 200
        file.unlink()
        assert hub.post(body(), authorization="Bearer first-token")[0] == 401
        with grpc.insecure_channel(f"127.0.0.1:{hub.grpc}") as channel:
            call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
            with pytest.raises(grpc.RpcError) as error:
                call(body(), timeout=20)
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
            file.write_text("third-token\n")
            call(body(), timeout=20, metadata=[("authorization", "Bearer third-token")])
    finally:
        hub.close()


def test_a_token_file_that_cannot_serve_is_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n\n")
    for path, says in ((tmp_path / "none", "cannot read --token-file"), (empty, "holds no token")):
        with pytest.raises(UserError, match=says):
            Token(str(path))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--otlp-address=0.0.0.0:0"], "--token-file"),
        (["--otlp-grpc-address=[::]:0", "--otlp-address=127.0.0.1:0"], "--token-file"),
        (["--otlp-address=4318"], "is not an address"),
        (["--token-file=/nonexistent/token"], "cannot read --token-file /nonexistent/token"),
        (["--web-config=/nonexistent.yml"], "cannot read /nonexistent.yml"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hub", f"--data={tmp_path / 's'}", "--address=127.0.0.1:0", *arguments]) == 2
    error = capsys.readouterr().err
    assert (says in error, error.count("\n")) == (True, 1)


ADDRESSES = ("--address", "--otlp-address", "--otlp-grpc-address", "--metrics-address")


@pytest.fixture
def start(programs: Programs, tmp_path: Path) -> Callable[..., tuple[object, dict[str, int]]]:
    """Starts a hub; the ports stay the same over a restart."""
    ports = {flag: free_port() for flag in ADDRESSES}

    def run(*more: str) -> tuple[object, dict[str, int]]:
        addresses = [f"{flag}=127.0.0.1:{port}" for flag, port in ports.items()]
        hub = programs.wellfed("hub", f"--data={tmp_path / 'store'}", *addresses, *more)
        until(
            lambda: fetch(f"http://127.0.0.1:{ports['--metrics-address']}/-/ready") == b"ready\n",
            what="the hub is ready",
        )
        return hub, ports

    return run


def test_nothing_that_was_accepted_is_lost_when_the_hub_is_killed(
    start: Callable[..., tuple[object, dict[str, int]]], programs: Programs, tmp_path: Path
) -> None:
    token = base64.urlsafe_b64encode(os.urandom(18)).decode()
    (tmp_path / "token").write_text(token)
    hub, ports = start(f"--token-file={tmp_path / 'token'}")
    metrics = f"http://127.0.0.1:{ports['--metrics-address']}/metrics"
    agents = [
        programs.wellfed(
            "agent",
            f"--host=node-{name}",
            f"--metrics-address=127.0.0.1:{free_port()}",
            f"--otlp-endpoint=http://127.0.0.1:{ports['--otlp-address']}",
            f"--procfs={NODE / 'proc'}",
            f"--sysfs={NODE / 'sys'}",
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{token}",
            OTEL_METRIC_EXPORT_INTERVAL="1000",
        )
        for name in "ab"
    ]
    reader = Store(tmp_path / "store", readonly=True)

    def windows() -> int:
        return reader.scan("host").collect().select("host", "ts").n_unique()

    until(lambda: windows() >= 6, what="windows of both nodes")
    assert b'wellfed_hub_hosts{state="fresh"} 2' in fetch(metrics)
    hub.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
    hub.wait(10)  # type: ignore[attr-defined]
    before = windows()
    hub, _ = start(f"--token-file={tmp_path / 'token'}")
    assert b'wellfed_hub_hosts{state="fresh"} 2' in fetch(metrics)
    until(lambda: windows() >= before + 6, what="windows after the restart")
    for agent in agents:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(10) == 0
    hub.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]
    assert hub.wait(10) == 0  # type: ignore[attr-defined]
    log = hub.log.read_text()  # type: ignore[attr-defined]
    assert ("Traceback" in log, token in log) == (False, False)
    with Store(tmp_path / "store") as store:
        assert store.check() == []
        found = store.scan("host").collect().sort("host", "ts")
    for _, rows in found.group_by("host"):
        # No second is missing, neither of the time in which the hub was dead, nor twice there.
        assert rows["ts"].diff().drop_nulls().dt.total_seconds().unique().to_list() == [1]


def test_the_agents_web_yml_turns_on_tls_for_both_transports(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            "-subj",
            "/CN=hub",
            "-days",
            "2",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n")
    ports = {flag: free_port() for flag in ADDRESSES}
    hub = programs.wellfed(
        "hub",
        f"--data={tmp_path / 'store'}",
        f"--web-config={tmp_path / 'web.yml'}",
        *(f"{flag}=127.0.0.1:{port}" for flag, port in ports.items()),
    )
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    def post(load: float, ts: float) -> int:
        address = f"https://127.0.0.1:{ports['--otlp-address']}/v1/metrics"
        headers = {"Content-Type": "application/x-protobuf"}
        request = urllib.request.Request(address, body(load, ts), headers)
        with urllib.request.urlopen(request, timeout=20, context=trusted) as answer:
            return int(answer.status)

    until(lambda: post(1.0, NOW) == 200, what="OTLP over HTTPS")
    credentials = grpc.ssl_channel_credentials((tmp_path / "cert.pem").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{ports['--otlp-grpc-address']}", credentials) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
        call(body(2.0, NOW + 10), timeout=20)
    assert loads(Store(tmp_path / "store", readonly=True)) == [1.0, 2.0]
    metrics = f"https://127.0.0.1:{ports['--metrics-address']}/metrics"
    with urllib.request.urlopen(metrics, timeout=20, context=trusted) as answer:
        assert b"wellfed_hub_received_points_total 2" in answer.read()
    hub.send_signal(signal.SIGTERM)
    assert hub.wait(10) == 0
