"""A real Prometheus scrapes a real agent."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from programs import Programs, fetch, free_port, until

pytestmark = pytest.mark.real

NODE = Path(__file__).parent.parent / "fixtures" / "node"


def query(server: str, expression: str) -> list[dict[str, object]]:
    answer = json.loads(fetch(f"{server}/api/v1/query?query={urllib.parse.quote(expression)}"))
    assert answer["status"] == "success"
    result: list[dict[str, object]] = answer["data"]["result"]
    return result


def test_every_series_arrives_with_its_value(
    programs: Programs, prometheus: Callable[[Sequence[int]], str]
) -> None:
    port = free_port()
    programs.wellfed(
        "agent",
        f"--metrics-address=127.0.0.1:{port}",
        f"--procfs={NODE / 'proc'}",
        f"--sysfs={NODE / 'sys'}",
    )
    until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="the agent is ready")
    server = prometheus([port])
    until(lambda: query(server, "wellfed_host_load1"), what="a first scrape")
    assert query(server, "up")[0]["value"][1] == "1"  # type: ignore[index]
    body = fetch(f"http://127.0.0.1:{port}/metrics").decode()
    # What changes from scrape to scrape by nature is left out of the comparison of values.
    moving = ("wellfed_collector_", "wellfed_agent_", "process_", "wellfed_host_load1")
    sent = {}
    for line in body.splitlines():
        if not line.startswith(("#", *moving)):
            name, _, value = line.rpartition(" ")
            sent[name] = float(value)
    assert len(sent) > 100
    stored = {}
    for series in query(server, '{job="wellfed",__name__=~"wellfed_.*"}'):
        labels = dict(series["metric"])  # type: ignore[call-overload]
        name = labels.pop("__name__")
        inner = {k: v for k, v in labels.items() if k not in ("job", "instance") or "exported_job" in labels}
        stored[name, frozenset(inner.items())] = float(series["value"][1])  # type: ignore[index]
    by_name = {name.partition("{")[0] for name in sent}
    assert by_name <= {name for name, _ in stored}
    for name, value in sent.items():
        if "{" not in name:
            assert stored[name, frozenset()] == value


def test_promtool_finds_nothing_to_complain_about(programs: Programs) -> None:
    port = free_port()
    programs.wellfed("agent", f"--metrics-address=127.0.0.1:{port}")
    until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="the agent is ready")
    body = fetch(f"http://127.0.0.1:{port}/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=30)
    # promtool's naming advice about the contract's own names is no error of format.
    assert b"error while linting" not in checked.stderr


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_the_agent_ends_cleanly_within_five_seconds(programs: Programs, signal_: signal.Signals) -> None:
    port = free_port()
    agent = programs.wellfed("agent", f"--metrics-address=127.0.0.1:{port}")
    until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="the agent is ready")
    agent.send_signal(signal_)
    assert agent.wait(5) == 0
