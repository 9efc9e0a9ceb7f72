"""The agent's endpoint answers well-behaved clients and survives the others."""

from __future__ import annotations

import gzip
import http.client as http_client
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from wellfed.collectors import http
from wellfed.collectors.http import Endpoint, Request, Response, parse_address
from wellfed.errors import UserError


def boom(_: Request) -> Response:
    raise RuntimeError("no")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint("127.0.0.1:0", {"/metrics": lambda _: Response(b"x" * 5000), "/boom": boom})
    served.start()
    yield served
    served.close()


def get(endpoint: Endpoint, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def talk(endpoint: Endpoint, payload: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as client:
        client.sendall(payload)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def test_plain_and_gzip(endpoint: Endpoint) -> None:
    assert get(endpoint, "/metrics")[:2] == (200, b"x" * 5000)
    status, body, headers = get(endpoint, "/metrics", **{"Accept-Encoding": "gzip;q=1.0"})
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(body) == b"x" * 5000
    assert get(endpoint, "/metrics", **{"Accept-Encoding": "gzip;q=0"})[1] == b"x" * 5000


def test_unknown_page_method_and_failure(endpoint: Endpoint) -> None:
    assert get(endpoint, "/nothing")[0] == 404
    assert talk(endpoint, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").startswith(
        b"HTTP/1.1 405"
    )
    assert get(endpoint, "/boom")[0] == 500
    assert get(endpoint, "/metrics")[0] == 200


def test_garbage_and_oversized_headers_are_refused(endpoint: Endpoint) -> None:
    assert talk(endpoint, b"\x00\x01garbage\r\n\r\n").startswith(b"HTTP/1.1 400")
    huge = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    assert talk(endpoint, huge).startswith(b"HTTP/1.1 431")
    assert get(endpoint, "/metrics")[0] == 200


def test_one_connection_serves_many_requests(endpoint: Endpoint) -> None:
    one = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    assert talk(endpoint, one * 3).count(b"HTTP/1.1 200") == 3


def test_a_request_that_is_repeated_or_comes_in_parts_or_with_another_is_answered_alike(
    endpoint: Endpoint,
) -> None:
    one = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    other = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as client:
        for pieces in (
            [one],
            [one],
            [other],
            [one],
            [one[:20], one[20:]],
            [one + other],
            [one],
            [other + one],
        ):
            for piece in pieces:
                client.sendall(piece)
            for asked in b"".join(pieces).split(b"\r\n\r\n")[:-1]:
                answer = http_client.HTTPResponse(client)
                answer.begin()
                body = answer.read()
                assert (answer.status, len(body)) == (
                    (404, len(body)) if b"nothing" in asked else (200, 5000)
                )


def test_what_is_rehearsed_is_answered_before_anybody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REHEARSAL", 0.01)
    asked, done = [], threading.Event()

    def page(request: Request) -> Response:
        asked.append(request.headers["accept"])
        if len(asked) == 2:
            done.set()
        raise RuntimeError("no")

    served = Endpoint(
        "127.0.0.1:0", {"/": page}, rehearsed=[Request("/", {"accept": kind}) for kind in ("a", "b")]
    )
    served.start()
    try:
        assert done.wait(10)
        assert asked == ["a", "b"]
        assert get(served, "/", accept="c")[0] == 500
    finally:
        served.close()


def test_a_request_after_others_has_no_longer_than_the_first(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REQUEST_TIMEOUT", 0.3)
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = http_client.HTTPResponse(client)
        answer.begin()
        assert len(answer.read()) == 5000
        client.sendall(b"GET /metr")
        assert client.recv(10) == b""


def test_who_does_not_take_the_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_TIMEOUT", 0.3)
    large = Endpoint("127.0.0.1:0", {"/": lambda _: Response(b"x" * 50_000_000)})
    large.start()
    try:
        with socket.create_connection(("127.0.0.1", large.port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while large.clients == 0:
                time.sleep(0.01)
            deadline = time.monotonic() + 5
            while large.clients and time.monotonic() < deadline:
                time.sleep(0.01)
            assert large.clients == 0
    finally:
        large.close()


def test_half_open_clients_cost_no_threads_and_are_closed(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REQUEST_TIMEOUT", 0.3)
    threads = threading.active_count()
    clients = [socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) for _ in range(300)]
    for client in clients:
        client.sendall(b"GET /metr")
    assert get(endpoint, "/metrics")[0] == 200
    assert threading.active_count() <= threads + 1
    for client in clients:
        assert client.recv(10) == b""
        client.close()


def test_a_taken_port_names_its_holder() -> None:
    first = Endpoint("127.0.0.1:0", {})
    try:
        with pytest.raises(UserError, match=rf"127.0.0.1:{first.port} is taken by .*pid \d+"):
            Endpoint(f"127.0.0.1:{first.port}", {})
    finally:
        first.close()


def test_the_holder_of_a_port_is_named_without_its_options() -> None:
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    command = [sys.executable, "-S", "-c", code, "--password=planted-secret"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            with pytest.raises(UserError) as error:
                Endpoint(f"127.0.0.1:{int(other.stdout.readline())}", {})
        finally:
            other.stdin.close()
    assert f"{sys.executable} (pid {other.pid})" in str(error.value)
    assert "secret" not in str(error.value)


def test_addresses() -> None:
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address(":80") == ("127.0.0.1", 80)
    for wrong in ("80", "host:", "host:99999", "host:http"):
        with pytest.raises(UserError, match=r"127\.0\.0\.1:9812"):
            parse_address(wrong)
