"""Nodes of a kind are known by each other's requests, and what is read is what the official library reads."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from test_receiver import NOW, gpu
from test_receiver_names import request

from wellfed.analysis import receiver_known as module
from wellfed.analysis.receiver_known import Known
from wellfed.analysis.receiver_layout import Integrals, Layout
from wellfed.analysis.receiver_learn import learn
from wellfed.analysis.receiver_names import target
from wellfed.collectors.catalog import HOST, TABLES
from wellfed.collectors.exposition import Foreign
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window

MOST = 1 << 26

Rows = dict[tuple[str, str, tuple[str, ...]], dict[str, float | str]]


def body(host: str, *rows: Row) -> bytes:
    return Encoder({"service.name": "wellfed-agent", "host.name": host}).encode(Window(NOW, rows))


def official(data: bytes) -> Rows:
    """What the official library finds in a request."""
    rows: Rows = {}
    for resource in ExportMetricsServiceRequest.FromString(data).resource_metrics:
        sender = {a.key: a.value.string_value for a in resource.resource.attributes}
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points:
                    texts = {a.key: a.value.string_value for a in point.attributes}
                    for one in target(scope.scope.name, metric.name, texts):
                        row = rows.setdefault((one.table, sender["host.name"], one.key), {})
                        row.update(one.info)
                        if one.column:
                            row[one.column] = point.as_double
    return rows


def read(layout: Layout, data: bytes) -> Rows:
    """What a layout finds in it."""
    rows: Rows = {}
    for part in layout.read(data, Integrals()) or []:
        table = TABLES[part.table]
        for texts, values in zip(part.fixed.iter_rows(named=True), part.values.tolist(), strict=True):
            host = texts.pop(HOST)
            key = tuple(texts.pop(name) for name in table.keys if name != HOST)
            cells = dict(zip((c.name for c in table.signals), values, strict=True))
            row = {name: value for name, value in cells.items() if not math.isnan(value)}
            assert (part.table, host, key) not in rows
            rows[part.table, host, key] = row | {k: v for k, v in texts.items() if v is not None}
    return rows


#: Often as long as another one, sometimes the same, rarely no ASCII.
words = st.sampled_from(["aa", "ab", "ba", "bb", "b", "é", "aab", "a" * 130, ""])


@st.composite
def nodes(draw: st.DrawFn) -> bytes:
    """A request of a node that has much in common with others."""
    rows = []
    for name in ("gpu", "port", "job", "disk", "host"):
        table = TABLES[name]
        for _ in range(draw(st.integers(0, 2))):
            key = tuple(draw(words) for key in table.keys if key != HOST)
            info = {c.name: draw(words) for c in table.infos}
            signals = table.signals[: draw(st.sampled_from([2, 2, 2, 3]))]
            rows.append(Row(name, key, {c.name: draw(st.floats(1, 1e9)) for c in signals}, info))
    shuffled = ExportMetricsServiceRequest.FromString(body(draw(st.sampled_from(["n1", "node22"])), *rows))
    if draw(st.booleans()):
        for resource in shuffled.resource_metrics:
            for scope in resource.scope_metrics:
                order = list(scope.metrics)
                random.Random(draw(st.integers(0, 2))).shuffle(order)
                del scope.metrics[:]
                scope.metrics.extend(order)
    return shuffled.SerializeToString()


@settings(max_examples=150, deadline=None)
@given(st.lists(nodes(), min_size=2, max_size=6))
def test_whatever_kinds_are_known_a_request_is_read_as_the_official_library_reads_it(
    bodies: list[bytes],
) -> None:
    known = Known(MOST)
    for data in bodies:
        assert read(known.find(data), data) == official(data)


def node(host: str, draw: random.Random) -> bytes:
    """Of one kind: eight GPUs, two ports and a job, with names of their own."""

    def word(size: int) -> str:
        return "".join(draw.choices("0123456789abcdef", k=size))

    job = word(6)
    rows = [
        Row(
            "gpu",
            (f"GPU-{word(12)}",),
            {"active_seconds": draw.random(), "power_watts": draw.random()},
            {"index": str(n), "job": draw.choice([job, word(6)]), "model": "H100"},
        )
        for n in range(8)
    ]
    rows += [Row("port", (f"mlx5_{n}/1",), {"rx_bytes": draw.random()}, {}) for n in range(2)]
    foreign = [Foreign("other_exporter", (("uuid", word(12)),), "gauge", "")]
    encoder = Encoder({"host.name": host})
    return encoder.encode(Window(NOW, rows), (foreign, [1.0]))


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the requests that were learned from their bytes."""
    sizes: list[int] = []

    def counting(data: bytes) -> Layout:
        sizes.append(len(data))
        return learn(data)

    monkeypatch.setattr(module, "learn", counting)
    return sizes


def test_a_thousand_nodes_of_a_kind_are_learned_once(learned: list[int]) -> None:
    draw, known = random.Random(4711), Known(MOST)
    for number in range(1000):
        data = node(f"node{number}", draw)
        layout = known.find(data)
        assert read(layout, data) == official(data)
        assert layout.kind.rejected == {"unknown": 1}
    assert len(learned) == 1
    # Beside ten rows with names of their own, a node costs little.
    assert known.held < 1000 * 25_000


def renamed(data: bytes, *pairs: tuple[bytes, bytes]) -> bytes:
    for old, new in pairs:
        assert len(old) == len(new)
        assert old in data
        data = data.replace(old, new)
    return data


DISK = Row("disk", ("sda",), {"writes": 2.0}, {})
CASES: dict[str, Callable[[bytes], bytes]] = {
    "a direction is another": lambda data: renamed(data, (b"write", b"erase")),
    "two things get one name": lambda data: renamed(data, (b"GPU-1", b"GPU-0")),
    "a thing has two names": lambda data: data.replace(b"GPU-1", b"GPU-2", 1),
    "a text is no ASCII": lambda data: renamed(data, (b"GPU-1", "GPÚ1".encode())),
    "a text is no text": lambda data: renamed(data, (b"GPU-1", b"GPU-\xff")),
    "another metric": lambda data: renamed(data, (b"hw.power", b"hw.tower")),
    "no host": lambda data: renamed(data, (b"host.name", b"host.game")),
}


@pytest.mark.parametrize("change", CASES.values(), ids=CASES.keys())
def test_what_is_not_of_the_kind_is_learned_anew(
    learned: list[int], change: Callable[[bytes], bytes]
) -> None:
    data = body("n1", gpu(0, 1.0, power_watts=1.0), gpu(1, 2.0, power_watts=2.0), DISK)
    known = Known(MOST)
    known.find(data)
    other = change(data)
    try:
        layout = known.find(other)
    except ValueError:
        assert b"\xff" in other
    else:
        assert {host: set(found) for host, found in layout.things.items()} == {
            host: set(found) for host, found in learn(other).things.items()
        }
        assert layout.kind.rejected == learn(other).kind.rejected
    assert len(learned) == 2


def test_names_that_decide_what_a_point_is_are_no_free_texts(learned: list[int]) -> None:
    known = Known(MOST)
    for host, device in (("n1", "eth0"), ("n2", "eth0"), ("n1", "veth")):
        data = request(
            [("system.network.io", True, 5.0, {"device": device, "direction": "receive"})], host=host
        )
        layout = known.find(data)
        assert layout.things.keys() == ({host} if device == "eth0" else set())
    assert len(learned) == 2


def test_the_memory_of_what_is_no_longer_used_is_given_back() -> None:
    draw = random.Random(4711)
    few = Known(100_000)
    for number in range(300):
        # A kind of its own for each: one more GPU's letter.
        few.find(body(f"n{number}", Row("gpu", ("G" * (number + 1),), {"power_watts": 1.0}, {})))
    assert few.held <= 100_000
    for number in range(300):
        few.find(node(f"node{number}", draw))
    assert few.held <= 100_000
    assert len(few._kinds) == 1
