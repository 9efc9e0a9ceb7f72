"""`wellfed up`: agent, store and dashboard of one machine in one process.

The sampler's windows go straight into the store; one thread seals finished hours and removes what is too old
or too much, one judges each window; uvicorn serves the dashboard on the main thread until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from functools import partial

from wellfed.analysis.live import Live
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.background import Background
from wellfed.collectors.agent import choose, host_name, metrics, roots_of
from wellfed.collectors.sampler import Sampler
from wellfed.frames import frames
from wellfed.hub import judge, keep
from wellfed.options import DEFAULT_DATA
from wellfed.prices import Prices
from wellfed.serve import bind, doorway, prepare, wiring
from wellfed.verdicts import verdicts

__all__ = ["up"]


def up(options: Mapping[str, object]) -> int:
    """Runs until Ctrl-C or SIGTERM. Raises UserError when the store or a port is taken."""
    host, topology = host_name(options), wiring(options)
    with ExitStack() as stack:
        store = stack.enter_context(Store(str(options.get("data") or DEFAULT_DATA)))
        listener = stack.enter_context(bind(str(options["address"])))
        access = doorway(options, listener)
        sampler = Sampler(
            choose(options.get("collectors")),
            roots_of(options),
            on_window=lambda window: store.append(frames(window, host)),
        )
        price = options.get("price")
        assert price is None or isinstance(price, Prices)
        live = Live(store, Streaming(store, price))
        endpoint = metrics(sampler, options, more=lambda: verdicts(live))
        stack.callback(endpoint.close)
        stack.callback(sampler.stop)
        sampler.start()
        endpoint.start()
        days, size = options["retention_days"], options["retention_bytes"]
        assert isinstance(days, float)
        assert isinstance(size, int)
        stack.enter_context(Background("wellfed-keeper", partial(keep, store, timedelta(days=days), size)))
        stack.enter_context(Background("wellfed-live", partial(judge, live)))
        print(f"wellfed: /metrics  http://{options['metrics_address']}/metrics", file=sys.stderr)
        print(f"wellfed: store     {store.path}", file=sys.stderr)
        prepare(listener, store, access, price=price, version=lambda: live.updates, topology=topology)()
    return 0
