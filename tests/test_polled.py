"""A hub that reads a Prometheus outlives the server's absence and goes on where it was."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from wellfed import polled
from wellfed.analysis.receiver import Receiver
from wellfed.analysis.schema import TS
from wellfed.analysis.store import Store
from wellfed.errors import UserError
from wellfed.polled import poll

NOW = datetime.now(UTC).replace(microsecond=0)


class Server:
    """Away at first, then with one window after another; ends the poll with the third."""

    def __init__(self) -> None:
        self.asked: list[datetime] = []
        self.stop = threading.Event()

    def poll(self, since: datetime) -> tuple[datetime, dict[str, pl.DataFrame]]:
        self.asked.append(since)
        if len(self.asked) == 1:
            raise UserError("http://server:9090 does not answer")
        if len(self.asked) == 4:
            self.stop.set()
        end = NOW + timedelta(seconds=10 * len(self.asked))
        return end, {"host": pl.DataFrame({"ts": pl.Series([end], dtype=TS), "host": "n1", "load1": 1.0})}


def test_a_server_that_is_away_is_asked_again_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(polled, "INTERVAL", 0.0)
    server = Server()
    with Store(tmp_path / "s") as store:
        store.append({"host": pl.DataFrame({"ts": pl.Series([NOW], dtype=TS), "host": "n1", "load1": 0.0})})
        receiver = Receiver(store)
        poll(server, store, receiver, server.stop)  # type: ignore[arg-type]
        receiver.close()
        assert store.scan("host").collect().height == 4
    assert server.asked == [NOW, NOW, NOW + timedelta(seconds=20), NOW + timedelta(seconds=30)]
    assert caplog.messages == ["http://server:9090 does not answer"]
    assert receiver.hosts(datetime.now(UTC).timestamp()) == {"fresh": 1, "stale": 0}
