"""The way of the data, storage to fabric, stage by stage: how much of its measured limit each one uses.

Limits: a disk's own busy time; a link's rate as trained; a host's CPUs or a job's CPU limit; PCIe generation
x lanes; all SMs. A remote mount has no rate to compare with, so its occupancy follows from latency: in a
queue 1 - best/now of the capacity is in use, where best is the fastest tenth of the range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from wellfed.dashboard.data import Answer
from wellfed.dashboard.derive import binned, per_second
from wellfed.dashboard.facts import step_for
from wellfed.dashboard.figures import Array
from wellfed.dashboard.ports import switches
from wellfed.dashboard.words import amount, share

__all__ = ["Stage", "grid", "stages"]

_POINTS = 96
#: Bytes a second of one PCIe lane, by generation.
_LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}


@dataclass(frozen=True, slots=True)
class Stage:
    """load: mean share of its limit, None where it was not measured. over: `at` -> load.

    facts: (what, value). family: gives the colour; causes: families or cause ids whose loss
    is waiting for this stage.
    """

    name: str
    family: str
    causes: Sequence[str]
    load: float | None
    over: Mapping[int, float]
    facts: Sequence[tuple[str, str]]
    limit: str


def stages(answer: Answer, job: str) -> list[Stage]:
    """The six stages for the hosts of a job, or for all of them with ""."""
    hosts = _hosts(answer, job) if job else None
    ports = binned(
        answer, "port", ("rx_bytes", "tx_bytes"), ("rate_bps",), ("link",), hosts, _POINTS
    ).with_columns(
        (8 * pl.max_horizontal("rx_bytes", "tx_bytes") / pl.col("seconds") / pl.col("rate_bps")).alias("load")
    )
    ports = ports.filter(~pl.col("host").is_in(list(answer.once(switches))))
    ethernet = pl.col("link") == "ethernet"
    return [
        _storage(answer, hosts),
        _links(
            "Storage network", "network", ("storage.object",), ports.filter(ethernet), "link rate of the NICs"
        ),
        _cpu(answer, hosts, job),
        _pcie(answer, hosts),
        _gpu(answer, job),
        _links(
            "Fabric", "network", ("network", "straggler"), ports.filter(~ethernet), "link rate of the ports"
        ),
    ]


def _hosts(answer: Answer, job: str) -> list[str]:
    found = answer.diagnosis.windows.lazy().filter(pl.col("job") == job).select("host").unique().collect()
    return found["host"].to_list()


def _over(rows: pl.DataFrame, value: pl.Expr) -> dict[int, float]:
    """Mean of a value by bin."""
    means = rows.group_by("at").agg(value.mean().alias("load")).drop_nulls().sort("at")
    return dict(zip(means["at"].to_list(), means["load"].clip(0, 1).to_list(), strict=True))


def _mean(over: Mapping[int, float]) -> float | None:
    return float(np.mean(list(over.values()))) if over else None


def _storage(answer: Answer, hosts: Collection[str] | None) -> Stage:
    disks = binned(answer, "disk", ("read_bytes", "busy_seconds"), (), (), hosts, _POINTS)
    busiest = disks.group_by("host", "at").agg(per_second("busy_seconds").max().alias("load"))
    local = _over(busiest, pl.col("load"))
    columns = ("read_bytes", "reads", "read_exec_seconds")
    mounts = binned(answer, "mount", columns, (), ("server",), hosts, _POINTS)
    remote: dict[int, float] = {}
    facts = []
    for (mount,), rows in mounts.group_by("mount", maintain_order=True):
        summed = (
            rows.group_by("at")
            .agg(pl.col(columns).sum(), pl.col("seconds").max())
            .filter(pl.col("reads") > 0)
        )
        latency = summed.with_columns((pl.col("read_exec_seconds") / pl.col("reads")).alias("latency"))
        if latency.is_empty():
            continue
        best = latency["latency"].quantile(0.1) or 0.0
        busy = latency.select("at", (1 - best / pl.col("latency")).clip(0, 1).alias("load"))
        for at, load in busy.iter_rows():
            remote[at] = max(remote.get(at, 0.0), load)
        mean = float(latency["read_exec_seconds"].sum()) / float(latency["reads"].sum())
        rate = float((latency["read_bytes"] / latency["seconds"]).mean() or 0.0)  # type: ignore[arg-type]
        facts.append((rate, str(mount), f"{amount(rate, 'B/s')} · {amount(1e3 * mean, 'ms')}"))
    facts.sort(reverse=True)
    if not disks.is_empty():
        rate = float(disks.group_by("at").agg(per_second("read_bytes").sum())["read_bytes"].mean() or 0.0)  # type: ignore[arg-type]
        facts.append((0.0, "local disks", f"{amount(rate, 'B/s')} · {share(_mean(local))} busy"))
    over = {at: max(local.get(at, 0.0), remote.get(at, 0.0)) for at in sorted(local.keys() | remote.keys())}
    causes = ("storage.read", "storage.remote", "storage.metadata")
    told = [(name, value) for _, name, value in facts[:3]]
    return Stage(
        "Storage", "storage", causes, _mean(over), over, told, "busy time of disks, latency of mounts"
    )


def _links(name: str, family: str, causes: Sequence[str], rows: pl.DataFrame, limit: str) -> Stage:
    if rows.is_empty():
        return Stage(name, family, causes, None, {}, [("ports", "none reported")], limit)
    over = _over(rows, pl.col("load"))
    per_host = rows.group_by("host", "at").agg(per_second("rx_bytes").sum(), per_second("tx_bytes").sum())
    each = rows.group_by("host", "port").agg(pl.col("load").mean()).sort("load")
    facts = [
        ("in, a host", amount(float(per_host["rx_bytes"].mean() or 0.0), "B/s")),  # type: ignore[arg-type]
        ("out, a host", amount(float(per_host["tx_bytes"].mean() or 0.0), "B/s")),  # type: ignore[arg-type]
        ("busiest port", f"{each['host'][-1]} {each['port'][-1]} · {share(each['load'][-1])}"),
    ]
    return Stage(name, family, causes, _mean(over), over, facts, limit)


def _cpu(answer: Answer, hosts: Collection[str] | None, job: str) -> Stage:
    columns = ("cpu_busy_seconds", "psi_cpu_some_seconds", "psi_io_some_seconds")
    rows = binned(answer, "host", columns, ("cpu_count",), (), hosts, _POINTS)
    busy = pl.col("cpu_busy_seconds") / pl.col("seconds") / pl.col("cpu_count")
    over = _over(rows, busy)
    facts = [("host busy", share(_mean(over)))]
    if job:
        mine = binned(answer, "job", ("cpu_usage_seconds",), ("cpu_limit",), (), hosts, _POINTS)
        used = _over(
            mine.filter(pl.col("job") == job),
            pl.col("cpu_usage_seconds") / pl.col("seconds") / pl.col("cpu_limit"),
        )
        if used:
            facts.append(("of the job's CPU limit", share(_mean(used))))
            over = {at: max(over.get(at, 0.0), used.get(at, 0.0)) for at in sorted(over.keys() | used.keys())}
    if not rows.is_empty():
        pressure = rows.select(per_second("psi_cpu_some_seconds").mean()).item()
        facts.append(("tasks wait for a CPU", share(pressure)))
    return Stage(
        "CPU", "cpu", ("cpu", "launch"), _mean(over), over, facts, "the hosts' CPUs, the job's CPU limit"
    )


def _pcie(answer: Answer, hosts: Collection[str] | None) -> Stage:
    rows = binned(
        answer, "gpu", ("pcie_rx_bytes", "pcie_tx_bytes"), ("pcie_gen", "pcie_width"), (), hosts, _POINTS
    )
    # An idle link trains down; what it reaches under load is its limit.
    link = rows.group_by("host", "gpu").agg(
        pl.col("pcie_gen").max().round(), pl.col("pcie_width").max().round()
    )
    speed = pl.col("pcie_gen").cast(pl.Int64).replace_strict(_LANE, default=None) * pl.col("pcie_width")
    rows = rows.drop("pcie_gen", "pcie_width").join(
        link.with_columns(speed.alias("limit")), on=["host", "gpu"]
    )
    rate = pl.max_horizontal("pcie_rx_bytes", "pcie_tx_bytes") / pl.col("seconds")
    over = _over(rows, rate / pl.col("limit"))
    facts = []
    if not rows.is_empty():
        rx, tx = (rows.select(per_second(c).mean()).item() for c in ("pcie_rx_bytes", "pcie_tx_bytes"))
        facts = [("into a GPU", amount(rx, "B/s")), ("out of a GPU", amount(tx, "B/s"))]
        kinds = link.drop_nulls().group_by("pcie_gen", "pcie_width").len().sort("len", descending=True)
        if kinds.height:
            facts.append(("link", f"Gen{kinds['pcie_gen'][0]:.0f} x{kinds['pcie_width'][0]:.0f}"))
    return Stage(
        "PCIe", "pcie", ("pcie",), _mean(over), over, facts, "generation x lanes as trained under load"
    )


def _gpu(answer: Answer, job: str) -> Stage:
    step = round(1000 * step_for(answer, _POINTS))
    windows = answer.diagnosis.windows.lazy()
    windows = windows.filter(pl.col("job") == job) if job else windows
    at = ((pl.col("ts").dt.epoch("ms") - 1) // step * step).alias("at")
    rows = windows.group_by(at).agg(pl.col("useful").mean(), pl.col("reference").mean()).sort("at").collect()
    over = _over(rows, pl.col("useful"))
    facts = [("useful activity", share(_mean(over)))]
    if rows.height:
        facts.append(("at its best", share(rows["reference"].mean())))  # type: ignore[arg-type]
    return Stage(
        "GPU compute",
        "hardware",
        ("throttle", "hardware"),
        _mean(over),
        over,
        facts,
        "all SMs at useful work",
    )


def grid(found: Sequence[Stage]) -> tuple[Array, list[Array]]:
    """(stamps, loads of each stage at them, NaN where it was not measured)."""
    stamps = sorted({at for stage in found for at in stage.over})
    return np.array(stamps, dtype=np.float64), [
        np.array([stage.over.get(at, np.nan) for at in stamps], dtype=np.float64) for stage in found
    ]
