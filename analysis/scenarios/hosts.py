"""The host, disk, mount, port, array and collector tables: what all jobs on a host add up to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wellfed.analysis.scenarios.frames import Counters, frame
from wellfed.analysis.scenarios.plan import JobPlan, Node, Storage, Workload
from wellfed.analysis.scenarios.storage import SEGMENT
from wellfed.analysis.scenarios.usage import Columns, Traffic, Usage

__all__ = ["HostTables"]

F = NDArray[np.float64]

_PRESSURES = (
    "psi_cpu_some_seconds",
    "psi_io_some_seconds",
    "psi_io_full_seconds",
    "psi_memory_some_seconds",
    "psi_memory_full_seconds",
)
_COLLECTORS = ("nvml", "gpm", "cpu", "pressure", "cgroup", "mountstats", "infiniband")
_DISK = (
    "read_bytes",
    "written_bytes",
    "reads",
    "writes",
    "read_seconds",
    "write_seconds",
    "busy_seconds",
    "queue_seconds",
    "inflight",
)
_MOUNT = (
    "read_bytes", "written_bytes", "reads", "writes", "metadata_ops", "read_rtt_seconds", "read_exec_seconds",
    "read_queue_seconds", "write_rtt_seconds", "write_exec_seconds", "metadata_rtt_seconds",
    "metadata_exec_seconds", "retransmits", "timeouts", "backlog",
)  # fmt: skip
_PORT = (
    "rx_bytes", "tx_bytes", "xmit_wait_ticks", "symbol_errors", "link_downed", "link_recovery", "rcv_errors",
    "xmit_discards", "out_of_sequence", "packet_seq_errors", "ack_timeouts", "cnp_sent", "cnp_handled",
    "ecn_marked", "pause_seconds", "buffer_overruns", "integrity_errors", "rnr_nak_retries",
)  # fmt: skip


class HostTables:
    """Counters of everything that belongs to hosts and not to jobs."""

    def __init__(
        self,
        hosts: Sequence[str],
        jobs: Sequence[JobPlan],
        node: Node,
        rng: np.random.Generator,
        epoch: float,
        arrays: bool,
    ) -> None:
        self.hosts, self.node, self.epoch, self._rng = list(hosts), node, epoch, rng
        count = len(hosts)
        self._boot = np.floor(epoch - rng.uniform(2, 40, count) * 86_400.0)
        self._counters = Counters("host", count, rng, 2e4)
        self._mounts = self._pairs(jobs, hosts)
        self._disk_names = self._disks(jobs, node)
        self._disk = Counters("disk", count * len(self._disk_names), rng, 2e4)
        self._mount = Counters("mount", len(self._mounts), rng, 2e4)
        self._port = Counters("port", count * node.ports, rng, 2e4)
        self._ether = Counters("port", count, rng, 2e4)
        self._collector = Counters("collector", count * len(_COLLECTORS), rng, 0.0)
        self._arrays = arrays
        self._load: F | None = None

    @staticmethod
    def _stores(job: JobPlan) -> list[Storage]:
        stores = [job.storage] if job.storage is not None else []
        if isinstance(job.work, Workload) and job.work.checkpoint > 0 and job.checkpoints is not None:
            stores.append(job.checkpoints)
        return stores

    def _pairs(self, jobs: Sequence[JobPlan], hosts: Sequence[str]) -> dict[tuple[int, str], tuple[str, str]]:
        """(host index, mount) -> (file system type, server), of every network file system in use."""
        found: dict[tuple[int, str], tuple[str, str]] = {}
        for job in jobs:
            for store in self._stores(job):
                if store.kind in ("nfs4", "lustre"):
                    for index in range(job.first_host, job.first_host + job.hosts):
                        found[index, store.name] = (store.kind, store.server)
        return dict(sorted(found.items()))

    def _disks(self, jobs: Sequence[JobPlan], node: Node) -> list[str]:
        names = {store.name for job in jobs for store in self._stores(job) if store.kind == "disk"}
        return sorted(names | {node.local_disk})

    def begin(self, edges: F) -> None:
        """Idle machines for the coming windows."""
        self._edges = edges
        shape = (len(edges) - 1, len(self.hosts))
        second, rng = np.diff(edges)[:, None], self._rng
        self._sums: Columns = {
            "cpu_busy_seconds": second * rng.gamma(30.0, 0.02, shape),
            "cpu_iowait_seconds": second * rng.gamma(2.0, 0.002, shape),
            "net_rx_bytes": second * rng.gamma(8.0, 5e4, shape),
            "net_tx_bytes": second * rng.gamma(8.0, 8e4, shape),
            "swap_in_bytes": np.zeros(shape),
            "major_faults": 0.2 * second * rng.random(shape),
            "memory_used": np.full(shape, 14e9),
            "page_cache_bytes": np.full(shape, 9e9),
            "threads": 0.4 + 0.2 * rng.random(shape),
            "loss": np.full(shape, 2e-6),
        }
        self._calm: Columns = {name: 1.0 - 0.001 * rng.random(shape) for name in _PRESSURES}
        disks = len(self._disk_names)
        self._disk_sums: Columns = {name: np.zeros((shape[0], shape[1] * disks)) for name in _DISK}
        written = second * rng.gamma(4.0, 8e4, (shape[0], shape[1] * disks))
        self._disk_sums["written_bytes"] += written
        self._disk_sums["writes"] += written / 16e3
        self._disk_sums["write_seconds"] += written / 16e3 * 4e-5
        self._disk_sums["queue_seconds"] += written / 16e3 * 4e-5
        self._disk_sums["busy_seconds"] += written / 16e3 * 4e-5
        self._mount_sums: Columns = {name: np.zeros((shape[0], len(self._mounts))) for name in _MOUNT}
        trickle = second * rng.gamma(3.0, 0.3, (shape[0], len(self._mounts)))
        self._mount_sums["metadata_ops"] += trickle
        self._mount_sums["metadata_rtt_seconds"] += trickle * 4e-4
        self._mount_sums["metadata_exec_seconds"] += trickle * 4.2e-4
        self._port_sums: Columns = {name: np.zeros((shape[0], shape[1] * self.node.ports)) for name in _PORT}
        self._port_sums["rx_bytes"] += second * 3e3 * rng.random((shape[0], shape[1] * self.node.ports))
        self._port_sums["tx_bytes"] += second * 3e3 * rng.random((shape[0], shape[1] * self.node.ports))
        self._rates = np.full((shape[0], shape[1] * self.node.ports), self.node.port_bps)

    def add(self, usage: Usage, hosts: NDArray[np.int64], span: slice, job: JobPlan) -> None:
        """Adds one job's windows `span` on `hosts`."""
        second = np.diff(self._edges)[span][:, None]
        for name, values in usage.host.items():
            if name in self._calm:
                self._calm[name][span, hosts] *= 1.0 - np.clip(values / second, 0.0, 1.0)
            elif name == "loss":
                self._sums[name][span, hosts] = np.maximum(self._sums[name][span, hosts], values)
            else:
                self._sums[name][span, hosts] += values
        for traffic in usage.disks:
            self._traffic(
                self._disk_sums,
                traffic,
                hosts * len(self._disk_names) + self._disk_names.index(traffic.name),
                span,
            )
        order = {pair: index for index, pair in enumerate(self._mounts)}
        for traffic in usage.mounts:
            where = np.array([order[int(host), traffic.name] for host in hosts])
            self._traffic(self._mount_sums, traffic, where, span)
        if usage.ports:
            where = (hosts[:, None] * self.node.ports + np.arange(self.node.ports)).ravel()
            for name, values in usage.ports.items():
                if name == "rate_bps":
                    self._rates[span, where] = np.minimum(self._rates[span, where], values)
                else:
                    self._port_sums[name][span, where] += values

    @staticmethod
    def _traffic(sums: Columns, traffic: Traffic, where: NDArray[np.int64], span: slice) -> None:
        for name, values in traffic.columns.items():
            sums[name][span, where] += values

    def finish(self, ts: NDArray[np.int64]) -> dict[str, pl.DataFrame]:
        """The tables of the windows begun."""
        tables = {
            "host": self._host_frame(ts),
            "disk": self._disk_frame(ts),
            "port": pl.concat([self._port_frame(ts), self._ether_frame(ts)]),
            "collector": self._collector_frame(ts),
        }
        if self._mounts:
            tables["mount"] = self._mount_frame(ts)
            if self._arrays:
                tables["array"] = self._array_frame(ts)
        return tables

    def _host_frame(self, ts: NDArray[np.int64]) -> pl.DataFrame:
        sums, node = self._sums, self.node
        second = np.diff(self._edges)[:, None]
        ones = np.ones((len(ts), len(self.hosts)))
        out = sums["net_tx_bytes"] / SEGMENT + sums["net_rx_bytes"] / (2.0 * SEGMENT)
        arriving = sums["net_rx_bytes"] / SEGMENT
        loads = np.empty_like(ones)
        for row, threads in enumerate(sums["threads"]):
            before = threads if self._load is None else self._load
            self._load = threads + (before - threads) * np.exp(-float(second[row, 0]) / 60.0)
            loads[row] = self._load
        free = node.memory - sums["memory_used"]
        columns: Columns = {
            "cpu_count": node.cores * ones,
            "load1": loads,
            "cpu_busy_seconds": np.minimum(sums["cpu_busy_seconds"], node.cores * second),
            "cpu_iowait_seconds": sums["cpu_iowait_seconds"],
            "memory_total_bytes": node.memory * ones,
            "memory_available_bytes": np.clip(free, 0.004 * node.memory, None),
            "page_cache_bytes": np.clip(np.minimum(sums["page_cache_bytes"], free), 1e9, None),
            "swap_in_bytes": sums["swap_in_bytes"],
            "major_faults": sums["major_faults"],
            "net_rx_bytes": sums["net_rx_bytes"],
            "net_tx_bytes": sums["net_tx_bytes"],
            "tcp_segments_out": out,
            "tcp_retransmits": np.round(
                out * sums["loss"] + 0.02 * arriving * np.maximum(0.0, sums["loss"] - 1e-5)
            ),
            "boot_seconds": self._boot * ones,
        }
        columns |= {name: second * (1.0 - calm) for name, calm in self._calm.items()}
        return frame("host", ts, {"host": self.hosts}, self._counters.add(columns))

    def _disk_frame(self, ts: NDArray[np.int64]) -> pl.DataFrame:
        second = np.diff(self._edges)[:, None]
        self._disk_sums["busy_seconds"] = np.minimum(self._disk_sums["busy_seconds"], second)
        texts = {
            "host": [host for host in self.hosts for _ in self._disk_names],
            "device": self._disk_names * len(self.hosts),
        }
        return frame("disk", ts, texts, self._disk.add(self._disk_sums))

    def _mount_frame(self, ts: NDArray[np.int64]) -> pl.DataFrame:
        texts = {
            "host": [self.hosts[host] for host, _ in self._mounts],
            "mount": [mount for _, mount in self._mounts],
            "fstype": [kind for kind, _ in self._mounts.values()],
            "server": [server for _, server in self._mounts.values()],
        }
        return frame("mount", ts, texts, self._mount.add(self._mount_sums))

    def _port_frame(self, ts: NDArray[np.int64]) -> pl.DataFrame:
        ports = [f"mlx5_{port}/1" for port in range(self.node.ports)]
        texts = {
            "host": [host for host in self.hosts for _ in ports],
            "port": ports * len(self.hosts),
            "link": [self.node.link] * (len(ports) * len(self.hosts)),
        }
        columns = self._port.add(self._port_sums)
        columns["rate_bps"] = self._rates
        columns["up"] = np.ones_like(self._rates)
        return frame("port", ts, texts, columns)

    def _ether_frame(self, ts: NDArray[np.int64]) -> pl.DataFrame:
        ones = np.ones((len(ts), len(self.hosts)))
        columns = self._ether.add(
            {"rx_bytes": self._sums["net_rx_bytes"], "tx_bytes": self._sums["net_tx_bytes"]}
        )
        columns["rate_bps"] = self.node.ethernet_bps * ones
        columns["up"] = ones
        count = len(self.hosts)
        texts = {"host": self.hosts, "port": ["ens6f0np0"] * count, "link": ["ethernet"] * count}
        return frame("port", ts, texts, columns)

    def _array_frame(self, ts: NDArray[np.int64]) -> pl.DataFrame:
        """What the storage servers say themselves: the same requests without the network's part."""
        servers = sorted({(server, kind) for kind, server in self._mounts.values()})
        member = np.array(
            [[value == (kind, server) for server, kind in servers] for value in self._mounts.values()],
            dtype=np.float64,
        )
        sums = {name: values @ member for name, values in self._mount_sums.items()}
        second = np.diff(self._edges)[:, None]

        def each(total: str, count: str) -> F:
            return np.asarray(np.maximum(0.0, sums[total] / np.maximum(sums[count], 1e-9) - 1e-4))

        columns: Columns = {
            "read_latency_seconds": each("read_rtt_seconds", "reads"),
            "write_latency_seconds": each("write_rtt_seconds", "writes"),
            "other_latency_seconds": each("metadata_rtt_seconds", "metadata_ops"),
            "read_bytes_per_second": sums["read_bytes"] / second,
            "write_bytes_per_second": sums["written_bytes"] / second,
            "read_ops_per_second": sums["reads"] / second,
            "write_ops_per_second": sums["writes"] / second,
            "other_ops_per_second": sums["metadata_ops"] / second,
            "used_ratio": np.full_like(sums["reads"], 0.61),
        }
        names = [server for server, _ in servers]
        return frame("array", ts, {"array": names, "protocol": ["nfs"] * len(names)}, columns)

    def _collector_frame(self, ts: NDArray[np.int64]) -> pl.DataFrame:
        count = len(self.hosts) * len(_COLLECTORS)
        shape = (len(ts), count)
        columns = self._collector.add({"errors": np.zeros(shape)})
        columns |= {
            "success": np.ones(shape),
            "duration_seconds": self._rng.gamma(4.0, 2e-4, shape),
            "last_success_seconds": (self._edges[1:] + self.epoch - 0.4)[:, None] * np.ones(shape),
            "stuck": np.zeros(shape),
        }
        texts = {
            "host": [host for host in self.hosts for _ in _COLLECTORS],
            "collector": list(_COLLECTORS) * len(self.hosts),
        }
        return frame("collector", ts, texts, columns)
