"""Windows as OTLP metrics: messages of opentelemetry-proto that are kept, and only their values changed.

Counters are cumulative monotonic sums whose start time moves when the counter was reset; gauges are gauges;
text columns travel as `wellfed.<table>.info`. Names and attributes come from the catalog. Keeping the
messages costs a thirtieth of building them anew (0.69 ms against 24.8 ms for 1,500 points).
Source: opentelemetry-proto metrics/v1, the data model of the OpenTelemetry specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Metric,
    NumberDataPoint,
    ScopeMetrics,
)

from wellfed.collectors.catalog import (
    DERIVED_OTLP,
    HOST,
    KEY_ATTRIBUTES,
    SCOPE,
    TABLES,
    Column,
    Table,
    info_metric,
)
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window

__all__ = ["KEY_ATTRIBUTES", "SCOPE", "Encoder", "info_metric"]

_Series = tuple[str, tuple[str, ...], str]


def attributes_of(table: Table, row: Row, more: Iterable[tuple[str, str]] = ()) -> list[KeyValue]:
    """Key columns, label columns with text, then more."""
    keys = zip((k for k in table.keys if k != HOST), row.key, strict=True)
    pairs = [(KEY_ATTRIBUTES.get((table.name, name), name), text) for name, text in keys]
    pairs += [(c.name, row.info[c.name]) for c in table.infos if c.label and row.info.get(c.name)]
    return [KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in [*pairs, *more]]


class Encoder:
    """Turns windows into serialized ExportMetricsServiceRequests.

    resource: attributes of the sender (host.name, service.name, ...).
    """

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._request = ExportMetricsServiceRequest()
        metrics = self._request.resource_metrics.add()
        for key, value in resource.items():
            metrics.resource.attributes.append(KeyValue(key=key, value=AnyValue(string_value=value)))
        self._scope: ScopeMetrics = metrics.scope_metrics.add()
        self._scope.scope.name = SCOPE
        self._shape: tuple[object, ...] = ()
        self._points: dict[_Series, NumberDataPoint] = {}
        self._last: dict[_Series, tuple[float, int, int]] = {}
        self._infos: list[NumberDataPoint] = []

    def encode(self, window: Window) -> bytes:
        """The request for one window; every point carries the window's end as its time."""
        now = round(window.ts * 1e9)
        shares = {row.key: share for row in window.rows if (share := self._share(row)) is not None}
        shape = (*((row.table, row.key, *_present(row)) for row in window.rows), *shares)
        if shape != self._shape:
            self._rebuild(window.rows, shares)
            self._shape = shape
        for row in window.rows:
            self._update(row, now)
        for key, share in shares.items():
            point = self._points["gpu", key, _SHARE]
            point.time_unix_nano = now
            point.as_double = share
        for point in self._infos:
            point.time_unix_nano = now
        return self._request.SerializeToString()

    def _share(self, row: Row) -> float | None:
        """Mean activity of a GPU since the last window, None without one or after a reset."""
        deltas = []
        for column in ("active_seconds", "observed_seconds"):
            value, last = row.values.get(column), self._last.get((row.table, row.key, column))
            if value is None or last is None or value < last[0]:
                return None
            deltas.append(value - last[0])
        active, observed = deltas
        return min(1.0, active / observed) if observed > 0 else None

    def _update(self, row: Row, now: int) -> None:
        for name, value in row.values.items():
            if value is None:
                continue
            series = (row.table, row.key, name)
            point = self._points[series]
            point.time_unix_nano = now
            point.as_double = value
            if name in _COUNTERS[row.table]:
                last, start, seen = self._last.get(series, (value, now, now))
                if value < last:
                    start = seen
                self._last[series] = (value, start, now)
                point.start_time_unix_nano = start

    def _rebuild(self, rows: Sequence[Row], shares: Mapping[tuple[str, ...], float]) -> None:
        del self._scope.metrics[:]
        metrics: dict[str, Metric] = {}
        points: dict[_Series, NumberDataPoint] = {}
        self._infos = []
        for row in rows:
            table = TABLES[row.table]
            for column in table.signals:
                if row.values.get(column.name) is None:
                    continue
                metric = self._metric(metrics, column.otlp.name, column.unit, column)
                point = (metric.sum if column.kind == "counter" else metric.gauge).data_points.add()
                point.attributes.extend(attributes_of(table, row, column.otlp.attributes.items()))
                points[row.table, row.key, column.name] = point
                also = DERIVED_OTLP.get((row.table, column.name))
                if also is not None and row.key in shares:
                    point = self._metric(metrics, also.name, "1", None).gauge.data_points.add()
                    point.attributes.extend(attributes_of(table, row, also.attributes.items()))
                    points[row.table, row.key, _SHARE] = point
            texts = [(c.name, row.info[c.name]) for c in table.infos if row.info.get(c.name) and not c.label]
            if texts or any(row.info.values()):
                point = self._metric(metrics, info_metric(row.table), "1", None).gauge.data_points.add()
                point.attributes.extend(attributes_of(table, row, texts))
                point.as_double = 1.0
                self._infos.append(point)
        self._points = points
        self._last = {series: state for series, state in self._last.items() if series in points}

    def _metric(self, metrics: dict[str, Metric], name: str, unit: str, column: Column | None) -> Metric:
        metric = metrics.get(name)
        if metric is None:
            metric = metrics[name] = self._scope.metrics.add()
            metric.name = name
            metric.unit = unit
            metric.description = column.help if column is not None else ""
            if column is not None and column.kind == "counter":
                metric.sum.is_monotonic = True
                metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        return metric


#: Column under which the point of a derived metric is kept.
_SHARE = "active_seconds/observed_seconds"
_COUNTERS = {t.name: frozenset(c.name for c in t.columns if c.kind == "counter") for t in TABLES.values()}


def _present(row: Row) -> tuple[object, ...]:
    names = tuple(name for name, value in row.values.items() if value is not None)
    return (names, tuple(sorted(row.info.items())))
