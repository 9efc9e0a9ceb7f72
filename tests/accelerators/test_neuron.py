"""AWS Neuron, through a script that stands in for neuron-monitor."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.neuron import Neuron, parse
from wellfed.collectors.registry import Roots, Row


def report(busy: dict[str, float] | None = None, period: float = 1.0) -> dict[str, object]:
    """A line of a node with two devices of two cores."""
    runtime = {
        "pid": 4242,
        "report": {
            "neuroncore_counters": {
                "period": period,
                "neuroncores_in_use": {
                    core: {"neuroncore_utilization": share} for core, share in (busy or {}).items()
                },
                "error": "",
            },
            "memory_used": {
                "neuron_runtime_used_bytes": {
                    "host": 610705408,
                    "neuron_device": 3000,
                    "usage_breakdown": {
                        "neuroncore_memory_usage": {
                            core: {"constants": 1000, "tensors": 500} for core in busy or {}
                        }
                    },
                }
            },
        },
    }
    return {
        "neuron_runtime_data": [runtime] if busy else [],
        "system_data": {
            "neuron_hw_counters": {
                "period": period,
                "neuron_devices": [
                    {
                        "neuron_device_index": 1,
                        "mem_ecc_corrected": 3,
                        "sram_ecc_corrected": 1,
                        "mem_ecc_uncorrected": 0,
                    }
                ],
            }
        },
        "instance_info": {"instance_id": "i-0123", "instance_type": "trn1.2xlarge"},
        "neuron_hardware_info": {
            "neuron_device_count": 2,
            "neuroncore_per_device_count": 2,
            "neuron_device_memory_size": 34359738368,
        },
    }


def monitor(folder: Path, body: str) -> None:
    program = folder / "neuron-monitor"
    program.write_text(f"#!{sys.executable}\nimport json, sys, time\n{body}\n")
    program.chmod(0o755)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Neuron]:
    collector = Neuron(str(tmp_path))
    yield collector
    collector.close()


def until(collector: Neuron, satisfied: Callable[[dict[str, Row]], object]) -> dict[str, Row]:
    deadline = time.monotonic() + 10
    while True:
        rows = {row.key[0]: row for row in collector.read(Roots(), 0.0)}
        if satisfied(rows):
            return rows
        assert time.monotonic() < deadline, (collector.reason, rows)
        time.sleep(0.01)


def test_every_line_is_integrated_over_its_own_period(tmp_path: Path, collector: Neuron) -> None:
    lines = [report({"0": 80.0, "1": 40.0}), report({"0": 20.0, "2": 100.0}, period=3.0), report()]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    monitor(tmp_path, f"sys.stdout.write({text!r}); sys.stdout.flush(); time.sleep(60)")
    rows = until(collector, lambda rows: rows and rows["neuron-i-0123-0"].values["observed_seconds"] == 5.0)
    first, second = rows["neuron-i-0123-0"], rows["neuron-i-0123-1"]
    assert first.values["active_seconds"] == pytest.approx(0.8 + 0.2 * 3)
    assert first.values["sm_active_seconds"] == pytest.approx(0.6 + 0.1 * 3)
    assert first.values["idle_seconds"] == 1.0
    assert second.values["active_seconds"] == pytest.approx(3.0)
    assert second.values["sm_active_seconds"] == pytest.approx(1.5)
    assert second.values["ecc_corrected"] == 4
    assert second.values["ecc_uncorrected"] == 0
    assert first.values["ecc_corrected"] is None
    assert first.info == {"vendor": "neuron", "model": "trn1.2xlarge", "index": "0"}


def test_memory_and_processes_are_those_of_the_last_line(tmp_path: Path, collector: Neuron) -> None:
    text = json.dumps(report({"2": 10.0, "3": 10.0})) + "\n"
    monitor(tmp_path, f"sys.stdout.write({text!r}); sys.stdout.flush(); time.sleep(60)")
    rows = until(collector, lambda rows: rows)
    assert rows["neuron-i-0123-1"].values["memory_used_bytes"] == 3000
    assert rows["neuron-i-0123-1"].values["memory_total_bytes"] == 32 << 30
    assert rows["neuron-i-0123-1"].values["processes"] == 1
    assert collector.holders() == {"neuron-i-0123-0": [], "neuron-i-0123-1": [4242]}


def test_it_asks_for_one_line_a_second(tmp_path: Path, collector: Neuron) -> None:
    line = json.dumps(report())
    asked = tmp_path / "asked"
    monitor(
        tmp_path,
        f"open({str(asked)!r}, 'w').write(open(sys.argv[2]).read())\n"
        f"print({line!r}, flush=True); time.sleep(60)",
    )
    until(collector, lambda rows: rows)
    assert json.loads(asked.read_text())["period"] == "1s"


def test_a_monitor_that_ends_is_started_again_and_sums_go_on(tmp_path: Path, collector: Neuron) -> None:
    line = json.dumps(report({"0": 50.0}))
    monitor(tmp_path, f"print({line!r}, flush=True); sys.exit(3)")
    until(collector, lambda rows: rows and not rows["neuron-i-0123-0"].values)
    assert collector.reason == "neuron-monitor ended with status 3"
    monitor(tmp_path, f"print({line!r}, flush=True); time.sleep(60)")
    rows = until(collector, lambda rows: rows and rows["neuron-i-0123-0"].values)
    assert rows["neuron-i-0123-0"].values["observed_seconds"] == 2.0


def test_without_the_program_there_is_a_reason(collector: Neuron) -> None:
    assert collector.read(Roots(), 0.0) == []
    assert collector.reason == "no AWS Neuron: neuron-monitor not found"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_other_output_is_one_clear_error(document: object) -> None:
    with pytest.raises(ValueError):
        parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(report({"0": 50.0})).replace("4242", "1e311").encode(),
        json.dumps(report())
        .replace('"neuron_device_count": 2', '"neuron_device_count": 1000000000')
        .encode(),
        b"[" * 100_000,
    ],
    ids=["a pid without end", "a billion devices", "nested without end"],
)
def test_a_line_beyond_reason_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse(line)
