"""Lustre and GPUDirect Storage: what crossed to the servers, never what the page cache answered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors import lustre, nvidia_fs
from wellfed.collectors.registry import Collector, Roots, Row

NODE = Path(__file__).parent / "fixtures" / "node"
ROOTS = Roots(str(NODE / "proc"), str(NODE / "sys"))
DEBUG = "kernel/debug/lustre"


def rows(collector: Collector, roots: Roots = ROOTS) -> dict[str, Row]:
    return {row.key[0]: row for row in collector.read(roots, 0.0)}


@pytest.fixture
def node(tmp_path: Path) -> Roots:
    """A copy of the node that a test may damage."""
    shutil.copytree(NODE, tmp_path / "node")
    return Roots(str(tmp_path / "node" / "proc"), str(tmp_path / "node" / "sys"))


def test_lustre_sums_its_targets_under_the_mount_point() -> None:
    row = rows(lustre.Lustre())["/mnt/scratch space"]
    assert row.info == {"fstype": "lustre", "server": "10.1.0.1@o2ib:10.1.0.2@o2ib"}
    assert row.values == {
        "read_bytes": 2 * 41943040,
        "written_bytes": 2 * 10485760,
        "reads": 2 * 20,
        "writes": 2 * 10,
        "read_rtt_seconds": pytest.approx(2 * 0.5),
        "write_rtt_seconds": pytest.approx(2 * 0.04),
        # setattr of both object targets; getattr, close and locks of the metadata target; no ping, no sync.
        "metadata_ops": 2 * 2 + 30 + 40 + 50,
        "metadata_rtt_seconds": pytest.approx(2 * 0.0004 + 0.009 + 0.01 + 0.04),
    }


def test_lustre_before_debugfs_is_read_below_proc(node: Roots) -> None:
    shutil.move(f"{node.sys}/{DEBUG}", f"{node.proc}/fs/lustre")
    assert rows(lustre.Lustre(), node)["/mnt/scratch space"].values["reads"] == 40


def test_two_mounts_of_one_file_system_keep_apart_under_their_own_names(node: Roots) -> None:
    base = Path(node.sys, DEBUG)
    for path in list(base.glob("*/scratch-*")):
        shutil.copytree(path, path.with_name(path.name.replace("ffff8a3b1c2d3000", "ffff8a3b99999999")))
    found = rows(lustre.Lustre(), node)
    assert set(found) == {"scratch-ffff8a3b1c2d3000", "scratch-ffff8a3b99999999"}
    assert [row.values["reads"] for row in found.values()] == [40, 40]


def test_a_lustre_target_that_was_added_or_evicted_is_noticed(node: Roots) -> None:
    collector = lustre.Lustre()
    assert rows(collector, node)["/mnt/scratch space"].values["reads"] == 40
    first, second = sorted(Path(node.sys, DEBUG, "osc").iterdir())
    shutil.copytree(first, first.with_name(first.name.replace("OST0000", "OST0002")))
    for _ in range(lustre.RECHECK):
        found = rows(collector, node)
    assert found["/mnt/scratch space"].values["reads"] == 60
    shutil.rmtree(second)
    for _ in range(lustre.RECHECK):
        found = rows(collector, node)
    assert found["/mnt/scratch space"].values["reads"] == 40
    collector.close()


def test_lustre_closed_to_us_names_the_remedy(node: Roots) -> None:
    Path(node.sys, "fs/lustre/llite/scratch-ffff8a3b1c2d3000").mkdir(parents=True)
    shutil.rmtree(Path(node.sys, DEBUG))
    collector = lustre.Lustre()
    assert rows(collector, node) == {}
    assert "Lustre is mounted" in collector.reason
    assert "root" in collector.remedy


def test_a_broken_lustre_file_is_named(node: Roots) -> None:
    broken = next(Path(node.sys, DEBUG, "mdc").glob("*/stats"))
    broken.write_bytes(b"snapshot_time 1.5 secs.usecs\nmds_close many samples [usec]\n")
    with pytest.raises(ValueError, match=r"mdc/.*/stats: expected a count, found b'many'"):
        rows(lustre.Lustre(), node)


def test_gpudirect_storage_counts_mebibytes() -> None:
    row = rows(nvidia_fs.NvidiaFs())["nvidia-fs"]
    assert row.info == {"fstype": "nvidia-fs"}
    assert row.values == {
        "reads": 5120.0,
        "read_bytes": 81920 * 2**20,
        "writes": 64.0,
        "written_bytes": 1024 * 2**20,
    }


def test_gpudirect_storage_that_does_not_count_is_unknown_not_zero(node: Roots) -> None:
    stats = Path(node.proc, "driver/nvidia-fs/stats")
    stats.write_text(
        "GDS Version: 1.11.0.15\nNVFS statistics(ver: 4.0)\nIO stats: Disabled, peer IO stats: Disabled\n"
        "Reads\t\t\t\t: err=0 io_state_err=0\nWrites\t\t\t\t: err=0 io_state_err=0 pg-cache=0\n"
    )
    collector = nvidia_fs.NvidiaFs()
    assert rows(collector, node) == {}
    assert "Disabled" in collector.reason
    assert "rw_stats_enabled" in collector.remedy


@pytest.mark.parametrize("factory", [lustre.Lustre, nvidia_fs.NvidiaFs])
def test_nothing_there_is_a_reason_and_no_row(factory: Callable[[], Collector]) -> None:
    collector = factory()
    assert rows(collector, Roots("/nonexistent", "/nonexistent")) == {}
    assert "/nonexistent" in collector.reason
    assert collector.remedy


STATS = next((NODE / "sys" / DEBUG / "mdc").glob("*/stats")).read_bytes()


@given(st.binary(max_size=200) | st.just(STATS), st.integers(0, 900), st.binary(max_size=6))
def test_hostile_lustre_statistics_parse_or_are_a_value_error(text: bytes, at: int, noise: bytes) -> None:
    try:
        counters = lustre.parse(text[:at] + noise + text[at + len(noise) :])
    except ValueError:
        return
    assert all(c.samples >= 0 and (c.total is None or c.total >= 0) for c in counters.values())


@given(st.binary(max_size=200))
def test_hostile_mounts_never_raise(text: bytes) -> None:
    assert all(lustre.mounts(text + b" lustre x\n").values())


GDS = (NODE / "proc/driver/nvidia-fs/stats").read_bytes()


@given(st.binary(max_size=200) | st.just(GDS), st.integers(0, 900), st.binary(max_size=6))
def test_hostile_gpudirect_statistics_parse_or_are_a_value_error(text: bytes, at: int, noise: bytes) -> None:
    try:
        values = nvidia_fs.parse(text[:at] + noise + text[at + len(noise) :])
    except ValueError:
        return
    assert values is None or set(values) == {"reads", "read_bytes", "writes", "written_bytes"}
