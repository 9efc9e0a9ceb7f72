"""NFS versions, transports and kernels: every form of mountstats becomes the same columns."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.mountstats import Mountstats, parse
from wellfed.collectors.registry import Roots, Row

FIXTURES = Path(__file__).parent / "fixtures" / "mountstats"
V3 = (FIXTURES / "v3-udp-and-four-tcp.txt").read_bytes()
V4 = (FIXTURES / "v41-pnfs-rdma-and-v42.txt").read_bytes()


class Node:
    """A /proc whose mountstats a test rewrites."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(str(folder / "proc"), str(folder / "sys"))
        self.path = folder / "proc/self/mountstats"
        self.path.parent.mkdir(parents=True)
        self.collector = Mountstats()

    def rows(self, text: bytes) -> dict[str, Row]:
        self.path.write_bytes(text)
        return {row.key[0]: row for row in self.collector.read(self.roots, 0.0)}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_v3_over_udp_has_its_backlog_elsewhere(node: Node) -> None:
    row = node.rows(V3)["/home"]
    assert row.info == {"fstype": "nfs", "server": "filer-a"}
    assert row.values == {
        "read_bytes": 4096,
        "written_bytes": 8192,
        "reads": 10,
        "writes": 20,
        "metadata_ops": 1000,
        "read_rtt_seconds": 0.2,
        "read_exec_seconds": 0.21,
        "read_queue_seconds": 0.004,
        "write_rtt_seconds": 0.4,
        "write_exec_seconds": 0.415,
        "metadata_rtt_seconds": 0.9,
        "metadata_exec_seconds": 0.95,
        "retransmits": 9 + 2,
        "timeouts": 2 + 1,
        "backlog": 55,
    }


def test_four_connections_are_one_row(node: Node) -> None:
    row = node.rows(V3)["/data/images large"]
    assert row.values["backlog"] == 10 + 20 + 30 + 40
    assert (row.values["reads"], row.values["read_queue_seconds"]) == (100, 5.0)
    assert row.values["metadata_ops"] == 303


def test_pnfs_over_rdma_with_nine_columns(node: Node) -> None:
    row = node.rows(V4)["/models"]
    assert row.info == {"fstype": "nfs4", "server": "filer-b.example"}
    assert (row.values["read_bytes"], row.values["written_bytes"]) == (5e12, 6e9)
    assert (row.values["reads"], row.values["read_exec_seconds"]) == (1e6, 3005.0)
    assert row.values["metadata_ops"] == 40 + 2 + 60
    assert (row.values["retransmits"], row.values["backlog"]) == (1, 70)


def test_read_plus_is_a_read_and_an_ipv6_server_keeps_its_name(node: Node) -> None:
    row = node.rows(V4)["/scratch"]
    assert row.info["server"] == "fd00::17"
    assert (row.values["reads"], row.values["read_rtt_seconds"]) == (10, 0.1)
    assert (row.values["metadata_ops"], row.values["backlog"]) == (12, 7)


def test_two_mounts_on_one_point_are_one_row(node: Node) -> None:
    row = node.rows(V3 + V3)["/home"]
    assert (row.values["reads"], row.values["backlog"], row.values["retransmits"]) == (20, 110, 22)


def test_retransmits_do_not_fall_when_a_request_dies_unsent(node: Node) -> None:
    def retransmits(operations: int, transmissions: int) -> float | None:
        getattr_line = b"GETATTR: 1000 1009 2"
        assert getattr_line in V3
        now = V3.replace(getattr_line, b"GETATTR: %d %d 2" % (operations, transmissions))
        return node.rows(now)["/home"].values["retransmits"]

    assert retransmits(1000, 1009) == 11
    assert retransmits(1001, 1009) == 11
    assert retransmits(1002, 1012) == 12
    assert retransmits(3, 3) == 2, "a remount starts anew"


def test_local_file_systems_are_no_rows_and_a_reason(node: Node) -> None:
    assert node.rows(V3[: V3.index(b"device filer-a")]) == {}
    assert "no NFS mount in" in node.collector.reason


def test_a_file_that_ends_early_is_named(node: Node) -> None:
    with pytest.raises(ValueError, match=r"self/mountstats: /home: expected bytes, READ and WRITE"):
        node.rows(V3[: V3.index(b"READ:")])


def test_a_container_without_the_hosts_view_is_told_so(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    from wellfed.collectors import files

    whole = files.read

    def closed(path: str) -> bytes:
        if "/1/" in path:
            raise PermissionError(13, "Permission denied", path)
        return whole(path)

    monkeypatch.setattr(files, "read", closed)
    assert len(node.rows(V4)) == 2
    assert node.collector.reason == ""
    assert node.rows(b"device proc mounted on /proc with fstype proc\n") == {}
    assert "/proc/1/mountstats is closed to this user" in node.collector.reason
    assert "CAP_SYS_PTRACE" in node.collector.remedy


@given(st.sampled_from([V3, V4]), st.integers(0, 7000), st.integers(0, 40), st.binary(max_size=12))
def test_damaged_bytes_parse_or_are_a_value_error(text: bytes, at: int, cut: int, noise: bytes) -> None:
    try:
        mounts = parse(text[:at] + noise + text[at + cut :])
    except ValueError:
        return
    for mount in mounts:
        assert all(value >= 0 for value in mount.totals.values())


@given(st.binary(max_size=400))
def test_any_bytes_after_a_header_parse_or_are_a_value_error(noise: bytes) -> None:
    header = b"device a:/b mounted on /c with fstype nfs4 statvers=1.1\n\tper-op statistics\n"
    with pytest.raises(ValueError):
        parse(header + noise)
