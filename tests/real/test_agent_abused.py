"""A real agent under clients that mean it ill."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import time
from pathlib import Path

import bcrypt
import pytest
from programs import Programs, free_port, until

pytestmark = pytest.mark.real

#: What the agent promises.
CLOSED_WITHIN = 10.0
MOST_THREADS = 8


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def web_config(folder: Path) -> Path:
    subject = ["-subj", "/CN=n1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    pair = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *pair, *subject]
    subprocess.run(command, check=True, capture_output=True)
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()
    config = folder / "web.yml"
    config.write_text(
        "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
        f"basic_auth_users: {{reader: '{hashed}'}}\n"
    )
    return config


def test_300_half_open_clients_cost_8_threads_at_most_and_are_closed_in_10_s(
    programs: Programs, tmp_path: Path
) -> None:
    port = free_port()
    agent = programs.wellfed(
        "agent",
        f"--metrics-address=127.0.0.1:{port}",
        f"--web-config={web_config(tmp_path)}",
        "--collectors=cpu,memory",
    )
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=CLOSED_WITHIN + 5)

    until(lambda: connect().close() or True, what="the agent listens")
    before, begin = threads(agent.pid), time.monotonic()
    # A third says nothing, a third stops inside TLS, a third inside the request.
    clients = [connect() for _ in range(300)]
    for client in clients[100:200]:
        client.sendall(b"\x16\x03\x01")
    for place in range(200, 300):
        clients[place] = trusting.wrap_socket(clients[place], server_hostname="127.0.0.1")
        clients[place].sendall(b"GET /metr")
    most = threads(agent.pid)
    with trusting.wrap_socket(connect(), server_hostname="127.0.0.1") as good:
        good.sendall(b"GET /metrics HTTP/1.1\r\nHost: n1\r\n\r\n")
        assert good.recv(100).startswith(b"HTTP/1.1 401")
    for client in clients:
        with client, contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while client.recv(1000):
                pass
        most = max(most, threads(agent.pid))
    assert time.monotonic() - begin < CLOSED_WITHIN
    assert most - before <= MOST_THREADS
