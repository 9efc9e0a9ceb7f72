"""`wellfed hub --prometheus`: the windows of a server that speaks Prometheus' HTTP API, into the store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from wellfed.analysis.promql import Reader
from wellfed.analysis.receiver import Receiver
from wellfed.analysis.store import Store
from wellfed.errors import UserError

__all__ = ["poll"]

log = logging.getLogger("wellfed.prometheus")

#: Seconds between two looks; after a failure twice as many, up to the longest.
INTERVAL = 5.0
LONGEST = 60.0
#: How far back a hub reads that starts, or was away.
HISTORY = timedelta(hours=1)


def poll(reader: Reader, store: Store, receiver: Receiver, stop: threading.Event) -> None:
    """Appends what became complete, until told to stop. The server may be away for a while."""
    since = _last(store)
    wait = 0.0
    while not stop.wait(wait):
        since = max(since, datetime.now(UTC) - HISTORY)
        try:
            reached, tables = reader.poll(since)
            store.append(tables)
        except (UserError, OSError) as error:
            log.warning("%s", error)
            wait = min(LONGEST, max(INTERVAL, 2 * wait))
            continue
        since, wait = reached, INTERVAL
        receiver.remember(_hosts(tables))


def _last(store: Store) -> datetime:
    """End of the last window of any host in the store, or long ago."""
    start = datetime.now(UTC) - HISTORY
    found = store.scan("host", start).select(pl.col("ts").max()).collect(engine="streaming").item()
    return found if isinstance(found, datetime) else start


def _hosts(tables: Mapping[str, pl.DataFrame]) -> dict[str, float]:
    """Hosts in the last of these windows, which may be a minute long, as seen now."""
    names: set[str] = set()
    for frame in tables.values():
        newest = frame.filter(pl.col("ts") == pl.col("ts").max())
        names |= set(newest["host"].drop_nulls().to_list())
    return dict.fromkeys(names, time.time())
