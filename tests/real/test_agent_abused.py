"""A real agent under clients and disks that mean it ill."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import bcrypt
import pytest
from programs import ROOT, Programs, fetch, free_port, until

pytestmark = pytest.mark.real

NODE = ROOT / "tests" / "fixtures" / "node"
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


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes windows and counts them."""

    taken: list[int]

    def do_POST(self) -> None:
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        self.taken.append(len(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_disk_without_room_is_told_and_nothing_is_lost(programs: Programs, tmp_path: Path) -> None:
    """The kernel refuses files above 1,000 bytes, as it refuses all of a full or read-only disk."""
    sink, port = free_port(), free_port()
    agent = programs.start(
        *["prlimit", "--fsize=1000", sys.executable, "-m", "wellfed", "agent"],
        *[f"--procfs={NODE / 'proc'}", f"--sysfs={NODE / 'sys'}", f"--spool={tmp_path / 'spool'}"],
        f"--metrics-address=127.0.0.1:{port}",
        f"--otlp-endpoint=http://127.0.0.1:{sink}",
        PYTHONPATH=os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]),
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )

    def metric(name: str) -> float:
        body = fetch(f"http://127.0.0.1:{port}/metrics").decode()
        return next(
            float(line.split()[1]) for line in body.splitlines() if line.startswith(f"wellfed_export_{name} ")
        )

    until(lambda: metric("spool_records") >= 2, what="two windows wait")
    assert metric("spool_degraded") == 1
    assert b"the spool is kept in memory" in agent.log.read_bytes()  # type: ignore[attr-defined]
    handler = type("Handler", (Sink,), {"taken": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", sink), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        until(lambda: metric("sent_total") >= 3 and metric("spool_records") == 0, what="all arrive")
        server.shutdown()
    assert len(handler.taken) >= 3  # type: ignore[attr-defined]
    assert metric("dropped_total") == 0
