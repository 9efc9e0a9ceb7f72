"""What is sent by OTLP decodes to what was measured, and arrives once whatever the receiver does."""

from __future__ import annotations

import gzip
import http.server
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from test_exposition import rows

from wellfed.collectors.catalog import HOST, TABLES
from wellfed.collectors.destination import Destination, destination, resource
from wellfed.collectors.otlp import KEY_ATTRIBUTES, Encoder
from wellfed.collectors.push import Pusher
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.collectors.spool import Spool
from wellfed.errors import UserError


def decode(body: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], tuple[float, int, int, str]]:
    """(metric, attributes) -> (value, start, time, kind) with the official classes."""
    request = ExportMetricsServiceRequest.FromString(body)
    found = {}
    for metrics in request.resource_metrics:
        for scope in metrics.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data") or ""
                for point in getattr(metric, kind).data_points:
                    labels = frozenset((a.key, a.value.string_value) for a in point.attributes)
                    assert (metric.name, labels) not in found
                    times = (point.start_time_unix_nano, point.time_unix_nano)
                    found[metric.name, labels] = (point.as_double, *times, kind)
    return found


def expected(found: list[Row]) -> dict[tuple[str, frozenset[tuple[str, str]]], tuple[float, str]]:
    out = {}
    for row in found:
        table = TABLES[row.table]
        keys = zip((k for k in table.keys if k != HOST), row.key, strict=True)
        labels = [(KEY_ATTRIBUTES.get((table.name, name), name), text) for name, text in keys]
        labels += [(c.name, row.info[c.name]) for c in table.infos if c.label and c.name in row.info]
        for column in table.signals:
            value = row.values.get(column.name)
            if value is not None:
                key = (column.otlp.name, frozenset([*labels, *column.otlp.attributes.items()]))
                out[key] = (value, "sum" if column.kind == "counter" else "gauge")
    return out


@given(st.lists(rows(), min_size=1, max_size=3))
def test_the_official_library_decodes_every_value(windows: list[list[Row]]) -> None:
    encoder = Encoder({"host.name": "n1"})
    for index, found in enumerate(windows):
        decoded = decode(encoder.encode(Window(1000.0 + 10 * index, found)))
        values = {
            key: (value, kind)
            for key, (value, _, time, kind) in decoded.items()
            if not key[0].endswith(".info") and key[0] != "hw.gpu.utilization"
        }
        assert values == expected(found)
        assert all(time == (1000 + 10 * index) * 10**9 for _, _, time, _ in decoded.values())


def gpu(active: float, observed: float) -> Row:
    return Row("gpu", ("GPU-1",), {"active_seconds": active, "observed_seconds": observed}, {"index": "0"})


def test_a_reset_moves_the_start_time() -> None:
    encoder = Encoder({})
    key = ("wellfed.gpu.active_seconds", frozenset({("hw.id", "GPU-1"), ("index", "0")}))
    starts = []
    for ts, active in ((100, 50.0), (110, 55.0), (120, 1.0), (130, 2.0)):
        starts.append(decode(encoder.encode(Window(ts, [gpu(active, 100.0)])))[key][1] / 1e9)
    assert starts == [100, 100, 110, 110]


def test_utilisation_is_the_mean_of_the_window() -> None:
    encoder = Encoder({})
    encoder.encode(Window(100.0, [gpu(50.0, 100.0)]))
    found = decode(encoder.encode(Window(110.0, [gpu(54.0, 110.0)])))
    (value,) = [v for (name, _), v in found.items() if name == "hw.gpu.utilization"]
    assert (value[0], value[3]) == (pytest.approx(0.4), "gauge")


def test_utilisation_stands_while_nothing_was_measured_and_goes_with_a_reset() -> None:
    encoder, seen = Encoder({}), []
    for ts, active, observed in (
        (0, 50.0, 100.0),
        (1, 50.4, 101.0),
        (2, 50.4, 101.0),
        (3, 51.4, 103.0),
        (4, 0.0, 1.0),
    ):
        found = decode(encoder.encode(Window(float(ts), [gpu(active, observed)])))
        seen.append([round(v[0], 9) for (name, _), v in found.items() if name == "hw.gpu.utilization"])
    assert seen == [[], [0.4], [0.4], [0.5], []]


def test_texts_travel_with_the_row() -> None:
    row = Row(
        "gpu",
        ("GPU-1",),
        {"power_watts": 1.0},
        {"index": "0", "pci_address": "0000:01:00.0", "vendor": "nvidia"},
    )
    found = decode(Encoder({}).encode(Window(1.0, [row])))
    labels = {("hw.id", "GPU-1"), ("index", "0"), ("pci_address", "0000:01:00.0"), ("vendor", "nvidia")}
    assert ("wellfed.gpu.info", frozenset(labels)) in found


def test_the_standard_variables() -> None:
    assert destination(None, {}) is None
    one = destination(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"})
    assert one is not None
    assert (one.url, one.gzip, one.timeout) == ("http://c:4318/v1/metrics", True, 10.0)
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://b/custom",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret, x = y",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    }
    two = destination(None, environ)
    assert two is not None
    assert (two.url, two.timeout, two.gzip) == ("https://b/custom", 2.5, False)
    assert two.headers == {"authorization": "Bearer secret", "x": "y"}
    assert "secret" not in repr(two)
    flag = destination("http://flag:1/v1/metrics", environ)
    assert flag is not None
    assert flag.url == "http://flag:1/v1/metrics"
    for wrong, message in (
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318"}, "write it as http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "milliseconds"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "x"}, "name=value"),
        # What `make chaos` found: these were accepted and ended the thread that sends.
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:port"}, "write it as http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[c"}, "write it as http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TIMEOUT": "-1"}, "milliseconds"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "a=b%0Ac"},
            "no HTTP header",
        ),
    ):
        with pytest.raises(UserError, match=message):
            destination(None, wrong)


def test_a_password_in_the_address_is_shown_to_the_receiver_alone() -> None:
    to = destination("http://ann:p%C3%A4ss@hub:4318", {})
    assert to is not None
    assert (to.url, to.headers) == ("http://hub:4318/v1/metrics", {"Authorization": "Basic YW5uOnDDpHNz"})
    named = destination("http://ann:x@hub", {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20y"})
    assert named is not None
    assert named.headers == {"authorization": "Bearer y"}
    for wrong in ("http://ann:s3cret@hub:port", "ann:s3cret@hub:4318", "http://ann:s3/cret@hub", "//s3cret@"):
        with pytest.raises(UserError, match="write it as http") as error:
            destination(wrong, {})
        assert "s3" not in str(error.value)


def test_the_resource_says_who_we_are_and_the_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = resource("n1", "1.0", {"K8S_NODE_NAME": "worker-1"})
    assert (plain["service.name"], plain["host.name"], plain["k8s.node.name"]) == (
        "wellfed-agent",
        "n1",
        "worker-1",
    )
    # The same after a restart: else every series would begin anew.
    assert plain["service.instance.id"] == "n1"
    assert not any(name.startswith("telemetry.sdk") for name in plain)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,cloud.region=x")
    given_ = resource("n1", "1.0", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,cloud.region=x"})
    assert (given_["service.name"], given_["cloud.region"]) == ("mine", "x")


class Receiver:
    """An OTLP/HTTP receiver that answers from a script: (status, headers, body), the last for ever."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], bytes]] = [(200, {}, b"")]
        self.hangs_up = False
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.headers.append(dict(self.headers))
                status, headers, answer = (
                    receiver.script.pop(0) if len(receiver.script) > 1 else receiver.script[0]
                )
                if status == 200:
                    receiver.bodies.append(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                # Without a word: the client learns of it when it asks again.
                self.close_connection = self.close_connection or receiver.hangs_up

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/metrics"

    def start(self) -> None:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    serving = Receiver()
    serving.start()
    yield serving
    serving.server.shutdown()
    serving.server.server_close()


@pytest.fixture
def pusher(receiver: Receiver) -> Iterator[Callable[..., Pusher]]:
    made: list[Pusher] = []

    def make(**changes: object) -> Pusher:
        to = Destination(**{"url": receiver.url, "timeout": 5.0, **changes})  # type: ignore[arg-type]
        made.append(Pusher(to, Spool(None, 10**6, 1e12)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("zipped", [True, False])
def test_records_arrive_in_order_with_our_headers(
    receiver: Receiver, pusher: Callable[..., Pusher], zipped: bool
) -> None:
    sender = pusher(gzip=zipped, headers={"Authorization": "Bearer t"})
    for index in range(5):
        sender.submit(float(index), b"body %d" % index)
    while sender.attempt() is not None:
        pass
    assert receiver.bodies == [b"body %d" % i for i in range(5)]
    for headers in receiver.headers:
        assert headers["Authorization"] == "Bearer t"
        assert headers["Content-Type"] == "application/x-protobuf"
    assert sender.sent == 5


def test_a_receiver_that_hangs_up_between_requests_gets_each_once(
    receiver: Receiver, pusher: Callable[..., Pusher]
) -> None:
    receiver.hangs_up = True
    sender = pusher()
    for index in range(3):
        sender.submit(float(index), b"body %d" % index)
    while sender.attempt() is not None:
        pass
    assert receiver.bodies == [b"body %d" % i for i in range(3)]
    assert (sender.sent, sender.failed) == (3, 0)


def test_later_means_later_and_never_means_never(receiver: Receiver, pusher: Callable[..., Pusher]) -> None:
    sender = pusher()
    receiver.script = [
        (429, {"Retry-After": "7"}, b""),
        (503, {}, b""),
        (503, {}, b""),
        (200, {}, b""),
        (400, {}, b""),
        (200, {}, b""),
    ]
    for index in range(3):
        sender.submit(float(index), b"%d" % index)
    waits = [sender.attempt() for _ in range(3)]
    assert waits[0] == 7.0
    assert waits[1] is not None
    assert waits[2] is not None
    assert 0.7 < waits[1] < waits[2] < 3
    assert [sender.attempt() for _ in range(4)] == [0.0, 0.0, 0.0, None]
    assert receiver.bodies == [b"0", b"2"]
    assert (sender.sent, sender.failed, sender.refused) == (2, 3, 1)


def test_partial_success_is_counted(receiver: Receiver, pusher: Callable[..., Pusher]) -> None:
    said = ExportMetricsServiceResponse()
    said.partial_success.rejected_data_points = 4
    said.partial_success.error_message = "too many"
    receiver.script = [(200, {"Content-Type": "application/x-protobuf"}, said.SerializeToString())]
    sender = pusher()
    sender.submit(0.0, b"x")
    assert sender.attempt() == 0.0
    assert (sender.sent, sender.rejected, sender.error) == (1, 4, "too many")


def test_a_receiver_that_is_not_there_and_one_that_comes_back(
    receiver: Receiver, pusher: Callable[..., Pusher]
) -> None:
    sender = pusher(url="http://127.0.0.1:1/v1/metrics")
    sender.submit(0.0, b"x")
    assert sender.attempt() != 0.0
    assert "ConnectionRefused" in sender.error
    assert len(sender.spool) == 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and server and client .key and .pem signed by it."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=ca",
        "-days",
        "2",
    )
    for name in ("server", "client"):
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            f"{name}.pem",
            "-days",
            "2",
            "-extfile",
            "ext",
        )
    return folder


def test_tls_with_a_custom_ca_and_a_client_certificate(certificates: Path) -> None:
    serving = Receiver()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    serving.server.socket = context.wrap_socket(serving.server.socket, server_side=True)
    serving.start()
    url = serving.url.replace("http:", "https:")
    sender = Pusher(
        Destination(
            url,
            ca=str(certificates / "ca.pem"),
            key=str(certificates / "client.key"),
            certificate=str(certificates / "client.pem"),
        ),
        Spool(None, 10**6, 1e12),
    )
    try:
        sender.submit(0.0, b"secret")
        assert sender.attempt() == 0.0
        assert serving.bodies == [b"secret"]
        stranger = Pusher(Destination(url), Spool(None, 10**6, 1e12))
        stranger.submit(0.0, b"x")
        assert stranger.attempt() != 0.0
        assert "CERTIFICATE_VERIFY_FAILED" in stranger.error
        stranger.close()
    finally:
        sender.close()
        serving.server.shutdown()
        serving.server.server_close()


@pytest.mark.parametrize("tls", [False, True])
def test_grpc_carries_the_same_bytes(certificates: Path, tls: bool) -> None:
    import concurrent.futures

    import grpc

    bodies = []

    class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: grpc.HandlerCallDetails) -> object:
            assert details.method == "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"

            def export(body: bytes, context: grpc.ServicerContext) -> bytes:
                if not bodies:
                    bodies.append(b"")
                    context.abort(grpc.StatusCode.UNAVAILABLE, "later")
                bodies.append(body)
                return b""

            return grpc.unary_unary_rpc_method_handler(export)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=(Service(),))
    ca, key, pem = (str(certificates / name) for name in ("ca.pem", "client.key", "client.pem"))
    if tls:
        pair = [(certificates / f"server.{ending}").read_bytes() for ending in ("key", "pem")]
        trusted = (certificates / "ca.pem").read_bytes()
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([pair], trusted, require_client_auth=True)
        )
        to = Destination(f"https://127.0.0.1:{port}", "grpc", ca=ca, key=key, certificate=pem)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
        to = Destination(f"http://127.0.0.1:{port}", "grpc")
    server.start()
    sender = Pusher(to, Spool(None, 10**6, 1e12))
    try:
        body = ExportMetricsServiceRequest(resource_metrics=[{}]).SerializeToString()
        sender.submit(0.0, body)
        first = sender.attempt()
        assert first is not None
        assert first > 0
        assert "UNAVAILABLE: later" in sender.error
        assert sender.attempt() == 0.0
        assert bodies == [b"", body]
    finally:
        sender.close()
        server.stop(0).wait()
