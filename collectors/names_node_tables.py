"""Which field of which file node_exporter publishes under which name. Plain data for names_node.

Source: /proc and /sys as documented by the kernel (iostats.rst, sysfs-class-infiniband, psi.rst), and the
names that node_exporter 1.5 prints for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "CPU_MODES",
    "DISK",
    "EVENTS",
    "GUEST_MODES",
    "INFINIBAND",
    "INFINIBAND_INFO",
    "INFINIBAND_TEXTS",
    "NETWORK",
    "NFS_BYTES",
    "OPERATION",
    "PRESSURE",
    "TRANSPORT",
    "VMSTAT",
    "Field",
]


@dataclass(frozen=True, slots=True)
class Field:
    """One number of a line. family: "" for a number that is not published. scale: from the number to what is
    published, None where it is itself; rounded as node_exporter does. labels: more of them, as text.
    exponent: what makes the number's text the published one; exact, as one division by a power of ten is.
    """

    family: str
    kind: str
    help: str
    scale: Callable[[int], float] | None = None
    labels: str = ""
    exponent: str = ""


_SCALES: Mapping[str, Callable[[int], float]] = {
    "512": (512).__mul__,
    "0.001": (0.001).__rmul__,
}
_EXPONENTS = {"/1000": "e-3"}


def _microseconds(number: int) -> float:
    return number / 1000 / 1000


def _words(number: int) -> float:
    return number * 4


def _counters(prefix: str, where: str, names: str) -> tuple[Field, ...]:
    """`name` or `name*scale`, one after the other as they stand in the line; `-` for one left out."""
    fields = []
    for spelled in names.split():
        name, _, scale = spelled.partition("*")
        family = f"{prefix}_{name}_total" if name != "-" else ""
        text = f"{name.replace('_', ' ')}, {where}"
        exponent = _EXPONENTS.get(scale, "")
        fields.append(Field(family, "counter", text, _SCALES.get(scale), exponent=exponent))
    return tuple(fields)


def _modes(family: str, text: str, modes: str) -> tuple[Field, ...]:
    # In hundredths of a second, as Linux counts them on every architecture that it shows them to.
    labels = (f'mode="{mode}"' for mode in modes.split())
    return tuple(Field(family, "counter", f"{text}, /proc/stat", None, label, "e-2") for label in labels)


CPU_MODES = _modes(
    "node_cpu_seconds_total", "CPU time by mode", "user nice system idle iowait irq softirq steal"
)
GUEST_MODES = _modes("node_cpu_guest_seconds_total", "CPU time of guests", "user nice")
DISK = (
    *_counters(
        "node_disk",
        "/proc/diskstats",
        "reads_completed reads_merged read_bytes*512 read_time_seconds*0.001 "
        "writes_completed writes_merged written_bytes*512 write_time_seconds*0.001",
    ),
    Field("node_disk_io_now", "gauge", "requests in flight, /proc/diskstats"),
    *_counters(
        "node_disk",
        "/proc/diskstats",
        "io_time_seconds*0.001 io_time_weighted_seconds*0.001 "
        "discards_completed discards_merged discarded_sectors discard_time_seconds*0.001 "
        "flush_requests flush_requests_time_seconds*0.001",
    ),
)
NETWORK = _counters(
    "node_network",
    "/proc/net/dev",
    "receive_bytes receive_packets receive_errs receive_drop receive_fifo receive_frame receive_compressed "
    "receive_multicast transmit_bytes transmit_packets transmit_errs transmit_drop transmit_fifo "
    "transmit_colls transmit_carrier transmit_compressed",
)


def _pressure(name: str) -> Field:
    text = f"{name.replace('_', ' ')}, /proc/pressure"
    return Field(f"node_pressure_{name}_seconds_total", "counter", text, _microseconds)


#: By resource: line of the file, field.
PRESSURE: Mapping[str, Sequence[tuple[str, Field]]] = {
    "cpu": [("some", _pressure("cpu_waiting"))],
    "io": [("some", _pressure("io_waiting")), ("full", _pressure("io_stalled"))],
    "memory": [("some", _pressure("memory_waiting")), ("full", _pressure("memory_stalled"))],
}


def _infiniband(file: str, name: str, scale: Callable[[int], float] | None = None) -> tuple[str, Field]:
    family = f"node_infiniband_{name}_total"
    return f"counters/{file}", Field(family, "counter", f"{file} of a port", scale)


#: File below the port's folder, field.
INFINIBAND: Sequence[tuple[str, Field]] = (
    _infiniband("VL15_dropped", "vl15_dropped"),
    _infiniband("excessive_buffer_overrun_errors", "excessive_buffer_overrun_errors"),
    _infiniband("link_downed", "link_downed"),
    _infiniband("link_error_recovery", "link_error_recovery"),
    _infiniband("local_link_integrity_errors", "local_link_integrity_errors"),
    _infiniband("multicast_rcv_packets", "multicast_packets_received"),
    _infiniband("multicast_xmit_packets", "multicast_packets_transmitted"),
    _infiniband("port_rcv_constraint_errors", "port_constraint_errors_received"),
    _infiniband("port_rcv_data", "port_data_received_bytes", _words),
    _infiniband("port_rcv_discards", "port_discards_received"),
    _infiniband("port_rcv_errors", "port_errors_received"),
    _infiniband("port_rcv_packets", "port_packets_received"),
    _infiniband("port_rcv_remote_physical_errors", "port_receive_remote_physical_errors"),
    _infiniband("port_rcv_switch_relay_errors", "port_receive_switch_relay_errors"),
    _infiniband("port_xmit_constraint_errors", "port_constraint_errors_transmitted"),
    _infiniband("port_xmit_data", "port_data_transmitted_bytes", _words),
    _infiniband("port_xmit_discards", "port_discards_transmitted"),
    _infiniband("port_xmit_packets", "port_packets_transmitted"),
    _infiniband("port_xmit_wait", "port_transmit_wait"),
    _infiniband("symbol_error", "symbol_error"),
    _infiniband("unicast_rcv_packets", "unicast_packets_received"),
    _infiniband("unicast_xmit_packets", "unicast_packets_transmitted"),
    ("phys_state", Field("node_infiniband_physical_state_id", "gauge", "physical state of a port")),
    ("rate", Field("node_infiniband_rate_bytes_per_second", "gauge", "signalling rate of a port")),
    ("state", Field("node_infiniband_state_id", "gauge", "logical state of a port")),
)

INFINIBAND_INFO = Field("node_infiniband_info", "gauge", "board and firmware of an adapter")
#: Label of it by file.
INFINIBAND_TEXTS = {"board_id": "board_id", "fw_ver": "firmware_version", "hca_type": "hca_type"}

_NFS = "node_mountstats_nfs"
_MOUNT = "/proc/self/mountstats"
NFS_BYTES = _counters(
    _NFS,
    _MOUNT,
    "age_seconds read_bytes write_bytes direct_read_bytes direct_write_bytes total_read_bytes "
    "total_write_bytes read_pages write_pages",
)
EVENTS = _counters(
    f"{_NFS}_event",
    _MOUNT,
    "inode_revalidate dnode_revalidate data_invalidate attribute_invalidate vfs_open vfs_lookup vfs_access "
    "vfs_update_page vfs_read_page vfs_read_pages vfs_write_page vfs_write_pages vfs_getdents vfs_setattr "
    "vfs_flush vfs_fsync vfs_lock vfs_file_release - truncation write_extension silly_rename "
    "short_read short_write jukebox_delay pnfs_read pnfs_write",
)
TRANSPORT = (
    *_counters(f"{_NFS}_transport", _MOUNT, "bind connect -"),
    Field(f"{_NFS}_transport_idle_time_seconds", "gauge", f"idle time seconds, {_MOUNT}"),
    *_counters(f"{_NFS}_transport", _MOUNT, "sends receives bad_transaction_ids - backlog_queue"),
    Field(f"{_NFS}_transport_maximum_rpc_slots", "gauge", f"maximum rpc slots, {_MOUNT}"),
    *_counters(f"{_NFS}_transport", _MOUNT, "sending_queue pending_queue"),
)
OPERATION = _counters(
    f"{_NFS}_operations",
    _MOUNT,
    "requests transmissions major_timeouts sent_bytes received_bytes queue_time_seconds*/1000 "
    "response_time_seconds*/1000 request_time_seconds*/1000",
)
VMSTAT = re.compile(r"oom_kill|pgpg|pswp|pg.*fault")
