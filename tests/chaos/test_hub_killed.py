"""kill -9 of a hub at random moments, while it starts, takes OTLP, judges and seals: what it acknowledged is there."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from attempts import Note, scale
from programs import ROOT, fetch, free_port, until

from wellfed.analysis.store import Store
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window

LIVES = scale(100, 3)
ADDRESSES = ("--address", "--otlp-address", "--otlp-grpc-address", "--metrics-address")
#: Seconds between the ends of two windows: hours end often, and are sealed while others are taken.
STEP = 60
#: A hub that does at once what it else does each second or minute.
HURRY = """
import sys
from wellfed import hub
from wellfed.analysis import receiver
from wellfed.cli import main
hub.KEEP_INTERVAL, hub.LOOK_INTERVAL = 0.03, 0.2
receiver.PAUSE = receiver.GATHER = 0.0
sys.exit(main(["hub", *sys.argv[1:]]))
"""


class Sender:
    """Posts numbered windows of a day and a half ago, each until it is acknowledged. sure: how many are."""

    def __init__(self, port: int) -> None:
        self.sure = 0
        self._port = port
        self._start = time.time() // 3600 * 3600 - 36 * 3600
        self._encoder = Encoder({"host.name": "n1"})

    def window(self, number: int) -> bytes:
        rows = [
            Row("host", (), {"load1": float(number)}),
            Row("gpu", ("GPU-1",), {"active_seconds": float(number), "observed_seconds": 10.0 * number}),
        ]
        return self._encoder.encode(Window(self._start + STEP * (number + 1), rows))

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; the connection may break at any time."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        headers = {"content-type": "application/x-protobuf"}
        while not stop.is_set() and self.sure < 34 * 3600 // STEP:
            # Now and then an old one again: it comes late, into an hour that is sealed.
            number = self.sure // 2 if self.sure % 7 == 3 else self.sure
            try:
                for each in {number, self.sure}:
                    connection.request("POST", "/v1/metrics", self.window(each), headers)
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                stop.wait(0.02)
                continue
            self.sure += 1
        connection.close()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("seed", range(2))
def test_a_hub_killed_anywhere_loses_and_repeats_nothing_it_acknowledged(
    tmp_path: Path, note: Note, stop: threading.Event, seed: int
) -> None:
    draw, pause, root = random.Random(seed), threading.Event(), tmp_path / "store"
    ports = {flag: free_port() for flag in ADDRESSES}
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    addresses = [f"{flag}=127.0.0.1:{port}" for flag, port in ports.items()]
    command = [sys.executable, "-c", HURRY, f"--data={root}", *addresses]
    sender = Sender(ports["--otlp-address"])
    sending = threading.Thread(target=sender.run, args=(stop,))
    sending.start()

    def live(seconds: float, ready: bool) -> None:
        with (tmp_path / "log").open("ab") as log:
            hub = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path})
        try:
            if ready:
                until(
                    lambda: fetch(f"http://127.0.0.1:{ports['--metrics-address']}/-/ready"),
                    60,
                    f"the hub starts again after {(tmp_path / 'log').read_text()[-2000:]}",
                )
            pause.wait(seconds)
        finally:
            hub.kill()
            hub.wait()

    for _ in range(LIVES):
        early = draw.random() < 0.25
        live(draw.uniform(0.0, 1.5) if early else draw.uniform(0.0, 1.0), not early)
        whole(root, sender.sure)
    live(1.0, ready=True)
    stop.set()
    sending.join()
    assert sender.sure > LIVES
    assert whole(root, sender.sure) >= sender.sure
    assert list(root.glob("host/*.parquet"))
    with Store(root) as store:
        assert (store.check(), store.problems) == ([], [])
    assert "Traceback" not in (tmp_path / "log").read_text()
    note("kill -9 of a hub that takes OTLP, judges and seals", LIVES, 0)


def whole(root: Path, sure: int) -> int:
    """How many windows are held: all acknowledged ones once and as sent, and at most what was under way."""
    if not root.is_dir():
        return 0
    with Store(root, readonly=True) as store:
        for table, column in (("host", "load1"), ("gpu", "active_seconds")):
            rows = store.scan(table).select("ts", pl.col(column).cast(int)).collect().sort("ts")
            numbers = rows[column].to_list()
            # More may have been acknowledged since `sure` was read.
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= sure
            assert rows["ts"].diff().drop_nulls().dt.total_seconds().unique().to_list() in ([], [STEP])
        assert store.problems == []
        return len(numbers)
