"""kill -9 at random moments while a store is appended to and sealed: what was acknowledged is there, once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

from attempts import Note, scale
from test_store_crash import WRITER, assert_whole, windows

from wellfed.analysis.store import Store


def test_a_writer_killed_anywhere_loses_and_repeats_nothing(tmp_path: Path, note: Note) -> None:
    root = tmp_path / "s"
    Store(root).close()
    path = os.pathsep.join([str(Path(__file__).parents[1]), *(p for p in sys.path if p)])
    moments = random.Random(4711)
    lives, acknowledged, pause = scale(200, 8), 0, threading.Event()
    for _ in range(lives):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(acknowledged)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline()) + 1
        # Anywhere inside an append, which takes a few milliseconds, or a sealing.
        pause.wait(moments.uniform(0, 0.04))
        writer.kill()
        rest = writer.communicate()[0].split(b"\n")[:-1]
        acknowledged = int(rest[-1]) + 1 if rest else acknowledged
        for found in windows(Store(root, readonly=True)).values():
            assert_whole(found, acknowledged)
    with Store(root) as store:
        assert (store.check(), store.problems) == ([], [])
    note("kill -9 of a store's writer while it appends and seals", lives, 0)
