"""OTLP over HTTP and gRPC on one event loop, on a thread beside the dashboard's."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any

import uvicorn

from wellfed.connections import Hurried, allow_files
from wellfed.errors import UserError
from wellfed.ingest import Ingest
from wellfed.otlp_http import App

__all__ = ["OtlpServer", "Tls"]

#: Connections at once; each costs a socket, and its request is bounded elsewhere.
MAX_CONNECTIONS = 16_384
#: Descriptors for the store, the dashboard and the rest.
OTHER_FILES = 1024
#: Descriptors without which a hub is not started: what it opens itself, and some senders.
FEWEST_FILES = 256
#: Seconds between two windows and then some: a sender keeps its connection.
KEEP_ALIVE = 75
#: Seconds that requests under way get at the end.
GOODBYE = 3


@dataclass(frozen=True, slots=True)
class Tls:
    """context: of the HTTP server. certificate: key and chain in PEM, for gRPC."""

    context: ssl.SSLContext
    certificate: tuple[bytes, bytes]


class OtlpServer:
    """Serves until closed. listener: bound for HTTP. grpc_address: "" for no gRPC."""

    def __init__(
        self, ingest: Ingest, listener: socket.socket, grpc_address: str = "", tls: Tls | None = None
    ) -> None:
        files = allow_files(MAX_CONNECTIONS + OTHER_FILES)
        if files < FEWEST_FILES:
            raise UserError(
                f"a hub opens {FEWEST_FILES} files and more, this process may open {files}: ulimit -n"
            )
        self._ingest = ingest
        self._listener = listener
        self._grpc_address = grpc_address
        self._tls = tls
        config = uvicorn.Config(
            App(ingest),
            http=Hurried,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GOODBYE,
        )
        config.load()
        config.ssl = tls.context if tls else None
        self._server = uvicorn.Server(config)
        self._grpc: Any = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="wellfed-otlp", daemon=True)

    def start(self) -> None:
        """Serves on its own thread. Raises UserError when it cannot, as when the gRPC address is taken."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    @property
    def serving(self) -> bool:
        """Whether requests are answered."""
        return self._server.started and self._thread.is_alive()

    def close(self) -> None:
        """Answers what is under way, then ends."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(GOODBYE + 2)
        self._ingest.close()
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except OSError as error:
            if self._ready.is_set():
                raise
            self._error = UserError(f"OTLP cannot be served: {error}")
            self._ready.set()

    async def _main(self) -> None:
        try:
            if self._grpc_address:
                from wellfed.otlp_grpc import serve_grpc

                certificate = self._tls.certificate if self._tls else None
                self._grpc = await serve_grpc(self._ingest, self._grpc_address, certificate)
        except (UserError, ModuleNotFoundError) as error:
            self._error = error
            self._ready.set()
            return
        self._ready.set()
        await self._server.serve([self._listener])
        if self._grpc is not None:
            await self._grpc.stop(GOODBYE)
