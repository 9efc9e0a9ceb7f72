"""The collectors inside somebody else's exporter: a collector for a registry of prometheus_client.

Not for the agent, which renders the same rows without prometheus_client at a fifth of the cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from wellfed.collectors.agent import choose
from wellfed.collectors.exposition import Exposition
from wellfed.collectors.registry import Roots
from wellfed.collectors.sampler import Sampler

__all__ = ["Wellfed"]


class Wellfed:
    """Samples in the background from now on and offers what it knows at each scrape.

    collectors: names separated by commas, None for all. procfs, sysfs: where those are mounted.
    Raises UserError for an unknown name.
    """

    def __init__(self, collectors: str | None = None, procfs: str = "/proc", sysfs: str = "/sys") -> None:
        self._sampler = Sampler(choose(collectors), Roots(procfs, sysfs))
        self._exposition = Exposition()
        self._sampler.start()

    def describe(self) -> list[Metric]:
        """Nothing: which metrics there are depends on the machine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of docs/metrics.md."""
        text = self._exposition.render(self._sampler.snapshot(time.time()).rows)
        yield from text_string_to_metric_families(text.decode())

    def close(self) -> None:
        """Stops sampling."""
        self._sampler.stop()
