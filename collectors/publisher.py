"""Windows to OTLP: encodes each one, spools it, and tells how delivery fares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wellfed.collectors.destination import Destination
from wellfed.collectors.exposition import Family, Foreign
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.push import Pusher
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.collectors.spool import Spool

__all__ = ["Publisher"]


class Publisher:
    """The OTLP side of an agent. url: where to, for messages. names: other series of the same facts."""

    def __init__(
        self,
        to: Destination,
        spool: Spool,
        resource: Mapping[str, str],
        names: Callable[[Sequence[Row]], Sequence[tuple[Sequence[Foreign], Sequence[float]]]],
    ) -> None:
        self._names = names
        self.url = to.url
        self.spool = spool
        self._encoder = Encoder(resource)
        self._pusher = Pusher(to, spool)

    def start(self) -> None:
        """Starts sending what earlier runs left, and what comes."""
        self._pusher.start()

    def publish(self, window: Window) -> None:
        """Accepts one window for delivery, with how delivery fares."""
        facts = self._facts()
        own = [Foreign(f"wellfed.export.{name}", kind, text, ()) for kind, name, text, _ in facts]
        values = [value for *_, value in facts]
        self._pusher.submit(window.ts, self._encoder.encode(window, (own, values), *self._names(window.rows)))

    def close(self) -> None:
        """Stops sending; what is left waits in the spool for the next run."""
        self._pusher.close()

    def families(self) -> list[Family]:
        """How delivery fares, for /metrics."""
        return [
            Family(f"wellfed_export_{name}", kind, text, [("", value)])
            for kind, name, text, value in self._facts()
        ]

    def _facts(self) -> list[tuple[str, str, str, float]]:
        """How delivery fares: kind, name, text, value."""
        pusher, spool = self._pusher, self.spool
        success = pusher.last_success
        facts = [
            ("counter", "sent", "Windows acknowledged by the receiver", pusher.sent),
            ("counter", "failed", "Attempts to send that will be repeated", pusher.failed),
            ("counter", "refused", "Windows the receiver called wrong for good", pusher.refused),
            ("counter", "rejected_points", "Points left out of accepted windows", pusher.rejected),
            ("counter", "dropped", "Windows given up: the spool was full or they too old", spool.dropped),
            ("counter", "corrupt", "Spooled windows lost to a damaged file", spool.corrupt),
            ("gauge", "spool_records", "Windows that wait for delivery", len(spool)),
            ("gauge", "spool_bytes", "Bytes that wait for delivery", spool.size),
            ("gauge", "spool_degraded", "1 while the spool is kept in memory", bool(spool.degraded)),
            ("gauge", "last_success_seconds", "Epoch of the last acknowledgement", success),
        ]
        return [(kind, name, text, float(value)) for kind, name, text, value in facts if value is not None]
