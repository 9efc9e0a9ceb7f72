"""History read file by file: amounts that add up exactly, whatever runs first, and a finding that spans hours."""

from __future__ import annotations

import json
import random
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from programs import Programs, fetch, free_port, until

from wellfed.analysis import history
from wellfed.analysis.cluster import run
from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.history import combine, map_segment, plan
from wellfed.analysis.history_partial import Partial
from wellfed.analysis.scenarios import Simulation, simulate
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.errors import UserError
from wellfed.prices import Prices

HOURS = 3


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate("cpu-augmentation", seed=3, gpus=8, duration=HOURS * 3600.0)


@pytest.fixture(scope="module")
def url(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lake") / "store"
    with Store(folder) as store:
        store.append(simulation.tables)
        store.seal(simulation.end + timedelta(hours=2))
    return str(folder)


@pytest.fixture(scope="module")
def partials(url: str) -> list[Partial]:
    """One an hour."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "ROWS", 1)
        return [map_segment(segment) for segment in plan(url)]


def test_the_order_in_which_segments_are_done_changes_nothing(partials: list[Partial]) -> None:
    assert len(partials) == HOURS + 1
    shuffled = list(partials)
    random.Random(1).shuffle(shuffled)
    assert json.dumps(combine(shuffled)) == json.dumps(combine(partials))


def test_the_parts_are_whole_numbers_that_add_up(partials: list[Partial]) -> None:
    document = combine(partials, price=Prices(2.0))
    totals = document["totals"]
    for name in ("gpu_seconds", "covered_seconds", "lost_seconds"):
        assert totals[name] * 1e6 == pytest.approx(round(totals[name] * 1e6), abs=1e-3)
    for part in ("gpus", "jobs"):
        assert sum(row["lost_seconds"] for row in document[part]) == pytest.approx(totals["lost_seconds"])
        for row in document[part]:
            # Each share of each window was rounded to a microsecond.
            assert sum(row["by_cause"].values()) == pytest.approx(row["lost_seconds"], abs=0.05)
    assert totals["cost_lost"] == pytest.approx(totals["lost_seconds"] / 3600 * 2)


def test_the_hours_answer_as_the_whole_does(
    partials: list[Partial], simulation: Simulation, url: str
) -> None:
    whole = diagnose({name: frame.lazy() for name, frame in simulation.tables.items()}).document
    hourly = combine(partials)
    assert hourly.keys() == whole.keys()
    for name in ("gpu_seconds", "covered_seconds", "joules"):
        assert hourly["totals"][name] == pytest.approx(whole["totals"][name], abs=10)
    for part in ("from", "to", "window_seconds"):
        assert hourly[part] == whole[part]
    assert [c for c in hourly["coverage"] if c["share"]] == [c for c in whole["coverage"] if c["share"]]
    for ours, theirs in zip(hourly["hosts"], whole["hosts"], strict=True):
        assert ours == {k: pytest.approx(v, abs=1e-6) if k != "host" else v for k, v in theirs.items()}
    # What is normal is learnt from an hour and the one before: not quite what the whole range teaches.
    assert hourly["totals"]["lost_seconds"] == pytest.approx(whole["totals"]["lost_seconds"], rel=0.05)
    main_cause, seconds = next(iter(whole["totals"]["by_cause"].items()))
    assert hourly["totals"]["by_cause"][main_cause] == pytest.approx(seconds, rel=0.05)
    # In one segment it is the same diagnosis.
    (segment,) = plan(url)
    alone = combine([map_segment(segment)])
    assert alone["totals"]["lost_seconds"] == pytest.approx(whole["totals"]["lost_seconds"], rel=1e-6)
    assert [f["cause"] for f in alone["findings"]] == [f["cause"] for f in whole["findings"]]
    told = ("joules", "joules_lost", "hardware_flop_utilization")
    for name in told:
        assert whole["totals"][name] is not None
        for parts in (alone, hourly):
            assert parts["totals"][name] == pytest.approx(whole["totals"][name], rel=0.05), name
    (theirs,) = whole["jobs"]
    for parts in (alone, hourly):
        (ours,) = parts["jobs"]
        assert (ours["workload"]["kind"], ours["workload"]["bound"]) == (
            "training",
            theirs["workload"]["bound"],
        )


def test_a_finding_that_outlasts_its_hour_is_one(partials: list[Partial], simulation: Simulation) -> None:
    whole = diagnose({name: frame.lazy() for name, frame in simulation.tables.items()}).document
    theirs = whole["findings"][0]
    hours = {datetime.fromisoformat(theirs[edge]).hour for edge in ("start", "end")}
    assert len(hours) > 1
    (ours,) = [f for f in combine(partials)["findings"] if f["cause"] == theirs["cause"]]
    assert (ours["start"], ours["end"]) == (theirs["start"], theirs["end"])
    assert ours["scope"] == theirs["scope"]
    assert ours["lost_gpu_seconds"] == pytest.approx(theirs["lost_gpu_seconds"], rel=0.05)
    assert ours["detected"] == theirs["detected"]


def test_a_range_is_cut_to_the_window(url: str, simulation: Simulation) -> None:
    start = simulation.start + timedelta(minutes=70)
    end = start + timedelta(minutes=30)
    found = combine(map_segment(segment) for segment in plan(url, start=start, end=end))
    assert found["totals"]["gpu_seconds"] == 30 * 60 * 8
    assert found["from"] == (start + timedelta(seconds=10)).isoformat()
    assert found["to"] == end.isoformat()


def test_an_hour_that_is_missing_is_left_out(url: str, tmp_path: Path) -> None:
    for path in sorted(Path(url).glob("*/*.parquet")):
        if "T10" not in path.name and path.parent.name != "collector":
            target = tmp_path / path.parent.name / path.name
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path)
    segments = plan(str(tmp_path))
    assert [len(segment.hours) for segment in segments] == [1, 2]
    found = combine(run(segments))
    hour = 3600 * 8
    # The first window after a gap has no window before it.
    assert found["totals"]["gpu_seconds"] == pytest.approx((HOURS - 1) * hour, abs=2 * 8 * 10)


@pytest.mark.real
def test_object_storage_holds_the_same_answer(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path)
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    programs.start(
        sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    )
    try:
        until(lambda: fetch(f"{server}/moto-api/"), what="the S3 server")
        for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        put(f"{server}/bucket", b"")
        for path in Path(url).glob("*/*.parquet"):
            put(f"{server}/bucket/a/{path.relative_to(url)}", path.read_bytes())
        start, end = datetime(2026, 3, 2, 9, tzinfo=UTC), datetime(2026, 3, 2, 10, tzinfo=UTC)
        near, far = (
            combine(map_segment(segment) for segment in plan(where, start=start, end=end))
            for where in (url, "s3://bucket/a/")
        )
        assert far["totals"]["gpu_seconds"] > 0.99 * 3600 * 8
        assert json.dumps(near) == json.dumps(far)
        with pytest.raises(UserError, match="no sealed hours in s3://bucket/b"):
            plan("s3://bucket/b")
        with pytest.raises(UserError, match="cannot read s3://elsewhere"):
            plan("s3://elsewhere/a")
    finally:
        programs.stop()


def put(url: str, body: bytes) -> None:
    kind = {"content-type": "application/octet-stream"}
    request = urllib.request.Request(url, data=body or None, headers=kind, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()


def test_what_is_no_lake_is_one_clear_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="no sealed hours in"):
        plan(str(tmp_path / "nowhere"))
    later = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(UserError, match="nothing of it in the range"):
        plan(url, start=later)
    broken = tmp_path / "gpu"
    broken.mkdir()
    (broken / "2026-03-02T09.parquet").write_bytes(b"PAR1 is not all it takes")
    with pytest.raises(UserError, match="cannot read"):
        plan(str(tmp_path))
    with pytest.raises(UserError, match="nothing to add up"):
        combine([])


def test_the_command_reads_a_lake(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--lake", url, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][0]["cause"] == "cpu.preprocess"
    assert main(["diagnose", "--lake", url]) == 0
    assert "8 GPUs in 1 job" in capsys.readouterr().out
    assert main(["diagnose", "--lake", url, "--data", url]) == 2
    assert main(["diagnose", "--cluster", "local"]) == 2
    assert "--cluster runs a --lake" in capsys.readouterr().err


def test_the_hosts_of_two_hubs_are_one_diagnosis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = simulate("straggler-host-storage", seed=1, gpus=32).tables
    hosts = tables["host"]["host"].unique().sort().to_list()
    parts = {"whole": hosts, "a": hosts[: len(hosts) // 2], "b": hosts[len(hosts) // 2 :]}
    # One host moved from a to b, and sent again what it had sent.
    parts["b"] = [hosts[0], *parts["b"]]
    for name, mine in parts.items():
        with Store(tmp_path / name) as store:
            store.append({table: frame.filter(pl.col("host").is_in(mine)) for table, frame in tables.items()})
            store.seal(datetime(2030, 1, 1, tzinfo=UTC))
    said = {}
    for name, folders in (("whole", ["whole"]), ("both", ["a", "b", "a"]), ("half", ["a"])):
        lakes = [part for folder in folders for part in ("--lake", str(tmp_path / folder))]
        assert main(["diagnose", *lakes, "--json"]) == 0
        said[name] = json.loads(capsys.readouterr().out)
    assert said["both"]["totals"]["by_cause"] == pytest.approx(said["whole"]["totals"]["by_cause"])
    # The straggler is found among all ranks of its job.
    (job,) = said["both"]["jobs"]
    assert (job["gpus"], job["by_cause_root"]) == (
        32,
        pytest.approx(said["whole"]["jobs"][0]["by_cause_root"]),
    )
    findings = {
        name: [(f["cause"], f["scope"]["hosts"]) for f in document["findings"]]
        for name, document in said.items()
    }
    assert findings["both"] == findings["whole"] != findings["half"]
    assert main(["diagnose", "--lake", str(tmp_path / "a"), "--lake", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_a_file_of_another_version_is_read(url: str, tmp_path: Path) -> None:
    for path in Path(url).glob("*/*T09.parquet"):
        target = tmp_path / path.parent.name / path.name
        target.parent.mkdir()
        frame = pl.read_parquet(path)
        frame.drop("xid_errors", strict=False).with_columns(tomorrow=pl.lit(1.0)).write_parquet(target)
    found = combine(run(plan(str(tmp_path))))
    assert found["totals"]["gpu_seconds"] > 0


def test_tokens_and_what_a_job_is_are_told_over_a_lake_too(tmp_path: Path) -> None:
    made = simulate("launch-llm-eager", seed=1, gpus=8, duration=1800)
    with Store(tmp_path / "s") as store:
        store.append(made.tables)
        store.seal(made.end + timedelta(hours=2))
    whole = diagnose({name: frame.lazy() for name, frame in made.tables.items()}).document
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "ROWS", 1)
        found = combine([map_segment(segment) for segment in plan(str(tmp_path / "s"))])
    (ours,), (theirs,) = found["jobs"], whole["jobs"]
    assert ours["tokens"] == pytest.approx(theirs["tokens"])
    assert ours["workload"]["kind"] == theirs["workload"]["kind"] == "training"
    assert found["totals"]["tokens_per_joule"] == pytest.approx(whole["totals"]["tokens_per_joule"], rel=1e-3)
