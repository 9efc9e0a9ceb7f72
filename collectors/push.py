"""Sends spooled OTLP requests to any receiver: HTTP with protobuf, or gRPC where grpcio is installed.

What is not acknowledged stays in the spool; Retry-After is obeyed; what the receiver calls wrong for good is
dropped and counted. Source: the OTLP specification, "OTLP/HTTP Response" and "Failures".
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any, Protocol

import h11

from wellfed.collectors.compress import gzipped, plain
from wellfed.collectors.destination import Destination
from wellfed.collectors.spool import Spool
from wellfed.errors import UserError

__all__ = ["Outcome", "Pusher"]

log = logging.getLogger("wellfed.push")

#: Statuses that say "later" (OTLP specification); every other 4xx and 5xx says "never".
_LATER = frozenset({429, 502, 503, 504})
#: gRPC codes that say "later".
_LATER_GRPC = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
_CHUNK = 1 << 16
_DATE = re.compile(rb"\r\ndate:[^\r\n]*", re.IGNORECASE)
#: An answer holds a sentence at most.
MAX_ANSWER = 1 << 20
FIRST_DELAY = 1.0
MAX_DELAY = 60.0
#: A receiver may ask for patience, not for ever.
MAX_RETRY_AFTER = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one attempt. done: acknowledged, or never to be. after: seconds the receiver asked to wait."""

    done: bool
    rejected: int = 0
    after: float | None = None
    error: str = ""


class _Sender(Protocol):
    def send(self, body: bytes) -> Outcome: ...
    def close(self) -> None: ...


class _Http:
    """One kept-alive connection. h11 is there for the agent's own endpoint; http.client and the email package
    behind it would be 1 MiB more. What a receiver nearly always answers is parsed once: of 0.48 ms a request
    that was 0.2.
    """

    def __init__(self, to: Destination) -> None:
        self._to = to
        url = urllib.parse.urlsplit(to.url)
        self._where = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._headers = {
            "Host": url.netloc.rpartition("@")[2],
            "Content-Type": "application/x-protobuf",
            "User-Agent": "wellfed-agent",
            **({"Content-Encoding": "gzip"} if to.gzip else {}),
            **to.headers,
        }
        self._tls = _context(to) if url.scheme == "https" else None
        self._socket: socket.socket | None = None
        self._http = h11.Connection(h11.CLIENT)
        #: Of this connection: the request up to the number of its bytes, the good answer without its date.
        self._head = self._known = b""

    def send(self, body: bytes) -> Outcome:
        body = gzipped(body) if self._to.gzip else plain(body)
        fresh = self._socket is None
        try:
            return self._post(body)
        except (OSError, h11.ProtocolError) as error:
            self.close()
            if fresh or isinstance(error, TimeoutError):
                return Outcome(False, error=f"{type(error).__name__}: {error}")
        # A kept connection that the receiver closed meanwhile says nothing about the receiver.
        try:
            return self._post(body)
        except (OSError, h11.ProtocolError) as error:
            self.close()
            return Outcome(False, error=f"{type(error).__name__}: {error}")

    def _post(self, body: bytes) -> Outcome:
        connection, http = self._socket or self._connect(), self._http
        answer = b""
        if self._known:
            connection.sendall(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
            answer = connection.recv(_CHUNK)
            if _DATE.sub(b"", answer, count=1) == self._known:
                return Outcome(True)
        length = str(len(body))
        headers = [*self._headers.items(), ("Content-Length", length)]
        parts = [
            http.send(h11.Request(method="POST", target=self._path, headers=headers)),
            http.send(h11.Data(data=body)),
            http.send(h11.EndOfMessage()),
        ]
        if not self._known:
            connection.sendall(b"".join(part for part in parts if part))
            answer = connection.recv(_CHUNK)
        self._known = b""
        status, said, content, whole = self._answer(connection, answer)
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
            if whole and status == 200 and not content and parts[0]:
                self._head = parts[0].removesuffix(f"{length}\r\n\r\n".encode())
                self._known = _DATE.sub(b"", answer, count=1)
        else:
            self.close()
        if 200 <= status < 300:
            return _partial(content, said.get("content-type", ""))
        error = f"HTTP {status} {said['']}".strip()
        if status in _LATER:
            return Outcome(False, after=_retry_after(said.get("retry-after", "")), error=error)
        return Outcome(True, rejected=-1, error=error)

    def _answer(self, connection: socket.socket, begin: bytes) -> tuple[int, dict[str, str], bytes, bool]:
        """Status, headers (under "" the reason), content, and whether its beginning was all of it."""
        status, headers, content, whole = 0, {}, b"", True
        self._http.receive_data(begin)
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                whole = False
                self._http.receive_data(connection.recv(_CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in event.headers}
                headers[""] = event.reason.decode("latin-1")
            elif isinstance(event, h11.Data):
                content += event.data
                if len(content) > MAX_ANSWER:
                    raise h11.RemoteProtocolError(f"the answer is longer than {MAX_ANSWER} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, content, whole
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the connection was closed")

    def _connect(self) -> socket.socket:
        raw = socket.create_connection(self._where, self._to.timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                raw = self._tls.wrap_socket(raw, server_hostname=self._where[0])
        except BaseException:
            raw.close()
            raise
        self._socket, self._http = raw, h11.Connection(h11.CLIENT)
        return raw

    def close(self) -> None:
        self._known = b""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Grpc:
    """One channel; bytes in, bytes out."""

    def __init__(self, to: Destination) -> None:
        try:
            import grpc
        except ModuleNotFoundError as error:
            raise UserError("OTLP over gRPC needs grpcio: pip install 'wellfed[grpc]'") from error
        self._grpc: Any = grpc
        url = urllib.parse.urlsplit(to.url)
        target = f"{url.hostname}:{url.port or 4317}"
        options = [("grpc.max_send_message_length", -1)]
        compression = grpc.Compression.Gzip if to.gzip else grpc.Compression.NoCompression
        if url.scheme == "https":
            ca, key, certificate = (_bytes(path) for path in (to.ca, to.key, to.certificate))
            channel = grpc.secure_channel(
                target, grpc.ssl_channel_credentials(ca, key, certificate), options, compression
            )
        else:
            channel = grpc.insecure_channel(target, options, compression)
        self._channel = channel
        self._call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
        self._timeout = to.timeout
        self._metadata = [(name.lower(), value) for name, value in to.headers.items()]

    def send(self, body: bytes) -> Outcome:
        try:
            content: bytes = self._call(plain(body), timeout=self._timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            code = error.code().name
            text = f"gRPC {code}: {error.details()}"
            later = code in _LATER_GRPC or code == "RESOURCE_EXHAUSTED"
            return Outcome(not later, rejected=0 if later else -1, error=text)
        return _partial(content, "application/x-protobuf")

    def close(self) -> None:
        self._channel.close()


def _context(to: Destination) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=to.ca or None)
        if to.certificate:
            context.load_cert_chain(to.certificate, to.key or None)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"TLS for {to.url}: {error}") from error
    return context


def _bytes(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _partial(content: bytes, kind: str) -> Outcome:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    if "protobuf" not in kind:
        return Outcome(True)
    with contextlib.suppress(Exception):
        said = ExportMetricsServiceResponse.FromString(content).partial_success
        return Outcome(True, rejected=said.rejected_data_points, error=said.error_message)
    return Outcome(True)


def _retry_after(text: str) -> float | None:
    if text.strip().isdigit():
        return min(float(text), MAX_RETRY_AFTER)
    import email.utils

    with contextlib.suppress(TypeError, ValueError):
        at = email.utils.parsedate_to_datetime(text).timestamp()
        return min(max(0.0, at - time.time()), MAX_RETRY_AFTER)
    return None


class Pusher:
    """Empties a spool into a destination on its own thread.

    sent, failed: attempts. refused: records that the receiver called wrong for good. rejected: points it
    left out of a record that it took. last_success: epoch. error: of the last attempt, "" after a good one.
    """

    def __init__(self, to: Destination, spool: Spool) -> None:
        self.spool = spool
        self.sent = self.failed = self.refused = self.rejected = 0
        self.last_success: float | None = None
        self.error = ""
        # Compressed once, however often it is sent, and the spool holds eight times as much.
        self._compress = to.gzip and to.protocol != "grpc"
        self._sender: _Sender = _Grpc(to) if to.protocol == "grpc" else _Http(to)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wellfed-push", daemon=True)

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def submit(self, ts: float, body: bytes) -> None:
        """Accepts a record for delivery."""
        self.spool.put(ts, gzipped(body) if self._compress else body)
        self._wake.set()

    def close(self, timeout: float = 2.0) -> None:
        """Stops after the attempt under way; what is left stays in the spool."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._sender.close()

    def attempt(self) -> float | None:
        """Sends the oldest record once. Returns seconds until the next attempt, None when nothing is left."""
        record = self.spool.peek()
        if record is None:
            return None
        outcome = self._sender.send(record.body)
        if outcome.error and outcome.error != self.error:
            log.warning("OTLP: %s", outcome.error)
        self.error = outcome.error
        if not outcome.done:
            self.failed += 1
            if outcome.after is not None:
                return outcome.after
            self._delay = min(MAX_DELAY, self._delay * 2 if self._delay else FIRST_DELAY)
            return self._delay * random.uniform(0.8, 1.2)
        self._delay = 0.0
        self.spool.done(record)
        if outcome.rejected < 0:
            self.refused += 1
        else:
            self.sent += 1
            self.rejected += outcome.rejected
            self.last_success = time.time()
        return 0.0

    _delay = 0.0

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            wait = self.attempt()
            if wait is None:
                self._wake.wait()
            elif wait:
                self._stop.wait(wait)
