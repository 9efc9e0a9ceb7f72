"""What FlashBlade's OpenMetrics exporter calls the columns of `array`, and what a mapping may name beside.

Plain data. Sources: the exporter's specification (purefb-metrics.md) and its predecessor's names, which count
where the exporter's own are missing. Not checked on an array.
"""

from __future__ import annotations

from collections.abc import Iterable

from wellfed.collectors.names import Group, Name

__all__ = ["ALL", "FLASHBLADE", "SPACE"]

#: Where an exporter does not tell protocols apart.
ALL = "all"
#: Two columns that are none of `array`: together they are its used_ratio.
SPACE = ("used_bytes", "capacity_bytes")


def _performance() -> Iterable[Name]:
    prefix = "purefb_array_performance"
    for ours, theirs in (("read", "read"), ("write", "write"), ("other", "other")):
        latency = {"dimension": f"usec_per_{theirs}_op|{theirs}"}
        yield Name(f"{prefix}_latency_usec", f"{ours}_latency_seconds", factor=1e-6, where=latency)
        operations = {"dimension": f"{theirs}s_per_sec|{theirs}"}
        yield Name(f"{prefix}_throughput_iops", f"{ours}_ops_per_second", where=operations)
        yield Name(f"{prefix}_iops", f"{ours}_ops_per_second", where=operations, rank=1)
    for theirs in ("read", "write"):
        moved = {"dimension": f"{theirs}_bytes_per_sec|{theirs}"}
        yield Name(f"{prefix}_bandwidth_bytes", f"{theirs}_bytes_per_second", where=moved)
        yield Name(f"{prefix}_throughput_bytes", f"{theirs}_bytes_per_second", where=moved, rank=1)
    for column, space in zip(SPACE, ("total_physical", "capacity"), strict=True):
        yield Name("purefb_array_space_bytes", column, where={"type": "array", "space": space})


#: What FlashBlade's exporter calls our columns.
FLASHBLADE = Group("flashblade", "array", {"protocol": ("protocol",)}, tuple(_performance()))
