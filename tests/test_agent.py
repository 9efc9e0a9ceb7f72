"""`wellfed agent --once` and `wellfed doctor`, end to end over a node's files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wellfed.cli import main
from wellfed.collectors import doctor
from wellfed.collectors.destination import interval
from wellfed.collectors.registry import Roots
from wellfed.collectors.selfcost import Marker
from wellfed.errors import UserError

HERE = Path(__file__).parent
NODE = HERE / "fixtures" / "node"
GOLDEN = HERE / "golden" / "scrape.txt"
HOST_SOURCES = "cpu,disk,ethtool,infiniband,lustre,memory,mountstats,network,nvidia_fs,pressure"
#: Different at every run: how long reads took and when, and versions.
MOVING = re.compile(r"(wellfed_collector_(duration|last_success)_seconds|wellfed_build_info)\{|process_")


def once(capsysbinary: pytest.CaptureFixture[bytes], root: Path, *more: str) -> str:
    status = main(["agent", "--once", f"--procfs={root}/proc", f"--sysfs={root}/sys", *more])
    assert status == 0
    return capsysbinary.readouterr().out.decode()


def samples(body: str) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *(text for _, text in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(body)
        for s in family.samples
    }


def test_the_golden_scrape(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    body = once(capsysbinary, NODE, f"--collectors={HOST_SOURCES}").replace(str(NODE), "NODE")
    kept = "".join(line for line in body.splitlines(keepends=True) if not MOVING.match(line))
    assert kept == GOLDEN.read_text(), "what one node publishes changed; if it should, run `make golden`"


@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing", "empty", "folder"])
def test_one_damaged_source_leaves_the_rest_untouched(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], damage: str
) -> None:
    whole = samples(once(capsysbinary, NODE))
    for source, path in {
        "cpu": "proc/stat",
        "pressure": "proc/pressure/io",
        "memory": "proc/meminfo",
        "disk": "proc/diskstats",
        "network": "proc/net/dev",
        "infiniband": "sys/class/infiniband/mlx5_0/ports/1/counters/port_rcv_data",
        "mountstats": "proc/1/mountstats",
        "lustre": "sys/kernel/debug/lustre/mdc/scratch-MDT0000-mdc-ffff8a3b1c2d3000/stats",
        "nvidia_fs": "proc/driver/nvidia-fs/stats",
    }.items():
        root = tmp_path / source
        shutil.copytree(NODE, root)
        target = root / path
        content = target.read_bytes()
        target.unlink()
        if damage == "folder":
            target.mkdir()
        elif damage != "missing":
            cut = {
                "truncated": content[: len(content) * 2 // 3],
                "garbage": b"\xfe\x00?? x y\n" * 3,
                "empty": b"",
            }
            target.write_bytes(cut[damage])
        found = samples(once(capsysbinary, root))
        for other in HOST_SOURCES.split(","):
            if other != source:
                assert found["wellfed_collector_success", other] == whole["wellfed_collector_success", other]
        # A single counter file or resource that is not there is a null, not a failure; a cut of these
        # bytes can still be well-formed.
        partly = (
            source in ("infiniband", "lustre", "pressure") and damage == "missing"
        ) or damage == "truncated"
        if not partly and not (source == "mountstats" and damage in ("empty",)):
            assert found["wellfed_collector_success", source] == 0, (source, damage)
            reasons = [key for key in found if key[0] == "wellfed_collector_info" and key[1] == source]
            assert reasons
            assert path.split("/")[-1] in str(reasons) or str(root) in str(reasons)


def test_nothing_at_all_is_still_a_valid_exposition(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    found = samples(once(capsysbinary, tmp_path))
    assert found["wellfed_collector_success", "cpu"] == 0
    assert not any(key[0].startswith(("wellfed_host", "wellfed_disk", "wellfed_port")) for key in found)


def test_doctor_says_what_is_measured_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"--procfs={NODE}/proc", "--sysfs=/nonexistent", "--json"]) == 0
    findings = {f["collector"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["cpu"]["status"] == "ok"
    assert findings["cpu"]["signals"] == 5
    assert findings["infiniband"]["status"] == "absent"
    assert findings["infiniband"]["remedy"]
    assert main(["doctor", f"--procfs={NODE}/proc", f"--sysfs={NODE}/sys"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"^cpu +host +measured +1 rows, 5 signals$", table, re.M)


def test_doctor_names_forbidden_broken_and_hanging_sources() -> None:
    import threading

    class Source:
        interval = 1.0
        deadline = 0.1
        tables = ("host",)
        reason = ""
        remedy = ""

        def __init__(self, name: str, error: Exception | None) -> None:
            self.name = name
            self.error = error

        def read(self, roots: Roots, now: float) -> list[object]:
            if self.error is None:
                threading.Event().wait(1)
                return []
            raise self.error

    sources = [
        Source("a", PermissionError(13, "Permission denied", "/proc/1/mountstats")),
        Source("b", ValueError("/proc/stat: no cpu line")),
        Source("c", None),
    ]
    findings = doctor.examine(sources, Roots())  # type: ignore[arg-type]
    assert [f.status for f in findings] == ["forbidden", "failed", "stuck"]
    assert all(f.remedy for f in findings)
    text = doctor.render(findings, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "/proc/1/mountstats" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--names=dcgm,zabbix"], "--names knows dcgm, node_exporter, not 'zabbix'"),
        (["--textfile=/nonexistent"], "--textfile /nonexistent: no folder that this user may write to"),
    ],
)
def test_output_options_that_cannot_work_are_one_line(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["agent", "--metrics-address=127.0.0.1:0", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "999", "60001", "1e3", "-5"])
def test_an_export_interval_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write milliseconds from 1000 to 60000"):
        interval({"OTEL_METRIC_EXPORT_INTERVAL": text})
    assert interval({}) == 10.0
    assert interval({"OTEL_METRIC_EXPORT_INTERVAL": "1000"}) == 1.0


def test_a_run_that_was_killed_is_told_by_the_next(tmp_path: Path) -> None:
    folder = str(tmp_path / "spool")
    first = Marker(folder)
    assert first.clean is None
    assert Marker(folder).clean is False
    third = Marker(folder)
    third.close()
    assert Marker(folder).clean is True
    assert Marker("").clean is None


def test_the_self_profile_names_every_collector_and_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wellfed.collectors.selfcost.WARM_UP", 0.1)
    monkeypatch.setattr("wellfed.collectors.agent.PROFILED", 1.2)
    assert main(["agent", "--self-profile", "--collectors=cpu,memory"]) == 0
    lines = capsys.readouterr().out.splitlines()
    costs = {line.split()[0]: float(line.split()[1]) for line in lines[1:3]}
    assert costs.keys() == {"cpu", "memory"}
    assert all(cost > 0 for cost in costs.values())
    assert lines[3].startswith("whole agent")
    assert "MiB" in lines[4]


def test_only_sources_are_imported_as_sources_and_none_brings_a_heavy_library() -> None:
    program = (
        "import sys; from wellfed.collectors import agent, registry; registry.load();"
        "mine = {c.__module__ for c in registry.COLLECTORS.values()};"
        "print(sorted(m for m in registry.sources() if f'wellfed.collectors.{m}' not in mine),"
        "sorted({'prometheus_client', 'google.protobuf', 'grpc', 'polars', 'dash', 'pynvml'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
