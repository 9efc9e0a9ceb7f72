"""Who is to blame for a slow remote file system: the client, the network or the array."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.analysis.blame import blame, with_blame
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES


@pytest.mark.parametrize(
    ("execution", "round_trip", "retransmits", "array", "side"),
    [
        (100.0, 40.0, 0.0, 0.001, "client"),
        (100.0, 40.0, 500.0, 0.001, "client"),
        (100.0, 90.0, 5.0, 0.08, "network"),
        (100.0, 90.0, 0.0, 0.002, "network"),
        (100.0, 90.0, 0.0, 0.08, "array"),
        (100.0, 90.0, 0.0, None, None),
    ],
)
def test_waiting_in_the_client_comes_first_then_loss_then_the_arrays_word(
    execution: float, round_trip: float, retransmits: float, array: float | None, side: str | None
) -> None:
    found, item = blame(execution, round_trip, 1000.0, retransmits, array)
    assert found == side
    assert (item is None) == (side is None)


@given(*[st.floats(0, 1e12)] * 4, st.none() | st.floats(0, 1e6))
def test_nobody_is_blamed_without_a_number(
    execution: float, round_trip: float, operations: float, retransmits: float, array: float | None
) -> None:
    side, item = blame(execution, round_trip, operations, retransmits, array)
    assert (side is None) == (item is None)
    assert side in (None, "client", "network", "array")


T0 = datetime(2026, 5, 1, tzinfo=UTC)


def table(name: str, rows: list[dict[str, object]]) -> pl.LazyFrame:
    return pl.DataFrame(rows, schema=schema(TABLES[name])).lazy()


def finding(cause: str = "storage.remote", end: int | None = 30) -> dict[str, object]:
    return {
        "cause": cause,
        "scope": {"hosts": ["n1"], "resource": "/data"},
        "start": (T0 + timedelta(seconds=100)).isoformat(),
        "end": None if end is None else (T0 + timedelta(seconds=10 * end)).isoformat(),
        "evidence_for": [{"signal": "mount read time, s", "value": 1.0, "expected": 0.1, "weight": 0.5}],
    }


def mounts(execution: float, round_trip: float) -> pl.LazyFrame:
    """Ten reads a window of two mounts; the second is on another host and waits in its client."""
    return table(
        "mount",
        [
            {
                "ts": T0 + timedelta(seconds=10 * i),
                "host": host,
                "mount": "/data",
                "server": "blade",
                "reads": 10.0 * i,
                "writes": 0.0,
                "metadata_ops": 0.0,
                "retransmits": 0.0,
                "read_exec_seconds": 10 * seconds * i,
                "read_rtt_seconds": 10 * round_trip * i,
            }
            for i in range(40)
            for host, seconds in (("n1", execution), ("n2", 100.0))
        ],
    )


def arrays(**latency: float) -> pl.LazyFrame:
    """What arrays say of themselves while the finding lasts; before, they were ten times slower."""
    return table(
        "array",
        [
            {
                "ts": T0 + timedelta(seconds=10 * i),
                "array": name,
                "protocol": "nfs",
                "read_latency_seconds": seconds * (1 if i > 10 else 10),
            }
            for i in range(40)
            for name, seconds in latency.items()
        ],
    )


def told(found: dict[str, object], mount: pl.LazyFrame, array: pl.LazyFrame) -> tuple[object, object]:
    (out,) = with_blame([found], {"mount": mount, "array": array}, 10.0)
    evidence = out["evidence_for"]
    assert isinstance(evidence, list)
    assert evidence[-1]["signal"] == "mount read time, s"
    return out["blame"], evidence[0]["value"] if len(evidence) > 1 else None


@pytest.mark.parametrize("end", [30, None])
def test_the_array_that_serves_the_mount_is_asked_for_the_time_of_the_finding(end: int | None) -> None:
    mount = mounts(0.1, 0.08)
    assert told(finding(end=end), mount, arrays(blade=0.06)) == ("array", pytest.approx(0.75))
    assert told(finding(end=end), mount, arrays(blade=0.004)) == ("network", pytest.approx(0.05))
    assert told(finding(end=end), mount, arrays(blade=0.004, other=0.08))[0] == "network"
    assert told(finding(end=end), mount, arrays(other=0.08))[0] == "array"


def test_a_queue_in_the_client_needs_no_word_of_an_array() -> None:
    assert told(finding(), mounts(0.1, 0.02), arrays()) == ("client", pytest.approx(0.8))


def test_without_an_array_nobody_is_blamed_and_other_causes_have_no_blame() -> None:
    assert told(finding(), mounts(0.1, 0.08), arrays()) == (None, None)
    assert told(finding("cpu.preprocess"), mounts(0.1, 0.02), arrays()) == (None, None)
