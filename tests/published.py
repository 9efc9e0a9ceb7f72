"""The names of metrics that exist: ours as the code publishes them, those of other exporters as they document them."""

from __future__ import annotations

from verdicts import VERDICTS

from wellfed.collectors import selfcost
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.destination import Destination
from wellfed.collectors.exposition import Family
from wellfed.collectors.publisher import Publisher
from wellfed.collectors.spool import Spool

__all__ = ["EXPORTERS", "OURS"]


def _name(family: Family) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.kind, "")


def _ours() -> frozenset[str]:
    tables = {table.metric(column) for table in TABLES.values() for column in table.signals}
    infos = {f"wellfed_{table.name}_info" for table in TABLES.values() if table.infos}
    publisher = Publisher(
        Destination("http://127.0.0.1:9/v1/metrics"), Spool(None, 10**6, 3600.0), {}, lambda rows: ((), ())
    )
    publisher._pusher.last_success = 1.0
    own = {_name(f) for f in (*selfcost.families(()), *publisher.families())}
    return frozenset({*tables, *infos, *own, *VERDICTS, "up"})


#: What the agent and the hub publish, and `up`.
OURS = _ours()

#: dcgm-exporter's default counters (its default-counters.csv) and the node_exporter metrics that we ask for.
EXPORTERS = frozenset(
    {
        "up",
        *(f"DCGM_FI_DEV_{n}" for n in ("SM_CLOCK", "MEM_CLOCK", "MEMORY_TEMP", "GPU_TEMP", "POWER_USAGE")),
        *(f"DCGM_FI_DEV_{n}" for n in ("TOTAL_ENERGY_CONSUMPTION", "PCIE_REPLAY_COUNTER", "GPU_UTIL")),
        *(f"DCGM_FI_DEV_{n}" for n in ("MEM_COPY_UTIL", "ENC_UTIL", "DEC_UTIL", "XID_ERRORS", "FB_FREE")),
        *(f"DCGM_FI_DEV_{n}" for n in ("FB_USED", "CORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_FAILURE")),
        *(f"DCGM_FI_DEV_{n}" for n in ("UNCORRECTABLE_REMAPPED_ROWS", "NVLINK_BANDWIDTH_TOTAL")),
        *(f"DCGM_FI_PROF_{n}" for n in ("GR_ENGINE_ACTIVE", "PIPE_TENSOR_ACTIVE", "DRAM_ACTIVE")),
        *(f"DCGM_FI_PROF_{n}" for n in ("PCIE_TX_BYTES", "PCIE_RX_BYTES")),
        *(f"node_pressure_{n}_seconds_total" for n in ("cpu_waiting", "io_waiting", "io_stalled")),
        "node_boot_time_seconds",
        "node_cpu_seconds_total",
        "node_infiniband_link_downed_total",
        "node_infiniband_port_data_transmitted_bytes_total",
        "node_mountstats_nfs_operations_requests_total",
        "node_mountstats_nfs_operations_response_time_seconds_total",
        "node_mountstats_nfs_total_read_bytes_total",
        "node_network_receive_bytes_total",
    }
)
