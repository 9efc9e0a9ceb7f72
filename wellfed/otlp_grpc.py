"""OTLP/gRPC: MetricsService/Export on the event loop that also serves OTLP/HTTP. Needs grpcio.

A client may open a connection, a call or a message and never go on: each has a time to end. One that is
turned away is told when to come back (google.rpc.RetryInfo): without that a Collector gives the request up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from wellfed.collectors.http import parse_address
from wellfed.errors import UserError
from wellfed.ingest import Ingest, RefusedError
from wellfed.otlp_http import BODY_TIMEOUT, partial_success

__all__ = ["serve_grpc"]

_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
#: Bytes of a request after decompression, requests at once, and of those on one connection.
MAX_MESSAGE = 4 << 20
MAX_CALLS = 128
MAX_STREAMS = 16
#: Seconds for a connection's first frames, without a call, and at all: the head of a call may never end.
HANDSHAKE_TIMEOUT = 10.0
IDLE_TIMEOUT = 75.0
LONGEST = 600.0
#: Seconds between two pings of a connection, and for the answer: the other machine may be gone.
PING = 60.0
PONG = 20.0
#: HTTP status -> gRPC code.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
}


async def serve_grpc(ingest: Ingest, address: str, certificate: tuple[bytes, bytes] | None = None) -> Any:
    """A started grpc.aio server. certificate: key and chain in PEM, None for plain text.

    Raises UserError when the address is taken, ModuleNotFoundError without grpcio.
    """
    import grpc.aio

    calls = 0

    async def export(messages: AsyncIterator[bytes], context: Any) -> bytes:
        nonlocal calls
        calls += 1
        try:
            said = dict(context.invocation_metadata() or ())
            ingest.authorize(str(said.get("authorization", "")))
            if calls > MAX_CALLS:
                raise ingest.busy()
            body = await _message(messages)
            ingest.reserve(len(body))
            try:
                return partial_success(await ingest.take(body))
            finally:
                ingest.release(len(body))
        except RefusedError as refused:
            code = getattr(grpc.StatusCode, _CODES.get(refused.status, "UNAVAILABLE"))
            if refused.after:
                details = _come_back(code.value[0], refused.message, refused.after)
                context.set_trailing_metadata((("grpc-status-details-bin", details),))
            await context.abort(code, refused.message)
            raise
        finally:
            calls -= 1

    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_TIMEOUT * 1000)),
            ("grpc.max_connection_idle_ms", int(IDLE_TIMEOUT * 1000)),
            ("grpc.max_connection_age_ms", int(LONGEST * 1000)),
            ("grpc.max_connection_age_grace_ms", int(BODY_TIMEOUT * 1000)),
            ("grpc.keepalive_time_ms", int(PING * 1000)),
            ("grpc.keepalive_timeout_ms", int(PONG * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    # The one message is read as a stream, for one that is read before we are asked has no time to end.
    handler = grpc.stream_unary_rpc_method_handler(export)
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


async def _message(messages: AsyncIterator[bytes]) -> bytes:
    """The request of a call. Raises RefusedError."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await anext(messages)
    except TimeoutError:
        raise RefusedError(408, "the request came too slowly") from None
    except StopAsyncIteration:
        raise RefusedError(400, "the call has no request") from None


def _come_back(code: int, message: str, seconds: int) -> bytes:
    """A google.rpc.Status with the seconds after which to try again."""
    from google.protobuf.any_pb2 import Any as Packed
    from google.protobuf.duration_pb2 import Duration

    delay = Duration(seconds=seconds).SerializeToString()
    info = Packed(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\x0a%c" % len(delay) + delay)
    text, detail = message.encode()[:100], info.SerializeToString()
    return b"\x08%c\x12%c" % (code, len(text)) + text + b"\x1a%c" % len(detail) + detail
