"""Leaves by spines: what switches count is a link's, what hosts count is their leaf's, and nothing is made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dashboards
import polars as pl
import pytest
from dashboards import Fixed
from otlp_nodes import host_rows
from programs import Programs, free_port

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.receiver import Receiver, frames
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.sampler import Window
from wellfed.dashboard import app, tabular
from wellfed.dashboard.leaves import by_leaf, common_leaf
from wellfed.dashboard.ports import by_rail, port_rows, state_of
from wellfed.dashboard.stages import stages
from wellfed.dashboard.topology import arranged
from wellfed.dashboard.topology_text import parse
from wellfed.dashboard.words import Number


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=600)


@pytest.fixture(scope="module")
def wired(source: Fixed) -> Fixed:
    return source.wired()


def matrix(source: Fixed, search: str = "") -> list[list[Any]]:
    """The page's table of leaves by spines, its head first."""
    found = dict(tabular.tables(list(app.page(source, "/fabric", search).main)))
    (table,) = (t for name, t in found.items() if name.startswith("Highest"))
    head, body = table.children[1].children.children, table.children[2].children
    names = [" ".join(str(tabular.said(th)).split()).rstrip(" ▾▴") for th in head]
    return [names, *([tabular.said(td.children) for td in row.children] for row in body)]


def texts(source: Fixed, path: str) -> str:
    return json.dumps([str(part) for part in app.page(source, path, "").main], ensure_ascii=False)


def test_a_cell_is_the_highest_of_the_ports_at_both_ends_of_its_links(wired: Fixed) -> None:
    rows = wired.made.once(port_rows)

    def port(host: str, name: str) -> dict[str, Any]:
        return rows.row(by_predicate=(pl.col("host") == host) & (pl.col("port") == name), named=True)

    names, *leaves = matrix(wired)
    assert names == ["Leaf", "Hosts", "Their ports", "spine1", "spine2"]
    assert [row[0] for row in leaves] == ["leaf1", "leaf2", "leaf3", "leaf4"]
    assert [row[1] for row in leaves] == ["3", "3", "3", "1"]
    for row in leaves:
        for place, spine in enumerate(names[3:], 3):
            ends = port(row[0], spine), port(spine, row[0])
            assert row[place].value == pytest.approx(max(end["load"] for end in ends))
    _, *leaves = matrix(wired, "?by=crowded")
    for row in leaves:
        for place, spine in enumerate(names[3:], 3):
            ends = port(row[0], spine), port(spine, row[0])
            assert row[place].value == pytest.approx(max(end["waits"] for end in ends))


def test_their_ports_are_the_mean_of_the_hosts_below_a_leaf(wired: Fixed) -> None:
    rows = wired.made.once(port_rows).filter(pl.col("link") == "infiniband")
    below = rows.filter(pl.col("host").is_in(["r01-n01", "r01-n02", "r01-n03"]))
    assert matrix(wired)[1][2].value == pytest.approx(below["load"].mean())


def test_without_counters_of_switches_no_number_stands_for_a_link(source: Fixed, wired: Fixed) -> None:
    silent = Fixed(source.tables, source.diagnosis)
    silent.made = replace(silent.made, topology=wired.made.topology)
    _, *leaves = matrix(silent)
    assert {cell for row in leaves for cell in row[3:]} == {"no counters"}
    assert all(isinstance(row[2], Number) for row in leaves)
    assert "No switch sends counters" in texts(silent, "/fabric")
    found = silent.made.once(by_leaf, "")
    assert found is not None
    assert not found.measured


def test_a_pair_without_a_link_and_a_link_whose_switches_are_silent_are_told_apart(source: Fixed) -> None:
    hosts = "Nodes=r[01-02]-n[01-04]"
    topology = arranged(
        parse(
            f"SwitchName=leaf1 {hosts}\nSwitchName=leaf9 Nodes=elsewhere1\n"
            "SwitchName=spine1 Switches=leaf1\nSwitchName=spine8 Switches=leaf9"
        )
    )
    found = source.wired(topology)
    assert matrix(found)[1:] == [
        ["leaf1", "8", matrix(found)[1][2], matrix(found)[1][3], "no link"],
        ["leaf9", "0", "–", "no link", "no counters"],
    ]
    assert matrix(found)[1][3].value > 0
    # r03 has a rack beyond the file, and switches that it does not name are hosts.
    assert "The file tells no leaf of" in texts(found, "/fabric")
    assert by_rail(found.made, "").racks == ["leaf1", "not told"]


def discovered(wired: Fixed) -> Fixed:
    """The same fabric in ibnetdiscover's words; switches report by id and number of the port, without a rate."""
    topology = wired.made.topology
    assert topology is not None
    number = {name: n for n, name in enumerate((*topology.leaves, *topology.spines), 1)}
    lines = []
    for leaf in topology.leaves:
        lines.append(
            f'Switch\t40 "S-{number[leaf]:04x}"\t# "MF0;{leaf}:MQM8700/U1" enhanced port 0 lid 3 lmc 0'
        )
        hosts = [host for host in topology.places if topology.leaf_of(host, "") == leaf]
        lines += [
            f'[{n}]\t"H-{n:04x}"[1](a{n})\t# "{host} mlx5_{k}" lid 7 4xNDR'
            for n, (host, k) in enumerate(((host, k) for host in hosts for k in range(8)), 100)
        ]
        lines += [
            f'[{number[s]}]\t"S-{number[s]:04x}"[{number[leaf]}]\t# "{s}" lid 9 4xNDR'
            for s in topology.spines
        ]
    lines += [f'Switch\t40 "S-{number[s]:04x}"\t# "{s}" base port 0 lid 9 lmc 0' for s in topology.spines]
    port = wired.tables["port"].with_columns(
        pl.when(pl.col("host").is_in(list(topology.leaves)))
        .then(pl.col("host").replace({name: f"0x{n:016x}" for name, n in number.items()}))
        .otherwise("host")
        .alias("host"),
        pl.when(pl.col("host").is_in(list(number))).then(None).otherwise("rate_bps").alias("rate_bps"),
        pl.when(pl.col("host").is_in(list(number)))
        .then(pl.col("port").replace({name: str(n) for name, n in number.items()}))
        .otherwise("port")
        .alias("port"),
    )
    found = Fixed({**wired.tables, "port": port}, wired.diagnosis)
    found.made = replace(found.made, topology=arranged(parse("\n".join(lines))))
    return found


def test_ibnetdiscover_and_numbered_ports_give_the_same_matrix(wired: Fixed) -> None:
    found = discovered(wired)
    assert matrix(found, "?by=crowded") == matrix(wired, "?by=crowded")
    # The exporter tells no rate: the one that the subnet manager saw is that of the link.
    before = wired.made.once(port_rows).filter((pl.col("host") == "leaf1") & (pl.col("port") == "spine2"))
    rate = before["rate_bps"].item()
    assert matrix(found)[1][4].value == pytest.approx(matrix(wired)[1][4].value * rate / 400e9)


def test_what_a_switch_sends_by_otlp_is_in_the_matrix(wired: Fixed) -> None:
    topology = wired.made.topology
    assert topology is not None
    whole = wired.tables["port"].collect()
    of_switch = pl.col("host").is_in(list(topology.switches))
    encoders = {name: Encoder({"host.name": name}) for name in topology.switches}
    receiver, parts = Receiver(None), [whole.filter(~of_switch)]  # type: ignore[arg-type]
    for (ts, name), rows in whole.filter(of_switch).partition_by("ts", "host", as_dict=True).items():
        at = ts.timestamp()
        sent = encoders[name].encode(Window(at, list(host_rows({"port": rows}, name))))
        parts.append(frames(receiver.decode(sent, at).parts)["port"].select(whole.columns))
    receiver.close()
    found = Fixed({**wired.tables, "port": pl.concat(parts).lazy()}, wired.diagnosis)
    found.made = replace(found.made, topology=topology)
    assert matrix(found) == matrix(wired)


def test_a_switch_is_no_host(source: Fixed, wired: Fixed) -> None:
    assert by_rail(wired.made, "").racks == ["leaf1", "leaf2", "leaf3", "leaf4"]
    before, after = (state_of(found.made) for found in (source, wired))
    assert after.ports == before.ports + 16
    assert after.slow == before.slow
    assert dict(after.links) == {**dict(before.links), "switch": 16}
    for one, other in zip(stages(source.made, ""), stages(wired.made, ""), strict=True):
        assert (one.name, one.facts) == (other.name, other.facts)
        assert one.load == pytest.approx(other.load)
    assert "/host/leaf1" not in texts(wired, "/fabric?sort=-load")
    assert "/host/leaf1" not in texts(wired, "/fabric")


def test_without_a_topology_ports_are_by_rack(source: Fixed) -> None:
    assert by_rail(source.made, "").racks == ["r01", "r02", "r03"]
    assert by_leaf(source.made, "") is None
    assert "Leaves by spines" not in texts(source, "/fabric")
    assert "With --topology" in texts(source, "/fabric")


def test_the_counters_of_switches_change_no_finding(source: Fixed, wired: Fixed) -> None:
    def told(document: dict[str, Any]) -> list[tuple[Any, ...]]:
        names = ("cause", "scope", "start", "end", "culprits", "severity")
        return [tuple(finding[name] for name in names) for finding in document["findings"]]

    again = diagnose(wired.tables, price=2.5).document
    assert told(again) == told(source.diagnosis.document)
    assert again["totals"]["by_cause"] == pytest.approx(source.diagnosis.document["totals"]["by_cause"])


def test_a_finding_whose_hosts_share_a_leaf_names_it(wired: Fixed) -> None:
    def finding(*hosts: str) -> dict[str, Any]:
        return {"scope": {"hosts": list(hosts)}}

    assert common_leaf(wired.made, finding("r01-n01", "r01-n03")) == "leaf1"
    assert common_leaf(wired.made, finding("r01-n01", "r01-n04")) == ""
    assert common_leaf(wired.made, finding()) == ""
    assert common_leaf(wired.made, finding("nobody")) == ""
    known = next(f for f in wired.diagnosis.document["findings"] if f["scope"]["hosts"])
    changed = {**known, "cause": "fabric.congested", "scope": {**known["scope"], "hosts": ["r01-n04"]}}
    told = Fixed(wired.tables, wired.diagnosis)
    document = {**wired.diagnosis.document, "findings": [changed]}
    told.made = replace(wired.made, diagnosis=replace(wired.diagnosis, document=document), _derived={})
    assert "All of its hosts are below leaf2." in texts(told, f"/findings/{known['id']}")


def test_switches_of_the_simulator_only_add_rows(source: Fixed, wired: Fixed) -> None:
    before, after = (found.tables["port"].collect() for found in (source, wired))
    assert after.schema == before.schema
    assert after.head(before.height).equals(before)
    falls = after.sort("host", "port", "ts").select(
        (pl.col("tx_bytes").diff().over("host", "port") < 0).any().alias("fell")
    )
    assert not falls.item()


def test_a_topology_that_cannot_be_read_is_one_line(programs: Programs, tmp_path: Path) -> None:
    bad = tmp_path / "topology.conf"
    bad.write_text("SwitchName=leaf1 Nodes=n[1-")
    for command in ("up", "hub", "demo"):
        wrong = programs.wellfed(command, f"--topology={bad}", f"--address=127.0.0.1:{free_port()}")
        assert wrong.wait(60) == 2
        (line,) = wrong.log.read_text().splitlines()  # type: ignore[attr-defined]
        assert line.startswith(f"wellfed: {bad}: line 1: ")


def test_a_topology_of_one_switch_has_no_matrix(source: Fixed) -> None:
    only = arranged(parse("SwitchName=leaf1 Nodes=r[01-03]-n[01-04]"))
    found = Fixed(source.tables, source.diagnosis)
    found.made = replace(found.made, topology=only)
    assert "Leaves by spines" not in texts(found, "/fabric")
    assert by_rail(found.made, "").racks == ["leaf1"]
