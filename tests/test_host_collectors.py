"""CPU, pressure, memory, disk and network: values as the kernel's documents define them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors import cpu, disk, infiniband, memory, mountstats, network, pressure, registry
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.registry import Collector, Roots, Row

NODE = Path(__file__).parent / "fixtures" / "node"
ROOTS = Roots(str(NODE / "proc"), str(NODE / "sys"))


def rows(collector: Collector, roots: Roots = ROOTS) -> dict[tuple[str, tuple[str, ...]], Row]:
    return {(row.table, row.key): row for row in collector.read(roots, 0.0)}


def host(collector: Collector, roots: Roots = ROOTS) -> dict[str, float | None]:
    return rows(collector, roots)["host", ()].values


@pytest.fixture
def node(tmp_path: Path) -> Roots:
    """A copy of the node that a test may damage."""
    shutil.copytree(NODE, tmp_path / "node")
    return Roots(str(tmp_path / "node" / "proc"), str(tmp_path / "node" / "sys"))


def test_cpu_counts_guest_once_and_steal_never() -> None:
    values = host(cpu.Cpu())
    assert values["cpu_busy_seconds"] == pytest.approx((4705 + 356 + 584 + 23 + 45) / cpu.USER_HZ)
    assert values["cpu_iowait_seconds"] == pytest.approx(23 / cpu.USER_HZ)
    assert (values["cpu_count"], values["load1"], values["boot_seconds"]) == (2, 1.25, 1.7e9)


def test_iowait_never_falls_within_a_boot(node: Roots) -> None:
    collector = cpu.Cpu()
    first = host(collector, node)["cpu_iowait_seconds"]
    stat = Path(node.proc, "stat")
    stat.write_text(stat.read_text().replace(" 23 23 45 ", " 20 23 45 "))
    assert host(collector, node)["cpu_iowait_seconds"] == first
    stat.write_text(stat.read_text().replace("btime 1700000000", "btime 1800000000"))
    assert host(collector, node)["cpu_iowait_seconds"] == pytest.approx(20 / cpu.USER_HZ)


def test_pressure_is_in_seconds() -> None:
    assert host(pressure.Pressure()) == {
        "psi_cpu_some_seconds": 1088.168194,
        "psi_io_some_seconds": 14.079,
        "psi_io_full_seconds": 9.0005,
        "psi_memory_some_seconds": 0.7,
        "psi_memory_full_seconds": 0.3,
    }


def test_memory_is_in_bytes_and_shmem_is_no_cache() -> None:
    values = host(memory.Memory())
    assert values["memory_total_bytes"] == 2113461000 * 1024
    assert values["memory_available_bytes"] == 1900000000 * 1024
    assert values["page_cache_bytes"] == (80000000 + 20000 - 5000000) * 1024
    assert values["swap_in_bytes"] == 25 * memory.PAGE_BYTES
    assert values["major_faults"] == 7


def test_disks_are_whole_devices_under_the_name_people_know() -> None:
    found = rows(disk.Disk())
    assert set(found) == {("disk", ("nvme0n1",)), ("disk", ("vg0-scratch",))}
    assert found["disk", ("nvme0n1",)].values == {
        "reads": 1000.0,
        "read_bytes": 2048 * 512.0,
        "read_seconds": 0.5,
        "writes": 2000.0,
        "written_bytes": 4096 * 512.0,
        "write_seconds": 1.5,
        "inflight": 3.0,
        "busy_seconds": 0.9,
        "queue_seconds": 2.0,
    }


def test_partitions_are_told_by_name_without_sysfs() -> None:
    names = [
        "sda",
        "sda1",
        "nvme0n1",
        "nvme0n1p2",
        "vda",
        "vda3",
        "md0",
        "md0p1",
        "mmcblk0p1",
        "loop0",
        "zram0",
    ]
    assert set(disk.whole_devices("/nonexistent", names)) == {"sda", "nvme0n1", "vda", "md0"}


def test_a_32_bit_millisecond_counter_grows_past_its_width(node: Roots) -> None:
    collector = disk.Disk()
    stats = Path(node.proc, "diskstats")

    def busy(milliseconds: int) -> float | None:
        stats.write_text(f" 259 0 nvme0n1 1 0 1 1 1 0 1 1 0 {milliseconds} 1\n")
        return rows(collector, node)["disk", ("nvme0n1",)].values["busy_seconds"]

    before = 2**32 - 500
    assert busy(before) == before / 1000
    assert busy(250) == (2**32 + 250) / 1000
    assert busy(2**32 - 1) == (2**33 - 1) / 1000
    assert busy(3) == (2**33 + 3) / 1000


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_unwrapping_follows_any_growth_below_half_the_range(steps: list[int], start: int) -> None:
    unwrap = disk.Unwrap()
    true = start
    assert unwrap(start) == start
    for step in steps:
        true += step
        assert unwrap(true % 2**32) == true


def test_a_fall_that_is_no_wrap_is_a_reset() -> None:
    unwrap = disk.Unwrap()
    assert [unwrap(1000), unwrap(10), unwrap(20)] == [1000, 10, 20]


def test_network_sums_physical_interfaces_only() -> None:
    found = rows(network.Network())
    values = found["host", ()].values
    assert (values["net_rx_bytes"], values["net_tx_bytes"]) == (1e6, 2e6)
    assert (values["tcp_segments_out"], values["tcp_retransmits"]) == (6000, 12)
    port = found["port", ("eth0",)]
    assert port.values == {"rx_bytes": 1e6, "tx_bytes": 2e6, "rate_bps": 25e9, "up": 1.0}
    assert port.info == {"link": "ethernet"}


def test_a_container_counts_its_own_interface() -> None:
    names = ["lo", "eth0", "docker0", "veth1a2b", "br-12ab", "tun0", "bond0", "eth0.100"]
    assert network.physical("/nonexistent", names) == ["eth0"]


def test_an_interface_without_a_speed_has_no_rate(node: Roots) -> None:
    Path(node.sys, "class/net/eth0/speed").write_text("-1\n")
    Path(node.sys, "class/net/eth0/operstate").write_text("down\n")
    values = rows(network.Network(), node)["port", ("eth0",)].values
    assert (values["rate_bps"], values["up"]) == (None, 0.0)


def test_infiniband_words_saturation_rate_and_state() -> None:
    found = rows(infiniband.Infiniband())
    one = found["port", ("mlx5_0/1",)]
    assert one.values["rx_bytes"] == 230539874932433 * 4
    assert one.values["tx_bytes"] == 230442669431839 * 4
    assert (one.values["symbol_errors"], one.values["link_downed"]) == (65535, 255)
    assert (one.values["rate_bps"], one.values["up"]) == (400e9, 1.0)
    assert one.info == {"link": "infiniband"}
    two = found["port", ("mlx5_1/1",)]
    assert two.values["xmit_wait_ticks"] is None
    assert (two.values["up"], two.info["link"]) == (0.0, "roce")
    assert [two.values[c] for c in ("cnp_sent", "cnp_handled", "ecn_marked")] == [14, 15, 16]


def test_a_saturated_32_bit_data_counter_is_unknown_and_the_64_bit_one_wins(node: Roots) -> None:
    base = Path(node.sys, "class/infiniband/mlx5_0/ports/1")
    (base / "counters/port_rcv_data").write_text("4294967295\n")
    values = rows(infiniband.Infiniband(), node)["port", ("mlx5_0/1",)].values
    assert values["rx_bytes"] is None
    (base / "counters_ext").mkdir()
    (base / "counters_ext/port_rcv_data_64").write_text("5000000000\n")
    values = rows(infiniband.Infiniband(), node)["port", ("mlx5_0/1",)].values
    assert values["rx_bytes"] == 20e9


def test_an_adapter_that_comes_back_is_read_again(node: Roots) -> None:
    collector = infiniband.Infiniband()
    assert len(rows(collector, node)) == 2
    device = Path(node.sys, "class/infiniband/mlx5_1")
    device.rename(device.with_name("gone"))
    shutil.move(str(device.with_name("gone")), str(Path(node.sys) / "gone"))
    assert set(rows(collector, node)) == {("port", ("mlx5_0/1",))}
    shutil.move(str(Path(node.sys) / "gone"), str(device))
    assert len(rows(collector, node)) == 2
    collector.close()


def test_mounts_v3_over_two_connections_and_v41_over_rdma() -> None:
    found = rows(mountstats.Mountstats())
    v3 = found["mount", ("/mnt/data",)]
    assert v3.info == {"fstype": "nfs", "server": "10.0.0.1"}
    assert v3.values == {
        "read_bytes": 1210214218.0,
        "written_bytes": 4096.0,
        "reads": 1298.0,
        "writes": 1.0,
        "metadata_ops": 150.0,
        "read_rtt_seconds": pytest.approx(79.386),
        "read_exec_seconds": pytest.approx(79.407),
        "read_queue_seconds": pytest.approx(0.006),
        "write_rtt_seconds": pytest.approx(0.002),
        "write_exec_seconds": pytest.approx(0.002),
        "metadata_rtt_seconds": pytest.approx(0.150),
        "metadata_exec_seconds": pytest.approx(0.157),
        "retransmits": 3.0,
        "timeouts": 3.0,
        "backlog": 70.0,
    }
    v41 = found["mount", ("/mnt/models x",)]
    assert v41.info == {"fstype": "nfs4", "server": "filer.example"}
    assert (v41.values["read_bytes"], v41.values["written_bytes"]) == (700, 600)
    assert (v41.values["metadata_ops"], v41.values["backlog"]) == (7, 7)


def test_our_own_view_serves_where_pid_1_is_hidden(node: Roots) -> None:
    own = Path(node.proc, "self")
    Path(node.proc, "1").rename(own)
    assert len(rows(mountstats.Mountstats(), node)) == 2


COLLECTORS = [
    cpu.Cpu,
    pressure.Pressure,
    memory.Memory,
    disk.Disk,
    network.Network,
    infiniband.Infiniband,
    mountstats.Mountstats,
]


@pytest.mark.parametrize("factory", COLLECTORS)
def test_every_value_belongs_to_the_catalog(factory: Callable[[], Collector]) -> None:
    collector = factory()
    for row in collector.read(ROOTS, 0.0):
        table = TABLES[row.table]
        assert row.table in collector.tables
        assert set(row.values) <= {c.name for c in table.signals}
        assert set(row.info) <= {c.name for c in table.infos}


@pytest.mark.parametrize("factory", COLLECTORS)
def test_nothing_there_is_a_reason_and_no_row(factory: Callable[[], Collector]) -> None:
    collector = factory()
    assert list(collector.read(Roots("/nonexistent", "/nonexistent"), 0.0)) == []
    assert "/nonexistent" in collector.reason


def test_every_module_is_registered() -> None:
    assert {f.name for f in COLLECTORS} <= set(registry.load())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "parse",
    [
        cpu.parse_stat,
        cpu.parse_loadavg,
        pressure.parse,
        memory.parse_meminfo,
        memory.parse_vmstat,
        disk.parse,
        network.parse_dev,
        network.parse_snmp,
        infiniband.parse_number,
        infiniband.parse_rate,
        mountstats.parse,
    ],
)
def test_hostile_bytes_parse_or_are_a_value_error(parse: Callable[[bytes], object]) -> None:
    sources = [p.read_bytes() for p in NODE.rglob("*") if p.is_file() and p.stat().st_size > 30]

    @given(
        st.one_of(st.binary(max_size=300), st.sampled_from(sources)),
        st.integers(0, 4000),
        st.binary(max_size=4),
    )
    def attempt(text: bytes, at: int, noise: bytes) -> None:
        try:
            parse(text[:at] + noise + text[at + len(noise) :])
            parse(text[:at])
        except ValueError:
            return

    attempt()
