"""`wellfed up`: agent, store and dashboard of one machine in one process.

The sampler's windows go straight into the store; a keeper thread seals finished hours and removes what is
too old or too much; uvicorn serves the dashboard on the main thread until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta

import polars as pl

from wellfed.analysis.schema import schema
from wellfed.analysis.store import Store
from wellfed.collectors.agent import choose, host_name, metrics, roots_of
from wellfed.collectors.catalog import HOST, TABLES
from wellfed.collectors.sampler import Sampler, Window, by_table
from wellfed.options import DEFAULT_DATA
from wellfed.serve import bind, serve

__all__ = ["frames", "up"]

log = logging.getLogger("wellfed.up")

#: Seconds between two looks at what can be sealed or removed.
KEEP_INTERVAL = 60.0


def up(options: Mapping[str, object]) -> int:
    """Runs until Ctrl-C or SIGTERM. Raises UserError when the store or a port is taken."""
    host = host_name(options)
    with ExitStack() as stack:
        store = stack.enter_context(Store(str(options.get("data") or DEFAULT_DATA)))
        listener = stack.enter_context(bind(str(options["address"])))
        sampler = Sampler(
            choose(options.get("collectors")),
            roots_of(options),
            on_window=lambda window: store.append(frames(window, host)),
        )
        endpoint = metrics(sampler, options)
        stack.callback(endpoint.close)
        stack.callback(sampler.stop)
        sampler.start()
        endpoint.start()
        stack.enter_context(Keeper(store, options))
        print(f"wellfed: /metrics  http://{options['metrics_address']}/metrics", file=sys.stderr)
        print(f"wellfed: store     {store.path}", file=sys.stderr)
        serve(listener, store, price=options.get("price"))
    return 0


def frames(window: Window, host: str) -> dict[str, pl.DataFrame]:
    """A window as one frame a table, in the catalog's schema, stamped with its end and this host."""
    out = {}
    for name, rows in by_table(window.rows).items():
        table = TABLES[name]
        keys = [key for key in table.keys if key != HOST]
        records = [
            {
                "ts": round(window.ts * 1000),
                HOST: host if HOST in table.keys else None,
                **dict(zip(keys, row.key, strict=True)),
                **row.values,
                **{column: text for column, text in row.info.items() if text},
            }
            for row in rows
        ]
        shape = schema(table)
        loose = pl.Schema({**shape, "ts": pl.Int64()})
        out[name] = pl.DataFrame(records, schema=loose).cast({"ts": shape["ts"]})
    return out


class Keeper:
    """Seals finished hours and applies retention, on its own thread, while the block runs."""

    def __init__(self, store: Store, options: Mapping[str, object]) -> None:
        days, size = options["retention_days"], options["retention_bytes"]
        assert isinstance(days, float)
        assert isinstance(size, int)
        self._store = store
        self._age = timedelta(days=days)
        self._bytes = size
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wellfed-keeper", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(3)

    def _run(self) -> None:
        while not self._stop.wait(KEEP_INTERVAL):
            try:
                self._store.seal()
                self._store.retain(age=self._age, size=self._bytes)
            except OSError as error:
                log.warning("the store could not be tidied: %s", error)
