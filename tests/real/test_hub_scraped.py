"""A real Prometheus scrapes a hub: its sums are those of the document, and they go on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import timeseries
from programs import ROOT, Programs, fetch, free_port, until

from wellfed.analysis.causes import CAUSES
from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.scenarios import simulate
from wellfed.analysis.store import Store

pytestmark = pytest.mark.real


def ask(server: str, expression: str) -> dict[str, float]:
    """Label `cause` of each series, or "", with its value."""
    answer = json.loads(fetch(f"{server}/api/v1/query?query={urllib.parse.quote(expression)}"))
    return {s["metric"].get("cause", ""): float(s["value"][1]) for s in answer["data"]["result"]}


def test_a_hub_goes_on_reading_what_a_server_holds(programs: Programs, tmp_path: Path) -> None:
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=60)
    simulation = simulate("nfs-slow-server", seed=1, gpus=16, duration=2400.0, end=end)
    url = timeseries.victoria(programs, tmp_path, timeseries.own(simulation.tables))
    metrics = free_port()
    flags = [f"--{name}=127.0.0.1:{free_port()}" for name in ("address", "otlp-address", "otlp-grpc-address")]
    hub = programs.wellfed(
        "hub",
        f"--data={tmp_path / 'store'}",
        f"--prometheus={url}",
        f"--metrics-address=127.0.0.1:{metrics}",
        *flags,
    )
    page = f"http://127.0.0.1:{metrics}/metrics"
    # The slow minutes were over before the hub started: their cause is in the counters, no finding is open.
    told = until(
        lambda: b'cause="storage.remote"' in (text := fetch(page)) and text, 90, "the verdict"
    ).decode()
    lost = sum(float(line.split()[-1]) for line in told.splitlines() if line.startswith("wellfed_lost_gpu_"))
    hub.send_signal(signal.SIGTERM)
    assert hub.wait(15) == 0
    assert "Traceback" not in hub.log.read_text()  # type: ignore[attr-defined]
    got = Store(tmp_path / "store", readonly=True).scan("gpu").collect()
    want = simulation.tables["gpu"]
    assert got.select("host", "gpu", "ts").n_unique() == got.height
    assert got.height == pytest.approx(want.height, rel=0.02)
    of_files = diagnose({name: frame.lazy() for name, frame in simulation.tables.items()}).document
    assert lost == pytest.approx(of_files["totals"]["lost_seconds"], rel=0.02)


def test_promql_sums_are_the_documents_and_survive_a_kill(
    programs: Programs, prometheus: Callable[[Sequence[int]], str], tmp_path: Path
) -> None:
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
    with Store(tmp_path / "store") as store:
        store.append(simulate("straggler-host-storage", seed=1, end=end).tables)
    metrics = free_port()

    def hub() -> subprocess.Popen[bytes]:
        flags = [
            f"--{name}=127.0.0.1:{free_port()}" for name in ("address", "otlp-address", "otlp-grpc-address")
        ]
        return programs.wellfed(
            "hub", f"--data={tmp_path / 'store'}", f"--metrics-address=127.0.0.1:{metrics}", *flags
        )

    running = hub()
    url = f"http://127.0.0.1:{metrics}/metrics"
    until(lambda: b"wellfed_lost_gpu_seconds_total" in fetch(url), 60, "the first verdict")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=fetch(url), capture_output=True, timeout=30
    )
    assert checked.returncode == 0, checked.stderr
    server = prometheus([metrics])
    until(lambda: ask(server, "wellfed_hub_last_window_timestamp_seconds"), what="a scrape")

    said = json.loads(
        subprocess.run(
            [sys.executable, "-m", "wellfed", "diagnose", f"--data={tmp_path / 'store'}", "--json"],
            capture_output=True, check=True, cwd=ROOT, timeout=120,
        ).stdout
    )  # fmt: skip
    totals = said["totals"]
    assert ask(server, "sum by (cause) (wellfed_lost_gpu_seconds_total)") == pytest.approx(totals["by_cause"])
    by_job = ask(server, "sum by (cause) (wellfed_job_lost_gpu_seconds_total)")
    # Every cause begins at zero, so that rate() sees the first loss to it.
    assert by_job == pytest.approx({**dict.fromkeys(CAUSES, 0.0), **totals["by_cause_root"]})
    assert totals["by_cause"] != totals["by_cause_root"]
    (au,) = ask(
        server,
        "1 - sum(wellfed_lost_gpu_seconds_total) / sum(wellfed_covered_gpu_seconds_total)",
    ).values()
    assert au == pytest.approx(totals["au"])

    running.send_signal(signal.SIGKILL)
    running.wait(10)
    hub()
    until(lambda: b"wellfed_lost_gpu_seconds_total" in fetch(url), 60, "the restarted hub")
    until(lambda: ask(server, "up == 1"), what="a scrape of the restarted hub")
    assert ask(server, "max(resets(wellfed_gpu_seconds_total[5m]))") == {"": 0.0}
    assert ask(server, "sum by (cause) (wellfed_lost_gpu_seconds_total)") == pytest.approx(totals["by_cause"])
