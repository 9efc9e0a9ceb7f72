"""A real hub over a simulated fleet, in a hurry: OTLP of every node, its clock moved on window by window."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from faulty import Faults
from otlp_nodes import Nodes
from programs import Programs, fetch, free_port, until

from wellfed.analysis.scenarios import simulate

__all__ = ["VERDICTS", "Hurried"]

#: The hub's metrics: the names that alerts and dashboards may ask for.
VERDICTS = frozenset(
    {
        "wellfed_gpu_seconds_total",
        "wellfed_covered_gpu_seconds_total",
        "wellfed_lost_gpu_seconds_total",
        "wellfed_accelerator_utilization_ratio",
        "wellfed_job_gpu_seconds_total",
        "wellfed_job_lost_gpu_seconds_total",
        "wellfed_job_accelerator_utilization_ratio",
        "wellfed_finding_active",
        "wellfed_findings_dropped",
        "wellfed_hub_last_window_timestamp_seconds",
        "wellfed_hub_hosts",
        "wellfed_hub_received_points_total",
        "wellfed_hub_rejected_points_total",
    }
)
_ADDRESSES = ("--address", "--otlp-address", "--otlp-grpc-address", "--metrics-address")
#: Posts at once: what comes together shares the hub's commits.
_PARALLEL = 64
#: Seconds after its end at which a window is judged.
_GRACE = 5.0


class Hurried:
    """`wellfed hub` on free ports. start: of the scenario, whose middle is now.

    otlp, metrics: its ports. fed: windows sent. faulty: numbers of the first and the last window in which
    storage starves GPUs.
    """

    def __init__(
        self, programs: Programs, faults: Faults, folder: Path, scenario: str, seed: int = 1
    ) -> None:
        now = datetime.fromtimestamp(time.time() // 10 * 10, UTC)
        simulated = simulate(scenario, seed=seed, end=now + timedelta(minutes=30))
        tables, truth = simulated.tables, simulated.truth
        ends = tables["host"]["ts"].unique().sort()
        self.start: datetime = ends[0] - timedelta(seconds=10)
        self._parts = [{name: f.filter(pl.col("ts") == end) for name, f in tables.items()} for end in ends]
        faulty = truth.filter(pl.col("cause").str.starts_with("storage"))["ts"]
        self.faulty = (ends.search_sorted(faulty.min()), ends.search_sorted(faulty.max()))
        self._nodes = Nodes()
        self._faults = faults
        self.fed = 0
        faults.clock(self.start.timestamp() - time.time())
        ports = {flag: free_port() for flag in _ADDRESSES}
        self.otlp, self.metrics = ports["--otlp-address"], ports["--metrics-address"]
        self.process = programs.wellfed(
            "hub",
            f"--data={folder / 'store'}",
            *(f"{flag}=127.0.0.1:{port}" for flag, port in ports.items()),
            **faults.environment,
        )
        until(lambda: fetch(f"http://127.0.0.1:{self.metrics}/-/ready"), what="the hub is ready")

    def feed(self, until_window: int) -> None:
        """Sends every node's windows before this number, as agents do, and moves the hub's clock past them."""
        last = min(until_window, len(self._parts))
        while self.fed < last:
            # A hub takes what is ten minutes ahead of its clock.
            some = self._parts[self.fed : min(last, self.fed + 50)]
            bodies = [body for part in some for body in self._nodes.requests(part).values()]
            with ThreadPoolExecutor(_PARALLEL) as pool:
                assert set(pool.map(self._post, bodies)) == {200}
            self.fed += len(some)
            end = some[-1]["host"]["ts"][0].timestamp()
            self._faults.clock(end + _GRACE - time.time())
            until(lambda: self.judged() >= end, what="the windows are judged")  # noqa: B023

    def judged(self) -> float:
        """End of the last window that was judged, in epoch seconds; 0 before the first."""
        return max(self.values("wellfed_hub_last_window_timestamp_seconds"), default=0.0)

    def values(self, metric: str) -> Sequence[float]:
        """Of each of its series now."""
        lines = fetch(f"http://127.0.0.1:{self.metrics}/metrics").decode().splitlines()
        return [
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((metric + " ", metric + "{"))
        ]

    def _post(self, body: bytes) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.otlp, timeout=30)
        try:
            connection.request("POST", "/v1/metrics", body, {"content-type": "application/x-protobuf"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()
