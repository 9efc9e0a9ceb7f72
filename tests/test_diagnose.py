"""The diagnosis: exact shares, a stable document, the right cause on simulated faults, nothing on health."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wellfed.analysis.causes import CAUSES
from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.report.content import build
from wellfed.analysis.report.terminal import render
from wellfed.analysis.scenarios import SCENARIOS, Artefacts, simulate
from wellfed.analysis.schema import schema
from wellfed.analysis.windows import amounts, boots, native_step
from wellfed.cli import main
from wellfed.collectors.catalog import TABLES

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)


def table(name: str, rows: list[dict[str, object]]) -> pl.LazyFrame:
    return pl.DataFrame(rows, schema=schema(TABLES[name])).lazy()


def tables(**given_: pl.LazyFrame) -> dict[str, pl.LazyFrame]:
    return {name: given_.get(name, pl.LazyFrame(schema=schema(t))) for name, t in TABLES.items()}


def at(window: float) -> datetime:
    return T0 + timedelta(seconds=10 * window)


def simulated(name: str, seed: int = 7, **options: Any) -> tuple[Diagnosis, pl.DataFrame]:
    made = simulate(name, seed=seed, **options)
    return diagnose(tables(**{k: v.lazy() for k, v in made.tables.items()})), made.truth


def found(diagnosis: Diagnosis) -> set[str]:
    return {f["cause"] for f in diagnosis.document["findings"]}


# --- windows


def deltas(rows: list[dict[str, object]], boot: list[float] | None = None) -> list[float | None]:
    host = table("host", [{"ts": at(i), "host": "n", "boot_seconds": b} for i, b in enumerate(boot or [])])
    disk = table("disk", [{"host": "n", "device": "d", **row} for row in rows])
    out = amounts(disk, TABLES["disk"], 10.0, boots(host, 10.0) if boot else None)
    return out.sort("ts").collect()["reads"].to_list()


def test_a_counter_becomes_amounts_and_a_reset_or_gap_becomes_null() -> None:
    assert deltas([{"ts": at(i), "reads": v} for i, v in enumerate((5.0, 7.0, 1.0, 4.0))]) == [
        None,
        2,
        None,
        3,
    ]
    assert deltas([{"ts": at(i), "reads": v} for i, v in ((0, 0.0), (3, 30.0), (7, 70.0))]) == [
        None,
        30,
        None,
    ]


def test_a_new_boot_is_a_new_segment_even_when_the_counter_grew() -> None:
    rows: list[dict[str, object]] = [{"ts": at(i), "reads": v} for i, v in enumerate((1.0, 2.0, 50.0, 51.0))]
    assert deltas(rows, [100.0, 100.0, 200.0, 200.0]) == [None, 1, None, 1]


def test_jitter_rounds_to_the_grid_and_repeats_count_once() -> None:
    rows: list[dict[str, object]] = [
        {"ts": at(i), "reads": v} for i, v in ((0.1, 0.0), (0.9, 10.0), (2.2, 30.0), (2.2, 30.0), (3, 40.0))
    ]
    assert deltas(rows) == [None, 10, 20, 10]


def test_the_datas_own_step_is_found() -> None:
    rows = [{"ts": T0 + timedelta(seconds=60 * i), "host": "n"} for i in range(5)]
    assert native_step(tables(host=table("host", rows))) == 60
    assert native_step(tables()) == 10


# --- lost time by hand


def gpu_rows(levels: list[float], **more: object) -> list[dict[str, object]]:
    """A GPU whose SM activity was `levels`, window by window."""
    rows, busy = [], 0.0
    for index, level in enumerate([0.0, *levels]):
        busy += 10 * level
        rows.append(
            {
                "ts": at(index), "host": "n", "gpu": "GPU-1", "job": "slurm:1", "processes": 1.0,
                "observed_seconds": 10.0 * index, "active_seconds": busy, "sm_active_seconds": busy, **more,
            }
        )  # fmt: skip
    return rows


def test_lost_seconds_are_what_the_reference_says() -> None:
    diagnosis = diagnose(tables(gpu=table("gpu", gpu_rows([0.8] * 60 + [0.4] * 20))), price=3.6)
    totals = diagnosis.document["totals"]
    assert totals["covered_seconds"] == 800
    # Half of the level that the job sustains, for 200 seconds; bins of half a percent.
    assert totals["lost_seconds"] == pytest.approx(100, rel=0.03)
    assert totals["cost_lost"] == pytest.approx(totals["lost_seconds"] / 1000)
    assert totals["au"] == pytest.approx(1 - totals["lost_seconds"] / 800)


def test_nobodys_gpu_loses_nothing_and_an_unmeasured_one_gets_no_verdict() -> None:
    free = diagnose(tables(gpu=table("gpu", gpu_rows([0.0] * 30, job=None, processes=0.0, allocated=0.0))))
    assert free.document["totals"]["lost_seconds"] == 0
    blind = [{"ts": at(i), "host": "n", "gpu": "MIG-1", "job": "j", "power_watts": 100.0} for i in range(30)]
    unseen = diagnose(tables(gpu=table("gpu", blind)))
    assert unseen.document["totals"]["au"] is None
    assert unseen.document["findings"] == []
    assert any("no verdict" in text for text in unseen.document["warnings"])


def test_a_free_gpu_is_lost_while_jobs_wait_and_is_one_finding_for_the_cluster() -> None:
    rows = [
        {**row, "gpu": gpu}
        for gpu in ("GPU-1", "GPU-2")
        for row in gpu_rows([0.0] * 30, job=None, processes=0.0, allocated=0.0)
    ]
    held = [{**row, "gpu": "GPU-3"} for row in gpu_rows([0.8] * 30, allocated=1.0)]
    asked = [{"ts": at(i), "host": "other", "jobs_pending": 3.0 if i > 15 else 0.0} for i in range(31)]
    deaf = [{"ts": at(i), "host": "n"} for i in range(31)]
    diagnosis = diagnose(tables(gpu=table("gpu", rows + held), host=table("host", asked + deaf)))
    assert diagnosis.document["totals"]["by_cause"]["idle.gap"] == 300
    (finding,) = diagnosis.document["findings"]
    assert finding["cause"] == "idle.gap"
    assert finding["scope"]["gpus"] == ["GPU-1", "GPU-2"]
    assert finding["evidence_for"][0]["signal"] == "free by its scheduler while jobs wait"


def test_memory_bound_windows_are_productive() -> None:
    rows = gpu_rows([0.8] * 30 + [0.3] * 30)
    for index, row in enumerate(rows):
        row["dram_active_seconds"] = 10.0 * max(0, index - 30) * 0.9
    assert diagnose(tables(gpu=table("gpu", rows))).document["totals"]["lost_seconds"] < 10


# --- the document


def test_no_gpu_is_said_and_the_hosts_pressures_are_told() -> None:
    rows = [
        {
            "ts": at(i),
            "host": "n",
            "cpu_count": 4.0,
            "cpu_busy_seconds": 20.0 * i,
            "psi_io_some_seconds": 5.0 * i,
        }
        for i in range(10)
    ]
    diagnosis = diagnose(tables(host=table("host", rows)))
    assert diagnosis.document["gpus"] == []
    assert "no GPU" in diagnosis.document["warnings"][0]
    assert diagnosis.document["hosts"] == [
        {
            "host": "n",
            "cpu_busy_ratio": 0.5,
            "cpu_iowait_ratio": None,
            "psi_cpu_ratio": None,
            "psi_io_ratio": 0.5,
            "psi_memory_ratio": None,
        }
    ]
    assert "50.0%" in render(build(diagnosis.document))
    assert diagnose(tables()).document["hosts"] == []


SPENT = {
    "joules", "cost_lost", "joules_lost", "tokens", "joules_per_token", "tokens_per_joule",
    "hardware_flop_utilization",
}  # fmt: skip
KEYS = {
    "totals": {"gpu_seconds", "covered_seconds", "lost_seconds", "au", "by_cause", "by_cause_root", *SPENT},
    "gpus": {"host", "gpu", "index", "job", "covered_seconds", "lost_seconds", "au", "by_cause"},
    "jobs": {"job", "name", "user", "gpus", "covered_seconds", "lost_seconds", "au", "by_cause", "by_cause_root", "workload", *SPENT},
    "findings": {
        "id", "cause", "scope", "start", "end", "detected", "culprits", "severity", "lost_gpu_seconds", "cost",
        "confidence", "evidence_for", "evidence_against", "missing_signals", "next_steps", "runbook", "blame",
    },
    "coverage": {"table", "column", "share"},
}  # fmt: skip


def test_the_document_is_json_with_the_agreed_keys() -> None:
    document = json.loads(json.dumps(simulated("nfs-slow-server", gpus=8)[0].document, allow_nan=False))
    assert document["version"] == 1
    assert set(document) >= {"from", "to", "window_seconds", "price_per_gpu_hour", "warnings", *KEYS}
    for name, keys in KEYS.items():
        for item in document[name] if isinstance(document[name], list) else [document[name]]:
            assert set(item) == keys, name
    for finding in document["findings"]:
        assert finding["cause"] in CAUSES
        assert 0 <= finding["confidence"] <= 1
        start, detected = (datetime.fromisoformat(finding[k]) for k in ("start", "detected"))
        assert start + timedelta(seconds=30) <= detected
        assert finding["end"] is None or datetime.fromisoformat(finding["end"]) > start
        for item in finding["evidence_for"] + finding["evidence_against"]:
            assert set(item) == {"signal", "value", "expected", "weight"}


def sums(diagnosis: Diagnosis) -> None:
    document = diagnosis.document
    assert sum(document["totals"]["by_cause"].values()) == pytest.approx(
        document["totals"]["lost_seconds"], abs=1e-6
    )
    for gpu in document["gpus"]:
        assert sum(gpu["by_cause"].values()) == pytest.approx(gpu["lost_seconds"], abs=1e-6)
        assert 0 <= gpu["lost_seconds"] <= gpu["covered_seconds"] + 1e-6
    assert diagnosis.windows.is_empty() or diagnosis.windows["lost_seconds"].min() >= 0  # type: ignore[operator]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(SCENARIOS)),
    no_gpm=st.booleans(),
    no_step=st.booleans(),
    dropped=st.sampled_from([0.0, 0.2]),
    skew=st.sampled_from([0.0, 3.0]),
)
def test_shares_sum_exactly_whatever_the_sensors_leave_out(
    name: str, no_gpm: bool, no_step: bool, dropped: float, skew: float
) -> None:
    artefacts = Artefacts(no_gpm=no_gpm, no_step=no_step, dropped=dropped, skew_seconds=skew)
    sums(simulated(name, duration=600, artefacts=artefacts)[0])


def test_order_and_repeats_of_rows_change_nothing() -> None:
    made = simulate("disk-degraded", seed=4, gpus=8, duration=900)
    plain = diagnose(tables(**{k: v.lazy() for k, v in made.tables.items()})).document
    messy = {
        k: pl.concat([v.sample(fraction=1, shuffle=True, seed=1), v.head(50)]).lazy()
        for k, v in made.tables.items()
    }
    again = diagnose(tables(**messy)).document
    assert again["totals"]["lost_seconds"] == pytest.approx(plain["totals"]["lost_seconds"], rel=1e-9)
    assert [f["cause"] for f in again["findings"]] == [f["cause"] for f in plain["findings"]]


# --- causes, on the public simulator

NAMED = [
    "nfs-slow-server", "disk-degraded", "small-files-slow-metadata", "cpu-augmentation", "cpu-quota", "memory-limit",
    "pcie-offload", "pcie-degraded-host", "throttle-fan", "throttle-power-cap", "link-errors", "fabric-congested-leaf",
    "collective-no-nvlink", "straggler-slow-gpu", "checkpoint-heavy", "evaluation-long", "launch-small-kernels",
    "idle-held", "startup-long", "serve-no-traffic", "nvlink-down",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_a_single_fault_is_named(name: str) -> None:
    diagnosis, truth = simulated(name)
    causes = set(SCENARIOS[name].causes)
    assert causes <= found(diagnosis)
    lost = truth["lost_seconds"].sum()
    assert abs(diagnosis.document["totals"]["lost_seconds"] - lost) < 0.25 * lost


@pytest.mark.parametrize("name", [n for n, s in SCENARIOS.items() if s.healthy])
def test_the_healthy_are_not_accused(name: str) -> None:
    diagnosis, _ = simulated(name)
    assert found(diagnosis) == set()


def test_the_straggler_is_the_culprit_not_its_victims() -> None:
    made = simulate("straggler-slow-gpu", seed=7)
    diagnosis = diagnose(tables(**{k: v.lazy() for k, v in made.tables.items()}))
    (finding,) = [f for f in diagnosis.document["findings"] if f["cause"] == "straggler"]
    assert set(finding["culprits"]["gpus"]) == set(made.culprits["gpu"].drop_nulls())


def test_the_root_view_books_victims_to_what_made_the_culprit_late() -> None:
    diagnosis, truth = simulated("straggler-host-cpu")
    totals = diagnosis.document["totals"]
    local, root = totals["by_cause"], totals["by_cause_root"]
    assert sum(root.values()) == pytest.approx(sum(local.values()))
    wanted = dict(truth.group_by("root").agg(pl.col("lost_seconds").sum()).rows())
    assert root["cpu.preprocess"] > 2 * local["cpu.preprocess"]
    assert root["cpu.preprocess"] == pytest.approx(wanted["cpu.preprocess"], rel=0.3)


def step_rows(wait: float) -> list[dict[str, object]]:
    return [
        {
            "ts": at(i), "host": "n", "job": "process:1", "rank": "0", "steps": 20.0 * i, "step_seconds": 10.0 * i,
            "data_wait_seconds": 10 * wait * i, "compute_seconds": 10 * (1 - wait) * i,
        }
        for i in range(40)
    ]  # fmt: skip


def test_a_loop_without_a_gpu_is_diagnosed_from_its_own_times() -> None:
    diagnosis = diagnose(tables(step=table("step", step_rows(0.6))))
    (rank,) = diagnosis.document["gpus"]
    assert rank["gpu"] == "rank:0"
    assert rank["lost_seconds"] == pytest.approx(0.6 * rank["covered_seconds"], rel=0.05)
    fed = diagnose(tables(step=table("step", step_rows(0.01))))
    assert fed.document["totals"]["au"] > 0.95
    assert fed.document["findings"] == []


# --- the command


def write(folder: Path, frames: Mapping[str, pl.DataFrame]) -> Path:
    folder.mkdir()
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


def test_the_command_prints_text_or_json_of_the_same_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", simulate("nfs-slow-server", seed=2).tables)
    assert main(["diagnose", f"--data={data}", "--json", "--price=2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["diagnose", f"--data={data}", "--price=2"]) == 0
    text = capsys.readouterr().out
    assert f"{1 - document['totals']['au']:.1%} of their time" in text
    assert f"${document['totals']['cost_lost']:,.2f}" in text
    assert "Remote file system slow" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_range_narrows_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = simulate("healthy-small-model", seed=2)
    data = write(tmp_path / "data", made.tables)
    first = made.tables["gpu"]["ts"].min()
    assert isinstance(first, datetime)
    end = (first + timedelta(minutes=5)).isoformat()
    assert main(["diagnose", f"--data={data}", f"--to={end}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["to"] == end
    assert 0 < document["totals"]["covered_seconds"] <= 300 * len(document["gpus"])
    assert main(["diagnose", f"--data={data}", "--from=now", "--to=1h"]) == 2


def test_silent_mounts_and_networks_are_no_numbers_and_poison_nothing() -> None:
    host = [
        {
            "ts": at(i),
            "host": "n",
            "cpu_count": 2.0,
            "net_rx_bytes": 5.0,
            "tcp_segments_out": 0.0,
            "tcp_retransmits": 0.0,
        }
        for i in range(40)
    ]
    mount = [
        {"ts": at(i), "host": "n", "mount": "/m", "read_bytes": 0.0, "reads": 0.0, "retransmits": 0.0}
        for i in range(40)
    ]
    diagnosis = diagnose(
        tables(step=table("step", step_rows(0.6)), host=table("host", host), mount=table("mount", mount))
    )
    json.dumps(diagnosis.document, allow_nan=False)
    assert diagnosis.document["totals"]["lost_seconds"] == pytest.approx(0.6 * 390, rel=0.05)
    sums(diagnosis)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_number_that_is_none_was_not_measured(wrong: float) -> None:
    made = simulate("storage-and-cpu", seed=3, gpus=8, duration=600)
    seventh = pl.int_range(pl.len()) % 7 == 0
    spoilt = {
        name: frame.with_columns(pl.when(~seventh).then(pl.selectors.float()).otherwise(wrong))
        for name, frame in made.tables.items()
    }
    document = diagnose(tables(**{name: frame.lazy() for name, frame in spoilt.items()})).document
    json.dumps(document, allow_nan=False)
    totals = document["totals"]
    assert sum(totals["by_cause"].values()) == pytest.approx(totals["lost_seconds"])
    assert 0 < totals["lost_seconds"] <= totals["covered_seconds"]


def test_full_load_under_a_power_cap_is_not_measured_by_a_light_phase_before() -> None:
    tables = simulate("healthy-power-cap", seed=1).tables
    gpu = tables["gpu"].filter(pl.col("job").is_not_null())
    begin = gpu["ts"].min()
    assert isinstance(begin, datetime)
    light = pl.col("ts") <= begin + timedelta(minutes=4)
    capped = pl.col("throttle_power_seconds")
    before = capped.filter(light).max().over("host", "gpu")
    # Measured on an H100: 1.98 GHz before, 1.65 to 1.89 while matrix products draw 700 W.
    gpu = gpu.with_columns(
        pl.when(light).then(0.0).otherwise(capped - before).alias("throttle_power_seconds"),
        pl.when(light).then("sm_clock_max_hertz").otherwise(0.85 * pl.col("sm_clock_max_hertz"))
        .alias("sm_clock_hertz"),
    )  # fmt: skip
    assert gpu["throttle_power_seconds"].max() > 600
    totals = diagnose({name: rows.lazy() for name, rows in (tables | {"gpu": gpu}).items()}).document
    assert totals["findings"] == []
    assert totals["totals"]["by_cause"].get("throttle.power", 0.0) == 0.0
