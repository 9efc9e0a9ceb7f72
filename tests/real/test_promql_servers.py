"""A diagnosis of what real servers hold is that of the tables they were filled with."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from programs import Programs
from timeseries import SERVERS, foreign, own

from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.promql import Reader, Reading, annotate, read, server
from wellfed.analysis.scenarios import Artefacts, Simulation, simulate
from wellfed.analysis.windows import amounts
from wellfed.cli import main
from wellfed.collectors.catalog import TABLES

pytestmark = pytest.mark.real

SECONDS = 2400.0


def reading(url: str, simulation: Simulation, folder: Path) -> Reading:
    folder.mkdir()
    return read(Reader(server(url)), simulation.start, simulation.end, str(folder))


def lazy(simulation: Simulation) -> dict[str, pl.LazyFrame]:
    return {name: frame.lazy() for name, frame in simulation.tables.items()}


def near(first: object, second: object) -> None:
    """The same document, numbers up to the last digits that a server keeps."""
    if isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys()
        for key in first:
            near(first[key], second[key])
    elif isinstance(first, list):
        assert isinstance(second, list)
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            near(one, other)
    elif isinstance(first, float):
        assert second == pytest.approx(first, rel=1e-6, abs=1e-3)
    else:
        assert first == second


@pytest.mark.parametrize("kind", SERVERS)
def test_own_names_give_the_verdict_of_the_files(kind: str, programs: Programs, tmp_path: Path) -> None:
    flaws = Artefacts(dropped=0.03, reboots=1)
    simulation = simulate("cpu-augmentation", seed=3, gpus=16, duration=SECONDS, artefacts=flaws)
    url = SERVERS[kind](programs, tmp_path, own(simulation.tables))
    got = reading(url, simulation, tmp_path / "got")
    assert got.step == 10
    assert got.warnings == []
    of_files = diagnose(lazy(simulation)).document
    of_server = diagnose(got.tables).document
    assert of_files["totals"]["lost_seconds"] > 1000
    assert of_files["findings"]
    for part in ("from", "to", "window_seconds", "totals", "gpus", "jobs", "findings", "hosts"):
        near(of_files[part], of_server[part])


CHOSEN = {
    "cpu-augmentation": "cpu.preprocess",
    "nfs-contended": "storage.remote",
    "disk-degraded": "storage.read",
}


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(("scenario", "cause"), CHOSEN.items())
def test_other_exporters_names_give_the_same_cause(
    kind: str, scenario: str, cause: str, programs: Programs, tmp_path: Path
) -> None:
    simulation = simulate(scenario, seed=3, gpus=16, duration=SECONDS)
    url = SERVERS[kind](programs, tmp_path, foreign(simulation.tables))
    got = reading(url, simulation, tmp_path / "got")
    document = diagnose(got.tables).document
    annotate(document, got)
    ours = diagnose(lazy(simulation)).document["totals"]
    assert max(ours["by_cause"], key=ours["by_cause"].get) == cause
    theirs = document["totals"]
    assert max(theirs["by_cause"], key=theirs["by_cause"].get) == cause
    assert document["findings"][0]["cause"] == cause
    assert theirs["joules"] == pytest.approx(ours["joules"], rel=1e-6)
    # The hosts are called by name, not by the address that is scraped, and by the short one.
    hosts = set(simulation.tables["host"]["host"])
    assert {gpu["host"] for gpu in document["gpus"]} == hosts
    assert {host["host"] for host in document["hosts"]} == hosts
    fidelity = {(c["table"], c["column"]): c["fidelity"] for c in document["coverage"]}
    assert fidelity["gpu", "sm_active_seconds"] == "gauge"
    assert fidelity["host", "cpu_busy_seconds"] == "native"
    assert any(text.startswith("lower fidelity: active_seconds") for text in document["warnings"])
    assert any("no training loop reports its steps" in text for text in document["warnings"])


def test_what_other_exporters_count_is_what_our_tables_hold(programs: Programs, tmp_path: Path) -> None:
    simulation = simulate("nfs-contended", seed=3, gpus=8, duration=900)
    url = SERVERS["prometheus"](programs, tmp_path, foreign(simulation.tables))
    got = reading(url, simulation, tmp_path / "got").tables
    for name, columns in {
        "host": ("cpu_busy_seconds", "net_rx_bytes", "cpu_count", "page_cache_bytes"),
        "disk": ("read_bytes", "busy_seconds"),
        "mount": ("reads", "metadata_ops", "read_exec_seconds", "retransmits", "read_bytes"),
        "port": ("rx_bytes", "rate_bps", "up"),
        "gpu": ("sm_active_seconds", "pcie_rx_bytes", "memory_used_bytes", "memory_total_bytes", "pcie_gen"),
    }.items():
        table = TABLES[name]
        keys = [*table.keys, "ts"]
        ours, theirs = (
            amounts(tables[name], table, 10.0).collect().select(*keys, "dt", *columns).sort(keys)
            for tables in (lazy(simulation), got)
        )
        if name == "port":
            ours = ours.filter(pl.col("port").str.starts_with("mlx5"))
        both = ours.drop_nulls().join(theirs, on=keys, suffix="_theirs")
        assert both.height > 0.9 * ours.height
        for column in columns:
            error = (both[column] - both[f"{column}_theirs"]).abs().max()
            most = both[column].abs().max()
            assert isinstance(error, float)
            assert isinstance(most, float)
            assert error <= 1e-6 * max(1.0, most), (name, column)


def test_polling_reads_each_window_once_and_counts_on(programs: Programs, tmp_path: Path) -> None:
    simulation = simulate("cpu-augmentation", seed=3, gpus=8, duration=900)
    url = SERVERS["victoria-metrics"](programs, tmp_path, foreign(simulation.tables))
    whole = reading(url, simulation, tmp_path / "got").tables["gpu"].collect().sort("gpu", "ts")
    reader = Reader(server(url))
    since, parts = simulation.start, []
    for now in range(60, 1200, 77):
        until, tables = reader.poll(since, simulation.start + timedelta(seconds=now))
        assert until >= since
        since = until
        parts += [tables["gpu"]] if "gpu" in tables else []
    polled = pl.concat(parts).sort("gpu", "ts")
    assert polled.filter(pl.struct("gpu", "ts").is_duplicated()).is_empty()
    assert polled["ts"].to_list() == whole.filter(pl.col("ts") <= since)["ts"].to_list()
    assert polled["sm_active_seconds"].to_list() == pytest.approx(
        whole.filter(pl.col("ts") <= since)["sm_active_seconds"].to_list()
    )


def test_the_command_names_the_cause(
    programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = simulate("cpu-augmentation", seed=3, gpus=16, duration=SECONDS)
    url = SERVERS["victoria-metrics"](programs, tmp_path, foreign(simulation.tables))
    start: datetime = simulation.start
    arguments = ["diagnose", "--prometheus", url, "--from", start.isoformat()]
    assert main([*arguments, "--to", simulation.end.isoformat(), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][0]["cause"] == "cpu.preprocess"
    assert document["from"] == start.isoformat()
    assert main([*arguments, "--to", (start + timedelta(seconds=600)).isoformat()]) == 0
    assert "16 GPUs in 1 job" in capsys.readouterr().out
