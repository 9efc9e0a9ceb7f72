"""A day of operation, as fast as it goes: memory, descriptors and threads stay where they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attempts import Note, scale

NODE = Path(__file__).parents[1] / "fixtures" / "node"

#: What a process holds.
STATE = """
import gc, json, os, sys, threading

def state():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    return {"mib": pages * 4096 / 2**20, "files": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count()}
"""

#: A node's windows through sampler, both formats of /metrics, OTLP, spool, store, sealing and retention.
DAY = """
from datetime import UTC, datetime, timedelta
from wellfed.analysis.store import Store
from wellfed.collectors.agent import choose
from wellfed.collectors.page import Page
from wellfed.collectors.registry import Roots
from wellfed.collectors.sampler import Sampler, Window
from wellfed.collectors.spool import Spool
from wellfed.frames import frames

node, folder, windows = sys.argv[1], sys.argv[2], int(sys.argv[3])
roots = Roots(node + "/proc", node + "/sys")
sampler = Sampler(choose("cgroup,cpu,disk,infiniband,lustre,memory,mountstats,network,nvidia_fs,pressure"), roots)
options = {"procfs": roots.proc, "sysfs": roots.sys}
pages = [Page(options, openmetrics) for openmetrics in (False, True)]
start = datetime(2026, 3, 1, tzinfo=UTC)
began = start.timestamp()
spool = Spool(folder + "/spool", 10**8, 1e12)

states = []
with Store(folder + "/store") as store:
    for number in range(windows):
        now = began + 10 * (number + 1)
        for slot in sampler.slots:
            slot.tick(roots, now, 10.0 * number)
        rows = sampler.snapshot(now).rows
        for page in pages:
            page.render(rows, ())
        spool.put(now, json.dumps([row.values for row in rows]).encode())
        if number % 50 == 49:
            while (record := spool.peek()) is not None:
                spool.done(record)
        store.append(frames(Window(now, rows), "n"))
        if number % 360 == 359:
            end = datetime.fromtimestamp(now, UTC)
            store.seal(end)
            store.retain(age=timedelta(hours=6), now=end)
        if number in (windows // 3, windows - 1):
            states.append(state())
print(json.dumps(states))
"""

#: The same for a hub: OTLP of two hosts decoded and stored, judged each six minutes, published, sealed, expired.
HUB_DAY = """
from datetime import UTC, datetime, timedelta
from wellfed.analysis import receiver as receiving
from wellfed.analysis.live import Live
from wellfed.analysis.receiver import Receiver
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.collectors.exposition import Exposition
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.verdicts import hub_families, verdicts

folder, windows = sys.argv[1], int(sys.argv[2])
receiving.PAUSE = receiving.GATHER = 0.0
start = datetime(2026, 3, 1, tzinfo=UTC)
encoders = {host: Encoder({"host.name": host}) for host in "ab"}

def rows(number, job):
    info = {"index": "0", "job": job}
    busy = 10.0 * number * (0.3 if number % 720 > 600 else 0.9)
    values = {"observed_seconds": 10.0 * number, "active_seconds": busy, "sm_active_seconds": busy}
    return [Row("gpu", ("GPU-1",), values, info), Row("host", (), {"load1": 1.0, "cpu_busy_seconds": 5.0 * number})]

states = []
with Store(folder + "/store") as store:
    receiver, live = Receiver(store), Live(store, Streaming(store))
    for number in range(1, windows + 1):
        now = start + timedelta(seconds=10 * number)
        # Jobs come and go, and with them their series.
        job = f"slurm:{number // 180}"
        for host, encoder in encoders.items():
            body = encoder.encode(Window(now.timestamp(), rows(number, job)))
            future = receiver.commit(receiver.decode(body, now.timestamp()))
        future.result()
        if number % 36 == 0:
            live.update(now)
            Exposition(openmetrics=True).render((), [*verdicts(live), *hub_families(receiver)])
        if number % 360 == 0:
            store.seal(now)
            store.retain(age=timedelta(hours=6), now=now)
        if number in (windows // 2, windows):
            states.append(state())
    assert live.updates == windows // 36
    receiver.close()
print(json.dumps(states))
"""


@pytest.mark.parametrize(
    ("who", "code", "arguments"), [("agent", DAY, [str(NODE)]), ("hub", HUB_DAY, [])], ids=["agent", "hub"]
)
def test_a_day_of_windows_grows_nothing(
    tmp_path: Path, note: Note, who: str, code: str, arguments: list[str]
) -> None:
    windows = scale(8640, 600 if who == "agent" else 144)
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", STATE + code, *arguments, str(tmp_path), str(windows)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    early, late = json.loads(done.stdout)
    assert late["files"] <= early["files"]
    assert late["threads"] <= early["threads"]
    # Polars' allocator keeps what sealing an hour once took; a leak of 2 KiB a window would be 11 MiB.
    assert late["mib"] <= early["mib"] + 10
    note(f"windows of one accelerated day, {who}", windows, 0)
