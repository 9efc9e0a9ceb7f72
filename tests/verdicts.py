"""A stand-in for the hub: the verdict metrics of a real diagnosis of simulated windows, replayed scrape by scrape."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import polars as pl

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.scenarios import simulate

__all__ = ["VERDICTS", "Replay"]

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
WINDOW = timedelta(seconds=10)
#: Windows of quiet after which a finding counts as over.
OFF_WINDOWS = 6


class Replay:
    """Serves /metrics on a port of loopback. Each scrape moves the replay `speed` windows ahead; jump skips."""

    def __init__(self, scenario: str, seed: int = 1) -> None:
        tables = simulate(scenario, seed=seed).tables
        answer = diagnose({name: frame.lazy() for name, frame in tables.items()})
        self._windows, self._shares = answer.windows, answer.shares
        self._findings: list[dict[str, Any]] = answer.document["findings"]
        self.start = self.now = datetime.fromisoformat(answer.document["from"])
        self.job: str = answer.document["jobs"][0]["job"]
        self.speed = 1
        self._lock = threading.Lock()
        replay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = replay.scrape().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Replay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def jump(self, minutes: float) -> None:
        """Goes on from this many minutes after the start."""
        with self._lock:
            self.now = max(self.now, self.start + timedelta(minutes=minutes))

    def scrape(self) -> str:
        """The metrics as of the next window."""
        with self._lock:
            self.now += self.speed * WINDOW
            now = self.now
        windows = self._windows.filter(pl.col("ts") <= now).with_columns(pl.col("job").fill_null(""))
        shares = self._shares.filter(pl.col("ts") <= now).with_columns(pl.col("job").fill_null(""))
        seconds = pl.len() * WINDOW.total_seconds()
        lines = [
            *_lines("wellfed_gpu_seconds_total", windows, ["host", "gpu", "job"], seconds),
            *_lines(
                "wellfed_covered_gpu_seconds_total",
                windows,
                ["host", "gpu", "job"],
                pl.col("covered_seconds").sum(),
            ),
            *_lines(
                "wellfed_lost_gpu_seconds_total",
                shares,
                ["host", "gpu", "job", "cause"],
                pl.col("lost_seconds").sum(),
            ),
            *_lines("wellfed_job_gpu_seconds_total", windows, ["job"], seconds),
            *_lines(
                "wellfed_job_lost_gpu_seconds_total", shares, ["job", "cause"], pl.col("lost_seconds").sum()
            ),
        ]
        utilization = 1 - pl.col("lost_seconds").sum() / pl.col("covered_seconds").sum()
        last = windows.filter(pl.col("ts") == now)
        lines += _lines("wellfed_accelerator_utilization_ratio", last, ["host", "gpu", "job"], utilization)
        lines += _lines("wellfed_job_accelerator_utilization_ratio", last, ["job"], utilization)
        lines += [_active(finding) for finding in self._findings if _open(finding, now)]
        hosts = windows["host"].n_unique()
        lines += [
            "wellfed_findings_dropped 0",
            f"wellfed_hub_last_window_timestamp_seconds {now.timestamp():.0f}",
            f'wellfed_hub_hosts{{state="fresh"}} {hosts}',
            'wellfed_hub_hosts{state="stale"} 0',
            f"wellfed_hub_received_points_total {windows.height}",
            'wellfed_hub_rejected_points_total{reason="limit"} 0',
        ]
        return "\n".join(lines) + "\n"


def _lines(name: str, rows: pl.DataFrame, keys: list[str], value: pl.Expr) -> list[str]:
    found = rows.group_by(keys).agg(value.alias("value"))
    return [f"{name}{{{_labels(row)}}} {row['value']}" for row in found.iter_rows(named=True)]


def _labels(row: Mapping[str, Any]) -> str:
    return ",".join(f'{key}="{text}"' for key, text in row.items() if key != "value")


def _open(finding: Mapping[str, Any], now: datetime) -> bool:
    ends = finding["end"]
    over = ends is not None and now > datetime.fromisoformat(ends) + OFF_WINDOWS * WINDOW
    return datetime.fromisoformat(finding["detected"]) <= now and not over


def _active(finding: Mapping[str, Any]) -> str:
    scope = finding["scope"]
    host = scope["hosts"][0] if len(scope["hosts"]) == 1 else ""
    labels = {
        "cause": finding["cause"],
        "severity": finding["severity"],
        "job": scope["job"] or "",
        "host": host,
        "resource": scope["resource"] or "",
    }
    return f"wellfed_finding_active{{{_labels(labels)}}} 1"
