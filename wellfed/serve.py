"""Serves the dashboard on a socket bound beforehand, so that a taken port is said before anything starts."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial

import uvicorn

from wellfed.analysis.notes import FILE, Notes
from wellfed.analysis.store import Store
from wellfed.collectors.http import listen, parse_address
from wellfed.connections import Hurried
from wellfed.dashboard.access import Access, is_loopback, read_token
from wellfed.dashboard.app import create_app
from wellfed.dashboard.data import StoreSource
from wellfed.dashboard.topology import Topology, TopologyFile
from wellfed.errors import UserError
from wellfed.prices import Prices

__all__ = ["bind", "doorway", "keep_imports", "prepare", "wiring"]

#: Seconds that open connections get at shutdown.
GOODBYE = 2


def bind(address: str) -> socket.socket:
    """A listening socket. Raises UserError when the address is taken, with the process that holds it."""
    return listen(*parse_address(address))


def doorway(options: Mapping[str, object], listener: socket.socket) -> Access:
    """Who may see the dashboard. Raises UserError when anybody in the network could, unasked."""
    path, proxies = options.get("dashboard_token_file"), options.get("trusted_proxy") or ()
    host = listener.getsockname()[0]
    loopback = is_loopback(host)
    if not (loopback or path or proxies or options.get("insecure")):
        raise UserError(
            f"{host} is not loopback: name --dashboard-token-file or --trusted-proxy, "
            "or let everybody in with --insecure"
        )
    assert isinstance(proxies, tuple)
    return Access(
        token=read_token(str(path)) if path else "",
        proxies=proxies,
        header=str(options["identity_header"]),
        loopback=loopback,
        external=str(options.get("external_url") or ""),
    )


class _Server(uvicorn.Server):
    """A server that says when it serves."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def wiring(options: Mapping[str, object]) -> Callable[[], Topology | None]:
    """What --topology tells now, None without it. Raises UserError for a file that cannot be read."""
    path = options.get("topology")
    return TopologyFile(str(path)) if path else lambda: None


def keep_imports() -> None:
    """Takes what is there by now, mostly modules, from the garbage collector.

    Looking it through held up every tenth page for 70 ms.
    """
    gc.collect()
    gc.freeze()


def prepare(
    listener: socket.socket,
    store: Store,
    access: Access,
    price: object = None,
    simulated: bool = False,
    version: Callable[[], int] | None = None,
    refused: Callable[[], Mapping[str, int]] = dict,
    topology: Callable[[], Topology | None] = lambda: None,
    ready: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Makes the pages and returns what serves them until SIGINT or SIGTERM.

    price: of GPU time, or None. version, refused, topology: as in StoreSource. ready: called once they are
    served.
    """
    assert price is None or isinstance(price, Prices)
    source = StoreSource(store, price, simulated, version, refused, topology)
    app = create_app(source, Notes(os.path.join(store.path, FILE)), access)
    config = uvicorn.Config(
        app.server,
        http=Hurried,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GOODBYE,
        # The door itself looks at who is a proxy.
        proxy_headers=False,
    )
    # What it imports is imported now, before connections may have taken all files that a process may open.
    config.load()
    return partial(_run, _Server(config, ready), listener)


def _run(server: _Server, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"wellfed: dashboard http://{shown}:{port}", file=sys.stderr, flush=True)
    keep_imports()
    # uvicorn raises the signal again once it has closed its connections: the caller cleans up then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        print("\nwellfed: stopping", file=sys.stderr)
