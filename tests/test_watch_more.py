"""wellfed.watch in harder places: loops in loops, odd arguments, several GPUs, frameworks, OTLP."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import wellfed
import wellfed.otlp
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.registry import Roots
from wellfed.collectors.steps import Steps

module: Any = importlib.import_module("wellfed.watch")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    recorder = module._Recorder()
    monkeypatch.setattr(recorder, "start", lambda: None)
    monkeypatch.setattr(module, "_recorder", recorder)
    monkeypatch.setattr(module.time, "perf_counter", ticking)
    return ticking


def loader(clock: Clock, wait: float, count: int) -> Iterator[int]:
    for index in range(count):
        clock.now += wait
        yield index


def test_an_evaluation_loop_inside_a_phase_is_part_of_that_phase_alone(clock: Clock) -> None:
    for _ in wellfed.watch(loader(clock, 0.5, 2)):
        with wellfed.step():
            clock.now += 1.0
    with wellfed.phase("eval"):
        for _ in wellfed.watch(loader(clock, 0.25, 4)):
            with wellfed.step(), wellfed.phase("h2d"):
                clock.now += 0.25
    found = wellfed.totals()
    assert (found["steps"], found["data_wait_seconds"], found["compute_seconds"]) == (2, 1.0, 2.0)
    assert (found["eval_seconds"], found["h2d_seconds"]) == (2.0, 0.0)


def test_a_long_step_is_seen_while_it_runs_and_no_total_ever_falls(clock: Clock) -> None:
    seen = []
    for _ in wellfed.watch(loader(clock, 30.0, 2)):
        seen.append(wellfed.totals())
        with wellfed.step():
            clock.now += 20.0
            seen.append(wellfed.totals())
            with wellfed.phase("checkpoint"):
                clock.now += 5.0
                seen.append(wellfed.totals())
            seen.append(wellfed.totals())
        seen.append(wellfed.totals())
        clock.now += 1.0
        seen.append(wellfed.totals())
    assert (seen[1]["compute_seconds"], seen[1]["step_seconds"]) == (20.0, 50.0)
    assert (seen[2]["checkpoint_seconds"], seen[2]["compute_seconds"]) == (5.0, 20.0)
    for before, after in itertools.pairwise(seen):
        assert all((after[name] or 0) >= (value or 0) for name, value in before.items())
    assert wellfed.totals()["step_seconds"] == 111.0
    clock.now += 100.0
    assert wellfed.totals() == {**seen[-1], "step_seconds": 111.0}


class Weird:
    is_cuda = True

    def __int__(self) -> int:
        raise AssertionError("read from the GPU, which would wait for it")


@pytest.mark.parametrize(
    ("samples", "counted"), [(8, 8), (8.0, 8), ("x", 0), (None, 0), (Weird(), 0), (-3, 0), (True, 1)]
)
def test_no_argument_raises_into_the_loop(clock: Clock, samples: Any, counted: int) -> None:
    with wellfed.step(samples=samples, tokens=samples):
        pass
    with wellfed.phase(samples):
        pass
    module.spent(samples, 1.0)
    assert (wellfed.totals()["samples"], wellfed.totals()["tokens"]) == (counted, counted)
    assert json.dumps(wellfed.totals())


def test_a_queue_that_cannot_tell_its_depth_tells_nothing(clock: Clock) -> None:
    for _ in wellfed.watch([1], queue_depth=lambda: 1 / 0):
        pass
    assert wellfed.totals()["queue_depth"] is None


def test_time_that_a_framework_measured_is_booked(clock: Clock) -> None:
    module.spent("checkpoint", 2.0)
    module.spent("checkpoint", -5.0)
    module.spent("coffee", 2.0)
    assert wellfed.totals()["checkpoint_seconds"] == 2.0


def test_the_gpu_is_that_of_the_loops_own_thread(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        initialized = False

        @classmethod
        def is_initialized(cls) -> bool:
            return cls.initialized

        @staticmethod
        def current_device() -> int:
            return 3

        @staticmethod
        def get_device_properties(device: int) -> Any:
            return types.SimpleNamespace(uuid=f"uuid-{device}")

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=Cuda))  # type: ignore[arg-type]
    for turn in range(8):
        # CUDA is often first used inside the loop.
        Cuda.initialized = turn > 2
        with wellfed.step():
            pass
    monkeypatch.delitem(sys.modules, "torch")
    assert module.identity()["gpu"] == "GPU-uuid-3"


def test_a_rank_whose_process_holds_one_gpu_is_on_that_gpu(tmp_path: Path) -> None:
    path = str(tmp_path / "steps.sock")
    collector, roots = Steps(path), Roots()
    collector.read(roots, 0.0)
    roots.board.hold("nvml", {"MIG-1": [os.getpid()], "GPU-2": [1]})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(json.dumps({"version": 1, "gpu": "GPU-1", "run": "r", "steps": 1}).encode(), path)
    (row,) = collector.read(roots, 0.0)
    assert row.info == {"gpu": "MIG-1", "run": "r"}
    assert roots.board.ranks[0].run == "r"
    collector.close()


@pytest.fixture
def callback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The Trainer's callback over a stand-in for transformers, which is not needed for its tests."""
    stub = types.ModuleType("transformers")
    stub.TrainerCallback = type("TrainerCallback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", stub)
    monkeypatch.delitem(sys.modules, "wellfed.integrations.transformers", raising=False)
    from wellfed.integrations.transformers import WellfedCallback

    yield WellfedCallback()
    sys.modules.pop("wellfed.integrations.transformers", None)


def test_a_trainers_events_are_told_apart(clock: Clock, callback: Any) -> None:
    args = types.SimpleNamespace(train_batch_size=4, gradient_accumulation_steps=2)

    def event(name: str, after: float) -> None:
        clock.now += after
        getattr(callback, name)(args, None, None, model=None)

    event("on_evaluate", 5.0)
    event("on_train_begin", 1.0)
    for _ in range(3):
        event("on_step_begin", 0.5)
        event("on_step_end", 2.0)
    event("on_evaluate", 3.0)
    event("on_save", 1.5)
    event("on_step_begin", 0.5)
    event("on_step_end", 2.0)
    event("on_train_end", 0.5)
    event("on_evaluate", 60.0)
    found = wellfed.totals()
    assert (found["steps"], found["samples"]) == (4, 32)
    assert found["data_wait_seconds"] == 2.0
    assert found["compute_seconds"] == 8.0
    assert (found["eval_seconds"], found["checkpoint_seconds"]) == (3.0, 1.5)


def test_otlp_sends_what_the_agent_would(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WELLFED_RUN", "run-9")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    wellfed.otlp.export(provider, job="llama")
    for _ in wellfed.watch(loader(clock, 0.5, 2)):
        clock.now += 1.0
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for m in data.resource_metrics[0].scope_metrics[0].metrics}
    known = {c.otlp.name: c for c in TABLES["step"].signals}
    assert set(metrics) <= known.keys() | {"wellfed.step.info"}
    waited = metrics["wellfed.step.data_wait_seconds"]
    (point,) = waited.data.data_points
    assert (point.value, waited.unit) == (1.0, "s")
    assert point.attributes == {"job": "llama", "rank": "5"}
    assert waited.data.is_monotonic
    (told,) = metrics["wellfed.step.info"].data.data_points
    assert told.attributes == {"job": "llama", "rank": "5", "run": "run-9"}
    provider.shutdown()


def test_without_an_exporter_otlp_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with pytest.raises(ImportError, match="pip install opentelemetry-exporter-otlp-proto-http"):
        wellfed.otlp.export()


def test_a_loop_imports_neither_a_framework_nor_the_agent() -> None:
    code = "import sys, wellfed; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'transformers', 'opentelemetry', 'polars') or m.startswith('wellfed.collectors')])"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.stdout == "[]\n"
