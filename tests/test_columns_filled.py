"""A whole node fills every column of host, disk, mount and port: none is in the catalog for show."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from wellfed.collectors import (
    cpu,
    disk,
    ethtool,
    infiniband,
    lustre,
    memory,
    mountstats,
    network,
    nvidia_fs,
    pressure,
)
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.registry import Collector, Roots

NODE = Path(__file__).parent / "fixtures" / "node"
ROOTS = Roots(str(NODE / "proc"), str(NODE / "sys"))

SOURCES: list[type[Collector]] = [
    cpu.Cpu,
    disk.Disk,
    infiniband.Infiniband,
    lustre.Lustre,
    memory.Memory,
    mountstats.Mountstats,
    network.Network,
    nvidia_fs.NvidiaFs,
    pressure.Pressure,
]


def filled() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for source in SOURCES:
        for row in source().read(ROOTS, 0.0):
            found[row.table] |= {name for name, value in row.values.items() if value is not None}
            found[row.table] |= set(row.info)
    # A driver's own statistics come by ioctl, not from a file.
    found["port"] |= set(ethtool.columns([("rx_prio3_pause_duration", 1)]))
    # What waits in the cluster's queues comes over HTTP.
    found["host"].add("jobs_pending")
    return found


@pytest.mark.parametrize("table", ["host", "disk", "mount", "port"])
def test_every_column_is_filled_by_some_source(table: str) -> None:
    assert filled()[table] == {column.name for column in TABLES[table].columns}


def test_what_two_sources_say_of_one_thing_does_not_overlap() -> None:
    said: dict[tuple[str, tuple[str, ...], str], str] = {}
    for source in SOURCES:
        for row in source().read(ROOTS, 0.0):
            for column in row.values:
                key = (row.table, row.key, column)
                assert key not in said, f"{said[key]} and {source.__name__} both fill {key}"
                said[key] = source.__name__
