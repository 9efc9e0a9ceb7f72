"""Serves the dashboard on a socket bound beforehand, so that a taken port is said before anything starts."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from wellfed.analysis.store import Store
from wellfed.collectors.http import listen, parse_address
from wellfed.connections import Hurried
from wellfed.dashboard.app import create_app
from wellfed.dashboard.data import StoreSource
from wellfed.prices import Prices

__all__ = ["bind", "serve"]

#: Seconds that open connections get at shutdown.
GOODBYE = 2


def bind(address: str) -> socket.socket:
    """A listening socket. Raises UserError when the address is taken, with the process that holds it."""
    return listen(*parse_address(address))


def serve(
    listener: socket.socket,
    store: Store,
    price: object = None,
    simulated: bool = False,
    version: Callable[[], int] | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM. price: of GPU time, or None. version: as in StoreSource."""
    assert price is None or isinstance(price, Prices)
    app = create_app(StoreSource(store, price=price, simulated=simulated, version=version))
    config = uvicorn.Config(
        app.server, http=Hurried, log_level="warning", access_log=False, timeout_graceful_shutdown=GOODBYE
    )
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"wellfed: dashboard http://{shown}:{port}", file=sys.stderr, flush=True)
    # uvicorn raises the signal again once it has closed its connections: the caller cleans up then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("\nwellfed: stopping", file=sys.stderr)
