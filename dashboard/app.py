"""The Dash app: routes, live updates, headers. Pages are in pages/, data comes from a Source.

Every callback is async and does its work on a thread: a blocking callback would block the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from dash import ClientsideFunction, Dash, Input, Output, State, clientside_callback, dcc, html, no_update
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response

from wellfed.dashboard.data import Source, parse_range
from wellfed.dashboard.pages import findings, fleet, gpu, host, jobs, telemetry
from wellfed.dashboard.parts import Component, card, shell

__all__ = ["create_app", "page"]

log = logging.getLogger("wellfed.dashboard")

#: Milliseconds between live updates; a window is ten seconds.
INTERVAL = 2_500

_INDEX = """<!DOCTYPE html>
<html lang="en">
  <head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
  <body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def create_app(source: Source) -> Dash:
    """The app over a source; `.server` is the ASGI application."""
    app = Dash(
        __name__,
        backend="fastapi",
        index_string=_INDEX,
        assets_folder="assets",
        suppress_callback_exceptions=True,
        title="Wellfed",
        update_title="",
        serve_locally=True,
        health_endpoint="healthz",
    )
    app.layout = html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Interval(id="tick", interval=INTERVAL),
            html.Div(html.Div("Loading …", className="loading"), id="page"),
        ]
    )

    @app.callback(  # type: ignore[untyped-decorator]
        Output("page", "children"),
        Input("url", "pathname"),
        Input("url", "search"),
        Input("tick", "n_intervals"),
    )
    async def render(path: str | None, search: str | None, _: int | None) -> Component:
        try:
            return await asyncio.to_thread(page, source, path or "/", search or "")
        except Exception:
            # What the page showed stays; the log says what happened.
            log.exception("page %s failed", path)
            return no_update

    clientside_callback(
        ClientsideFunction("wellfed", "tip"),
        Output("heat-tip", "children"),
        Input("heat", "hoverData"),
        State("heat-index", "data"),
        prevent_initial_call=True,
    )
    clientside_callback(
        ClientsideFunction("wellfed", "open"),
        Output("url", "href"),
        Input("heat", "clickData"),
        State("heat-index", "data"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    _harden(app.server)
    # Deep links serve no assets until Dash has registered its routes.
    app._setup_server()
    return app


def page(source: Source, path: str, search: str) -> Component:
    """The page of an address. An error of ours is shown in the page, the rest of it stays."""
    query = dict(parse_qsl(search.lstrip("?")))
    wanted = parse_range(query.get("from"), query.get("to"), datetime.now(UTC))
    answer = source.answer(wanted)
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match parts:
        case [""]:
            crumbs, main = fleet.body(answer, query)
        case ["gpu", name, device]:
            crumbs, main = gpu.body(answer, query, name, device)
        case ["hosts"]:
            crumbs, main = host.hosts_body(answer, query)
        case ["host", name]:
            crumbs, main = host.body(answer, query, name)
        case ["findings"]:
            crumbs, main = findings.body(answer, query)
        case ["findings", name]:
            crumbs, main = findings.detail(answer, query, name)
        case ["jobs"]:
            crumbs, main = jobs.body(answer, query)
        case ["job", name]:
            crumbs, main = jobs.detail(answer, query, name)
        case ["telemetry"]:
            crumbs, main = telemetry.body(answer, query)
        case _:
            lost = html.P(["There is no page ", html.Code(path), "."], className="empty")
            crumbs, main = [html.H1("Not found")], [card("Not found", lost)]
    return shell(answer, path, query, crumbs, main, source.simulated)


def _harden(server: Any) -> None:
    """Security headers, compression, and no page that would load something from elsewhere."""
    # FastAPI's own pages load their scripts from a CDN.
    server.router.routes[:] = [
        r
        for r in server.router.routes
        if getattr(r, "path", "") not in ("/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json")
    ]
    server.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)

    @server.middleware("http")  # type: ignore[untyped-decorator]
    async def headers(request: Request, forward: RequestResponseEndpoint) -> Response:
        response = await forward(request)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        return response


_HEADERS: Mapping[str, str] = {
    # Dash puts its configuration and renderer in inline scripts and React writes style attributes.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; object-src 'none'; "
        "base-uri 'self'; frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
