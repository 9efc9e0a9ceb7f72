"""Recorded faults: the recorder works on any machine, and the analysis names what each recording holds."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.inputs import read_tables

ROOT = Path(__file__).parent.parent
RECORDINGS = sorted(path.parent for path in (ROOT / "tests/recordings").glob("*/truth.json"))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return runpy.run_path(str(ROOT / "bench/record.py"))


def test_each_recording_is_named(recorder: dict[str, Any]) -> None:
    judged = {folder.name: recorder["judge"](folder) for folder in RECORDINGS}
    assert {"cpu-healthy", "cpu-cpu"} <= judged.keys()
    assert {f"nvidia-h100-80gb-hbm3-{fault}" for fault in recorder["FAULTS"]} <= judged.keys()
    assert {name: seen["found"] for name, seen in judged.items()} == {
        name: seen["cause"] for name, seen in judged.items()
    }


def test_on_a_real_gpu_what_was_lost_is_what_the_loop_lost(recorder: dict[str, Any]) -> None:
    for folder in RECORDINGS:
        if folder.name.startswith("nvidia"):
            seen = recorder["judge"](folder)
            # The truth leaves out the seconds until the first step.
            assert abs(seen["lost"] - seen["wanted"]) <= 0.12 * seen["wanted"] + 3.0, seen


def test_a_real_gpu_is_judged_by_its_node_alone_too(recorder: dict[str, Any]) -> None:
    for folder in RECORDINGS:
        if folder.name.startswith("nvidia"):
            tables = read_tables(folder)
            document = diagnose(tables | {"step": tables["step"].head(0)}).document
            causes = {finding["cause"] for finding in document["findings"]}
            assert causes == {recorder["FAULTS"][folder.name.rpartition("-")[2]]} - {None}, folder.name


def test_a_recording_names_no_machine(recorder: dict[str, Any]) -> None:
    for folder in RECORDINGS:
        tables = read_tables(folder)
        assert tables["host"].collect()["host"].unique().to_list() == ["recorded"]
        gpus = tables["gpu"].collect()["gpu"].unique().to_list() if "gpu" in tables else []
        assert gpus == ["GPU-0"][: len(gpus)]


def test_a_fault_is_recorded_beside_the_agent_on_any_machine(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench/record.py"), "--cpu", "--faults=slow", "--seconds=4"]
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    ran = subprocess.run(
        [*command, "--window=1", f"--out={tmp_path}"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    # Four seconds are too short for a verdict, which it says by its status.
    assert ran.returncode in (0, 1), ran.stderr
    assert ran.stdout.splitlines()[1].startswith("cpu-slow")
    truth = json.loads((tmp_path / "cpu-slow/truth.json").read_text())
    assert (truth["cause"], truth["device"]) == ("storage.read", "cpu")
    assert datetime.fromisoformat(truth["from"]) < datetime.fromisoformat(truth["to"])
    tables = read_tables(tmp_path / "cpu-slow")
    step = tables["step"].collect().sort("ts")
    assert step["job"].unique().to_list() == ["recorded"]
    assert step["steps"][-1] > 0
    assert tables["host"].collect().height >= 3
    assert list(tmp_path.iterdir()) == [tmp_path / "cpu-slow"]


def test_a_wrong_fault_is_one_line(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "bench/record.py"), "--cpu", "--faults=slwo", f"--out={tmp_path}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        "no fault is called 'slwo'; there are healthy, slow, cpu, launch, copies"
    ]
