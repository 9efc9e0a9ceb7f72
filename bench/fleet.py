"""How many agents one hub takes: simulated agents, more and more, each with a window every ten seconds.

    python -m bench.fleet [--agents 250 500 1000 ...] [--storm 18] [--part receiver]

Every agent keeps a connection and sends some 2,900 points, gzip, at its own moment of the ten seconds, whether
or not others were answered; one that is told 429 comes back after the time it is told, and skips the windows
that are due until then. For each number of agents: windows until the hub knows the new ones (a storm), then
three that are measured. The knee is the first number at which less than 98 % of the windows is acknowledged, p99
of an acknowledgement takes longer than a window, or the storm does not end; numbers asked for go on past it. At
the end the hub is killed, and its store must hold every window that was acknowledged.

--part receiver: OTLP and store alone, without judging and pages. The senders share the cores with the hub; it
only prints.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from bench.receiver import ROOT, node_rows, wait
from wellfed.analysis.receiver_learn import learn
from wellfed.analysis.store import Store
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.sampler import Window

WINDOW = 10.0
MEASURED = 3
RAMP = (250, 500, 1000, 2000, 4000, 6000, 8000, 12_500)
NAME = "node{:06d}"
#: OTLP and store alone: what `wellfed hub` does with requests, without its pages and verdicts.
RECEIVER = """
import sys, threading
from wellfed.analysis.receiver import Limits, Receiver
from wellfed.analysis.store import Store
from wellfed.collectors.http import Endpoint, Response
from wellfed.ingest import Ingest
from wellfed.otlp_server import OtlpServer
from wellfed.serve import bind
with Store(sys.argv[1]) as store:
    receiver = Receiver(store)
    server = OtlpServer(Ingest(receiver, None), bind(sys.argv[2]))
    server.start()
    Endpoint(sys.argv[3], {"/-/ready": lambda _: Response(b"ready")}).start()
    threading.Event().wait()
"""


class Bodies:
    """Gzipped requests that differ in the host's name and the time: the rest is compressed once a window."""

    def __init__(self) -> None:
        self._encoder = Encoder({"host.name": NAME.format(0), "service.name": "wellfed-agent"})
        self._rows = node_rows()
        self.points = learn(self._encoder.encode(Window(time.time() // 10 * 10, self._rows))).kind.points

    def window(self, ts: float) -> None:
        """Makes the requests of a window."""
        for row in self._rows:
            for name, value in row.values.items():
                row.values[name] = (value or 0.0) + 3.25
        body = self._encoder.encode(Window(ts, self._rows))
        name = NAME.format(0).encode()
        cut = body.rindex(name, 0, 4096) + len(name)
        self._head, tail = body[:cut], body[cut:]
        packer = zlib.compressobj(1, wbits=-15)
        self._tail = packer.compress(tail) + packer.flush()
        self._crc, self.size = zlib.crc32(tail), len(body)
        # CRC-32 is linear: what a head's checksum becomes behind so many bytes is a sum over its bits.
        zeros = bytes(len(tail))
        nothing = zlib.crc32(zeros, 0)
        self._shift = [zlib.crc32(zeros, 1 << bit) ^ nothing for bit in range(32)]

    def of(self, number: int) -> bytes:
        """The request of one agent."""
        head = self._head.replace(NAME.format(0).encode(), NAME.format(number).encode())
        packer = zlib.compressobj(1, wbits=-15)
        start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
        crc, left, bit = self._crc, zlib.crc32(head), 0
        while left:
            if left & 1:
                crc ^= self._shift[bit]
            left, bit = left >> 1, bit + 1
        sums = struct.pack("<II", crc, self.size)
        return b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + start + self._tail + sums


@dataclass(slots=True)
class Seen:
    """What became of the windows of a stretch. waits: seconds until each was acknowledged. kept: agent and end
    of those. late: seconds that the senders themselves were late at most. told: longest Retry-After."""

    waits: list[float] = field(default_factory=list)
    kept: list[tuple[int, float]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    late: float = 0.0
    told: float = 0.0


class Agent:
    """One agent with its kept connection."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self._port = port
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._busy = False
        self._after = 0.0

    async def send(self, body: bytes, ts: float, due: float, seen: Seen) -> None:
        began = time.monotonic()
        seen.late = max(seen.late, began - due)
        if self._busy:
            # A real one would spool this window until the one before is acknowledged.
            seen.statuses["spooled"] += 1
            return
        self._busy = True
        try:
            while (status := await asyncio.wait_for(self._post(body), 3 * WINDOW)) == "429":
                seen.statuses[status] += 1
                seen.told = max(seen.told, self._after)
                await asyncio.sleep(self._after)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            status = type(error).__name__
            self._drop()
        finally:
            self._busy = False
        seen.statuses[status] += 1
        if status == "200":
            seen.waits.append(time.monotonic() - began)
            seen.kept.append((self.number, ts))

    async def _post(self, body: bytes) -> str:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        self._writer.write(
            b"POST /v1/metrics HTTP/1.1\r\nhost: hub\r\ncontent-type: application/x-protobuf\r\n"
            b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        await self._reader.readexactly(length)
        self._after = float(head.partition(b"retry-after:")[2].partition(b"\r\n")[0] or 1)
        if b"connection: close" in head:
            self._drop()
        return head.split(b" ", 2)[1].decode()

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Fleet:
    """All agents and what they know was acknowledged. kept: agent and end of each window."""

    def __init__(self, port: int, bodies: Bodies) -> None:
        self.agents: list[Agent] = []
        self.kept: set[tuple[int, float]] = set()
        self._port, self._bodies = port, bodies
        self._ts = 0.0

    def grow(self, count: int) -> None:
        """That many agents in all."""
        self.agents += [Agent(number, self._port) for number in range(len(self.agents), count)]

    async def drive(self, windows: int) -> Seen:
        """Each agent sends each window at its own moment. Waits for the last answers."""
        seen, tasks = Seen(), []
        begin = time.monotonic()
        for window in range(windows):
            self._ts = max(self._ts + WINDOW, time.time() // WINDOW * WINDOW)
            self._bodies.window(self._ts)
            start = begin + WINDOW * window
            for at, agent in enumerate(self.agents):
                due = start + WINDOW * at / len(self.agents)
                while (left := due - time.monotonic()) > 0.002:
                    await asyncio.sleep(left)
                body = self._bodies.of(agent.number)
                tasks.append(asyncio.create_task(agent.send(body, self._ts, due, seen)))
                if at % 8 == 0:
                    await asyncio.sleep(0)
            while (left := start + WINDOW - time.monotonic()) > 0:
                await asyncio.sleep(left)
        await asyncio.gather(*tasks)
        self.kept.update(seen.kept)
        return seen


async def ramp(
    steps: Sequence[int], longest: int, whole: bool, fleet: Fleet, hub: psutil.Process, points: int
) -> None:
    """Prints a line for each number of agents. longest: windows that a storm may take. whole: past the knee."""
    print(
        f"{'agents':>7}{'offered, points/s':>19}{'acknowledged':>14}{'taken/s':>9}{'p50, s':>8}{'p99, s':>8}{'max, s':>8}"
        f"{'hub, cores':>12}{'RSS, MiB':>10}{'peak':>7}{'senders late, s':>17}{'storm, windows':>16}  other answers"
    )
    knee = 0
    for count in steps:
        fleet.grow(count)
        storm, known = 0, False
        while storm < longest and not known:
            fresh = await fleet.drive(1)
            storm, known = storm + 1, len(fresh.waits) == count == fresh.statuses.total()
        used, began = hub.cpu_times(), time.monotonic()
        seen = await fleet.drive(MEASURED)
        spent, took = hub.cpu_times(), time.monotonic() - began
        cores = (spent.user + spent.system - used.user - used.system) / took
        waits = sorted(seen.waits) or [float("nan")]
        share = len(seen.waits) / (count * MEASURED)
        other = {status: n for status, n in seen.statuses.items() if status != "200"}
        other |= {"Retry-After up to": int(seen.told)} if seen.told else {}
        p50, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
        print(
            f"{count:7,}{count * points / WINDOW:19,.0f}{share:14.1%}{len(seen.waits) / took:9,.0f}{p50:8.2f}{p99:8.2f}"
            f"{waits[-1]:8.2f}{cores:12.2f}{hub.memory_info().rss / 2**20:10,.0f}{peak(hub.pid):7,.0f}{seen.late:17.2f}"
            f"{storm:11} {'     ' if known else 'never'}  {other or '-'}",
            flush=True,
        )
        if not knee and (share < 0.98 or p99 > WINDOW or not known):
            knee = count
            if not whole:
                break
    print(f"knee: below {knee:,} agents" if knee else f"no knee up to {steps[-1]:,} agents")


def peak(pid: int) -> float:
    """MiB that a process had at most."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def missing(folder: str, kept: set[tuple[int, float]]) -> int:
    """How many acknowledged windows a store does not hold."""
    with Store(folder) as store:
        rows = store.scan("host").select("host", "ts").collect()
    held = {(host, ts.timestamp()) for host, ts in rows.iter_rows()}
    return sum((NAME.format(number), ts) not in held for number, ts in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", help=f"default: {RAMP}, up to the knee")
    parser.add_argument("--storm", type=int, default=18, help="windows that a storm may take")
    parser.add_argument("--part", choices=["hub", "receiver"], default="hub")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bodies = Bodies()
    bodies.window(time.time() // 10 * 10)
    print(
        f"{options.part}: {bodies.points:,} points a request, {len(bodies.of(1)) / 1024:.0f} KiB gzip, "
        f"{bodies.size / 1024:.0f} KiB plain, {os.cpu_count()} cores shared with the senders"
    )
    with tempfile.TemporaryDirectory() as folder:
        ports = [18300 + 7 * (os.getpid() % 80) + n for n in range(3)]
        pages, otlp, metrics = (f"127.0.0.1:{port}" for port in ports)
        command = [sys.executable, "-c", RECEIVER, f"{folder}/s", otlp, metrics]
        if options.part == "hub":
            command = [sys.executable, "-m", "wellfed", "hub", f"--data={folder}/s", "--otlp-grpc-address="]
            command += [f"--address={pages}", f"--otlp-address={otlp}", f"--metrics-address={metrics}"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            wait(f"http://{metrics}/-/ready")
            fleet, hub = Fleet(ports[1], bodies), psutil.Process(process.pid)
            steps = options.agents or RAMP
            asyncio.run(ramp(steps, options.storm, bool(options.agents), fleet, hub, bodies.points))
        finally:
            process.kill()
            process.wait()
        print(
            f"killed: {missing(f'{folder}/s', fleet.kept):,} of {len(fleet.kept):,} acknowledged windows missing"
        )


if __name__ == "__main__":
    main()
