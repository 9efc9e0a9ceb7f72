"""Ports of several vendors' drivers, and cards that are reloaded, half supported or wrap around."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.files import RECHECK, SELDOM, Held
from wellfed.collectors.infiniband import Infiniband, parse_number, parse_rate
from wellfed.collectors.registry import Roots, Row


class Node:
    """A /sys with one adapter, whose files a test writes as {name: content}."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(str(folder / "proc"), str(folder / "sys"))
        self.adapters = folder / "sys/class/infiniband"
        self.collector = Infiniband()
        self.clock = 0.0

    def write(self, device: str, files: dict[str, str], port: int = 1) -> None:
        for name, content in files.items():
            path = self.adapters / device / "ports" / str(port) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def rows(self, later: float = SELDOM) -> dict[str, Row]:
        self.clock += later
        return {row.key[0]: row for row in self.collector.read(self.roots, self.clock)}

    def values(self, port: str = "mlx5_0/1", later: float = SELDOM) -> dict[str, float | None]:
        return self.rows(later)[port].values


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    node.write("mlx5_0", {"state": "4: ACTIVE", "rate": "200 Gb/sec (4X HDR)", "link_layer": "InfiniBand"})
    return node


def test_broadcom_roce_counts_under_its_own_names(node: Node) -> None:
    hardware = {"tx_cnp_pkts": "3\n", "rx_cnp_pkts": "4\n", "rx_ecn_marked_pkts": "5\n", "rx_bytes": "600\n"}
    errors = {"seq_err_naks_rcvd": "6\n", "to_retransmits": "7\n", "oos_drop_count": "8\n"}
    node.write("bnxt_re0", {f"hw_counters/{name}": text for name, text in (hardware | errors).items()})
    node.write(
        "bnxt_re0", {"state": "4: ACTIVE\n", "link_layer": "Ethernet\n", "rate": "100 Gb/sec (4X EDR)\n"}
    )
    row = node.rows()["bnxt_re0/1"]
    assert row.info == {"link": "roce"}
    assert row.values == {
        "cnp_sent": 3,
        "cnp_handled": 4,
        "ecn_marked": 5,
        "packet_seq_errors": 6,
        "ack_timeouts": 7,
        "out_of_sequence": 8,
        "rx_bytes": 600,
        "up": 1,
        "rate_bps": 100e9,
    }


def test_an_adapter_without_a_link_layer_of_either_kind_has_no_link(node: Node) -> None:
    node.write("efa_0", {"state": "4: ACTIVE", "link_layer": "Unspecified", "hw_counters/tx_bytes": "77"})
    row = node.rows()["efa_0/1"]
    assert (row.info, row.values["tx_bytes"]) == ({}, 77)


def test_words_are_four_bytes_at_any_size(node: Node) -> None:
    node.write("mlx5_0", {"counters/port_rcv_data": str(2**62), "counters/port_xmit_data": "0"})
    values = node.values()
    assert (values["rx_bytes"], values["tx_bytes"]) == (2.0**64, 0.0)


def test_saturated_error_counters_stay_as_they_are(node: Node) -> None:
    full = {"symbol_error": "65535", "link_downed": "255", "local_link_integrity_errors": "15"}
    node.write("mlx5_0", {f"counters/{name}": text for name, text in full.items()})
    for _ in range(2):
        values = node.values()
        assert (values["symbol_errors"], values["link_downed"], values["integrity_errors"]) == (
            65535,
            255,
            15,
        )


def test_a_32_bit_queue_counter_grows_past_its_width(node: Node) -> None:
    seen = []
    for raw in (2**32 - 10, 5, 20):
        node.write("mlx5_0", {"hw_counters/out_of_sequence": str(raw)})
        seen.append(node.values()["out_of_sequence"])
    assert seen == [2**32 - 10, 2**32 + 5, 2**32 + 20]


def test_na_and_unsupported_counters_are_null_and_the_rest_stays(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.write("mlx5_0", {"counters/port_xmit_wait": "N/A (no PMA)", "counters/symbol_error": "1"})
    node.write("mlx5_0", {"hw_counters/np_cnp_sent": "9"})
    whole = Held.read

    def unsupported(held: Held, path: str) -> bytes:
        if path.endswith("np_cnp_sent"):
            raise OSError(errno.EINVAL, "Invalid argument", path)
        return whole(held, path)

    monkeypatch.setattr(Held, "read", unsupported)
    values = node.values()
    assert (values["xmit_wait_ticks"], values["cnp_sent"], values["symbol_errors"]) == (None, None, 1)


def test_a_driver_reloaded_under_the_same_name_is_read_anew(node: Node) -> None:
    node.write("mlx5_0", {"counters/symbol_error": "1", "counters/link_downed": "2"})
    assert node.values()["link_downed"] == 2
    shutil.rmtree(node.adapters / "mlx5_0")
    node.write("mlx5_0", {"state": "1: DOWN", "counters/symbol_error": "0", "counters/port_rcv_errors": "3"})
    for _ in range(RECHECK):
        values = node.values()
    assert (values["symbol_errors"], values["rcv_errors"], values["up"]) == (0, 3, 0)
    assert "link_downed" not in values


def test_a_file_that_vanished_between_two_reads_is_no_failure(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.write("mlx5_0", {"counters/symbol_error": "1", "counters/link_downed": "2"})
    node.values()
    whole = Held.together

    def gone(held: Held, paths: Sequence[str]) -> list[bytes | OSError]:
        found = whole(held, paths)
        for place, path in enumerate(paths):
            if path.endswith("link_downed"):
                Path(path).unlink(missing_ok=True)
                found[place] = OSError(errno.ENODEV, "No such device", path)
        return found

    monkeypatch.setattr(Held, "together", gone)
    values = node.values()
    assert (values["symbol_errors"], "link_downed" in values) == (1, False)


def test_the_rate_follows_the_state_and_is_not_asked_in_between(node: Node) -> None:
    assert node.values()["rate_bps"] == 200e9
    node.write("mlx5_0", {"rate": "100 Gb/sec (2X HDR)"})
    assert node.values()["rate_bps"] == 200e9
    node.write("mlx5_0", {"state": "2: INIT"})
    values = node.values()
    assert (values["rate_bps"], values["up"]) == (100e9, 0)


def test_errors_are_read_at_each_fifth_second_and_bytes_at_each(node: Node) -> None:
    seen = []
    for number in range(11):
        node.write("mlx5_0", {"counters/symbol_error": f"{number}", "counters/port_rcv_data": f"{number}"})
        values = node.values(later=1.0)
        seen.append((values["rx_bytes"], values["symbol_errors"]))
    # The clock stands at 1 at the first read.
    assert seen == [(4 * n, [0, 4, 9][(n + 1) // 5]) for n in range(11)]


def test_errors_are_read_at_once_when_the_link_changes(node: Node) -> None:
    node.write("mlx5_0", {"counters/link_downed": "1"})
    node.values()
    node.write("mlx5_0", {"counters/link_downed": "2", "state": "1: DOWN"})
    assert node.values(later=1.0)["link_downed"] == 2


def test_two_ports_of_one_adapter_are_two_rows(node: Node) -> None:
    node.write("mlx5_0", {"state": "1: DOWN", "rate": "2.5 Gb/sec (1X SDR)"}, port=2)
    found = node.rows()
    assert (found["mlx5_0/1"].values["up"], found["mlx5_0/2"].values["up"]) == (1, 0)
    assert found["mlx5_0/2"].values["rate_bps"] == 2.5e9


def test_garbage_names_its_file(node: Node) -> None:
    node.write("mlx5_0", {"counters/port_rcv_data": "0x10\n"})
    with pytest.raises(ValueError, match=r"mlx5_0/ports/1/counters/port_rcv_data: expected a count"):
        node.rows()


@given(st.binary(max_size=40) | st.integers(0, 10**30).map(lambda n: b"%d" % n))
def test_a_counter_is_a_number_of_64_bits_or_a_value_error(text: bytes) -> None:
    try:
        number = parse_number(text)
    except ValueError:
        return
    assert number is None or 0 <= number < 10**20


@given(st.binary(max_size=30), st.integers(0, 10**6 - 1))
def test_a_rate_is_finite_or_a_value_error(noise: bytes, gigabits: int) -> None:
    assert parse_rate(b"%d Gb/sec" % gigabits + noise) == gigabits * 1e9
    try:
        assert parse_rate(noise + b" Gb/sec") >= 0
    except ValueError:
        return
