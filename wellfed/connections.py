"""Connections to the hub: how many a process may hold, and how long one may take to ask.

uvicorn times out a connection between two requests, not one that never finishes (or begins) the head of a
request: some thousand of those would keep every sender out.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_TIMEOUT", "Hurried", "allow_files"]

#: Seconds from the first byte of a request, or from the connection, to the end of its head.
HEAD_TIMEOUT = 10.0


class Hurried(H11Protocol):
    """Closes a connection whose request's head does not come in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._watch()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._relax()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


def allow_files(wanted: int) -> int:
    """Lets this process hold so many descriptors, or as many as it may; returns how many.

    The usual soft limit of 1,024 would be a limit of as many senders.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        # A sandbox may not allow it; whoever made it sets the limit (LimitNOFILE=).
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft
