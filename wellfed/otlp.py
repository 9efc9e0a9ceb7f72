"""Sends a training loop's own times by OTLP, without an agent: for nodes where none may run.

    import wellfed.otlp

    wellfed.otlp.export()  # once, before the loop

The same names, attributes and units that the agent sends (wellfed.step.*), by opentelemetry-sdk on its own
thread. Where the loop already has a MeterProvider, hand it over and its exporters are used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

import wellfed
from wellfed.collectors.catalog import TABLES
from wellfed.watch import identity, totals

__all__ = ["export"]

_STEP = TABLES["step"]
_INFO = "wellfed.step.info"


def export(provider: MeterProvider | None = None, job: str = "") -> MeterProvider:
    """Registers the columns of `step` as observable instruments. Returns the provider that reads them.

    provider: None makes one that sends to OTEL_EXPORTER_OTLP_ENDPOINT (and the other standard variables)
    every OTEL_METRIC_EXPORT_INTERVAL. job: by default WELLFED_JOB, else the Slurm job, else this process.
    Raises ImportError where opentelemetry-exporter-otlp-proto-http is needed and missing.
    """
    used = provider or _provider()
    meter = used.get_meter("wellfed", wellfed.__version__)
    name = job or _job()
    for column in _STEP.signals:
        create = (
            meter.create_observable_counter if column.kind == "counter" else meter.create_observable_gauge
        )
        create(column.otlp.name, [_observe(column.name, name)], column.unit, column.help)
    meter.create_observable_gauge(_INFO, [_texts(name)], "1", _STEP.help)
    return used


def _job() -> str:
    slurm = os.environ.get("SLURM_JOB_ID")
    return os.environ.get("WELLFED_JOB") or (f"slurm:{slurm}" if slurm else f"process:{os.getpid()}")


def _observe(column: str, job: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        value = totals().get(column)
        if value is not None:
            yield Observation(value, {"job": job, "rank": str(identity()["rank"])})

    return observe


def _texts(job: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        said = identity()
        texts = {name: str(said[name]) for name in ("gpu", "run") if said.get(name)}
        if texts:
            yield Observation(1, {"job": job, "rank": str(said["rank"]), **texts})

    return observe


def _provider() -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider as SdkProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError as error:
        raise ImportError(
            "wellfed.otlp.export() needs an exporter: pip install opentelemetry-exporter-otlp-proto-http"
        ) from error
    who = Resource.create({"host.name": socket.gethostname(), "service.name": "wellfed-watch"})
    return SdkProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=who)
