"""A Prometheus that answers what a test tells it to, over HTTP on loopback or in the place of a connection pool."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from wellfed.analysis.promql_http import Api

#: Status, headers, body; None closes the connection in the middle of a body.
Reply = tuple[int, Mapping[str, str], bytes | None]
JSON = {"content-type": "application/json"}
FIRST = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})?\[")


def success(data: object, **more: object) -> Reply:
    return 200, JSON, json.dumps({"status": "success", "data": data, **more}).encode()


def refusal(text: str, status: int = 422) -> Reply:
    return status, JSON, json.dumps({"status": "error", "errorType": "execution", "error": text}).encode()


@dataclass(slots=True)
class Held:
    """Answers as if one sample of each series lay in every window.

    series: metric -> list of (labels, value at a time). limit: samples a query may touch.
    """

    series: Mapping[str, list[tuple[dict[str, str], Callable[[float], object]]]]
    limit: int = 10**9
    asked: list[str] = field(default_factory=list)

    def __call__(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        if path.endswith("/label/__name__/values"):
            return success(sorted(self.series))
        text = query["query"]
        self.asked.append(text)
        found = FIRST.search(text)
        held = self.series.get(found[1], []) if found else []
        if path.endswith("/query"):
            if text.startswith("count_over_time"):
                pairs = [{"metric": labels, "value": [float(query["time"]), "60"]} for labels, _ in held]
                return success({"resultType": "vector", "result": pairs})
            times = [float(query["time"]) - 10 * n for n in range(30, -1, -1)]
        else:
            start, end, step = (float(query[name]) for name in ("start", "end", "step"))
            times = [start + step * n for n in range(round((end - start) / step) + 1)]
            if len(times) * len(held) > self.limit:
                return refusal("query processing would load too many samples into memory")
        result = [
            {
                "metric": {"__name__": found[1] if found else "", **labels},
                "values": [[at, str(value(at))] for at in times if value(at) is not None],
            }
            for labels, value in held
        ]
        return success({"resultType": "matrix", "result": result})


@contextmanager
def serving(
    answer: Callable[[str, Mapping[str, str], Mapping[str, str]], Reply], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """The address of a server that answers with `answer(path, query, headers)`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            status, headers, body = answer(parts.path, query, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body) if body is not None else 1000))
            self.end_headers()
            self.wfile.write(body if body is not None else b'{"status": "succ')
            if body is None:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Pool:
    """Stands in for urllib3's pool: every answer is the same bytes."""

    def __init__(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.status, self.data, self.headers = status, body, {"content-type": kind}

    def request(self, method: str, url: str, headers: Mapping[str, str]) -> Pool:
        return self


def answering(body: bytes, status: int = 200) -> Api:
    return Api("http://server", Pool(body, status), {})  # type: ignore[arg-type]
