"""Work that waits for GPUs: Kueue's pending workloads, so that a free GPU can be told from one nobody wants.

What: jobs_pending of `host`, over all ClusterQueues, admissible now or not: both wait. Source: the metrics
page of Kueue's controller (kueue_pending_workloads{cluster_queue,status}), only where --kueue names it, as
https://kueue-controller-manager-metrics-service.kueue-system.svc:8443/metrics. Which nodes a queue feeds is
not told there, so the sum counts for the whole cluster, and one agent that asks is enough for all: the
diagnosis takes the highest of its hosts. Cost: one page every 30 s. Privilege: over TLS the pod's service
account is sent, which needs `get` on the non-resource URL /metrics; SSL_CERT_FILE names another authority.
https://kueue.sigs.k8s.io/docs/reference/metrics/
"""

from __future__ import annotations

import contextlib
import re

from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Kueue", "pending"]

_TIMEOUT = 5.0
_MAX_BYTES = 8 << 20
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

    def read(self, roots: Roots, now: float) -> list[Row]:
        """The host's row, or none where nobody told to ask. Raises OSError or ValueError."""
        if not roots.kueue:
            self.reason = "no Kueue was named"
            return []
        page = self._get(roots.kueue)
        if b"\nkueue_" not in b"\n" + page:
            raise ValueError(f"{roots.kueue}: no metrics of Kueue there")
        self.reason = ""
        return [Row("host", (), {"jobs_pending": sum(pending(page).values())})]

    def _get(self, url: str) -> bytes:
        # urllib costs 8 MiB, and only the agent that is told to asks.
        from urllib.request import Request, urlopen

        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--kueue is {url!r}; write an address such as http://host:8080/metrics")
        headers = {"User-Agent": "wellfed-agent"}
        if url.startswith("https://"):
            with contextlib.suppress(OSError), open(self._token, encoding="ascii") as file:
                headers["Authorization"] = f"Bearer {file.read().strip()}"
        with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as answer:  # noqa: S310
            page: bytes = answer.read(_MAX_BYTES)
        return page
