"""The pages behind the fleet name what the simulator broke: stage, mount, port, server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import plotly
import pytest

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.scenarios import simulate
from wellfed.dashboard import app
from wellfed.dashboard.data import Answer
from wellfed.dashboard.ports import highest, is_crowded, port_rows
from wellfed.dashboard.ranges import Range
from wellfed.dashboard.stages import grid, stages
from wellfed.dashboard.targets import slow_targets

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Scenario:
    """A source over one scenario of the simulator."""

    simulated = True

    def __init__(self, name: str, **more: int) -> None:
        made = simulate(name, seed=5, end=NOW, **more)
        tables = {table: frame.lazy() for table, frame in made.tables.items()}
        shown = Range("1h", NOW - timedelta(hours=1), NOW, True)
        self.made = Answer(shown, tables, diagnose(tables, price=2.0), NOW, NOW)

    def answer(self, wanted: Range) -> Answer:
        return self.made

    def verdict(self, path: str) -> str:
        """The sentence of a page."""
        page = app.page(self, path, "")
        tree = json.loads(json.dumps(list(page.main), cls=plotly.utils.PlotlyJSONEncoder))
        return words(find(tree))


def find(tree: object) -> object:
    if isinstance(tree, dict):
        if tree.get("id") == "verdict":
            return tree["children"]
        tree = list(tree.values())
    return next((found for part in tree if (found := find(part))), None) if isinstance(tree, list) else None


def words(tree: object) -> str:
    if isinstance(tree, dict):
        return words(tree["props"].get("children", "") if "props" in tree else "")
    return "".join(map(words, tree)) if isinstance(tree, list) else str(tree or "")


@pytest.fixture(scope="module")
def slow_server() -> Scenario:
    return Scenario("nfs-slow-server", gpus=16)


def test_a_slow_file_server_makes_storage_the_narrowest_stage(slow_server: Scenario) -> None:
    job = slow_server.made.diagnosis.document["jobs"][0]["job"]
    found = stages(slow_server.made, job)
    assert [stage.name for stage in found] == [
        "Storage",
        "Storage network",
        "CPU",
        "PCIe",
        "GPU compute",
        "Fabric",
    ]
    assert all(stage.load is None or 0 <= stage.load <= 1 for stage in found)
    stamps, loads = grid(found)
    assert all(load.shape == stamps.shape for load in loads)
    # The fault starts on the way: the mount is far busier then than before.
    storage = loads[0]
    assert storage.max() > 0.5 > storage[:5].mean()
    assert slow_server.verdict("/pipeline").startswith("Storage is the narrowest stage")


def test_a_slow_file_server_is_the_slowest_target(slow_server: Scenario) -> None:
    found = slow_targets(slow_server.made)
    first = found.targets[0]
    assert first.worst is not None
    assert first.best is not None
    assert first.worst > 3 * first.best
    assert first.name in slow_server.verdict("/storage")
    assert found.latency.shape == (sum(t.latency is not None for t in found.targets), found.stamps.size)
    for target in found.targets:
        if target.queue is not None and target.latency is not None:
            assert 0 <= target.queue <= target.latency + 1e-9


def test_a_healthy_job_has_no_narrow_stage() -> None:
    healthy = Scenario("healthy-llm", gpus=16)
    assert healthy.verdict("/pipeline").startswith("No stage holds the GPUs up")
    ports = port_rows(healthy.made)
    assert ports.filter(is_crowded()).is_empty()
    assert "no port has errors" in healthy.verdict("/fabric")
    top = highest(healthy.made, "", 4)
    assert len(top.names) == 4
    assert list(top.tops) == sorted(top.tops, key=lambda t: -(t or 0.0))


def test_a_port_with_errors_is_named() -> None:
    broken = Scenario("link-errors", gpus=16, duration=1800)
    ports = port_rows(broken.made)
    worst = ports.sort("errors")["name"][-1]
    assert ports["errors"].max() > 0
    assert worst in broken.verdict("/fabric")
