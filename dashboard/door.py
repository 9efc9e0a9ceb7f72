"""The door of the dashboard: every request, page or API, passes it. Plain ASGI: nothing is buffered."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from wellfed.dashboard.access import COOKIE, Access, cookie_of, identity
from wellfed.dashboard.api.problems import problem

__all__ = ["LOGIN", "Door"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOGIN = "/login"
#: Open to all: it tells nothing but that the hub lives.
_OPEN = ("/healthz",)
_SAFE = ("GET", "HEAD", "OPTIONS")
#: Bytes of a form that is read, and of a body that changes something.
_FORM, _BODY = 4096, 1_000_000
_MONTH = 30 * 86400

_PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Wellfed</title>
<meta name="viewport" content="width=device-width,initial-scale=1">{more}<style>
:root{{color-scheme:light dark}}body{{font:15px/1.5 system-ui,sans-serif;display:grid;place-items:center;
min-height:90vh;margin:0}}main{{width:320px}}input,button{{font:inherit;width:100%;box-sizing:border-box;
padding:8px;margin:6px 0}}</style></head><body><main>{body}</main></body></html>"""
_FORM_BODY = """<h1>Wellfed</h1><p>{said}</p><form method="post" action="{login}">
<input type="hidden" name="next" value="{next}"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<button type="submit">Open the dashboard</button></form>"""


class Door:
    """Middleware that lets in whom the rule lets in, and notes who they are."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        answer = await self._refusal(scope, headers, receive)
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4403})
        else:
            await answer(scope, receive, send)

    async def _refusal(self, scope: Scope, headers: dict[str, str], receive: Receive) -> Response | None:
        """What to answer in place of the application, None to go on."""
        access, path = self._access, scope["path"]
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if not access.host_allowed(headers.get("host", "")):
            told = "this address is for this machine alone: open http://127.0.0.1, or set --external-url"
            return _refused(421, told, path)
        if changes and not access.same_site(headers):
            return _refused(403, "a request of another site", path)
        if path == LOGIN and access.token:
            return await self._login(scope, headers, receive)
        if path in _OPEN and not changes:
            return None
        peer = (scope.get("client") or ("", 0))[0]
        name = access.who(peer, headers, _cookie(headers))
        if name is None:
            return self._unknown(scope, headers)
        identity(scope, name)
        if changes and scope["type"] == "http":
            return _unfit(scope, headers)
        return None

    def _unknown(self, scope: Scope, headers: dict[str, str]) -> Response:
        path = scope["path"]
        if not self._access.token:
            told = f"come through the proxy, which says in {self._access.header} who you are"
            return _refused(403, told, path)
        page = scope["type"] == "http" and scope["method"] == "GET" and "html" in headers.get("accept", "")
        if not page:
            refused = _refused(401, "send the token: Authorization: Bearer …", path)
            refused.headers["WWW-Authenticate"] = 'Bearer realm="wellfed"'
            return refused
        if headers.get("sec-fetch-site") == "cross-site":
            # The browser holds the cookie back when another site led here, and sends it once this page
            # loads itself.
            return HTMLResponse(_PAGE.format(more='<meta http-equiv="refresh" content="0">', body=""))
        return _form(_address(scope), "This dashboard wants its token.", 401)

    async def _login(self, scope: Scope, headers: dict[str, str], receive: Receive) -> Response:
        if scope["method"] != "POST":
            return _form("/", "This dashboard wants its token.", 200)
        said = parse_qs((await _read(receive, _FORM)).decode("utf-8", "replace"))
        token, after = (said.get(name, [""])[0].strip() for name in ("token", "next"))
        if self._access.who("", {"authorization": f"Bearer {token}"}, "") is None:
            return _form(_local(after), "That is not the token.", 401)
        answer = RedirectResponse(_local(after), 303)
        secure = "https" in (scope["scheme"], headers.get("x-forwarded-proto"))
        answer.set_cookie(
            COOKIE,
            cookie_of(self._access.token),
            max_age=_MONTH,
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return answer


def _unfit(scope: Scope, headers: dict[str, str]) -> Response | None:
    """A form of another site could send what is not JSON; a body without end would fill the memory."""
    path, kind = scope["path"], headers.get("content-type", "").partition(";")[0].strip().lower()
    if scope["method"] != "DELETE" and kind != "application/json":
        return _refused(415, "send application/json", path)
    size = headers.get("content-length", "")
    if scope["method"] != "DELETE" and (not size.isdigit() or int(size) > _BODY):
        return _refused(413, f"send at most {_BODY} bytes, with their Content-Length", path)
    return None


def _refused(status: int, told: str, path: str) -> Response:
    if path.startswith("/api/"):
        return problem(status, told, path)
    return PlainTextResponse(f"{told}\n", status)


def _form(after: str, said: str, status: int) -> Response:
    body = _FORM_BODY.format(said=html.escape(said), login=LOGIN, next=html.escape(after))
    return HTMLResponse(_PAGE.format(more="", body=body), status, headers={"Cache-Control": "no-store"})


def _address(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return _local(scope["path"] + (f"?{query}" if query else ""))


def _local(address: str) -> str:
    """An address on this dashboard; anything else is its first page."""
    parts = urlsplit(address.replace("\\", "/"))
    if parts.scheme or parts.netloc or not address.startswith("/") or address.startswith("//"):
        return "/"
    return "/" if any(ord(c) < 32 for c in address) else address


def _cookie(headers: dict[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def _read(receive: Receive, most: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > most or not message.get("more_body"):
            return body[:most]
