"""OTLP/gRPC: MetricsService/Export on the event loop that also serves OTLP/HTTP. Needs grpcio."""

from __future__ import annotations

from typing import Any

from wellfed.collectors.http import parse_address
from wellfed.errors import UserError
from wellfed.ingest import Ingest, RefusedError
from wellfed.otlp_http import partial_success

__all__ = ["serve_grpc"]

_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
#: Bytes of a request after decompression, and requests at once: gRPC reads them whole before it asks us.
MAX_MESSAGE = 4 << 20
MAX_CALLS = 128
#: HTTP status -> gRPC code.
_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED"}


async def serve_grpc(ingest: Ingest, address: str, certificate: tuple[bytes, bytes] | None = None) -> Any:
    """A started grpc.aio server. certificate: key and chain in PEM, None for plain text.

    Raises UserError when the address is taken, ModuleNotFoundError without grpcio.
    """
    import grpc.aio

    async def export(body: bytes, context: Any) -> bytes:
        said = dict(context.invocation_metadata() or ())
        try:
            ingest.authorize(str(said.get("authorization", "")))
            ingest.reserve(len(body))
            try:
                return partial_success(await ingest.take(body))
            finally:
                ingest.release(len(body))
        except RefusedError as refused:
            code = getattr(grpc.StatusCode, _CODES.get(refused.status, "UNAVAILABLE"))
            await context.abort(code, refused.message)
            raise

    server = grpc.aio.server(
        maximum_concurrent_rpcs=MAX_CALLS,
        options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.so_reuseport", 0)],
    )
    handler = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),))
    host, port = parse_address(address)
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if certificate is None:
            server.add_insecure_port(at)
        else:
            server.add_secure_port(at, grpc.ssl_server_credentials([certificate]))
    except RuntimeError:
        raise UserError(f"{at} is taken, or cannot be listened on, by OTLP over gRPC") from None
    await server.start()
    return server
