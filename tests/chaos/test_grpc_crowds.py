"""Clients of OTLP over gRPC that begin a connection, a call or a message and never end it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from attempts import Note, scale
from programs import free_port, until
from test_crowds import load

from wellfed import otlp_grpc
from wellfed.analysis import receiver as receiving
from wellfed.analysis.receiver import Receiver
from wellfed.analysis.store import Store
from wellfed.ingest import Ingest
from wellfed.otlp_server import OtlpServer

EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def head(**more: str) -> bytes:
    """The header block of a call, without compression (RFC 7541, 6.2.2)."""
    fields = {":method": "POST", ":scheme": "http", ":path": EXPORT, ":authority": "hub", "te": "trailers"}
    fields |= {"content-type": "application/grpc", **more}
    return b"".join(
        b"\x00%c%s%c%s" % (len(name), name.encode(), len(text), text.encode())
        for name, text in fields.items()
    )


#: gRPC's own answer to more than a thousand calls that wait for us is CANCELLED, which is "later" as well.
LATER = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
DATA, HEADERS, SETTINGS, END_HEADERS = 0, 1, 4, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + frame(SETTINGS, 0, 0)
CALL = HELLO + frame(HEADERS, END_HEADERS, 1, head())

#: What a client sends, and the times that end it.
CLIENTS = {
    "silent": (b"", "HANDSHAKE_TIMEOUT"),
    "half a preface": (PREFACE[:10], "HANDSHAKE_TIMEOUT"),
    "no settings": (PREFACE, "HANDSHAKE_TIMEOUT"),
    "no call": (HELLO, "IDLE_TIMEOUT"),
    "half a frame of headers": (HELLO + frame(HEADERS, END_HEADERS, 1, head())[:30], "IDLE_TIMEOUT"),
    "headers that go on": (HELLO + frame(HEADERS, 0, 1, head()), "LONGEST BODY_TIMEOUT"),
    "no message": (CALL, "BODY_TIMEOUT IDLE_TIMEOUT"),
    "half a message": (
        CALL + frame(DATA, 0, 1, b"\x00" + (1 << 20).to_bytes(4) + b"x" * 100),
        "BODY_TIMEOUT IDLE_TIMEOUT",
    ),
    "many calls": (
        HELLO + b"".join(frame(HEADERS, END_HEADERS, 1 + 2 * n, head()) for n in range(100)),
        "BODY_TIMEOUT IDLE_TIMEOUT",
    ),
}


class Hub:
    """The receiving half of a hub, by gRPC."""

    def __init__(self, store: Store) -> None:
        self.receiver = Receiver(store)
        self.port = free_port()
        listener = socket.create_server(("127.0.0.1", 0))
        self.server = OtlpServer(Ingest(self.receiver, None), listener, f"127.0.0.1:{self.port}")
        self.server.start()

    def close(self) -> None:
        self.server.close()
        self.receiver.close()

    def post(self, body: bytes) -> bool:
        """Whether a sender's request is taken, on a connection of its own."""
        with grpc.insecure_channel(
            f"127.0.0.1:{self.port}", [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            try:
                channel.unary_unary(EXPORT)(body, timeout=20)
            except grpc.RpcError as error:
                if error.code() not in LATER:  # type: ignore[attr-defined]
                    raise
                return False
        return True


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Hub]:
    """With the times named by its parameter short, and no other."""
    monkeypatch.setattr(receiving, "PAUSE", 0.0)
    monkeypatch.setattr(receiving, "GATHER", 0.0)
    for name in getattr(request, "param", "").split():
        monkeypatch.setattr(otlp_grpc, name, 2.0)
    with Store(tmp_path / "s") as store:
        running = Hub(store)
        yield running
        running.close()


def held() -> tuple[int, int]:
    """Threads of this process, and its memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(list(Path("/proc/self/task").iterdir())), pages * 4096


@pytest.mark.parametrize(("first", "hub"), list(CLIENTS.values()), ids=list(CLIENTS), indirect=["hub"])
def test_grpc_clients_that_never_finish_are_closed_and_keep_nobody_out(
    hub: Hub, note: Note, first: bytes
) -> None:
    assert hub.post(load("good"))
    threads, memory = held()
    with ExitStack() as stack:
        address = ("127.0.0.1", hub.port)
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(scale(2000, 150))]
        for client in clients:
            client.sendall(first)
        # Beside calls that do not go on there is room again once these have had their time.
        until(lambda: hub.post(load("good")), 30, "a sender is taken")
        many, more = held()
        assert many <= threads + 8
        assert more <= memory + (16 << 20) + 64 * 1024 * len(clients)
        until(lambda: not any(map(alive, clients)), 60, "the hub closes them all")
        until(lambda: hub.post(load("good")), what="a sender is taken")
    note("clients of gRPC that never finish", len(clients), 0)


def alive(client: socket.socket) -> bool:
    """Whether a connection is open; what the hub says is read and not answered."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def test_one_for_whom_there_is_no_room_is_told_when_to_come_back(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_grpc, "MAX_CALLS", 0)
    with grpc.insecure_channel(f"127.0.0.1:{hub.port}") as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(EXPORT)(load("good"), timeout=20)
    refused = error.value
    assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    details = dict(refused.trailing_metadata())["grpc-status-details-bin"]  # type: ignore[attr-defined]
    assert b"google.rpc.RetryInfo" in details
    # The last field of the last field: a Duration of so many seconds.
    assert 1 <= details[-1] <= 5
    assert details[-4:-1] == b"\x0a\x02\x08"
    assert hub.receiver.rejected["busy"] == 1
