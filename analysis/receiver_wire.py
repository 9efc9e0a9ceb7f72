"""OTLP metrics requests, read from their bytes: where each point's numbers lie and what they belong to.

A request is walked once, without building messages. In OTLP times and values are fixed64 fields, so two
requests of one sender with the same series differ in these eight-byte places and in nothing else: whoever
knows the places reads the next request with one gather (wellfed.analysis.receiver_layout).
Source: opentelemetry-proto metrics/v1 and collector/metrics/v1; protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Head", "Metric", "Point", "Resource", "attributes", "first_resource", "head", "texts", "walk"]

#: DataPointFlags: the point says that there is no value.
NO_VALUE = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DELTA = 1
#: Field of Metric -> whether its points are numbers; the others are histograms and summaries.
_DATA = {5: True, 7: True, 9: False, 10: False, 11: False}

#: time, value (0: none), whether the value is a double, the attributes' bytes, start (0: none), and where the
#: attributes' bytes begin (-1: they are in pieces).
Point = tuple[int, int, bool, bytes, int, int]


@dataclass(frozen=True, slots=True)
class Resource:
    """Attributes of a sender, those with a scalar value, as text."""

    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Head:
    """The only sender of a request. stop: where its attributes end; nothing behind them belongs to others."""

    attributes: dict[str, str]
    stop: int


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. points: offsets in the request. delta: values are changes, not totals. others: points that
    are not numbers."""

    resource: Resource
    scope: str
    name: str
    delta: bool
    points: list[Point]
    others: int


def walk(data: bytes) -> Iterator[Metric]:
    """Every metric of a serialized ExportMetricsServiceRequest. Raises ValueError when it is none."""
    try:
        for number, start, stop in _messages(data, 0, len(data)):
            if number == 1:
                yield from _resource_metrics(data, start, stop)
    except IndexError:
        raise ValueError("the request ends in the middle of a field") from None


def first_resource(data: bytes) -> bytes:
    """The bytes of the first sender's attributes, b"" where there are none. Raises ValueError."""
    try:
        for number, start, stop in _messages(data, 0, len(data)):
            if number == 1:
                for field, low, high in _messages(data, start, stop):
                    if field == 1:
                        return data[low:high]
    except IndexError:
        raise ValueError("the request ends in the middle of a field") from None
    return b""


def head(data: bytes) -> Head | None:
    """The sender of a request that has one, before all its metrics; None for another. Raises ValueError."""
    try:
        sender = next(_messages(data, 0, len(data)), (0, 0, 0))
        if sender[0] != 1 or sender[2] != len(data):
            return None
        fields = _messages(data, *sender[1:])
        first = next(fields, (0, 0, 0))
        if first[0] != 1 or any(number == 1 for number, _, _ in fields):
            return None
        found: dict[str, str] = {}
        for field, low, high in _messages(data, *first[1:]):
            if field == 1:
                key, text, _, _ = _attribute(data, low, high)
                found[key] = text
    except IndexError:
        raise ValueError("the request ends in the middle of a field") from None
    return Head(found, first[2])


def attributes(packed: bytes) -> dict[str, str]:
    """Attributes of a point, from its bytes. Raises ValueError."""
    return {key: text for key, (text, _, _) in texts(packed).items()}


def texts(packed: bytes) -> dict[str, tuple[str, int, int]]:
    """Attributes of a point, from its bytes, and where in these their texts lie. Raises ValueError."""
    found: dict[str, tuple[str, int, int]] = {}
    try:
        for number, start, stop in _messages(packed, 0, len(packed)):
            if number == 7:
                key, text, low, high = _attribute(packed, start, stop)
                found[key] = text, low, high
    except IndexError:
        raise ValueError("an attribute ends in the middle of a field") from None
    return found


def _resource_metrics(data: bytes, start: int, stop: int) -> Iterator[Metric]:
    resource = Resource({})
    scopes = []
    for number, at, end in _messages(data, start, stop):
        if number == 1:
            for field, low, high in _messages(data, at, end):
                if field == 1:
                    key, text, _, _ = _attribute(data, low, high)
                    resource.attributes[key] = text
        elif number == 2:
            scopes.append((at, end))
    for at, end in scopes:
        scope = ""
        metrics = []
        for number, low, high in _messages(data, at, end):
            if number == 1:
                names = [_text(data, a, b) for field, a, b in _messages(data, low, high) if field == 1]
                scope = names[-1] if names else scope
            elif number == 2:
                metrics.append((low, high))
        for low, high in metrics:
            yield _metric(data, low, high, resource, scope)


def _metric(data: bytes, start: int, stop: int, resource: Resource, scope: str) -> Metric:
    name = ""
    delta = False
    others = 0
    points: list[Point] = []
    for number, at, end in _messages(data, start, stop):
        if number == 1:
            name = _text(data, at, end)
        elif number in _DATA:
            for field, low, high in _fields(data, at, end):
                if field == 1 and _DATA[number]:
                    points.append(_point(data, low, high))
                elif field == 1:
                    others += 1
                elif field == 2 and number == 7:
                    delta = low == _DELTA
    return Metric(resource, scope, name, delta, points, others)


def _point(data: bytes, at: int, stop: int) -> Point:
    """One NumberDataPoint; the loop over all fields of all points, so without calls."""
    time = value = start = 0
    double = True
    flags = 0
    first = last = 0
    parts: list[bytes] = []
    while at < stop:
        tag = data[at]
        if tag == 0x3A:
            begin = at
            size = data[at + 1]
            at += 2
            if size >= 128:
                size, at = _varint(data, at - 1)
            at += size
            if begin == last:
                last = at
            else:
                if last:
                    parts.append(data[first:last])
                first, last = begin, at
        elif tag == 0x19:
            time, at = at + 1, at + 9
        elif tag == 0x21:
            value, double, at = at + 1, True, at + 9
        elif tag == 0x11:
            start, at = at + 1, at + 9
        elif tag == 0x31:
            value, double, at = at + 1, False, at + 9
        elif tag == 0x40:
            flags, at = _varint(data, at + 1)
        else:
            at = _skip(data, at)
    if at != stop:
        raise ValueError("a data point is longer than it says")
    if last:
        parts.append(data[first:last])
    if flags & NO_VALUE:
        value = 0
    whole = len(parts) == 1
    return time, value, double, parts[0] if whole else b"".join(parts), start, first if whole else -1


def _attribute(data: bytes, start: int, stop: int) -> tuple[str, str, int, int]:
    """Key, text, and where the text lies; nowhere for what is no text."""
    key = text = ""
    low = high = 0
    for number, at, end in _messages(data, start, stop):
        if number == 1:
            key = _text(data, at, end)
        elif number == 2:
            text, low, high = _scalar(data, at, end)
    return key, text, low, high


def _scalar(data: bytes, start: int, stop: int) -> tuple[str, int, int]:
    """An AnyValue as text, and where that lies: strings, booleans and integers; "" for the rest."""
    text, low, high = "", 0, 0
    for number, at, end in _fields(data, start, stop):
        low = high = 0
        if number == 1:
            text, low, high = _text(data, at, end), at, end
        elif number == 2:
            text = "true" if at else "false"
        elif number == 3:
            text = str(at - (1 << 64) if at >> 63 else at)
        else:
            text = ""
    return text, low, high


def _text(data: bytes, start: int, stop: int) -> str:
    return data[start:stop].decode()


def _messages(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and stop of each length-delimited field; other fields are passed over."""
    while at < stop:
        tag, at = _varint(data, at)
        if tag & 7 == _BYTES:
            size, at = _varint(data, at)
            if at + size > stop:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, at, at + size
            at += size
        else:
            at = _pass(data, at, tag & 7)
    if at != stop:
        raise ValueError("a field is longer than its message")


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """As _messages, and of varints the number, the value and 0."""
    while at < stop:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at)
            if at + size > stop:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, at, at + size
            at += size
        elif kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value, 0
        else:
            at = _pass(data, at, kind)
            yield tag >> 3, 0, 0
    if at != stop:
        raise ValueError("a field is longer than its message")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value = byte & 127
    for shift in range(7, 70, 7):
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at + 1
    raise ValueError("a number is longer than ten bytes")


def _skip(data: bytes, at: int) -> int:
    tag, at = _varint(data, at)
    return _pass(data, at, tag & 7)


def _pass(data: bytes, at: int, kind: int) -> int:
    if kind == _VARINT:
        return _varint(data, at)[1]
    if kind == _FIXED64:
        return at + 8
    if kind == _BYTES:
        size, at = _varint(data, at)
        return at + size
    if kind == _FIXED32:
        return at + 4
    raise ValueError(f"no field has the wire type {kind}")
