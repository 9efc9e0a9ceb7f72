"""The live verdict as metrics: lost GPU-seconds by cause, utilisation, open findings; bounded in number."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from wellfed.analysis.causes import CAUSES
from wellfed.analysis.live import Live
from wellfed.analysis.receiver import Receiver
from wellfed.collectors.exposition import OPENMETRICS, TEXT, Exposition, Family, labelled, wants_openmetrics
from wellfed.collectors.http import Request, Response

__all__ = ["hub_families", "scrape", "verdicts"]

#: Series of findings, and of everything else; the rest is counted.
MAX_FINDINGS = 1000
MAX_SERIES = 250_000

_LABELS = {
    "gpu_seconds": ("host", "gpu", "job"),
    "covered_gpu_seconds": ("host", "gpu", "job"),
    "lost_gpu_seconds": ("host", "gpu", "job", "cause"),
    "job_gpu_seconds": ("job",),
    "job_lost_gpu_seconds": ("job", "cause"),
    "accelerator_utilization_ratio": ("host", "gpu", "job"),
    "job_accelerator_utilization_ratio": ("job",),
}
_HELP = {
    "gpu_seconds": "GPU time in judged windows",
    "covered_gpu_seconds": "GPU time in which its activity was measured",
    "lost_gpu_seconds": "GPU time lost, by what this GPU waited for",
    "job_gpu_seconds": "GPU time of a job",
    "job_lost_gpu_seconds": "GPU time a job lost, by the cause that started it",
    "accelerator_utilization_ratio": "Share of the last window that was not lost",
    "job_accelerator_utilization_ratio": "Share of a job's last window that was not lost",
}


def verdicts(live: Live) -> list[Family]:
    """Everything the live verdict says now."""
    found: list[Family] = []
    left = MAX_SERIES
    dropped = 0
    for kind, rows in (("counter", _from_zero(live.counters)), ("gauge", live.gauges)):
        for (metric,), part in rows.group_by("metric", maintain_order=True):
            name = str(metric)
            kept = part.head(left)
            left -= kept.height
            dropped += part.height - kept.height
            unit = "seconds" if name.endswith("_seconds") else "ratio"
            found.append(Family(f"wellfed_{name}", kind, _HELP[name], _samples(kept, _LABELS[name]), unit))
    found.append(_findings(live.findings))
    for name, text, value in (
        ("wellfed_findings_dropped", "Open findings beyond those published", _beyond(live.findings)),
        ("wellfed_series_dropped", "Series of verdicts beyond those published", dropped),
    ):
        found.append(Family(name, "gauge", text, [("", float(value))]))
    if live.last is not None:
        text = "End of the newest window that was judged"
        ends = live.last.timestamp()
        found.append(
            Family("wellfed_hub_last_window_timestamp_seconds", "gauge", text, [("", ends)], "seconds")
        )
    return found


def _from_zero(counters: pl.DataFrame) -> pl.DataFrame:
    """The counters with every cause of every job, at 0 where it cost nothing yet; new series at 0.

    rate() does not see what a counter has when it appears; alerts ask for jobs. For each GPU it would be 27
    series too many.
    """
    counters = counters.with_columns(value=pl.when(pl.col("born").is_null()).then("value").otherwise(0.0))
    jobs = counters.filter(pl.col("metric") == "job_gpu_seconds").select("job").unique(maintain_order=True)
    known = counters.filter(pl.col("metric") == "job_lost_gpu_seconds")
    none = (
        jobs.join(pl.DataFrame({"cause": list(CAUSES)}), how="cross")
        .join(known, on=["job", "cause"], how="anti")
        .with_columns(metric=pl.lit("job_lost_gpu_seconds"), value=pl.lit(0.0))
    )
    return pl.concat([counters, none], how="diagonal").with_columns(pl.col("host", "gpu").fill_null(""))


def _samples(rows: pl.DataFrame, labels: Sequence[str]) -> list[tuple[str, float]]:
    columns = [rows[label].to_list() for label in labels]
    return [
        (labelled(zip(labels, texts, strict=True)), value)
        for value, *texts in zip(rows["value"].to_list(), *columns, strict=True)
    ]


def _findings(findings: Sequence[Mapping[str, Any]]) -> Family:
    """One series a finding's labels; two findings that differ in nothing else are one."""
    series: dict[str, float] = {}
    for finding in findings[:MAX_FINDINGS]:
        scope = finding["scope"]
        hosts = scope["hosts"]
        pairs = (
            ("cause", finding["cause"]),
            ("severity", finding["severity"]),
            ("job", scope["job"] or ""),
            ("host", hosts[0] if len(hosts) == 1 else ""),
            ("resource", scope["resource"] or ""),
        )
        series[labelled(pairs)] = 1.0
    return Family("wellfed_finding_active", "gauge", "1 while a finding is open", list(series.items()))


def _beyond(findings: Sequence[object]) -> int:
    return max(0, len(findings) - MAX_FINDINGS)


def hub_families(receiver: Receiver) -> list[Family]:
    """How the receiver fares."""
    states = receiver.hosts(time.time())
    return [
        Family(
            "wellfed_hub_hosts",
            "gauge",
            "Hosts by whether they sent a window in the last half minute",
            [(labelled([("state", state)]), float(count)) for state, count in states.items()],
        ),
        Family("wellfed_hub_received_points", "counter", "Points stored", [("", float(receiver.points))]),
        Family(
            "wellfed_hub_rejected_points",
            "counter",
            "Points that were not stored; requests count as one where they were not decoded",
            [(labelled([("reason", r)]), float(n)) for r, n in sorted(receiver.rejected.items())],
        ),
    ]


def scrape(families: Callable[[], Sequence[Family]]) -> Callable[[Request], Response]:
    """A /metrics page in the format that the client asks for."""

    def page(request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        body = Exposition(openmetrics).render((), families())
        return Response(body, OPENMETRICS if openmetrics else TEXT)

    return page
