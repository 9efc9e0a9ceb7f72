"""Other programs' metrics pages, played by a small HTTP server on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Exporter:
    """Answers every GET with `body` and `status`. requests: (path, headers) so far; connections: how many."""

    def __init__(self, body: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        self.body = body
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.hang = threading.Event()
        self.hang.set()
        self._open: list[socket.socket] = []
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                exporter.connections += 1
                exporter._open.append(self.request)
                super().setup()

            def do_GET(self) -> None:
                exporter.requests.append((self.path, dict(self.headers)))
                exporter.hang.wait(20)
                body = exporter.body
                self.send_response(exporter.status)
                for name, value in {"Content-Length": str(len(body)), **exporter.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No longer listens, and closes what it holds open."""
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@contextmanager
def exporter(body: bytes = b"", tls: ssl.SSLContext | None = None) -> Iterator[Exporter]:
    """An Exporter while the block runs."""
    running = Exporter(body, tls)
    try:
        yield running
    finally:
        running.stop()
