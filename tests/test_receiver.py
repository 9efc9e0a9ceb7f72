"""What arrives by OTLP is what was measured, whoever sent it, in whatever order, and nothing that cannot be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from polars.testing import assert_frame_equal
from test_exposition import rows

from wellfed.analysis import receiver as module
from wellfed.analysis.receiver import Limits, Receiver, frames
from wellfed.analysis.receiver_learn import learn
from wellfed.analysis.receiver_wire import attributes, walk
from wellfed.analysis.schema import keys
from wellfed.analysis.store import Store
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.frames import frames as in_process

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "GATHER", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def receiver(store: Store) -> Iterator[Receiver]:
    taking = Receiver(store)
    yield taking
    taking.close()


def measured(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Sorted, without rows that say nothing: OTLP has no point for them."""
    out = {}
    for name, frame in frames.items():
        said = [c for c in frame.columns if c not in keys(TABLES[name])]
        left = frame.filter(pl.any_horizontal(pl.col(said).is_not_null())).sort(keys(TABLES[name]))
        if left.height:
            out[name] = left
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=3))
def test_the_agents_rows_come_out_as_they_went_in(windows: list[list[Row]]) -> None:
    encoder = Encoder({"service.name": "wellfed-agent", "host.name": "n1"})
    receiver = Receiver(None)  # type: ignore[arg-type]
    try:
        for index, found in enumerate(windows):
            window = Window(NOW + 10 * index, tuple(found))
            decoded = receiver.decode(encoder.encode(window), NOW)
            assert not decoded.rejected
            got, want = measured(frames(decoded.parts)), measured(in_process(window, "n1"))
            assert got.keys() == want.keys()
            for name in want:
                assert_frame_equal(got[name], want[name])
    finally:
        receiver.close()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2), st.data())
def test_the_walk_finds_what_the_official_library_finds(sizes: int, data: st.DataObject) -> None:
    text = st.one_of(st.text(max_size=4), st.just("long" * 50))
    request = ExportMetricsServiceRequest()
    for _ in range(sizes):
        metrics = request.resource_metrics.add()
        metrics.schema_url = data.draw(text)
        metrics.resource.attributes.add(key="host.name").value.string_value = data.draw(text)
        scope = metrics.scope_metrics.add()
        scope.scope.name = data.draw(text)
        for _ in range(data.draw(st.integers(0, 3))):
            metric = scope.metrics.add(name=data.draw(text), description=data.draw(text))
            kind = data.draw(st.sampled_from(["gauge", "sum", "histogram", "summary"]))
            getattr(metric, kind).SetInParent()
            for _ in range(data.draw(st.integers(0, 4))):
                point = getattr(metric, kind).data_points.add()
                point.time_unix_nano = data.draw(st.integers(0, 2**63 - 1))
                for key in data.draw(st.lists(text, max_size=3, unique=True)):
                    point.attributes.add(key=key).value.string_value = data.draw(text)
                if kind in ("gauge", "sum"):
                    point.flags = data.draw(st.sampled_from([0, 0, 1, 300]))
                    if data.draw(st.booleans()):
                        point.as_double = data.draw(st.floats(allow_nan=False))
                    elif data.draw(st.booleans()):
                        point.as_int = data.draw(st.integers(-(2**63), 2**63 - 1))
                    for _ in range(data.draw(st.integers(0, 2))):
                        point.exemplars.add(as_int=1)

    body = request.SerializeToString()
    walked = [
        (
            m.resource.attributes.get("host.name", ""),
            m.scope,
            m.name,
            m.others,
            [number(body, p) for p in m.points],
        )
        for m in walk(body)
    ]
    assert walked == [
        (r.resource.attributes[0].value.string_value, s.scope.name, m.name, *official(m))
        for r in request.resource_metrics
        for s in r.scope_metrics
        for m in s.metrics
    ]


def number(
    body: bytes, point: tuple[int, int, bool, bytes, int, int]
) -> tuple[int, float | int | None, dict[str, str]]:
    time, value, double, packed, _, where = point
    assert where < 0 or body[where : where + len(packed)] == packed
    read = NumberDataPoint()
    if value:
        # The eight bytes where the walk says they are, read by the official library.
        read.ParseFromString((b"\x21" if double else b"\x31") + body[value : value + 8])
    at = int.from_bytes(body[time : time + 8], "little") if time else 0
    return at, (read.as_double if double else read.as_int) if value else None, attributes(packed)


def official(metric: object) -> tuple[int, list[object]]:
    kind = metric.WhichOneof("data")  # type: ignore[attr-defined]
    points = getattr(metric, kind).data_points
    if kind in ("histogram", "summary"):
        return len(points), []
    out = []
    for point in points:
        which = point.WhichOneof("value")
        value = getattr(point, which) if which and not point.flags & 1 else None
        out.append((point.time_unix_nano, value, {a.key: a.value.string_value for a in point.attributes}))
    return 0, out


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_are_a_value_error_or_nothing(body: bytes) -> None:
    try:
        learn(body)
    except ValueError:
        return


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_request_is_a_value_error_or_another_request(at: int, byte: int) -> None:
    body = bytearray(Encoder({"host.name": "n1"}).encode(Window(NOW, [gpu(1, 50.0)])))
    body[at % len(body)] = byte
    try:
        learn(bytes(body))
    except ValueError:
        return


def test_an_attribute_that_ends_in_a_number_is_a_value_error() -> None:
    # What `make chaos` found: an attribute whose last byte begins a number.
    with pytest.raises(ValueError, match="ends in the middle"):
        attributes(b"\x3a\x01\x20")


def gpu(number: int, active: float, **values: float) -> Row:
    return Row("gpu", (f"GPU-{number}",), {"active_seconds": active, **values}, {"index": str(number)})


def send(
    receiver: Receiver, ts: float, *found: Row, host: str = "n1", now: float | None = None
) -> dict[str, int]:
    decoded = receiver.decode(Encoder({"host.name": host}).encode(Window(ts, found)), now or ts)
    return dict(receiver.commit(decoded).result(10).rejected)


def test_windows_may_come_twice_and_in_any_order(receiver: Receiver, store: Store) -> None:
    for window in (3, 1, 2, 1, 3, 0):
        send(receiver, NOW + 10 * window, gpu(0, 10.0 * window), now=NOW + 60)
    found = store.scan("gpu").collect().sort("ts")
    assert found["active_seconds"].to_list() == [0.0, 10.0, 20.0, 30.0]
    store.seal(datetime.fromtimestamp(NOW + 3 * 3600, UTC))
    send(receiver, NOW + 40, gpu(0, 40.0), now=NOW + 3 * 3600)
    send(receiver, NOW + 20, gpu(0, 21.0), now=NOW + 3 * 3600)
    found = store.scan("gpu").collect().sort("ts")
    assert found["active_seconds"].to_list() == [0.0, 10.0, 21.0, 30.0, 40.0]


def test_what_is_too_old_or_of_the_future_is_counted_and_left_out(receiver: Receiver, store: Store) -> None:
    days = 86_400.0
    assert send(receiver, NOW, gpu(0, 1.0, power_watts=2.0), now=NOW + 3 * days) == {"too_old": 3}
    assert send(receiver, NOW, gpu(0, 1.0), now=NOW - 3600) == {"future": 2}
    assert send(receiver, NOW, gpu(0, 1.0), now=NOW + days) == {}
    assert store.scan("gpu").collect().height == 1
    assert (receiver.points, receiver.rejected["too_old"], receiver.rejected["future"]) == (2, 3, 2)


def test_senders_and_their_series_are_limited_each_by_itself(store: Store) -> None:
    receiver = Receiver(store, Limits(hosts=2, things=3))
    try:
        assert send(receiver, NOW, gpu(0, 1.0), gpu(1, 1.0), host="a") == {}
        assert send(receiver, NOW, gpu(0, 1.0), host="b") == {}
        assert send(receiver, NOW, gpu(0, 1.0), host="c") == {"senders": 2}
        # A fourth thing within the hour is one too many, and is again none in the next.
        assert send(receiver, NOW + 10, gpu(2, 1.0), gpu(3, 1.0), host="a") == {"series": 4}
        assert send(receiver, NOW + 20, gpu(0, 2.0), gpu(1, 2.0), host="a") == {}
        assert send(receiver, NOW + 3600, gpu(2, 1.0), gpu(3, 1.0), host="a") == {}
        # A day later the silent ones are forgotten.
        assert send(receiver, NOW + 100_000, gpu(0, 1.0), host="c") == {}
    finally:
        receiver.close()
    assert receiver.rejected["senders"] == 2


def test_an_error_of_the_disk_reaches_the_sender(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "append", full)
    with pytest.raises(OSError, match="No space"):
        send(receiver, NOW, gpu(0, 1.0))
    assert receiver.points == 0


def test_a_first_storm_of_many_nodes_is_one_row_each(
    receiver: Receiver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER", 0.5)
    encoders = [Encoder({"host.name": f"n{i}"}) for i in range(64)]
    errors: list[BaseException] = []

    def node(number: int) -> None:
        try:
            for window in range(3):
                body = encoders[number].encode(Window(NOW + 10 * window, [gpu(number, float(window))]))
                receiver.commit(receiver.decode(body, NOW)).result(30)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=node, args=(number,)) for number in range(len(encoders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = store.scan("gpu").collect()
    assert (found.height, found.select("host", "ts").n_unique()) == (192, 192)
    # Together they took a few files, not one each.
    assert len(list(Path(store.path).rglob("*-*.arrow"))) <= 12
    assert receiver.hosts(NOW + 30) == {"fresh": 64, "stale": 0}
    assert receiver.hosts(NOW + 300) == {"fresh": 0, "stale": 64}


def test_a_metric_computed_from_a_column_that_is_sent_too_counts_as_taken(receiver: Receiver) -> None:
    encoder = Encoder({"host.name": "n1"})
    for window in range(3):
        row = gpu(0, 5.0 * window, observed_seconds=10.0 * window)
        body = encoder.encode(Window(NOW + 10 * window, [row]))
        receiver.commit(receiver.decode(body, NOW)).result(10)
    # Three points of each window, and the utilisation of the last two.
    assert (receiver.points, sum(receiver.rejected.values())) == (11, 0)
