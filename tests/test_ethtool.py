"""Drivers' own statistics: pauses as time, through pyroute2, and only for interfaces of this namespace."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors import ethtool
from wellfed.collectors.registry import Roots, Row

MLX5 = [
    ("rx_packets", 5),
    ("rx_prio0_pause_duration", 0),
    ("rx_prio3_pause", 812),
    ("rx_prio3_pause_duration", 2_500_000),
    ("tx_prio3_pause_duration", 9_000_000),
    ("rx_global_pause_duration", 0),
    ("rx_symbol_err_phy", 7),
    ("rx_discards_phy", 9),
    ("rx_ecn_mark", 11),
]


class Card:
    """Answers as pyroute2's IoctlEthtool does."""

    def __init__(self, statistics: list[tuple[str, int]]) -> None:
        self.statistics = statistics
        self.gone = False
        self.closed = 0

    def get_statistics(self) -> list[tuple[str, int]]:
        if self.gone:
            raise OSError(19, "No such device")
        return self.statistics

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """A /sys in which the loopback's name and index belong to an mlx5 card."""
    for name, index, driver in (("lo", socket.if_nametoindex("lo"), "mlx5_core"), ("eth7", 7777, "ice")):
        base = tmp_path / "sys/class/net" / name
        (base / "device").mkdir(parents=True)
        (base / "device/driver").symlink_to(f"../../bus/pci/drivers/{driver}")
        (base / "ifindex").write_text(f"{index}\n")
    return Roots(str(tmp_path / "proc"), str(tmp_path / "sys"))


def test_the_time_paused_by_the_far_end_and_not_the_pauses_sent() -> None:
    assert ethtool.columns(MLX5) == {
        "pause_seconds": 2.5,
        "symbol_errors": 7.0,
        "buffer_overruns": 9.0,
        "ecn_marked": 11.0,
    }
    assert ethtool.columns([("pfc_pri5_rx_duration_us", 40), ("pfc_pri5_tx_duration_us", 90)]) == {
        "pause_seconds": 4e-5
    }


def test_overlapping_pauses_of_two_priorities_do_not_exceed_the_time_that_passed() -> None:
    two = [("rx_prio3_pause_duration", 900_000), ("rx_prio4_pause_duration", 800_000)]
    assert ethtool.columns(two) == {"pause_seconds": 0.9}


def test_only_cards_that_count_pauses_are_asked(roots: Roots) -> None:
    asked: list[str] = []

    def connect(name: str) -> Card:
        asked.append(name)
        return Card(MLX5)

    collector = ethtool.Ethtool(connect)
    assert list(collector.read(roots, 0.0)) == [
        Row(
            "port",
            ("lo",),
            {"pause_seconds": 2.5, "symbol_errors": 7.0, "buffer_overruns": 9.0, "ecn_marked": 11.0},
            {"link": "ethernet"},
        )
    ]
    assert (asked, collector.reason) == (["lo"], "")


def test_an_interface_of_another_namespace_is_not_asked(roots: Roots) -> None:
    Path(roots.sys, "class/net/lo/ifindex").write_text("4242\n")
    collector = ethtool.Ethtool(lambda name: Card(MLX5))
    assert list(collector.read(roots, 0.0)) == []
    assert "lo" in collector.reason
    assert "hostNetwork" in collector.remedy


def test_a_card_that_goes_away_is_opened_anew_when_it_is_back(roots: Roots) -> None:
    cards = [Card(MLX5), Card([("rx_prio3_pause_duration", 0)])]
    opened = iter(cards)
    collector = ethtool.Ethtool(lambda name: next(opened))
    list(collector.read(roots, 0.0))
    cards[0].gone = True
    with pytest.raises(OSError, match="No such device"):
        list(collector.read(roots, 0.0))
    assert cards[0].closed == 1
    assert [row.values for row in collector.read(roots, 0.0)] == [{"pause_seconds": 0.0}]


def test_a_machine_without_such_a_card_does_not_pay_for_the_library() -> None:
    program = (
        "import sys; from wellfed.collectors import ethtool; from wellfed.collectors.registry import Roots\n"
        "c = ethtool.Ethtool(); print(list(c.read(Roots('/nonexistent', '/nonexistent'), 0.0)), c.reason)\n"
        "print([m for m in sys.modules if m.startswith('pyroute2')])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0].startswith("[] no interface in /nonexistent/class/net")
    assert out.splitlines()[1] == "[]"


def test_the_library_asks_the_kernel() -> None:
    from pyroute2.ethtool.ioctl import NotSupportedError

    opened = ethtool._connect("lo")
    with pytest.raises(NotSupportedError):
        opened.get_statistics()
    opened.close()


@given(st.lists(st.tuples(st.text() | st.sampled_from([n for n, _ in MLX5]), st.integers(0, 2**64 - 1))))
def test_any_statistics_give_catalog_columns_only(statistics: list[tuple[str, int]]) -> None:
    assert set(ethtool.columns(statistics)) <= set(ethtool.columns(MLX5))
