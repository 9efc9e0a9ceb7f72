"""kill -9 at random moments while windows are spooled: what was accepted is there, in order, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from attempts import Note, scale
from test_spool import drain

from wellfed.collectors.spool import Spool

WRITER = """
import sys
from wellfed.collectors.spool import Spool
spool = Spool(sys.argv[1], 10**9, 1e9)
for index in range(int(sys.argv[2]), 10**9):
    spool.put(float(index), b"%d" % index)
    print(index, flush=True)
"""


def test_a_writer_killed_anywhere_loses_no_accepted_record(tmp_path: Path, note: Note) -> None:
    draw, lives = random.Random(4711), scale(200, 10)
    folder, first = str(tmp_path / "s"), 0
    for _ in range(lives):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, folder, str(first)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert writer.stdout is not None
        said = [writer.stdout.readline()]
        killer = threading.Timer(draw.expovariate(20), writer.send_signal, [signal.SIGKILL])
        killer.start()
        said += writer.stdout.read().splitlines(keepends=True)
        writer.stdout.close()
        writer.wait()
        accepted = [int(line) for line in said if line.endswith("\n")]
        spool = Spool(folder, 10**9, 1e12)
        found = [int(body) for body in drain(spool)]
        # The last one may have been put without a chance to say so.
        assert found in (accepted, [*accepted, accepted[-1] + 1])
        assert spool.corrupt == 0
        first = found[-1] + 1
    note("kill -9 of a spool's writer", lives, 0)
