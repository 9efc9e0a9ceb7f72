"""A hub that is stopped, whose clock jumps an hour, that may open few files or take little memory."""

from __future__ import annotations

import gzip
import http.client
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from attempts import FULL, Note
from faulty import Faults
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from programs import Programs, fetch, free_port, until

from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window

ADDRESSES = ("--address", "--otlp-address", "--otlp-grpc-address", "--metrics-address")


class Hub:
    """A real hub on free ports."""

    def __init__(self, programs: Programs, folder: Path, **environ: str) -> None:
        self._ports = {flag: free_port() for flag in ADDRESSES}
        addresses = [f"{flag}=127.0.0.1:{port}" for flag, port in self._ports.items()]
        self.process: subprocess.Popen[bytes] = programs.wellfed(
            "hub", f"--data={folder / 'store'}", *addresses, **environ
        )
        until(lambda: fetch(f"http://127.0.0.1:{self._ports['--address']}/"), what="the pages are served")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['--metrics-address']}"

    @property
    def otlp(self) -> int:
        return self._ports["--otlp-address"]

    def post(self, ts: float, rows: int = 1, timeout: float = 30.0) -> int:
        """Points that were not taken of a window of an agent. Raises OSError unless it is answered with 200."""
        found = [Row("disk", (f"d{n}",), {"reads": random.random()}) for n in range(rows)]
        body = gzip.compress(Encoder({"host.name": f"n{rows}"}).encode(Window(ts, found)), 1)
        connection = http.client.HTTPConnection("127.0.0.1", self.otlp, timeout=timeout)
        headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
        try:
            connection.request("POST", "/v1/metrics", body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"HTTP {answer.status}")
        return ExportMetricsServiceResponse.FromString(said).partial_success.rejected_data_points

    def end(self) -> None:
        """Ends as it should, with nothing strange in its log."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(15) == 0
        assert "Traceback" not in self.process.log.read_text()  # type: ignore[attr-defined]


def test_a_stopped_hub_goes_on_where_it_was(programs: Programs, tmp_path: Path, note: Note) -> None:
    hub = Hub(programs, tmp_path)
    assert hub.post(time.time() - 20) == 0
    hub.process.send_signal(signal.SIGSTOP)
    with pytest.raises(OSError):
        hub.post(time.time() - 10, timeout=0.5)
    threading.Event().wait(60 if FULL else 2)
    hub.process.send_signal(signal.SIGCONT)
    assert hub.post(time.time()) == 0
    assert fetch(hub.url + "/metrics")
    hub.end()
    note("a stop of a minute (seconds in a sample), hub", 1, 0)


@pytest.mark.parametrize("hours", [1.0, -1.0], ids=["forward", "back"])
def test_an_hour_of_clock_step_under_a_hub_refuses_what_is_of_the_future_and_no_more(
    programs: Programs, tmp_path: Path, faults: Faults, note: Note, hours: float
) -> None:
    hub = Hub(programs, tmp_path, **faults.environment)
    now = time.time()
    assert hub.post(now) == 0
    faults.clock(3600 * hours)
    assert hub.post(now + 10 + 3600 * hours) == 0
    # The senders' clocks are right: beside a hub that is an hour behind, they are of the future.
    assert hub.post(now + 20) == (0 if hours > 0 else 1)
    faults.clock(0)
    assert hub.post(now + 30) == 0
    assert fetch(hub.url + "/metrics")
    hub.end()
    note("clock steps of an hour under a running hub", 2, 0)


def test_a_hub_with_few_files_serves_again_when_the_crowd_has_left(
    programs: Programs, tmp_path: Path, note: Note
) -> None:
    hub = Hub(programs, tmp_path)
    resource.prlimit(hub.process.pid, resource.RLIMIT_NOFILE, (96, 96))
    clients = [socket.create_connection(("127.0.0.1", hub.otlp)) for _ in range(90)]
    for client in clients:
        client.close()
    assert until(lambda: hub.post(time.time()) == 0, 60, "it takes windows again")
    assert hub.process.poll() is None
    note("crowds at a hub with few descriptors", len(clients), 0)


def test_a_hub_with_little_memory_keeps_what_it_acknowledged(
    programs: Programs, tmp_path: Path, note: Note
) -> None:
    hub = Hub(programs, tmp_path)
    assert hub.post(time.time() - 10) == 0
    used = int((Path("/proc") / str(hub.process.pid) / "statm").read_text().split()[0]) * 4096
    limit = used + (96 << 20)
    resource.prlimit(hub.process.pid, resource.RLIMIT_AS, (limit, limit))
    for _ in range(5):
        try:
            hub.post(time.time(), rows=4000)
        except OSError:
            continue
    # Polars cannot go on without memory: a hub may die of it. The next one has what was acknowledged.
    if hub.process.poll() is None:
        hub.process.kill()
    hub.process.wait()
    heir = Hub(programs, tmp_path)
    assert heir.post(time.time()) == 0
    done = programs.wellfed("store", "check", f"--data={tmp_path / 'store'}")
    assert done.wait(60) == 0
    heir.end()
    note("requests to a hub with little memory", 5, 0)
