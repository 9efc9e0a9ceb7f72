"""Fetching other programs' metrics pages: one kept connection each, bounded in time and size, one clear
reason.

What: GET of a page over HTTP or TLS by h11, which the agent has loaded for its own endpoint: urllib or
requests would cost 1 to 8 MiB. Redirects are not followed and proxies not used, so a credential goes only
where it was meant to. Cost: 0.3 ms a page of 100 KB on loopback, 0.1 ms where nothing listens. Privilege:
none; read access to the token's file.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

__all__ = ["AbsentError", "Page", "Target", "target"]

#: Seconds for a whole exchange, and the largest page that is read.
TIMEOUT = 2.0
MAX_BYTES = 16 << 20
_CHUNK = 1 << 16
_ACCEPT = "text/plain;version=0.0.4,*/*;q=0.1"


class AbsentError(Exception):
    """The page cannot be had now. remedy: what to do about it. there: something answered, but not with it.
    silent: nothing answered in time.
    """

    def __init__(self, reason: str, remedy: str = "", *, there: bool = False, silent: bool = False) -> None:
        super().__init__(reason)
        self.remedy = remedy
        self.there = there
        self.silent = silent


@dataclass(frozen=True, slots=True)
class Target:
    """A page and how to ask for it. url: whole; it may carry a secret in its query, so `name` is shown.
    token_file: sent as a bearer token; authorization_file: sent as the whole Authorization header. Both are
    read anew at every request and kept nowhere. ca_file: who signs the server's certificate.
    """

    url: str = field(repr=False)
    token_file: str = ""
    authorization_file: str = ""
    ca_file: str = ""

    @property
    def name(self) -> str:
        """The address without its query."""
        return self.url.partition("?")[0]

    @property
    def place(self) -> str:
        """`host:port`, with the path where it is not the usual one."""
        parts = urlsplit(self.url)
        path = "" if parts.path == "/metrics" else parts.path
        return f"{_bracketed(parts.hostname or '')}:{parts.port or _port(parts.scheme)}{path}"


def target(text: str, **files: str) -> Target:
    """A Target from `http://host:9400/metrics`, `https://host` or `host:9400`. Raises ValueError."""
    text = text.strip()
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("write an address such as http://127.0.0.1:9400/metrics") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not url.isascii():
        raise ValueError("write an address such as http://127.0.0.1:9400/metrics")
    if any(c <= " " or c == "\x7f" for c in url):
        raise ValueError("an address has no spaces or control characters")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "credentials do not belong in the address: name a token_file or an authorization_file"
        )
    if parts.path in ("", "/"):
        parts = parts._replace(path="/metrics")
    return Target(parts._replace(fragment="").geturl(), **files)


class Page:
    """A Target with its connection, which is kept from one request to the next."""

    def __init__(self, to: Target, timeout: float = TIMEOUT) -> None:
        self.target = to
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._http: h11.Connection | None = None
        self._tls: ssl.SSLContext | None = None

    def get(self) -> bytes:
        """The page's body. Raises AbsentError."""
        deadline = time.monotonic() + self._timeout
        kept = self._socket is not None and _usable(self._socket)
        try:
            if kept:
                try:
                    return self._exchange(deadline)
                except (ConnectionError, h11.RemoteProtocolError):
                    pass  # closed by the server between our look and our request: that says nothing about it
            self.close()
            self._connect(deadline)
            return self._exchange(deadline)
        except AbsentError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise self._absent(error) from None

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._http = None

    def _connect(self, deadline: float) -> None:
        parts = urlsplit(self.target.url)
        host = parts.hostname or ""
        raw = socket.create_connection((host, parts.port or _port(parts.scheme)), _left(deadline))
        try:
            if parts.scheme == "https":
                self._tls = self._tls or ssl.create_default_context(cafile=self.target.ca_file or None)
                raw.settimeout(_left(deadline))
                raw = self._tls.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise
        self._socket, self._http = raw, h11.Connection(h11.CLIENT)

    def _exchange(self, deadline: float) -> bytes:
        http, connection = self._http, self._socket
        assert http is not None
        assert connection is not None
        parts = urlsplit(self.target.url)
        headers = [("Host", parts.netloc), ("Accept", _ACCEPT), ("User-Agent", "wellfed-agent")]
        request = http.send(
            h11.Request(
                method="GET",
                target=parts.path + (f"?{parts.query}" if parts.query else ""),
                headers=headers + self._credentials(),
            )
        )
        connection.settimeout(_left(deadline))
        connection.sendall((request or b"") + (http.send(h11.EndOfMessage()) or b""))
        body, size = [], 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                connection.settimeout(_left(deadline))
                http.receive_data(connection.recv(_CHUNK))
            elif isinstance(event, h11.Response):
                self._check(event.status_code)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > MAX_BYTES:
                    raise AbsentError(f"{self.target.name} sends more than {MAX_BYTES >> 20} MiB", there=True)
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the connection was closed")
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        else:
            self.close()
        return b"".join(body)

    def _credentials(self) -> list[tuple[str, str]]:
        path, scheme = self.target.token_file, "Bearer "
        if not path:
            path, scheme = self.target.authorization_file, ""
        if not path:
            return []
        try:
            with open(path, encoding="utf-8") as file:
                secret = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not text"
            raise AbsentError(f"{path}: {why}", "let the agent's user read that file") from None
        if not secret or not secret.isascii() or not secret.isprintable():
            # h11 would name the value it refuses.
            raise AbsentError(f"{path}: holds no single line of printable characters")
        return [("Authorization", scheme + secret)]

    def _check(self, status: int) -> None:
        if status == 200:
            return
        known = bool(self.target.token_file or self.target.authorization_file)
        remedy = ""
        if status in (401, 403):
            remedy = "check the token in its file" if known else "it wants credentials: name a token_file"
        raise AbsentError(f"{self.target.name} answers HTTP {status}", remedy, there=True)

    def _absent(self, error: Exception) -> AbsentError:
        name = self.target.name
        if isinstance(error, ConnectionRefusedError):
            return AbsentError(f"nothing listens at {name}")
        if isinstance(error, TimeoutError):
            return AbsentError(f"no answer within {self._timeout:g} s from {name}", silent=True)
        if isinstance(error, ssl.SSLCertVerificationError):
            remedy = "name the certificate of its authority: ca_file"
            return AbsentError(f"{name}: {error.verify_message}", remedy, there=True)
        if isinstance(error, ssl.SSLError):
            return AbsentError(f"TLS with {name} failed: {error.reason or 'unknown'}", there=True)
        if isinstance(error, h11.ProtocolError):
            return AbsentError(f"{name} does not answer in HTTP", there=True)
        if isinstance(error, OSError):
            path = f" ({error.filename})" if error.filename else ""
            return AbsentError(f"{name}: {error.strerror or type(error).__name__}{path}")
        return AbsentError(f"{name}: {type(error).__name__}")


def _usable(connection: socket.socket) -> bool:
    """Whether a kept connection is still open: a server that closed it has left an end of file to read."""
    # Not select(2), which takes no descriptor above 1023.
    poller = select.poll()
    with contextlib.suppress(OSError, ValueError):
        poller.register(connection, select.POLLIN)
        return not poller.poll(0)
    return False


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
