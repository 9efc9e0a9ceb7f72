"""The Dash app: callbacks, routes, headers. Pages are in pages/, data comes from a Source.

Every callback is async and does its work on a thread: a blocking callback would block the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from dash import ClientsideFunction, Dash, Input, Output, State, clientside_callback, html, no_update
from dash.exceptions import PreventUpdate
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response

from wellfed.analysis.notes import Notes
from wellfed.dashboard.access import Access, asking
from wellfed.dashboard.api import PREFIX, create_api
from wellfed.dashboard.data import Source
from wellfed.dashboard.door import Door
from wellfed.dashboard.exports import export
from wellfed.dashboard.frame import banner, facts, frame, hits, navigation, pick
from wellfed.dashboard.ranges import parse_range
from wellfed.dashboard.registry import parse
from wellfed.dashboard.search import find
from wellfed.dashboard.theme import DARK, SKINS
from wellfed.dashboard.view import Component, Page, View
from wellfed.errors import UserError

__all__ = ["create_app", "page", "view_of"]

log = logging.getLogger("wellfed.dashboard")

_INDEX = """<!DOCTYPE html>
<html lang="en">
  <head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
  <body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""

_FAILED = (
    "This page could not be brought up to date; what you see is from before. The log of the hub says why."
)


def create_app(source: Source, notes: Notes | None = None, access: Access | None = None) -> Dash:
    """The app over a source; `.server` is the ASGI application.

    notes: what people say about findings, kept in memory by default. access: by default, this machine alone.
    """
    notes = notes or Notes()
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
    app.layout = frame(source.simulated)
    access = access or Access()
    _render(app, source, notes, access)
    _search(app, source)
    _in_browser()
    _exports(app.server, source, notes)
    app.server.mount(PREFIX, create_api(source, notes))
    _harden(app.server, access)
    # Deep links serve no assets until Dash has registered its routes.
    app._setup_server()
    return app


def view_of(source: Source, path: str, search: str, theme: str = "dark", notes: Notes | None = None) -> View:
    """What a page is made from, for an address. search: the query with or without its `?`."""
    query = dict(parse_qsl(search.lstrip("?")))
    wanted = parse_range(query.get("from"), query.get("to"), datetime.now(UTC))
    return View(source.answer(wanted), path, query, SKINS.get(theme, DARK), notes or Notes())


def page(source: Source, path: str, search: str, theme: str = "dark", notes: Notes | None = None) -> Page:
    """The page of an address."""
    return parse(path, view_of(source, path, search, theme, notes))


def _render(app: Dash, source: Source, notes: Notes, access: Access) -> None:
    outputs = [Output(id_, "children") for id_ in ("main", "crumbs", "nav", "ranges", "banner")]

    def render(path: str, search: str, theme: str, seen: object) -> tuple[Component, ...]:
        view = replace(view_of(source, path, search, theme, notes), viewer=access.person(asking()))
        key = [path, search, theme, view.answer.range.text, view.answer.revision, notes.version]
        if key == seen:
            raise PreventUpdate
        made = parse(path, view)
        # The form of the range may be under the hand: it changes with the address alone.
        moved = not isinstance(seen, list) or seen[:4] != key[:4]
        return (
            list(made.main),
            list(made.crumbs),
            navigation(view),
            pick(view) if moved else no_update,
            banner(view),
            facts(view),
            key,
        )

    @app.callback(  # type: ignore[untyped-decorator]
        *outputs,
        Output("facts", "data"),
        Output("seen", "data"),
        Input("url", "pathname"),
        Input("url", "search"),
        Input("theme", "data"),
        Input("beat", "data"),
        State("seen", "data"),
    )
    async def update(
        path: str | None, search: str | None, theme: str | None, _: int | None, seen: object
    ) -> tuple[Component, ...]:
        if theme is None:
            raise PreventUpdate
        try:
            return await asyncio.to_thread(render, path or "/", search or "", theme, seen)
        except PreventUpdate:
            raise
        except UserError as error:
            return _instead(f"{error} ", html.A("Show the last 15 minutes", href="?from=15m"))
        except Exception:
            log.exception("page %s failed", path)
            return _instead(_FAILED)


def _instead(*why: str | Component) -> tuple[Component, ...]:
    """What an update gives that cannot be made: the page as it was, and why."""
    failed = html.Div(list(why), className="banner bad", role="alert")
    return (*[no_update] * 4, failed, {"failed": True}, None)


def _search(app: Dash, source: Source) -> None:
    def look(words: str, search: str) -> list[Component]:
        return hits(find(view_of(source, "/", search), words))

    @app.callback(  # type: ignore[untyped-decorator]
        Output("hits", "children"),
        Input("search", "value"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    async def update(words: str | None, search: str | None) -> list[Component]:
        if not (words or "").strip():
            return []
        return await asyncio.to_thread(look, words or "", search or "")


def _in_browser() -> None:
    """What needs no server: assets/app.js."""

    def run(name: str, *what: Input | Output | State, first: bool = False) -> None:
        clientside_callback(ClientsideFunction("wellfed", name), *what, prevent_initial_call=not first)

    run("beat", Output("beat", "data"), Input("tick", "n_intervals"))
    run("theme", Output("theme", "data"), Input("skin", "n_clicks"), first=True)
    run("shown", Output("frame", "data-shown"), Input("facts", "data"), first=True)
    run("leave", Output("frame", "data-at"), Input("url", "pathname"), Input("url", "search"), first=True)
    run(
        "live",
        Output("tick", "disabled"),
        Output("url", "search"),
        Input("live", "n_clicks"),
        State("url", "search"),
    )
    run("copy", Output("copy", "data-done"), Input("copy", "n_clicks"))
    run("keys", Output("help", "data-open"), Input("keys", "n_clicks"), Input("help-close", "n_clicks"))
    run(
        "between",
        Output("url", "search", allow_duplicate=True),
        Input("apply", "n_clicks"),
        State("from", "value"),
        State("to", "value"),
    )
    run("tip", Output("heat-tip", "children"), Input("heat", "hoverData"))
    run(
        "open",
        Output("url", "href"),
        Input("heat", "clickData"),
        State("url", "search"),
    )


def _exports(server: Any, source: Source, notes: Notes) -> None:
    @server.get("/export/{name}", include_in_schema=False)  # type: ignore[untyped-decorator]
    async def download(name: str, request: Request) -> Response:
        def make() -> Response:
            path = request.query_params.get("path", "/efficiency")
            view = replace(view_of(source, path, request.url.query, notes=notes), whole=True)
            made = export(name, view, source.simulated)
            if made is None:
                return Response(f"there is no export {name}\n", 404, media_type="text/plain")
            file = {"Content-Disposition": f'attachment; filename="{made.filename}"'}
            return Response(made.body, media_type=made.media_type, headers=file)

        return await asyncio.to_thread(make)


def _harden(server: Any, access: Access) -> None:
    """Who may come in, security headers, compression, no page that would load something from elsewhere."""
    # FastAPI's own pages load their scripts from a CDN.
    server.router.routes[:] = [
        r
        for r in server.router.routes
        if getattr(r, "path", "") not in ("/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json")
    ]
    server.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    server.add_middleware(Door, access=access)

    @server.middleware("http")  # type: ignore[untyped-decorator]
    async def headers(request: Request, forward: RequestResponseEndpoint) -> Response:
        response = await forward(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
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
