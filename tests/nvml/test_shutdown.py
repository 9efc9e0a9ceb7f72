"""The worker never outlives the agent, and never keeps it from ending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Programs, fetch, free_port, until

from tests.nvml.conftest import ROOT, Node

#: An agent of one collector: prints the worker's pid once it has rows or the driver hangs, ends on SIGTERM.
AGENT = """
import signal, sys, time
from wellfed.collectors.nvml import Nvml
from wellfed.collectors.registry import Roots

collector = Nvml(hang=60.0, opening=60.0, tick=0.1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
try:
    while not (collector.read(Roots(sys.argv[1], sys.argv[2]), 0.0) or "for 1 s" in collector.reason):
        time.sleep(0.01)
    print(collector._watchdog._worker.process.pid, flush=True)
    while True:
        collector.read(Roots(sys.argv[1], sys.argv[2]), 0.0)
        time.sleep(0.01)
finally:
    collector.close()
"""


@pytest.fixture
def agent(node: Node, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], int]]:
    if request.param:
        node.script({request.param: "hang"})
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, node.roots.proc, node.roots.sys],
        env=node.environment | {"PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process, int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def started_by(pid: int) -> list[int]:
    """Processes that any of its threads started."""
    threads = os.listdir(f"/proc/{pid}/task")
    lists = [Path(f"/proc/{pid}/task/{thread}/children").read_text() for thread in threads]
    return [int(child) for children in lists for child in children.split()]


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < deadline, "the worker outlived the agent"
        time.sleep(0.01)


EVERY_STATE = ["", "nvmlInitWithFlags", "nvmlDeviceGetHandleByIndex_v2:1", "nvmlDeviceGetFieldValues"]


@pytest.mark.parametrize("agent", EVERY_STATE, indirect=True)
def test_sigterm_ends_the_agent_and_its_worker_whatever_the_driver_does(
    agent: tuple[subprocess.Popen[str], int],
) -> None:
    process, worker = agent
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert time.monotonic() - begin < 5
    wait_until_gone(worker)


@pytest.mark.parametrize("agent", EVERY_STATE, indirect=True)
def test_the_worker_dies_with_an_agent_that_is_killed(agent: tuple[subprocess.Popen[str], int]) -> None:
    process, worker = agent
    assert not gone(worker)
    process.kill()
    wait_until_gone(worker)


STATES = [
    ({}, "success"),
    ({"lost:1": 1}, "fell off the bus"),
    ({"driver": 1}, "was reloaded"),
    ({"nvmlGpmSampleGet": 4}, "no permission"),
    ({"nvmlDeviceGetFieldValues": "hang"}, "fields on GPU"),
]


@pytest.mark.parametrize(("trouble", "told"), STATES, ids=lambda v: v if isinstance(v, str) else "")
def test_sigterm_ends_the_whole_agent_in_every_state_of_the_driver(
    node: Node, programs: Programs, trouble: dict[str, object], told: str
) -> None:
    port = free_port()
    agent = programs.wellfed(
        "agent",
        f"--metrics-address=127.0.0.1:{port}",
        f"--procfs={node.roots.proc}",
        f"--sysfs={node.roots.sys}",
        **node.environment,
    )

    def page() -> str:
        return fetch(f"http://127.0.0.1:{port}/metrics").decode()

    until(lambda: "wellfed_gpu_energy_joules_total" in page(), what="the GPUs are read")
    node.script(trouble)
    until(lambda: told in page(), what=f"/metrics says {told}")
    workers = started_by(agent.pid)
    # While the driver is away a worker lives for a moment only.
    assert workers or "driver" in trouble
    begin = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0
    assert time.monotonic() - begin < 5
    for worker in workers:
        wait_until_gone(worker)
