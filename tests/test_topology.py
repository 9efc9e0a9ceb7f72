"""What is wired to what, from Slurm's topology.conf and from ibnetdiscover, and bad files said in one line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.dashboard.topology import Topology, TopologyFile, arranged
from wellfed.dashboard.topology_text import host_list, parse, switch_name
from wellfed.errors import UserError

SLURM = """# Two leaves, two spines
SwitchName=leaf1 Nodes=node[01-03,20],gpu-[1-2]n[08-09]
switchname=leaf2 \\
   NODES=node[04-06] LinkSpeed=400   # half full
SwitchName=spine[1-2] Switches=leaf[1-2]
SwitchName=core Switches=spine[1-2]
"""

DISCOVERED = """#
# Topology file: generated on Mon Mar  2 12:00:00 2026
#
vendid=0x2c9
devid=0xd2f0
switchguid=0xb8599f0300a1(b8599f0300a1)
Switch\t40 "S-b8599f0300a1"\t\t# "MF0;leaf1:MQM8700/U1" enhanced port 0 lid 3 lmc 0
[1]\t"H-0c42a10300c1"[1](c42a10300c1) \t\t# "node01 mlx5_0" lid 7 4xHDR
[2]\t"H-0c42a10300c2"[1](c42a10300c2) \t\t# "node02 mlx5_0" lid 8 4xHDR
[3]\t"H-0c42a10300d1"[1](c42a10300d1) \t\t# "node03 HCA-1" lid 9 4xHDR
[33]\t"S-b8599f0300b1"[1]\t\t# "Quantum Mellanox Technologies" lid 20 4xHDR
[34]\t"S-b8599f0300b1"[2]\t\t# "Quantum Mellanox Technologies" lid 20 4xHDR
[35][ext 12]\t"S-b8599f0300b2"[1][ext 3]\t\t# "Quantum Mellanox Technologies" lid 21 4xHDR
[41]\t"H-b8599f0300ff"[1](b8599f0300ff) \t\t# "Mellanox Technologies Aggregation Node" lid 30 4xHDR

Switch\t40 "S-b8599f0300a2"\t\t# "leaf2" enhanced port 0 lid 4 lmc 0
[1]\t"H-0c42a10300e1"[1](c42a10300e1) \t\t# "node01 mlx5_1" lid 10 4xHDR
[2]\t"H-0c42a10300e2"[1](c42a10300e2) \t\t# "node02.cluster.example mlx5_1" lid 11 4xHDR
[33]\t"S-b8599f0300b1"[3]\t\t# "Quantum Mellanox Technologies" lid 20 4xHDR

Switch\t40 "S-b8599f0300b1"\t\t# "Quantum Mellanox Technologies" base port 0 lid 20 lmc 0
[1]\t"S-b8599f0300a1"[33]\t\t# "MF0;leaf1:MQM8700/U1" lid 3 4xHDR
[2]\t"S-b8599f0300a1"[34]\t\t# "MF0;leaf1:MQM8700/U1" lid 3 4xHDR
[3]\t"S-b8599f0300a2"[33]\t\t# "leaf2" lid 4 4xHDR
[41]\t"H-b8599f0300fe"[1](b8599f0300fe) \t\t# "Mellanox Technologies Aggregation Node" lid 31 4xHDR

Switch\t40 "S-b8599f0300b2"\t\t# "Quantum Mellanox Technologies" base port 0 lid 21 lmc 0
[1][ext 3]\t"S-b8599f0300a1"[35][ext 12]\t\t# "MF0;leaf1:MQM8700/U1" lid 3 4xHDR

vendid=0x2c9
Ca\t1 "H-0c42a10300c1"\t\t# "node01 mlx5_0"
[1](c42a10300c1) \t"S-b8599f0300a1"[1]\t\t# lid 7 lmc 0 "MF0;leaf1:MQM8700/U1" lid 3 4xHDR
"""


def topology(text: str) -> Topology:
    return arranged(parse(text))


def test_slurms_file_tells_the_leaf_of_a_host_and_the_spines_of_a_leaf() -> None:
    found = topology(SLURM)
    hosts = {host: found.leaf_of(host, "mlx5_3/1") for host in found.places}
    assert hosts == {
        **dict.fromkeys(("node01", "node02", "node03", "node20"), "leaf1"),
        **dict.fromkeys(("gpu-1n08", "gpu-1n09", "gpu-2n08", "gpu-2n09"), "leaf1"),
        **dict.fromkeys(("node04", "node05", "node06"), "leaf2"),
    }
    assert (found.leaves, found.spines) == (["leaf1", "leaf2"], ["spine1", "spine2"])
    assert found.links == {(leaf, spine): 1 for leaf in found.leaves for spine in found.spines}
    assert found.switches == {"leaf1", "leaf2", "spine1", "spine2", "core"}
    assert found.leaf_of("node04.cluster.example", "eth0") == "leaf2"
    assert found.leaf_of("node99", "eth0") == ""


def test_ibnetdiscover_tells_the_leaf_of_each_port_and_the_ports_of_each_link() -> None:
    found = topology(DISCOVERED)
    one, two = "0x0000b8599f0300b1", "0x0000b8599f0300b2"
    assert (found.leaves, found.spines) == (["leaf1", "leaf2"], [one, two])
    assert found.links == {("leaf1", one): 2, ("leaf1", two): 1, ("leaf2", one): 1}
    # A host on two leaves: each port has its own, and no other port is said to have one.
    assert found.leaf_of("node01", "mlx5_0/1") == "leaf1"
    assert found.leaf_of("node01", "mlx5_1/1") == "leaf2"
    assert found.leaf_of("node01", "mlx5_2/1") == ""
    assert found.leaf_of("node02", "mlx5_1/1") == "leaf2"
    # Which device HCA-1 is nobody tells, but all of them are on this leaf.
    assert found.leaf_of("node03", "mlx5_0/1") == "leaf1"
    assert found.link_of("leaf1", "33") == found.link_of(one, "1") == ("leaf1", one)
    assert found.link_of("leaf1", "35") == ("leaf1", two)
    assert found.link_of("leaf1", "1") is None
    assert "Mellanox Technologies" not in found.places


LINES = """CA     7  1 0x00000c42a10300c1 4x HDR - SW     3  1 0x0000b8599f0300a1 ( 'node01 mlx5_0' - 'MF0;leaf1:MQM8700/U1' )
SW     3  1 0x0000b8599f0300a1 4x HDR - CA     7  1 0x00000c42a10300c1 ( 'MF0;leaf1:MQM8700/U1' - 'node01 mlx5_0' )
SW     3  2 0x0000b8599f0300a1 4x HDR - CA     8  1 0x00000c42a10300c2 ( 'MF0;leaf1:MQM8700/U1' - 'node02 mlx5_0' )
SW     3 33 0x0000b8599f0300a1 2x HDR - SW    20  1 0x0000b8599f0300b1 ( 'MF0;leaf1:MQM8700/U1' - 'spine1' )
SW     3 34 0x0000b8599f0300a1 4x ???                                    'MF0;leaf1:MQM8700/U1'
SW    20  1 0x0000b8599f0300b1 2x HDR - SW     3 33 0x0000b8599f0300a1 ( 'spine1' - 'MF0;leaf1:MQM8700/U1' )
"""


def test_its_other_form_a_line_a_link_tells_the_same() -> None:
    found = topology(LINES)
    assert (found.leaves, found.spines, found.links) == (["leaf1"], ["spine1"], {("leaf1", "spine1"): 1})
    assert found.leaf_of("node02", "mlx5_0/1") == "leaf1"
    assert found.rates["leaf1", "33"] == found.rates["spine1", "1"] == 100e9


def test_a_switch_without_lines_of_its_own_is_known_by_the_other_end() -> None:
    found = topology("\n".join(line for line in LINES.splitlines() if not line.startswith("SW    20")))
    assert found.links == {("leaf1", "spine1"): 1}
    assert found.link_of(found.switch("0x0000b8599f0300b1"), "1") == ("leaf1", "spine1")
    alone = DISCOVERED[: DISCOVERED.index('Switch\t40 "S-b8599f0300b1"')]
    assert topology(alone).links == topology(DISCOVERED).links


def test_a_switch_is_known_by_name_description_and_id() -> None:
    found = topology(DISCOVERED)
    for name in ("leaf1", "MF0;leaf1:MQM8700/U1", "0x0000b8599f0300a1", "0x0000B8599F0300A1"):
        assert found.switch(name) == "leaf1", name
    assert found.switch("0x0000b8599f0300b2") == "0x0000b8599f0300b2"
    assert found.switch("node01") == found.switch("") == ""
    assert found.rates["leaf1", "33"] == 200e9


def test_ports_of_a_switch_may_be_called_by_what_they_lead_to() -> None:
    found = topology(SLURM)
    assert found.link_of("leaf1", "spine2") == found.link_of("leaf1", "spine2/3") == ("leaf1", "spine2")
    assert found.link_of("spine2", "leaf1") == ("leaf1", "spine2")
    assert found.link_of("spine2", "core") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no switch has hosts"),
        ("# nothing\n", "no switch has hosts"),
        (
            "SwitchName=s1 Switches=s2\nSwitchName=s2 Nodes=n1\nSwitchName=s2 Nodes=n2",
            "line 3: switch s2 .*twice",
        ),
        ("SwitchName=s1 Switches=s[2-3]\nSwitchName=s2 Nodes=n1", "line 1: switch s3 has no SwitchName"),
        ("\n\nNodes=n[1-2]", "line 3: 'Nodes=n.*write SwitchName=NAME"),
        ("BlockName=b1 Nodes=n[1-2]", "line 1"),
        ("SwitchName=s1 Nodes=n[1-2] Speed=4", "line 1"),
        ("SwitchName=s[1-2] Nodes=n[1-2]", "line 1: .*name one switch for these nodes"),
        ("SwitchName=s1 Nodes=n[1-2", "line 1: .*bracket"),
        ("SwitchName=s1 Nodes=n1-2]", "line 1: .*bracket"),
        ("SwitchName=s1 Nodes=n[2-1]", "line 1: .*2-1"),
        ("SwitchName=s1 Nodes=n[a-b]", "line 1: .*'a-b' is no number"),
        ("SwitchName=s1 Nodes=n[1-999999999]", "line 1"),
        ("SwitchName=s1 Nodes=n[1-9999][1-9999]", "line 1: .*names"),
        ("SwitchName=s1 \\\nNodes=n1,,n2", "line 1: .*no list of names"),
        ("<html>not found</html>", "line 1"),
        ('Switch\t40 "S-1"\t# "leaf1" enhanced port 0 lid 3 lmc 0\n', "no switch has hosts"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "topology.conf"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        TopologyFile(str(file))
    said = str(caught.value)
    assert said.startswith(f"{file}: ")
    assert re.search(told, said)
    assert "\n" not in said


def test_a_file_that_is_not_there_or_not_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the topology .*No such file"):
        TopologyFile(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"cannot read the topology .*directory"):
        TopologyFile(str(tmp_path))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="bytes: "):
        TopologyFile(str(tmp_path / "bytes"))


def test_a_file_that_changes_is_read_again_and_a_broken_one_leaves_what_was_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "topology.conf"
    file.write_text("SwitchName=leaf1 Nodes=n[1-2]")
    held = TopologyFile(str(file))
    first = held()
    assert held() is first
    (tmp_path / "next").write_text("SwitchName=leaf7 Nodes=n[1-3]")
    os.replace(tmp_path / "next", file)
    assert held().leaf_of("n3", "") == "leaf7"
    file.write_text("SwitchName=leaf8 Nodes=n[1-")
    assert held().leaves == ["leaf7"]
    file.unlink()
    assert held().leaves == ["leaf7"]
    assert "the topology stays as it was" in caplog.text


def test_managed_switches_are_known_by_their_name() -> None:
    assert switch_name("MF0;leaf1:MQM8700/U1") == "leaf1"
    assert switch_name("SwitchX -  Mellanox Technologies") == "SwitchX -  Mellanox Technologies"


@given(st.text(st.sampled_from('Switch Nam=es[]0123,-\\#\n\tleafHS"()')))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = arranged(parse(text))
    except ValueError:
        return
    assert found.leaves


@given(
    st.lists(st.tuples(st.integers(0, 999), st.integers(0, 40)), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_a_list_of_ranges_is_each_of_its_numbers_with_its_zeros(
    ranges: list[tuple[int, int]], width: int
) -> None:
    told = ",".join(f"{low:0{width}d}-{low + more:0{width}d}" for low, more in ranges)
    each = [f"n{low + k:0{max(width, len(str(low)))}d}x" for low, more in ranges for k in range(more + 1)]
    assert host_list(f"n[{told}]x") == each
