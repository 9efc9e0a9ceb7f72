"""An agent on the fixture node, and a receiver that is up or away."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from programs import Programs, fetch, until

__all__ = ["Receiver", "agent", "metric"]

NODE = Path(__file__).parents[1] / "fixtures" / "node"


class Sink(BaseHTTPRequestHandler):
    """Takes OTLP while its server is `up`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        assert isinstance(server, Receiver)
        if not server.up.is_set():
            self.send_response(503)
            self.end_headers()
            return
        message = ExportMetricsServiceRequest.FromString(body)
        for each in message.resource_metrics:
            for scope in each.scope_metrics:
                for metric in scope.metrics:
                    points = metric.gauge.data_points or metric.sum.data_points
                    server.times.update(point.time_unix_nano for point in points)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Receiver(ThreadingHTTPServer):
    """times: ends of the windows that arrived, in nanoseconds."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Sink)
        self.up = threading.Event()
        self.times: set[int] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()


def agent(programs: Programs, port: int, *more: str, **environ: str) -> subprocess.Popen[bytes]:
    process = programs.wellfed(
        "agent",
        f"--metrics-address=127.0.0.1:{port}",
        f"--procfs={NODE / 'proc'}",
        f"--sysfs={NODE / 'sys'}",
        "--collectors=cpu,memory,disk",
        *more,
        **environ,
    )
    until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="the agent is ready")
    return process


def metric(port: int, name: str) -> float:
    lines = fetch(f"http://127.0.0.1:{port}/metrics").decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name)))
