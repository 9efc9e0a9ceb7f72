"""Full, broken and read-only disks, a clock that jumps an hour, a stopped process, few descriptors."""

from __future__ import annotations

import errno
import http.client
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from attempts import FULL, Note, scale
from faulty import Faults
from nodes import Receiver, agent, metric
from programs import Programs, fetch, free_port, until

from wellfed.analysis.store import Store

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}

#: Appends numbered windows to a store and says which were accepted; goes on after every refusal.
WRITER = """
import sys, polars as pl
from datetime import UTC, datetime, timedelta
from wellfed.analysis.schema import TS
from wellfed.analysis.store import Store
start = datetime(2026, 3, 1, 10, tzinfo=UTC)
with Store(sys.argv[1]) as store:
    for line in sys.stdin:
        window = int(line)
        frame = pl.DataFrame({"ts": pl.Series([start + timedelta(seconds=window)], dtype=TS), "host": "a",
                              "load1": float(window)})
        try:
            store.append({"host": frame})
            if window % 5 == 0:
                store.seal(start + timedelta(days=9))
            print("ok", flush=True)
        except OSError as error:
            print(error.errno, flush=True)
"""


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_a_store_refuses_clearly_and_goes_on_where_it_was(
    tmp_path: Path, faults: Faults, note: Note, name: str
) -> None:
    root = tmp_path / "faulty" / "s"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **faults.environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    accepted, refused = [], 0
    for window in range(scale(300, 40)):
        faults.disk(ERRORS[name] if window % 4 == 2 else 0)
        writer.stdin.write(f"{window}\n")
        writer.stdin.flush()
        answer = writer.stdout.readline().strip()
        if answer == "ok":
            accepted.append(float(window))
        else:
            assert answer == str(ERRORS[name])
            refused += 1
    faults.disk(0)
    writer.communicate()
    assert refused >= scale(75, 10)
    found = sorted(Store(root, readonly=True).scan("host").collect()["load1"].to_list())
    assert found == accepted
    note(f"appends to a store whose disk says {name}", refused, 0)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_an_agent_with_a_broken_spool_sends_every_window(
    tmp_path: Path, programs: Programs, faults: Faults, note: Note, name: str
) -> None:
    receiver, port = Receiver(), free_port()
    folder = tmp_path / "faulty" / "spool"
    agent(
        programs,
        port,
        f"--otlp-endpoint=http://127.0.0.1:{receiver.server_port}",
        f"--spool={folder}",
        OTEL_EXPORTER_OTLP_COMPRESSION="none",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        **faults.environment,
    )
    until(lambda: metric(port, "wellfed_export_spool_records") >= 2, what="windows wait")
    faults.disk(ERRORS[name])
    waiting = metric(port, "wellfed_export_spool_records")
    until(lambda: metric(port, "wellfed_export_spool_records") >= waiting + 2, what="more wait in memory")
    faults.disk(0)
    receiver.up.set()
    until(lambda: metric(port, "wellfed_export_spool_records") == 0, 60, "the spool is drained")
    assert metric(port, "wellfed_export_dropped_total") == 0
    seconds = sorted(t // 10**9 for t in receiver.times)
    assert seconds == list(range(seconds[0], seconds[-1] + 1))
    note(f"windows past a spool whose disk says {name}", len(seconds), 0)
    receiver.shutdown()
    receiver.server_close()


@pytest.mark.parametrize("hours", [1.0, -1.0], ids=["forward", "back"])
def test_an_hour_of_clock_step_costs_no_more_than_its_windows(
    tmp_path: Path, programs: Programs, faults: Faults, note: Note, hours: float
) -> None:
    port = free_port()
    process = agent(programs, port, **faults.environment)
    faults.clock(3600 * hours)
    before = metric(port, "wellfed_collector_last_success_seconds")
    jumped = until(
        lambda: (
            abs(metric(port, "wellfed_collector_last_success_seconds") - before) > 3000
            and metric(port, "wellfed_collector_last_success_seconds")
        ),
        what="reads go on at the new time",
    )
    cpu = metric(port, "process_cpu_seconds_total")
    until(lambda: metric(port, "wellfed_collector_last_success_seconds") >= jumped + 2, what="and on")
    assert metric(port, "process_cpu_seconds_total") - cpu < 1.5, "it did not spin"
    assert process.poll() is None
    note("clock steps of an hour under a running agent", 1, 0)


def test_a_stopped_agent_goes_on_and_never_tells_a_wrong_rate(programs: Programs, note: Note) -> None:
    port = free_port()
    process = agent(programs, port)
    process.send_signal(signal.SIGSTOP)
    pause = threading.Event()
    pause.wait(60 if FULL else 3)
    process.send_signal(signal.SIGCONT)
    until(lambda: metric(port, "wellfed_collector_success"), what="it answers again")
    assert metric(port, "wellfed_collector_stuck") == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    note("a stop of a minute (three seconds in a sample)", 1, 0)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(resource.RLIMIT_NOFILE, 48), (resource.RLIMIT_AS, 400 << 20)],
    ids=["files", "memory"],
)
def test_an_agent_under_a_limit_serves_and_refuses_what_is_too_much(
    programs: Programs, note: Note, kind: int, limit: int
) -> None:
    port = free_port()
    process = agent(programs, port)
    resource.prlimit(process.pid, kind, (limit, limit))
    clients = []
    for _ in range(100):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            client.connect()
        except OSError:
            break
        clients.append(client)
    for client in clients:
        client.close()
    body = until(lambda: fetch(f"http://127.0.0.1:{port}/metrics"), what="it serves after the crowd left")
    assert b"wellfed_host_load1" in body
    assert process.poll() is None
    note("crowds at an agent with few descriptors or little memory", 1, 0)
