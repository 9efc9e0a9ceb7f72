"""Work that waits for GPUs: Kueue's pending workloads, so that a free GPU can be told from one nobody wants.

What: jobs_pending of `host`, over all ClusterQueues, admissible now or not: both wait. Source: the page of
Kueue's controller (kueue_pending_workloads{cluster_queue,status}), only where --kueue-url names it, as
https://kueue-controller-manager-metrics-service.kueue-system.svc:8443/metrics. Which nodes a queue feeds is
not told there, so the sum counts for the whole cluster, and one agent that asks is enough for all: the
diagnosis takes the highest of its hosts. Cost: one page every 30 s. Privilege: over TLS the pod's service
account is sent, which needs `get` on the non-resource URL /metrics; SSL_CERT_FILE names another authority.
https://kueue.sigs.k8s.io/docs/reference/metrics/
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

from wellfed.collectors.fetch import AbsentError, Page
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Kueue", "pending"]

_TIMEOUT = 5.0
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105
_LINE = re.compile(rb'^kueue_pending_workloads\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}[ \t]+(\S+)', re.MULTILINE)
_QUEUE = re.compile(rb'\bcluster_queue="((?:[^"\\]|\\.)*)"')


def pending(page: bytes) -> dict[str, float]:
    """Workloads that wait, by ClusterQueue, of Kueue's metrics page. Raises ValueError.

    >>> pending(b'kueue_pending_workloads{cluster_queue="team-a",status="active"} 2')
    {'team-a': 2.0}
    """
    queues: dict[str, float] = {}
    for labels, number in _LINE.findall(page):
        queue = _QUEUE.search(labels)
        value = float(number)
        if queue is None or not 0 <= value < 1e9:
            raise ValueError(f"Kueue: unexpected line {(labels + b' ' + number)[:80]!r}")
        name = queue[1].decode("utf-8", "replace")
        queues[name] = queues.get(name, 0.0) + value
    return queues


@register
class Kueue:
    """The collector. token: file with the bearer token that is sent over TLS."""

    name = "kueue"
    interval = 30.0
    deadline = 6.0
    tables: tuple[str, ...] = ("host",)

    def __init__(self, token: str = _TOKEN) -> None:
        self.reason = ""
        self.remedy = ""
        self._token = token
        self._page: Page | None = None

    def close(self) -> None:
        """Closes the connection."""
        if self._page is not None:
            self._page.close()

    def read(self, roots: Roots, now: float) -> list[Row]:
        """The host's row, or none where nobody told to ask or nothing answers. Raises ValueError."""
        to = roots.endpoints.kueue
        if to is None:
            self.reason, self.remedy = "no Kueue was named", ""
            return []
        if self._page is None:
            # A credential leaves over TLS alone.
            secret = to.url.startswith("https://") and os.path.exists(self._token)
            self._page = Page(replace(to, token_file=self._token) if secret else to, _TIMEOUT)
        try:
            page = self._page.get()
        except AbsentError as error:
            self.reason, self.remedy = str(error), error.remedy
            return []
        if b"\nkueue_" not in b"\n" + page:
            raise ValueError(f"{to.name}: no metrics of Kueue there")
        self.reason = self.remedy = ""
        return [Row("host", (), {"jobs_pending": sum(pending(page).values())})]
