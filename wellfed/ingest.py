"""OTLP requests from any transport into a receiver: token, size, back-pressure, JSON and gzip.

A request that would not be done in time is turned away at once with the time after which to come back, so
memory stays bounded whatever arrives. What is answered with success is on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import os
import random
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

from wellfed.analysis.receiver import Decoded, Receiver
from wellfed.errors import UserError

__all__ = ["MAX_BODY", "MAX_REQUEST", "Ingest", "RefusedError", "Token"]

#: Bytes of a request as sent, and after decompression.
MAX_REQUEST = 16 << 20
MAX_BODY = 64 << 20
#: Bytes of all requests under way, and how many of them, before others are sent away.
MAX_PENDING = 64 << 20
MAX_WAITING = 256
#: Threads that decompress and decode; each may hold MAX_BODY.
DECODERS = 2
#: Seconds within which a sender that was turned away should come back: spread, so that they come apart. The
#: more were turned away of late, the longer, so that no more than so many a second come back.
COME_BACK = (1, 5)
LONGEST = 60
RETURNS = 200
#: Seconds that being turned away is remembered.
LATE = 10.0
#: Seconds a sender waits while the disk is full.
DISK_WAIT = 30


class RefusedError(Exception):
    """Why a request was not taken. status: HTTP. after: seconds after which to try again, None for never."""

    def __init__(self, status: int, message: str, after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.after = after


class Token:
    """Bearer tokens that a sender may show: the lines of a file, reread when it changes.

    Two lines let a token be replaced without a gap. Raises UserError when there is none to read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp = (0, 0)
        self._known = self._read()

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header may pass, in time that does not depend on what it says."""
        status = os.stat(self._path)
        if (status.st_mtime_ns, status.st_size) != self._stamp:
            self._known = self._read()
        scheme, _, said = authorization.partition(" ")
        shown = _digest(said.strip())
        matches = [hmac.compare_digest(shown, known) for known in self._known]
        return any(matches) and scheme.lower() == "bearer"

    def _read(self) -> list[bytes]:
        try:
            with open(self._path, encoding="utf-8") as file:
                status = os.fstat(file.fileno())
                lines = [line.strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UserError(f"cannot read --token-file {self._path}: {reason}") from error
        self._stamp = (status.st_mtime_ns, status.st_size)
        found = [_digest(line) for line in lines if line]
        if not found:
            raise UserError(f"--token-file {self._path} holds no token")
        return found


class Ingest:
    """Feeds a receiver; lives on one event loop."""

    def __init__(self, receiver: Receiver, token: Token | None) -> None:
        self._receiver = receiver
        self._token = token
        self._pending = 0
        self._waiting = 0
        self._crowd = 0.0
        self._crowd_at = 0.0
        self._threads = ThreadPoolExecutor(DECODERS, "wellfed-decode")

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def authorize(self, authorization: str) -> None:
        """Raises RefusedError unless the sender may write."""
        try:
            good = self._token is None or self._token.admits(authorization)
        except (OSError, UserError):
            # A token file that is gone or damaged admits nobody until it is back.
            good = False
        if not good:
            self._receiver.reject("unauthorized")
            raise RefusedError(401, "a bearer token is wanted")

    def reserve(self, size: int) -> None:
        """Room for a request of so many bytes, to be released after it. Raises RefusedError."""
        if size > MAX_REQUEST:
            self._receiver.reject("size")
            raise RefusedError(413, f"a request may have {MAX_REQUEST} bytes")
        if self._pending + size > MAX_PENDING or self._waiting >= MAX_WAITING:
            raise self.busy()
        self._pending += size
        self._waiting += 1

    def busy(self) -> RefusedError:
        """What to tell a sender for whom there is no room now."""
        self._receiver.reject("busy")
        return RefusedError(429, "too many requests under way", self._after(time.monotonic()))

    def release(self, size: int) -> None:
        """Gives back what reserve() took."""
        self._pending -= size
        self._waiting -= 1

    def _after(self, now: float) -> int:
        """Seconds after which one more sender that is turned away should come back."""
        self._crowd = 1.0 + self._crowd * math.exp((self._crowd_at - now) / LATE)
        self._crowd_at = now
        soonest, latest = COME_BACK
        return random.randint(soonest, min(LONGEST, max(latest, int(2 * self._crowd / RETURNS))))

    async def take(self, body: bytes, *, gzip: bool = False, json: bool = False) -> Decoded:
        """Stores a request's rows and returns when they are on disk. Raises RefusedError."""
        loop = asyncio.get_running_loop()
        try:
            decoded = await loop.run_in_executor(self._threads, self._decode, body, gzip, json)
        except ValueError as error:
            self._receiver.reject("malformed")
            raise RefusedError(400, f"not an OTLP metrics request: {error}") from None
        try:
            return await asyncio.wrap_future(self._receiver.commit(decoded))
        except Exception as error:
            self._receiver.reject("not_written", decoded.points)
            raise RefusedError(503, f"the store cannot be written: {error}", DISK_WAIT) from error

    def _decode(self, body: bytes, gzip: bool, json: bool) -> Decoded:
        if gzip:
            body = _unzip(body)
        return self._receiver.decode(_from_json(body) if json else body)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _unzip(body: bytes) -> bytes:
    """Raises ValueError for what is not gzip, is cut short, or becomes longer than MAX_BODY."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise ValueError(f"not gzip: {error}") from None
    if stream.unconsumed_tail:
        raise ValueError(f"longer than {MAX_BODY} bytes when decompressed")
    if not stream.eof:
        raise ValueError("the gzip stream is cut short")
    return plain


def _from_json(body: bytes) -> bytes:
    """OTLP/JSON as the bytes of the same message. Raises ValueError."""
    from google.protobuf import json_format
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request = ExportMetricsServiceRequest()
    try:
        json_format.Parse(body, request, ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{' '.join(str(error).split())[:200]}") from None
    return request.SerializeToString()
