"""What to ask a Prometheus for: a range query for each metric that fills a column of ours, a point a window.

`last_over_time(m[w])` and `avg_over_time(m[w])` with w a millisecond short of a window see the samples of
that window and no other: nothing is carried over a gap, as an instant selector would for five minutes. What
our column sums over (CPUs, modes, interfaces, operations) is summed on the server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from wellfed.collectors.catalog import TABLES, Table
from wellfed.collectors.names import GROUPS, VIRTUAL_DEVICES, Group, Name

__all__ = ["BEACONS", "INFO", "OWN", "UNAME", "Query", "beacons", "matched", "plan"]

OWN = "wellfed"
#: Column of a query whose labels are all that matters.
INFO = ""
#: node_exporter's metric that tells the host's name behind an address.
UNAME = "node_uname_info"
#: One metric that every deployment of a family has; its rhythm is that of the family. Switches are no part of
#: the diagnosis, so theirs sets no rhythm.
BEACONS = {
    OWN: ("wellfed_gpu_observed_seconds_total", "wellfed_host_cpu_count", "wellfed_step_step_seconds_total"),
    "dcgm": ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_POWER_USAGE"),
    "nvidia_smi": ("nvidia_smi_utilization_gpu_ratio", "nvidia_smi_gpu_info"),
    "node_exporter": ("node_load1", "node_boot_time_seconds", "node_memory_MemTotal_bytes"),
}
#: Labels of theirs that a column of ours sums over, by table.
_SUMMED = {"host": ("cpu", "mode", "device"), "mount": ("operation", "protocol")}


@dataclass(frozen=True, slots=True)
class Query:
    """One column. text: PromQL. group: None for our own names. name: how their samples become ours."""

    table: Table
    column: str
    family: str
    text: str
    group: Group | None = None
    name: Name | None = None


def matched(*matchers: str) -> str:
    """`{a="b",c="d"}`, or "" when there is nothing to match."""
    inner = ",".join(filter(None, matchers))
    return f"{{{inner}}}" if inner else ""


def beacons(present: Collection[str]) -> dict[str, str]:
    """Family -> its first metric that is present."""
    found = {}
    for family, metrics in BEACONS.items():
        known = [metric for metric in metrics if metric in present]
        if known:
            found[family] = known[0]
    return found


def plan(present: Collection[str], step: float, selector: str = "") -> list[Query]:
    """A query for each metric that is present and means something to us.

    step: seconds of a window. selector: label matchers that every series has to meet.
    """
    window = f"[{round(step * 1000) - 1}ms]"
    queries = [*_own(present, window, selector)]
    for group in GROUPS:
        queries += _foreign(group, present, window, selector)
    if UNAME in present:
        text = f"last_over_time({UNAME}{matched(selector)}{window})"
        queries.append(Query(TABLES["host"], INFO, UNAME, text))
    return queries


def _own(present: Collection[str], window: str, selector: str) -> Iterator[Query]:
    for table in TABLES.values():
        if table.name == "collector":
            continue
        metrics = {column.name: table.metric(column) for column in table.signals}
        if table.infos:
            metrics[INFO] = f"wellfed_{table.name}_info"
        for column, metric in metrics.items():
            if metric in present:
                yield Query(table, column, OWN, f"last_over_time({metric}{matched(selector)}{window})")


def _foreign(group: Group, present: Collection[str], window: str, selector: str) -> Iterator[Query]:
    table = TABLES[group.table]
    for name in group.names:
        if name.metric not in present:
            continue
        matchers = [selector, *(_matcher(label, pattern) for label, pattern in name.where.items())]
        network = name.metric.startswith("node_network_")
        if network:
            matchers.append(f'device!~"{_quoted(VIRTUAL_DEVICES)}"')
        function = "avg_over_time" if name.use == "level" else "last_over_time"
        text = f"{function}({name.metric}{matched(*matchers)}{window})"
        summed = _SUMMED.get(group.table, ())
        if summed and (name.where or network or group.table == "mount"):
            how = "count" if name.column == "cpu_count" else "sum"
            text = f"{how} without({','.join(summed)}) ({text})"
        yield Query(table, name.column, group.family, text, group, name)


def _matcher(label: str, pattern: str) -> str:
    operator = "!~" if pattern.startswith("!") else "=~"
    return f'{label}{operator}"{_quoted(pattern.removeprefix("!"))}"'


def _quoted(pattern: str) -> str:
    return pattern.replace("\\", "\\\\").replace('"', '\\"')
