"""What the agent costs beside node_exporter, on the same large node, once a second, in one run.

`python bench/agent.py [seconds]` (make bench-agent). The node is bench/tree.py with 8 scripted GPUs. Each
program runs alone for the given time: sampling only, scraped as Prometheus does it (gzip, one connection),
and pushed by OTLP with gzip, TLS and a spool. CPU is that of the process and its children, from /proc.
"""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tree import build, growing

ROOT = Path(__file__).parents[1]
METRICS = (1, 2, 3, 5, 10, 20, 21, 60, 61)
HOST = "cpu,disk,infiniband,memory,mountstats,network,pressure"
WARM_UP = 4.0


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


AGENT, EXPORTER, SINK = free_port(), free_port(), free_port()


@dataclass
class Result:
    """One program's figures. cpu: milliseconds a second; series: published each second."""

    name: str
    cpu: float
    resident: float
    series: int = 0
    scrapes: list[float] = field(default_factory=list)

    def line(self) -> str:
        """One row of the table."""
        each = f"{self.cpu * 1000 / self.series:8.2f}" if self.series else "       -"
        ranked = sorted(self.scrapes)
        times = (
            f"{statistics.median(ranked) * 1e3:7.1f} {ranked[int(len(ranked) * 0.99)] * 1e3:7.1f}"
            if ranked
            else "      -       -"
        )
        return f"{self.name:32} {self.cpu:8.2f} {self.series:7} {each} {self.resident:8.1f} {times}"


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return [pid, *(p for child in children for p in family(child))]


def used(pid: int) -> tuple[float, float]:
    """CPU seconds so far and MiB in memory: pages shared between the processes count once."""
    cpu = resident = 0.0
    for each in family(pid):
        try:
            # Nanoseconds: the ticks of /proc/PID/stat are a tenth of what an agent uses in 30 s.
            threads = Path(f"/proc/{each}/task").iterdir()
            nanoseconds = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a child that ended between the list and the look
        cpu += nanoseconds / 1e9
        resident += next((int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:")), 0) / 1024
    return cpu, resident


def scrape(port: int, seconds: float) -> tuple[int, list[float]]:
    """Series of the last scrape, and how long each took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    times, body = [], b""
    begin = time.monotonic()
    for tick in range(int(seconds)):
        time.sleep(max(0.0, begin + tick + 0.5 - time.monotonic()))
        start = time.perf_counter()
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        body = answer.read()
        times.append(time.perf_counter() - start)
        if answer.getheader("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
    return sum(1 for line in body.splitlines() if line and not line.startswith(b"#")), times


def measure(name: str, command: list[str], environment: dict[str, str], port: int, seconds: float) -> Result:
    """Runs a program, scraped when port is not 0."""
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        time.sleep(WARM_UP)
        before, _ = used(process.pid)
        begin = time.monotonic()
        if port:
            series, times = scrape(port, seconds)
        else:
            time.sleep(seconds)
            series, times = 0, []
        after, resident = used(process.pid)
        share = (after - before) / (time.monotonic() - begin) * 1000
        return Result(name, share, resident, series, times)
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def sink(folder: Path) -> Iterator[dict[str, int]]:
    """A TLS receiver of OTLP that counts the points of the last request."""
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -keyout sink.key -out sink.crt"
    )
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    seen = {"points": 0, "requests": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if seen["requests"] % 5 == 0:
                request = ExportMetricsServiceRequest.FromString(gzip.decompress(body))
                metrics = request.resource_metrics[0].scope_metrics[0].metrics
                seen["points"] = sum(len(getattr(m, m.WhichOneof("data")).data_points) for m in metrics)
            seen["requests"] += 1
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", SINK), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "sink.crt", folder / "sink.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield seen
    server.shutdown()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = build(Path(temporary))
        library = str(folder / "libnvidia-ml.so.1")
        source = ROOT / "tests/nvml/fake_nvml.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-DFIXED", "-o", library, str(source)], check=True)
        control = folder / "control"
        control.write_text("gpus 8\n" + "".join(f"metric:{metric} 40\n" for metric in METRICS))
        environment = dict(os.environ) | {
            "LD_LIBRARY_PATH": temporary,
            "FAKE_NVML_CONTROL": str(control),
            "PYTHONPATH": str(ROOT),
            "WELLFED_SOCKET": str(folder / "steps.sock"),
        }
        roots = [f"--procfs={folder}/proc", f"--sysfs={folder}/sys"]
        agent = [sys.executable, "-m", "wellfed", "agent", *roots, f"--metrics-address=127.0.0.1:{AGENT}"]
        exporter = [
            "prometheus-node-exporter",
            f"--path.procfs={folder}/proc",
            f"--path.sysfs={folder}/sys",
            f"--web.listen-address=127.0.0.1:{EXPORTER}",
            "--web.disable-exporter-metrics",
            "--collector.disable-defaults",
            *(
                f"--collector.{name}"
                for name in [
                    "cpu",
                    "diskstats",
                    "infiniband",
                    "loadavg",
                    "meminfo",
                    "mountstats",
                    "netdev",
                    "pressure",
                    "stat",
                    "vmstat",
                ]
            ),
        ]

        print(f"{'':32} {'CPU ms/s':>8} {'series':>7} {'us/each':>8} {'MiB':>8} {'p50 ms':>7} {'p99 ms':>7}")
        found = {}

        def run(name: str, command: list[str], port: int, **more: str) -> Result:
            found[name] = measure(name, command, environment | more, port, seconds)
            return found[name]

        with growing(folder):
            # What node_exporter does too, and what it does not: GPUs, jobs, training loops.
            host = f"--collectors={HOST}"
            both = "--names=dcgm,node_exporter"
            print(run("node_exporter scraped", exporter, EXPORTER).line(), flush=True)
            print(run("agent, sampling only", agent, 0).line(), flush=True)
            print(run("agent scraped", agent, AGENT).line(), flush=True)
            print(run("agent scraped, all names", [*agent, both], AGENT).line(), flush=True)
            alike = [host, "--names=node_exporter"]
            print(run("agent scraped, host alone", [*agent, *alike], AGENT).line(), flush=True)
            with sink(folder) as seen:
                to = [*agent, f"--otlp-endpoint=https://127.0.0.1:{SINK}", f"--spool={folder}/spool"]
                tls = {
                    "OTEL_EXPORTER_OTLP_CERTIFICATE": str(folder / "sink.crt"),
                    "OTEL_METRIC_EXPORT_INTERVAL": "1000",
                }
                for name, more in (("own names", []), ("all names", [both]), ("host alone", alike)):
                    pushed = run(f"agent pushed, {name}", [*to, *more], 0, **tls)
                    pushed.series = seen["points"]
                    print(pushed.line(), flush=True)
    peer = found["node_exporter scraped"]
    each = peer.cpu / peer.series
    print("CPU per series over node_exporter's:")
    for name, bar in (
        ("agent scraped, all names", 0.20),
        ("agent scraped, host alone", 0.20),
        ("agent pushed, all names", 0.25),
        ("agent pushed, host alone", 0.25),
    ):
        ours = found[name]
        print(f"  {name:32} {ours.cpu / max(1, ours.series) / each:.2f} (target {bar:.2f})")


if __name__ == "__main__":
    main()
