"""Who may see the dashboard: the rule, as data in and a decision out. The door itself is dashboard/door.py.

On loopback everybody on this machine may, unless a token or a proxy is named. Beyond loopback one of the two
is wanted. A proxy's identity header counts from listed proxies alone; a token counts from anywhere.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from wellfed.errors import UserError

__all__ = [
    "BEARER",
    "COOKIE",
    "LOCAL",
    "Access",
    "asking",
    "cookie_of",
    "identity",
    "is_loopback",
    "read_token",
]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Name of the cookie that stands for the token.
COOKIE = "wellfed"
#: Who somebody is when nobody says.
LOCAL = "local"
#: Who somebody is that shows the token.
BEARER = "token"
_KEY = "wellfed.identity"
#: For callbacks, which do not see the request.
_ASKING: ContextVar[str] = ContextVar(_KEY, default="")
#: Letters of a name that a proxy tells.
_NAME = 200
_SHORTEST = 16


@dataclass(frozen=True, slots=True)
class Access:
    """The rule. token: wanted, "" for none; proxies: whose header counts; header: lower case.

    loopback: it listens on loopback, where the Host header must name this machine or `external`; external:
    host:port under which a proxy offers it.
    """

    token: str = ""
    proxies: tuple[Network, ...] = ()
    header: str = "x-forwarded-user"
    loopback: bool = True
    external: str = ""

    def who(self, peer: str, headers: Mapping[str, str], cookie: str) -> str | None:
        """The name of who asks, None to refuse. peer: address of the socket; headers: lower-case names."""
        if self._trusted(peer) and (name := headers.get(self.header, "").strip()):
            return "".join(c for c in name[:_NAME] if c.isprintable())
        if self.token and (_bearer(headers, self.token) or _same(cookie, cookie_of(self.token))):
            return BEARER
        return None if self.token or self.proxies else LOCAL

    def person(self, name: str) -> str:
        """The login of somebody whom `who` let in, "" where it is not known.

        That is who the proxy says, or whose this process is where nobody but this machine is listened to.
        """
        if self.proxies:
            return "" if name == BEARER else name
        return _login() if self.loopback and name == LOCAL else ""

    def host_allowed(self, host: str) -> bool:
        """Whether the Host header may be told by a browser that was not led here by another name."""
        if not self.loopback or host.lower() == self.external:
            return True
        name = _hostname(host)
        return name == "localhost" or name.endswith(".localhost") or is_loopback(name)

    def same_site(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that changes something comes from these pages, or from no browser at all.

        Source: the Fetch standard's Sec-Fetch-Site; Origin where a browser does not send it.
        """
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = headers.get("origin")
        return origin is None or urlsplit(origin).netloc.lower() in (
            headers.get("host", "").lower(),
            self.external or None,
        )

    def _trusted(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self.proxies)


def cookie_of(token: str) -> str:
    """What the cookie holds: not the token itself."""
    return hmac.new(token.encode(), b"wellfed dashboard", hashlib.sha256).hexdigest()


def read_token(path: str) -> str:
    """The token of a file, its first line. Raises UserError: not there, too short to be a secret."""
    try:
        with open(path, encoding="utf-8") as file:
            token = file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text"
        raise UserError(f"cannot read the token in {path}: {why}") from error
    if len(token) < _SHORTEST:
        raise UserError(
            f"{path} must hold a token of at least {_SHORTEST} letters: openssl rand -hex 32 > {path}"
        )
    return token


def identity(scope: MutableMapping[str, Any], name: str | None = None) -> str:
    """Who made a request, as the door found out; with a name, notes it."""
    if name is not None:
        scope[_KEY] = name
        _ASKING.set(name)
    return str(scope.get(_KEY, LOCAL))


def asking() -> str:
    """Who made the request that is being answered, "" outside of one."""
    return _ASKING.get()


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container's user has no name.
        return ""


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bearer(headers: Mapping[str, str], token: str) -> bool:
    scheme, _, said = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and _same(said.strip(), token)


def _same(said: str, wanted: str) -> bool:
    return hmac.compare_digest(said.encode("utf-8", "replace"), wanted.encode())


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
