"""Simulated tables as the samples that a Prometheus would have scraped: our own names, or other exporters'."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl
from programs import Programs, fetch, free_port, until

from wellfed.collectors.catalog import HOST, TABLES

#: name, labels, (milliseconds, value) in order of time.
Series = tuple[str, Mapping[str, str], list[tuple[int, float]]]
Tables = Mapping[str, pl.DataFrame]
DISK = {
    "read_bytes": "read_bytes",
    "written_bytes": "written_bytes",
    "reads": "reads_completed",
    "writes": "writes_completed",
    "read_seconds": "read_time_seconds",
    "write_seconds": "write_time_seconds",
    "busy_seconds": "io_time_seconds",
    "queue_seconds": "io_time_weighted_seconds",
}
HOSTS = {
    "psi_cpu_some_seconds": "node_pressure_cpu_waiting_seconds_total",
    "psi_io_some_seconds": "node_pressure_io_waiting_seconds_total",
    "psi_io_full_seconds": "node_pressure_io_stalled_seconds_total",
    "psi_memory_some_seconds": "node_pressure_memory_waiting_seconds_total",
    "psi_memory_full_seconds": "node_pressure_memory_stalled_seconds_total",
    "major_faults": "node_vmstat_pgmajfault",
    "tcp_segments_out": "node_netstat_Tcp_OutSegs",
    "tcp_retransmits": "node_netstat_Tcp_RetransSegs",
    "load1": "node_load1",
    "boot_seconds": "node_boot_time_seconds",
    "memory_total_bytes": "node_memory_MemTotal_bytes",
    "memory_available_bytes": "node_memory_MemAvailable_bytes",
    "page_cache_bytes": "node_memory_Cached_bytes",
}
PORT = {
    "rx_bytes": "port_data_received_bytes_total",
    "tx_bytes": "port_data_transmitted_bytes_total",
    "xmit_wait_ticks": "port_transmit_wait_total",
    "symbol_errors": "symbol_error_total",
    "link_downed": "link_downed_total",
    "rcv_errors": "port_errors_received_total",
}


def own(tables: Tables) -> Iterator[Series]:
    """What scraping an agent of each host yields; `job` of the scrape collides with our label of that name."""
    for name, frame in tables.items():
        table = TABLES[name]
        if name == "collector" or frame.is_empty():
            continue
        for part in frame.sort("ts").partition_by(
            [HOST, *(k for k in table.keys if k != HOST), *(c.name for c in table.infos)]
        ):
            first = part.row(0, named=True)
            scrape = {"instance": f"{first['host']}:9812", "job": "wellfed"}
            labels = _labels(first, table.labels) | scrape
            for column in table.signals:
                points = _points(part, pl.col(column.name))
                if points:
                    yield table.metric(column), labels, points
            if table.infos:
                every = _labels(first, [*table.labels, *(c.name for c in table.infos)]) | scrape
                yield f"wellfed_{name}_info", every, _points(part, pl.lit(1.0))


def _labels(row: Mapping[str, object], names: Iterable[str]) -> dict[str, str]:
    return {("exported_job" if n == "job" else n): str(row[n]) for n in names if row.get(n) is not None}


def _points(part: pl.DataFrame, value: pl.Expr) -> list[tuple[int, float]]:
    found = part.select(pl.col("ts").dt.epoch("ms"), value.cast(pl.Float64).alias("value")).drop_nulls()
    return list(found.iter_rows())


def foreign(tables: Tables) -> Iterator[Series]:
    """The same machines as dcgm-exporter (gauges!) and node_exporter tell of them."""
    yield from _dcgm(tables["gpu"])
    for part in tables["host"].sort("ts").partition_by("host"):
        yield from _node(part)
    for part in tables["disk"].sort("ts").partition_by("host", "device"):
        label = {"device": part["device"][0], **_node_labels(part)}
        for ours, theirs in DISK.items():
            yield f"node_disk_{theirs}_total", label, _points(part, pl.col(ours))
    for part in tables["port"].sort("ts").partition_by("host", "port"):
        if part["link"][0] == "infiniband":
            device, _, number = part["port"][0].partition("/")
            label = {"device": device, "port": number, **_node_labels(part)}
            for ours, theirs in PORT.items():
                yield f"node_infiniband_{theirs}", label, _points(part, pl.col(ours))
            yield "node_infiniband_rate_bytes_per_second", label, _points(part, pl.col("rate_bps") / 8)
            yield "node_infiniband_state_id", label, _points(part, 4 * pl.col("up"))
    for part in tables["mount"].sort("ts").partition_by("host", "mount"):
        yield from _mount(part)


def _dcgm(gpu: pl.DataFrame) -> Iterator[Series]:
    gauges = {
        "PROF_GR_ENGINE_ACTIVE": ("active_seconds", 1.0),
        "PROF_SM_ACTIVE": ("sm_active_seconds", 1.0),
        "PROF_PIPE_TENSOR_ACTIVE": ("tensor_active_seconds", 1.0),
        "PROF_DRAM_ACTIVE": ("dram_active_seconds", 1.0),
        "PROF_PCIE_RX_BYTES": ("pcie_rx_bytes", 1.0),
        "PROF_PCIE_TX_BYTES": ("pcie_tx_bytes", 1.0),
        "PROF_NVLINK_RX_BYTES": ("nvlink_rx_bytes", 1.0),
        "PROF_NVLINK_TX_BYTES": ("nvlink_tx_bytes", 1.0),
        "DEV_GPU_UTIL": ("active_seconds", 0.01),
    }
    plain = {
        "DEV_FB_USED": pl.col("memory_used_bytes") / 2**20,
        "DEV_FB_FREE": (pl.col("memory_total_bytes") - pl.col("memory_used_bytes")) / 2**20,
        "DEV_SM_CLOCK": pl.col("sm_clock_hertz") / 1e6,
        "DEV_POWER_USAGE": pl.col("power_watts"),
        "DEV_TOTAL_ENERGY_CONSUMPTION": pl.col("energy_joules") * 1e3,
        "DEV_PCIE_LINK_GEN": pl.col("pcie_gen"),
        "DEV_PCIE_MAX_LINK_GEN": pl.col("pcie_gen_max"),
        "DEV_PCIE_LINK_WIDTH": pl.col("pcie_width"),
        "DEV_PCIE_MAX_LINK_WIDTH": pl.col("pcie_width_max"),
        "DEV_CLOCKS_EVENT_REASONS": pl.when(pl.col("throttle_thermal_seconds").diff() > 0)
        .then(0x20)
        .when(pl.col("throttle_power_seconds").diff() > 0)
        .then(0x04)
        .otherwise(0),
    }
    for part in gpu.sort("ts").partition_by("host", "gpu", "job"):
        first = part.row(0, named=True)
        host, job = first["host"], first["job"]
        kind, _, name = (job or "").partition(":")
        namespace, _, pod = name.partition("/")
        held = {"exported_namespace": namespace, "exported_pod": pod} if kind == "kubernetes" else {}
        labels = {
            "gpu": str(first["index"]),
            "UUID": first["gpu"],
            "modelName": first["model"],
            "Hostname": host,
            "instance": f"10.0.0.9:{9400 + int(first['index'])}",
            "pod": "dcgm-exporter-x7x2k",
            "namespace": "monitoring",
            "job": "dcgm",
            **(held if job else {}),
            **({"hpc_job": name} if kind == "slurm" else {}),
        }
        for field, (column, unit) in gauges.items():
            rate = pl.col(column).diff() / (pl.col("ts").diff().dt.total_milliseconds() / 1000) / unit
            yield f"DCGM_FI_{field}", labels, _points(part, rate)
        for field, value in plain.items():
            yield f"DCGM_FI_{field}", labels, _points(part, value)


def _node_labels(part: pl.DataFrame) -> dict[str, str]:
    return {"instance": f"{part['host'][0]}.example:9100", "job": "node"}


def _node(part: pl.DataFrame) -> Iterator[Series]:
    labels = _node_labels(part)
    host = part["host"][0]
    yield "node_uname_info", {**labels, "nodename": f"{host}.cluster.example"}, _points(part, pl.lit(1.0))
    for ours, theirs in HOSTS.items():
        yield theirs, labels, _points(part, pl.col(ours))
    for name in ("Buffers", "Shmem"):
        yield f"node_memory_{name}_bytes", labels, _points(part, pl.lit(0.0))
    for number in range(int(part["cpu_count"][0])):
        cpu = {**labels, "cpu": str(number)}
        yield "node_cpu_seconds_total", {**cpu, "mode": "idle"}, _points(part, pl.lit(1.0))
    for mode, column in (("user", "cpu_busy_seconds"), ("iowait", "cpu_iowait_seconds")):
        for number in range(2):
            share = {**labels, "cpu": str(number), "mode": mode}
            yield "node_cpu_seconds_total", share, _points(part, pl.col(column) / 2)
    for way, column in (("receive", "net_rx_bytes"), ("transmit", "net_tx_bytes")):
        metric = f"node_network_{way}_bytes_total"
        yield metric, {**labels, "device": "eth0"}, _points(part, pl.col(column))
        yield metric, {**labels, "device": "docker0"}, _points(part, 7 * pl.col(column))


def _mount(part: pl.DataFrame) -> Iterator[Series]:
    first = part.row(0, named=True)
    label = {"export": first["mount"], "mountaddr": first["server"] or "", "protocol": "tcp"}
    label |= _node_labels(part)
    for total, column in (("read", "read_bytes"), ("write", "written_bytes")):
        yield f"node_mountstats_nfs_total_{total}_bytes_total", label, _points(part, pl.col(column))
    for operation, ours in (("READ", "read"), ("WRITE", "write"), ("GETATTR", "metadata")):
        count = "metadata_ops" if ours == "metadata" else f"{ours}s"
        named = {**label, "operation": operation}
        prefix = "node_mountstats_nfs_operations_"
        yield f"{prefix}requests_total", named, _points(part, pl.col(count))
        again = pl.col("retransmits") if operation == "READ" else pl.lit(0.0)
        yield f"{prefix}transmissions_total", named, _points(part, pl.col(count) + again)
        for theirs, mine in (("response", "rtt"), ("request", "exec")):
            metric = f"{prefix}{theirs}_time_seconds_total"
            yield metric, named, _points(part, pl.col(f"{ours}_{mine}_seconds"))


def text(series: Iterable[Series], *, milliseconds: bool) -> str:
    """Exposition lines with timestamps, each metric's together: OpenMetrics, or with milliseconds as of old."""
    by_name: dict[str, list[str]] = {}
    for name, labels, points in series:
        inner = ",".join(f"{k}={json.dumps(v)}" for k, v in sorted(labels.items()))
        lines = by_name.setdefault(name, [])
        lines += [f"{name}{{{inner}}} {v!r} {at if milliseconds else at / 1000:.15g}" for at, v in points]
    body = "\n".join(line for lines in by_name.values() for line in lines)
    return body + "\n# EOF\n"


def prometheus(programs: Programs, folder: Path, series: Iterable[Series]) -> str:
    """The address of a Prometheus that holds the series."""
    source, data, config = folder / "samples.om", folder / "blocks", folder / "empty.yml"
    source.write_text(text(series, milliseconds=False))
    config.write_text("{}\n")
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(data)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    port = free_port()
    programs.start(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: fetch(f"{url}/-/ready"), what="Prometheus is ready")
    return url


def victoria(programs: Programs, folder: Path, series: Iterable[Series]) -> str:
    """The address of a VictoriaMetrics that holds the series."""
    port = free_port()
    programs.start(
        "victoria-metrics",
        f"-storageDataPath={folder / 'victoria'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=100y",
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: fetch(f"{url}/health"), what="VictoriaMetrics is ready")
    post(f"{url}/api/v1/import/prometheus", text(series, milliseconds=True))
    post(f"{url}/internal/force_flush", "")
    return url


def post(url: str, body: str) -> None:
    with contextlib.closing(urllib.request.urlopen(url, data=body.encode(), timeout=60)) as answer:
        answer.read()


#: Server -> what starts one that holds the series.
SERVERS: Mapping[str, Callable[[Programs, Path, Iterable[Series]], str]] = {
    "prometheus": prometheus,
    "victoria-metrics": victoria,
}
