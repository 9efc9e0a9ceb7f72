"""How fast clusters are simulated: GPU-hours a second, and what one live window costs.

Run as `python bench/scenarios.py`; prints a table, asserts nothing.
"""

from __future__ import annotations

from itertools import islice
from time import perf_counter

from wellfed.analysis.scenarios import FleetStream, simulate


def main() -> None:
    """Seconds for one job of 64 GPUs over an hour, a fleet of 1,024 over half an hour, and a live window."""
    began = perf_counter()
    simulate("healthy-llm", gpus=64)
    print(f"one job, 64 GPUs, 1 h        {perf_counter() - began:8.2f} s")
    began = perf_counter()
    simulate("nfs-slow-server", gpus=64)
    print(f"one starved job, 64 GPUs, 1 h{perf_counter() - began:8.2f} s")
    stream = FleetStream(gpus=1024)
    began = perf_counter()
    for _ in stream.history(1800.0):
        pass
    print(f"fleet, 1,024 GPUs, 0.5 h     {perf_counter() - began:8.2f} s")
    stream = FleetStream(gpus=256)
    began = perf_counter()
    slowest = last = 0.0
    for _ in islice(stream, 60):
        now = perf_counter() - began
        slowest, last = max(slowest, now - last), now
    print(f"live, 256 GPUs: one window   {last / 60 * 1e3:8.1f} ms, slowest {slowest * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
