"""The agent's HTTP endpoint: GET only, one thread, bounded connections, bounded time.

asyncio reads sockets and h11 parses HTTP/1.1, so a slow or half-open client holds a socket and nothing
else, and is closed after a deadline. Listens on loopback unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice, takewhile

import h11

from wellfed.collectors.compress import gzip
from wellfed.collectors.web import Web
from wellfed.errors import UserError

__all__ = ["Endpoint", "Request", "Response", "listen", "parse_address"]

log = logging.getLogger("wellfed.http")

#: Seconds a client has to send a request, and to take the answer; and before that to agree on TLS.
REQUEST_TIMEOUT = 5.0
HANDSHAKE_TIMEOUT = 4.0
#: Seconds an idle connection is kept for the next scrape.
IDLE_TIMEOUT = 75.0
#: Seconds that closing waits for requests under way.
LONGEST_CLOSE = 1.0
MAX_CONNECTIONS = 512
MAX_HEADER_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request. headers: lower-case names."""

    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers with."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


def parse_address(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`. Raises UserError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{text!r} is not an address; write it as 127.0.0.1:9812")
    return host.strip("[]") or "127.0.0.1", int(port)


class Endpoint:
    """Serves handlers by path until closed.

    Raises UserError when the address is taken, naming the process that holds it where that can be seen.
    """

    def __init__(self, address: str, routes: Mapping[str, Handler], web: Web | None = None) -> None:
        self._routes = dict(routes)
        self._web = web
        self._socket = listen(*parse_address(address))
        self.port: int = self._socket.getsockname()[1]
        self._open: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main()), name="wellfed-http", daemon=True
        )

    def start(self) -> None:
        """Serves on its own thread."""
        self._thread.start()

    def close(self) -> None:
        """Closes the listener and every connection."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(2)
        self._socket.close()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        tls = self._web.context if self._web else None
        server = await asyncio.start_server(
            self._client,
            sock=self._socket,
            limit=MAX_HEADER_BYTES,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT if tls else None,
            ssl_shutdown_timeout=LONGEST_CLOSE if tls else None,
        )
        await self._closing.wait()
        server.close()
        for writer in list(self._open):
            writer.transport.abort()
        # Left running they would be cancelled, which asyncio reports as an error.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._emptied(), LONGEST_CLOSE)

    async def _emptied(self) -> None:
        while self._open:
            await asyncio.sleep(0.01)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            log.debug("client dropped: %s", error)
        finally:
            self._open.discard(writer)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        timeout = REQUEST_TIMEOUT
        while True:
            try:
                # Unlike wait_for, this makes no task for each request.
                async with asyncio.timeout(timeout):
                    request = await _receive(connection, reader)
            except h11.RemoteProtocolError as error:
                await self._send(
                    connection, writer, Response(b"bad request\n", status=error.error_status_hint)
                )
                return
            if request is None:
                return
            await self._send(connection, writer, await self._guarded(request))
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
            timeout = IDLE_TIMEOUT

    async def _guarded(self, request: h11.Request) -> Response:
        if self._web is not None:
            self._web.refresh()
            said = next((v.decode("latin-1") for k, v in request.headers if k == b"authorization"), "")
            # bcrypt is slow on purpose: off the loop, so that nobody else waits for it.
            if not await asyncio.to_thread(self._web.admits, said):
                headers = {"WWW-Authenticate": 'Basic realm="wellfed"'}
                return Response(b"unauthorized\n", status=401, headers=headers)
        return self._answer(request)

    def _answer(self, request: h11.Request) -> Response:
        if request.method != b"GET":
            return Response(b"only GET\n", status=405, headers={"Allow": "GET"})
        path = request.target.decode("ascii", "replace").partition("?")[0]
        handler = self._routes.get(path)
        if handler is None:
            return Response(
                f"no such page; there are {', '.join(sorted(self._routes))}\n".encode(), status=404
            )
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in request.headers}
        try:
            response = handler(Request(path, headers))
        except Exception:
            log.exception("%s failed", path)
            return Response(b"internal error\n", status=500)
        return _compress(response) if _accepts_gzip(headers.get("accept-encoding", "")) else response

    async def _send(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, response: Response
    ) -> None:
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers.items(),
            *(self._web.headers.items() if self._web else ()),
        ]
        parts = [
            connection.send(h11.Response(status_code=response.status, headers=headers)),
            connection.send(h11.Data(data=response.body)),
            connection.send(h11.EndOfMessage()),
        ]
        writer.write(b"".join(part for part in parts if part))
        if writer.transport.get_write_buffer_size():
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await writer.drain()


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request with its body drained, or None at the end of the connection."""
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_HEADER_BYTES))
        elif isinstance(event, h11.Request):
            request = event
            if request.method != b"GET":
                return request
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None


def _accepts_gzip(header: str) -> bool:
    for part in header.split(","):
        name, _, quality = part.partition(";")
        if name.strip() == "gzip":
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _compress(response: Response) -> Response:
    body = gzip(response.body)
    headers = {**response.headers, "Content-Encoding": "gzip", "Vary": "Accept, Accept-Encoding"}
    return Response(body, response.content_type, response.status, headers)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises UserError, naming the holder of a taken port where it can be seen."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"{host}:{port} is taken{holder(port)}") from error
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def holder(port: int) -> str:
    """` by <command> (pid N)` for the process that listens on a local port, "" where that cannot be seen."""
    import psutil

    try:
        listening = (c for c in psutil.net_connections("tcp") if c.status == "LISTEN")
        pid = next(c.pid for c in listening if getattr(c.laddr, "port", None) == port and c.pid)
        # Up to the first option: those may hold secrets.
        words = takewhile(
            lambda word: word == "-m" or not word.startswith("-"), psutil.Process(pid).cmdline()
        )
        command = " ".join(islice(words, 4))
    except (psutil.Error, StopIteration):
        return ""
    return f" by {command} (pid {pid})"
