"""`wellfed demo`: the hub and its pages over a simulated cluster, marked as simulated on every page.

A mixed fleet lives on in real time after forty minutes of history; --scenario shows one situation at once.
Leaves and spines are simulated too, unless --topology names other ones.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

from wellfed.analysis.live import Live
from wellfed.analysis.scenarios import SCENARIOS, FleetStream, simulate
from wellfed.analysis.scenarios.kit import host_names
from wellfed.analysis.scenarios.switches import topology_conf, with_switches
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.background import Background
from wellfed.dashboard.topology import arranged
from wellfed.dashboard.topology_text import parse
from wellfed.errors import UserError
from wellfed.hub import judge
from wellfed.options import nearest
from wellfed.prices import Prices
from wellfed.progress import progress
from wellfed.serve import bind, doorway, prepare, wiring

__all__ = ["demo"]

DEFAULT_GPUS = 128
#: Seconds of history made before the pages open.
HISTORY = 2400


def demo(options: Mapping[str, object]) -> int:
    """Runs until Ctrl-C or SIGTERM. Raises UserError for an unknown scenario or a taken port."""
    scenario = options.get("scenario")
    if scenario == "list":
        width = max(map(len, SCENARIOS))
        print("\n".join(f"{name:<{width}}  {known.title}" for name, known in SCENARIOS.items()))
        return 0
    if scenario is not None and scenario not in SCENARIOS:
        known_names = f"; `wellfed demo --scenario list` shows all{nearest(str(scenario), SCENARIOS)}"
        raise UserError(f"no scenario is called {scenario!r}{known_names}")
    seed, gpus, price = options["seed"], options.get("gpus"), options.get("price") or Prices(2.5)
    assert isinstance(seed, int)
    assert gpus is None or isinstance(gpus, int)
    assert isinstance(price, Prices)
    version: Callable[[], int] | None = None
    told = wiring(options)
    hosts: Sequence[str]
    with ExitStack() as stack:
        listener = stack.enter_context(bind(str(options["address"])))
        access = doorway(options, listener)
        folder = options.get("data") or stack.enter_context(tempfile.TemporaryDirectory(prefix="wellfed-"))
        store = stack.enter_context(Store(str(folder)))
        size = gpus or DEFAULT_GPUS
        if scenario is not None:
            with progress(f"simulating {scenario}"):
                now = datetime.now(UTC).replace(microsecond=0)
                tables = simulate(str(scenario), seed=seed, gpus=gpus, end=now).tables
                hosts = () if told() else tables["host"]["host"].unique().sort().to_list()
                store.append(with_switches(tables, hosts))
        else:
            hosts = () if told() else host_names(size // 8)
            version = _fleet(stack, store, FleetStream(seed=seed, gpus=size, start=_begin()), hosts, price)
        print("wellfed: SIMULATED DATA, made on this machine", file=sys.stderr)
        wired = arranged(parse(topology_conf(hosts))) if hosts else None
        prepare(
            listener,
            store,
            access,
            price=price,
            simulated=True,
            version=version,
            topology=lambda: told() or wired,
        )()
    return 0


def _begin() -> datetime:
    """The start of the history, at a whole window."""
    return datetime.fromtimestamp((time.time() - HISTORY) // 10 * 10, UTC)


def _fleet(
    stack: ExitStack, store: Store, stream: FleetStream, hosts: Sequence[str], price: Prices
) -> Callable[[], int]:
    """Fills the store with a fleet's history and goes on live, judged as by a hub; returns its version."""
    with progress("simulating the fleet"):
        for part in stream.history(HISTORY):
            store.append(with_switches(part, hosts))
    live = Live(store, Streaming(store, price))
    stack.enter_context(Background("wellfed-demo", partial(_live, store, stream, hosts)))
    stack.enter_context(Background("wellfed-live", partial(judge, live)))
    return lambda: live.updates


def _live(store: Store, stream: FleetStream, hosts: Sequence[str], stop: threading.Event) -> None:
    """Appends each window of a stream when its time has come."""
    for window in stream:
        ends = window["host"]["ts"].max()
        assert isinstance(ends, datetime)
        if stop.wait(max(0.0, (ends - datetime.now(UTC)).total_seconds())):
            return
        store.append(with_switches(window, hosts))
