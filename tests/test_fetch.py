"""Fetching other programs' pages: kept connections, limits, one clear reason, no secret anywhere."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from exporters import Exporter, exporter
from programs import free_port

from wellfed.collectors import fetch
from wellfed.collectors.fetch import AbsentError, Page, Target, target

SECRET = "s3cret-t0ken"


@pytest.fixture
def server() -> Iterator[Exporter]:
    with exporter(b"a 1\n") as running:
        yield running


def reason(page: Page) -> str:
    with pytest.raises(AbsentError) as raised:
        page.get()
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "url", "place"),
    [
        ("127.0.0.1:9400", "http://127.0.0.1:9400/metrics", "127.0.0.1:9400"),
        ("http://gpu1:8002", "http://gpu1:8002/metrics", "gpu1:8002"),
        ("https://blade/", "https://blade/metrics", "blade:443"),
        (
            "http://[::1]:80/metrics/array?endpoint=x",
            "http://[::1]:80/metrics/array?endpoint=x",
            "[::1]:80/metrics/array",
        ),
    ],
)
def test_an_address_may_be_short(text: str, url: str, place: str) -> None:
    found = target(text)
    assert (found.url, found.place) == (url, place)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://host/x",
        "http://",
        "http://host:99999",
        "host:0",
        "http://ho st/",
        "http://h/\x01",
        "http://ü/",
    ],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        target(text)


def test_credentials_in_an_address_are_refused_without_repeating_them() -> None:
    with pytest.raises(ValueError, match="credentials do not belong") as raised:
        target(f"http://user:{SECRET}@host/metrics")
    assert SECRET not in str(raised.value)


def test_one_connection_serves_many_requests_and_is_opened_anew_when_the_server_closed_it(
    server: Exporter,
) -> None:
    page = Page(target(server.url))
    assert [page.get() for _ in range(3)] == [b"a 1\n"] * 3
    assert server.connections == 1
    server.headers = {"Connection": "close"}
    assert page.get() == page.get() == b"a 1\n"
    assert server.connections == 2
    page.close()


def test_a_connection_is_kept_among_thousands_of_descriptors(server: Exporter) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    with ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, "rb"))
        taken = -1
        while taken < 1024:
            taken = os.dup(null.fileno())
            stack.callback(os.close, taken)
        page = Page(target(server.url))
        stack.callback(page.close)
        assert [page.get() for _ in range(3)] == [b"a 1\n"] * 3
        assert server.connections == 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_that_restarts_is_found_again_at_once() -> None:
    with exporter(b"a 1\n") as first:
        page = Page(target(first.url))
        page.get()
    assert reason(page) == f"nothing listens at {first.url}"
    page.close()


def test_every_way_to_be_absent_has_its_reason(server: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(target(server.url), timeout=0.3)
    server.status = 404
    assert reason(page) == f"{server.url} answers HTTP 404"
    server.status, server.headers = 302, {"Location": "http://elsewhere/"}
    assert reason(page) == f"{server.url} answers HTTP 302"
    server.status = 200
    monkeypatch.setattr(fetch, "MAX_BYTES", 3)
    assert "sends more than" in reason(page)
    server.hang.clear()
    assert reason(page) == f"no answer within 0.3 s from {server.url}"
    closed = f"http://127.0.0.1:{free_port()}/metrics"
    assert reason(Page(target(closed))) == f"nothing listens at {closed}"
    assert "nowhere.invalid" in reason(Page(target("http://nowhere.invalid:9/")))


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"]
)
def test_what_does_not_speak_http_or_stops_in_the_middle_is_told(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        assert reason(Page(target(url))) == f"{url} does not answer in HTTP"
        thread.join()


def test_a_server_that_drips_is_given_up_after_the_timeout() -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        assert reason(Page(target(url), timeout=0.4)) == f"no answer within 0.4 s from {url}"
        stop.set()
        thread.join()


def test_a_token_is_sent_read_anew_each_time_and_shown_nowhere(server: Exporter, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    page = Page(target(f"{server.url}?key={SECRET}", token_file=str(file)))
    page.get()
    file.write_text("second")
    page.get()
    assert [headers["Authorization"] for _, headers in server.requests] == [
        f"Bearer {SECRET}",
        "Bearer second",
    ]
    file.write_text(SECRET)
    server.status = 401
    told = reason(page)
    assert told == f"{server.url} answers HTTP 401"
    for shown in (told, repr(page.target), str(page.target), page.target.name, page.target.place):
        assert SECRET not in shown


def test_a_whole_authorization_header_can_be_given(server: Exporter, tmp_path: Path) -> None:
    file = tmp_path / "header"
    file.write_text("Basic dTpw")
    page = Page(target(server.url, authorization_file=str(file)))
    page.get()
    page.close()
    assert server.requests[0][1]["Authorization"] == "Basic dTpw"


@pytest.mark.parametrize("content", [f"{SECRET}\r\nX-Evil: 1", f"{SECRET}\x00", f"{SECRET}ü", " \n"])
def test_a_token_that_cannot_be_one_is_refused_without_repeating_it(
    server: Exporter, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    told = reason(Page(target(server.url, token_file=str(file))))
    assert told == f"{file}: holds no single line of printable characters"
    assert not server.requests


def test_a_token_file_that_is_not_there_is_named(server: Exporter) -> None:
    assert (
        reason(Page(target(server.url, token_file="/nonexistent/t")))
        == "/nonexistent/t: No such file or directory"
    )


def test_tls_wants_a_certificate_that_the_named_authority_signed(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*made, "-keyout", str(key), "-out", str(certificate), *subject], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with exporter(b"a 1\n", context) as server:
        page = Page(target(server.url, ca_file=str(certificate)))
        assert page.get() == b"a 1\n"
        page.close()
        with pytest.raises(AbsentError, match="self-signed certificate") as raised:
            Page(target(server.url)).get()
        assert "ca_file" in raised.value.remedy


def test_a_target_hides_its_whole_address() -> None:
    assert "url" not in repr(Target("http://h/?token=x"))
