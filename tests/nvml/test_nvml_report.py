"""The report on a machine's driver, against the scripted one; and on real hardware where there is some."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.nvml.conftest import ROOT, Node
from wellfed.collectors.nvml import Nvml
from wellfed.collectors.registry import Roots, Row


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wellfed.collectors.nvml_report"]
    return subprocess.run(
        command, env=environment | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=120
    )


def test_the_report_tells_latencies_fields_metrics_and_sample_periods(node: Node) -> None:
    node.script({"gpus": 1, "field:138": 3, "metric:5": None})
    done = run(node.environment)
    assert done.returncode == 0, done.stderr
    assert "GPU 0 GPU-00000000 Fake H100 at 0000:10:00.0" in done.stdout
    assert "field 138 (nvlink_tx_bytes): not supported by this GPU" in done.stdout
    assert "samples of utilisation: 20.0 ms apart" in done.stdout
    assert "nvmlDeviceGetFieldValues: " in done.stdout
    assert "GPM, a pair of samples, the graphics engine's activity: " in done.stdout
    known = next(line for line in done.stdout.splitlines() if "known: " in line)
    assert "sm_active_seconds" in known
    assert "tensor_active_seconds" not in known


def test_without_a_driver_the_report_is_one_line(node: Node) -> None:
    node.script(driver=9)
    done = run(node.environment)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the NVIDIA driver is not loaded\n")


@pytest.mark.gpu
def test_a_real_gpu_is_reported_and_collected() -> None:
    done = run(dict(os.environ))
    if done.returncode:
        pytest.skip(done.stderr.strip())
    print(done.stdout)
    assert "a read: first" in done.stdout
    collector = Nvml()
    try:
        deadline = time.monotonic() + 60
        rows: list[Row] = []
        while not any(row.values.get("observed_seconds") for row in rows):
            assert time.monotonic() < deadline, (collector.reason, rows)
            rows = collector.read(Roots(), time.time())
            time.sleep(0.05)
    finally:
        collector.close()
    print(collector.reason, *rows, sep="\n")
    assert all(row.key[0].startswith(("GPU-", "MIG-")) for row in rows)
