"""The agent's HTTP endpoint: GET only, one thread, bounded connections, bounded time.

asyncio reads sockets and h11 parses HTTP/1.1, so a slow or half-open client holds a socket and nothing
else, and is closed after a deadline. What a scraper sends each time is parsed once: an answer of 41 KB once a
second costs 0.2 ms of CPU, with streams and a parser each time it was 0.6. Listens on loopback unless told
otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import h11

from wellfed.collectors.compress import gzip
from wellfed.errors import UserError

if TYPE_CHECKING:
    # Hashes, YAML and bcrypt: 1.3 MiB that an agent without a web.yml goes without.
    from wellfed.collectors.web import Web

__all__ = ["Endpoint", "Request", "Response", "listen", "parse_address"]

log = logging.getLogger("wellfed.http")

#: Seconds a client has to send a request, and to take the answer; and before that to agree on TLS.
REQUEST_TIMEOUT = 5.0
HANDSHAKE_TIMEOUT = 4.0
#: Seconds an idle connection is kept for the next scrape.
IDLE_TIMEOUT = 75.0
#: Seconds after the start at which there is something to rehearse with.
REHEARSAL = 2.0
#: Seconds that closing waits for requests under way.
LONGEST_CLOSE = 1.0
MAX_CONNECTIONS = 512
MAX_HEADER_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request. headers: lower-case names."""

    path: str
    headers: Mapping[str, str]
    method: str = "GET"


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

    rehearsed: requests that it asks itself soon after the start, because the first answer takes ten times as
    long as those that follow.
    Raises UserError when the address is taken, naming the process that holds it where that can be seen.
    """

    def __init__(
        self,
        address: str,
        routes: Mapping[str, Handler],
        web: Web | None = None,
        rehearsed: Sequence[Request] = (),
    ) -> None:
        self._routes = dict(routes)
        self._rehearsed = rehearsed
        self._web = web
        self._socket = listen(*parse_address(address))
        self.port: int = self._socket.getsockname()[1]
        self._clients: set[_Client] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main()), name="wellfed-http", daemon=True
        )

    @property
    def clients(self) -> int:
        """Open connections."""
        return len(self._clients)

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
        server = await self._loop.create_server(
            lambda: _Client(self._answer, self._web, self._clients),
            sock=self._socket,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT if tls else None,
            ssl_shutdown_timeout=LONGEST_CLOSE if tls else None,
        )
        if self._rehearsed:
            self._loop.call_later(REHEARSAL, lambda: [self._answer(asked) for asked in self._rehearsed])
        await self._closing.wait()
        server.close()
        for client in list(self._clients):
            client.abort()
        # Left running they would be cancelled, which asyncio reports as an error.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._emptied(), LONGEST_CLOSE)

    async def _emptied(self) -> None:
        while self._clients:
            await asyncio.sleep(0.01)

    def _answer(self, request: Request) -> Response:
        if request.method != "GET":
            return Response(b"only GET\n", status=405, headers={"Allow": "GET"})
        handler = self._routes.get(request.path)
        if handler is None:
            return Response(
                f"no such page; there are {', '.join(sorted(self._routes))}\n".encode(), status=404
            )
        try:
            response = handler(request)
        except Exception:
            log.exception("%s failed", request.path)
            return Response(b"internal error\n", status=500)
        return _compress(response) if _accepts_gzip(request.headers.get("accept-encoding", "")) else response


class _Client(asyncio.Protocol):
    """One connection: a request is read and answered before the next one is looked at."""

    def __init__(self, answer: Callable[[Request], Response], web: Web | None, clients: set[_Client]) -> None:
        self._answer = answer
        self._web = web
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None
        self._writing = True
        self._ended = self._slow = False
        self._fresh = True
        self._parse_anew()
        # What was read in one piece, what it asked for, and the piece that may turn out to be such a one.
        self._known, self._asked = b"", Request("", {})
        self._piece = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._clients) >= MAX_CONNECTIONS:
            transport.abort()
            return
        self._clients.add(self)
        self._until = self._loop.time() + REQUEST_TIMEOUT
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            log.debug("client dropped: %s", exc)
        self._clients.discard(self)
        for running in (self._timer, self._checking):
            if running is not None:
                running.cancel()

    def abort(self) -> None:
        """Ends the connection now."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if self._fresh and data == self._known and self._writing and self._checking is None:
            self._respond(self._asked, keep=True)
            return
        if self._fresh:
            self._fresh, self._piece = False, data
            self._until = min(self._until, self._loop.time() + REQUEST_TIMEOUT)
        else:
            self._piece = b""
        # The parser's bound is on what is not complete yet: a long head must not come to it whole.
        for begin in range(0, len(data), MAX_HEADER_BYTES):
            if not self._ended:
                self._parser.receive_data(data[begin : begin + MAX_HEADER_BYTES])
                self._converse()
        if not self._fresh:
            self._wait()

    def eof_received(self) -> bool:
        if self._ended:
            return False
        self._parser.receive_data(b"")
        self._converse()
        return self._checking is not None and self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._writing = False

    def resume_writing(self) -> None:
        self._writing = True
        self._converse()

    def _wait(self) -> None:
        """Has `_late` called in time. One that comes too early waits on, which is cheaper than moving it."""
        if self._timer is None or self._timer.when() > self._until:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._until, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._slow and not self._transport.get_write_buffer_size():
            self._slow = False
            self._until += IDLE_TIMEOUT
        if self._loop.time() >= self._until:
            self.abort()
        else:
            self._wait()

    def _parse_anew(self, data: bytes = b"", *, ended: bool = False) -> None:
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._fresh = not data and not ended
        self._head: Request | None = None
        if data:
            self._parser.receive_data(data)
        if ended:
            self._parser.receive_data(b"")

    def _converse(self) -> None:
        """Answers the requests that are complete."""
        while self._writing and self._checking is None and not self._ended:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                self._send(Response(b"bad request\n", status=error.error_status_hint), keep=False)
                return
            if isinstance(event, h11.Request):
                self._head = _request(event)
                if self._head.method != "GET":
                    self._respond(self._head, keep=False)
                    return
            elif isinstance(event, h11.EndOfMessage) and self._head is not None:
                self._complete(self._head)
            elif event is h11.NEED_DATA:
                return
            elif not isinstance(event, h11.Data):
                self._ended = True
                self._transport.close()

    def _complete(self, request: Request) -> None:
        keep = self._parser.their_state is h11.DONE
        data, ended = self._parser.trailing_data
        self._parse_anew(data, ended=ended)
        self._known, self._asked = self._piece if keep and self._fresh else b"", request
        self._piece = b""
        self._respond(request, keep=keep)

    def _respond(self, request: Request, *, keep: bool) -> None:
        if self._web is None:
            self._send(self._answer(request), keep=keep, body=request.method != "HEAD")
        else:
            self._transport.pause_reading()
            self._checking = self._loop.create_task(self._admit(self._web, request, keep))

    async def _admit(self, web: Web, request: Request, keep: bool) -> None:
        web.refresh()
        # bcrypt is slow on purpose: off the loop, so that nobody else waits for it.
        if await asyncio.to_thread(web.admits, request.headers.get("authorization", "")):
            response = self._answer(request)
        else:
            asks = {"WWW-Authenticate": 'Basic realm="wellfed"'}
            response = Response(b"unauthorized\n", status=401, headers=asks)
        self._checking = None
        self._send(response, keep=keep, body=request.method != "HEAD")
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._converse()

    def _send(self, response: Response, *, keep: bool, body: bool = True) -> None:
        if self._ended or self._transport.is_closing():
            return
        more = {**response.headers, **(self._web.headers if self._web else {})}
        if not keep:
            more["Connection"] = "close"
        first = (
            f"HTTP/1.1 {response.status} \r\n"
            f"Content-Type: {response.content_type}\r\n"
            f"Content-Length: {len(response.body)}\r\n"
            "X-Content-Type-Options: nosniff\r\n"
        )
        lines = "".join(f"{name}: {text}\r\n" for name, text in more.items())
        head = f"{first}{lines}\r\n".encode("latin-1")
        self._transport.write(head + response.body if body else head)
        self._slow = self._transport.get_write_buffer_size() > 0
        self._until = self._loop.time() + (REQUEST_TIMEOUT if self._slow else IDLE_TIMEOUT)
        if self._slow:
            self._wait()
        if not keep:
            self._end()

    def _end(self) -> None:
        """Says that nothing more comes, and takes what the client still sends: closed with that unread, the
        socket would be reset and the answer lost.
        """
        self._ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._until = self._loop.time() + (REQUEST_TIMEOUT if self._slow else LONGEST_CLOSE)
            self._wait()
        else:
            self._transport.close()


def _request(event: h11.Request) -> Request:
    path = event.target.decode("ascii", "replace").partition("?")[0]
    headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in event.headers}
    return Request(path, headers, event.method.decode("ascii", "replace"))


@lru_cache(maxsize=16)
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
