"""OTLP/HTTP: POST /v1/metrics in protobuf or JSON, as an ASGI application.

Source: the OTLP specification, "OTLP/HTTP"; failures carry a google.rpc.Status, success says how many points
were not taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wellfed.analysis.receiver import Decoded
from wellfed.ingest import MAX_REQUEST, Ingest, RefusedError

__all__ = ["App", "not_taken", "partial_success"]

#: Seconds that a sender has for a request's body.
BODY_TIMEOUT = 20.0
#: Bytes that are read of a request that is turned away for now.
MAX_PASSED = 1 << 20

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_JSON, _PROTOBUF = "application/json", "application/x-protobuf"


class App:
    """Answers requests; everything but POST /v1/metrics is turned away."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        as_json = kind == _JSON
        ended = False

        async def listen() -> MutableMapping[str, Any]:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body")
            return message

        try:
            decoded = await self._handle(scope, headers, kind, listen)
        except RefusedError as refused:
            if refused.after and not ended:
                await _pass_over(listen)
            body = _status(refused.message, as_json)
            more = [("retry-after", str(refused.after))] if refused.after else []
            more += [("www-authenticate", "Bearer")] if refused.status == 401 else []
            # What is left of the body is not read.
            more += [] if ended else [("connection", "close")]
            await _answer(send, refused.status, body, as_json, more)
            return
        body = _success_json(decoded) if as_json else partial_success(decoded)
        await _answer(send, 200, body, as_json, [])

    async def _handle(self, scope: _Scope, headers: dict[str, str], kind: str, receive: _Receive) -> Decoded:
        if scope["path"] != "/v1/metrics":
            raise RefusedError(404, "metrics are taken at /v1/metrics; there is nothing else")
        if scope["method"] != "POST":
            raise RefusedError(405, "only POST")
        self._ingest.authorize(headers.get("authorization", ""))
        if kind not in (_JSON, _PROTOBUF):
            raise RefusedError(415, f"send {_PROTOBUF} or {_JSON}")
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding not in ("gzip", "identity", "none", ""):
            raise RefusedError(415, "compress with gzip or not at all")
        length = headers.get("content-length", "")
        size = int(length) if length.isdigit() else MAX_REQUEST
        self._ingest.reserve(size)
        try:
            body = await asyncio.wait_for(_body(receive, size), BODY_TIMEOUT)
            return await self._ingest.take(body, gzip=encoding == "gzip", json=kind == _JSON)
        except TimeoutError:
            raise RefusedError(408, "the request came too slowly") from None
        finally:
            self._ingest.release(size)


async def _body(receive: _Receive, size: int) -> bytes:
    """The request's body, of at most size bytes. Raises RefusedError."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the sender went away")
        parts.append(message.get("body", b""))
        if sum(map(len, parts)) > size:
            raise RefusedError(413, f"a request may have {MAX_REQUEST} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def _pass_over(receive: _Receive) -> None:
    """Reads the rest of a body for which there is no room, a little of it at a time, as far as MAX_PASSED.

    A sender that is still sending when its connection is closed never sees when it should come back.
    """
    left = MAX_PASSED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_TIMEOUT):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _answer(send: _Send, status: int, body: bytes, as_json: bool, more: list[tuple[str, str]]) -> None:
    headers = [("content-type", _JSON if as_json else _PROTOBUF), ("content-length", str(len(body))), *more]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


def not_taken(decoded: Decoded) -> tuple[int, str]:
    """Points that the sender should know were not taken, and why; metrics nobody asked for are none."""
    reasons = {reason: points for reason, points in decoded.rejected.items() if reason != "unknown"}
    return sum(reasons.values()), ", ".join(f"{points} {reason}" for reason, points in reasons.items())


def partial_success(decoded: Decoded) -> bytes:
    """A serialized ExportMetricsServiceResponse."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    response = ExportMetricsServiceResponse()
    points, message = not_taken(decoded)
    if points:
        response.partial_success.rejected_data_points = points
        response.partial_success.error_message = message
    return response.SerializeToString()


def _success_json(decoded: Decoded) -> bytes:
    points, message = not_taken(decoded)
    said = {"partialSuccess": {"rejectedDataPoints": str(points), "errorMessage": message}} if points else {}
    return json.dumps(said).encode()


def _status(message: str, as_json: bool) -> bytes:
    """A google.rpc.Status with a message."""
    if as_json:
        return json.dumps({"message": message}).encode()
    text = message.encode()[:4096]
    # Field 2, a string: tag, length as a varint of one or two bytes, text.
    length = bytes([len(text)]) if len(text) < 128 else bytes([len(text) & 127 | 128, len(text) >> 7])
    return b"\x12" + length + text
