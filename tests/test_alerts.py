"""The alert rules that ship: promtool accepts and tests them, they ask only for what exists, and each has a runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from published import EXPORTERS, OURS

from wellfed import rules
from wellfed.cli import main

ALERTS = Path(__file__).parent.parent / "alerts"
FILES = ("wellfed.rules.yml", "dcgm_node.rules.yml")
TESTS = ("wellfed.test.yml", "dcgm_node.test.yml")
#: Always fires, so it cannot be shown quiet; and it never ends.
WATCHDOG = "WellfedWatchdog"
NAME = re.compile(r"(?<![\w:$])([a-zA-Z_][\w:]*)(?!\s*\(|[\w:])")
WORDS = {
    *(
        "and",
        "or",
        "unless",
        "on",
        "by",
        "without",
        "ignoring",
        "group_left",
        "group_right",
        "offset",
        "bool",
    ),
    *("m", "s", "h", "d"),
}


def groups(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ALERTS / name).read_text())["groups"]
    return found


def rules_of(name: str) -> list[dict[str, Any]]:
    return [rule for group in groups(name) for rule in group["rules"]]


def alerts_of(name: str) -> list[dict[str, Any]]:
    return [rule for rule in rules_of(name) if "alert" in rule]


def run(*command: str | Path, cwd: Path = ALERTS) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression names."""
    bare = re.sub(r"#.*", "", expression)
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return {name for name in NAME.findall(bare) if name not in WORDS}


@pytest.mark.real
@pytest.mark.parametrize("name", FILES)
def test_promtool_finds_nothing_to_say_about_the_rules(name: str) -> None:
    assert "SUCCESS" in run("promtool", "check", "rules", "--lint=all", "--lint-fatal", name)


@pytest.mark.real
@pytest.mark.parametrize("name", TESTS)
def test_alerts_fire_and_stay_quiet_as_their_promtool_tests_say(name: str) -> None:
    run("promtool", "test", "rules", name)


@pytest.mark.parametrize(("name", "tests"), list(zip(FILES, TESTS, strict=True)))
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(name: str, tests: str) -> None:
    cases = [c for t in yaml.safe_load((ALERTS / tests).read_text())["tests"] for c in t["alert_rule_test"]]
    fires = {c["alertname"] for c in cases if c["exp_alerts"]}
    quiet = {c["alertname"] for c in cases if not c["exp_alerts"]}
    known = {alert["alert"] for alert in alerts_of(name)}
    assert fires == known
    assert quiet == known - {WATCHDOG}


@pytest.mark.real
@pytest.mark.parametrize("name", FILES)
def test_vmalert_loads_the_rules(name: str, tmp_path: Path) -> None:
    # Debian's vmalert is older than keep_firing_for and refuses to know it; everything else it must accept.
    text = (ALERTS / name).read_text()
    (tmp_path / name).write_text(re.sub(r"^ *keep_firing_for:.*\n", "", text, flags=re.MULTILINE))
    run("vmalert", "-dryRun", f"-rule={tmp_path / name}")


@pytest.mark.parametrize("name", FILES)
def test_rules_ask_only_for_metrics_that_are_published(name: str) -> None:
    found = rules_of(name)
    recorded = {rule["record"] for rule in found if "record" in rule}
    known = recorded | (OURS if name == FILES[0] else EXPORTERS)
    for rule in found:
        unknown = metrics_in(rule["expr"]) - known
        assert not unknown, f"{rule.get('alert') or rule['record']} asks for {sorted(unknown)}"


@pytest.mark.parametrize(("name", "tests"), list(zip(FILES, TESTS, strict=True)))
def test_cases_are_made_of_metrics_that_are_published(name: str, tests: str) -> None:
    known = OURS if name == FILES[0] else EXPORTERS
    for case in yaml.safe_load((ALERTS / tests).read_text())["tests"]:
        for series in case.get("input_series", []):
            assert series["series"].partition("{")[0] in known, case["name"]


@pytest.mark.parametrize("name", FILES)
def test_records_are_named_level_metric_operations(name: str) -> None:
    for rule in rules_of(name):
        if "record" in rule:
            assert re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", rule["record"])


@pytest.mark.parametrize("name", FILES)
def test_an_alert_says_what_in_its_summary_and_how_much_in_its_description(name: str) -> None:
    for alert in alerts_of(name):
        texts = alert["annotations"]
        assert set(texts) == {"summary", "description", "runbook_url"}
        assert "{{" not in texts["summary"], alert["alert"]
        assert "$value" in texts["description"], alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning", "none")
        assert ("keep_firing_for" in alert) == (alert["alert"] != WATCHDOG)


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    wanted = {alert["alert"]: alert["annotations"] for name in FILES for alert in alerts_of(name)}
    assert {page.stem for page in (ALERTS / "runbooks").iterdir()} == set(wanted)
    for name, texts in wanted.items():
        assert texts["runbook_url"] == f"alerts/runbooks/{name}.md"
        page = (ALERTS / "runbooks" / f"{name}.md").read_text()
        assert re.findall(r"^#+ (.*)$", page, re.MULTILINE)[:5] == [
            *(name, "Meaning", "Impact", "Diagnosis", "Mitigation")
        ]
        assert texts["summary"] in page
        assert "```sh" in page


@pytest.mark.real
def test_promql_of_the_runbooks_is_valid_and_asks_for_what_exists(tmp_path: Path) -> None:
    known = OURS | EXPORTERS | {r["record"] for name in FILES for r in rules_of(name) if "record" in r}
    queries = []
    for page in sorted((ALERTS / "runbooks").iterdir()):
        for query in re.findall(r"^promtool query instant \S+ '(.*)'$", page.read_text(), re.MULTILINE):
            assert metrics_in(query) <= known | {"ALERTS"}, f"{page.name}: {metrics_in(query) - known}"
            queries.append({"record": f"page:query:{len(queries)}", "expr": query})
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": queries}]}))
    assert f"{len(queries)} rules found" in run("promtool", "check", "rules", tmp_path / "queries.yml")


def test_a_threshold_is_described_and_has_one_value() -> None:
    described = yaml.safe_load((ALERTS / "thresholds.yml").read_text())
    values: dict[str, set[str]] = {}
    for name in FILES:
        for value, threshold in re.findall(
            r"(\S+) +# ([a-z0-9_]+)$", (ALERTS / name).read_text(), re.MULTILINE
        ):
            values.setdefault(threshold, set()).add(value)
    assert set(described) == set(values)
    assert not {threshold: found for threshold, found in values.items() if len(found) > 1}
    assert set(rules.thresholds()) == set(described)


@pytest.mark.real
def test_alerts_are_rendered_with_the_users_thresholds_and_price(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--threshold", "starved_share=0.2", "--threshold", "starved_for=1m,peers=8", "--price", "2.5"]
    assert main(["alerts", "--write", str(out), *flags]) == 0
    text = (out / FILES[0]).read_text()
    shipped = (ALERTS / FILES[0]).read_text()
    for old, new in (("0.3 # starved_share", "0.2 #"), ("4 # peers", "8 #"), ("1 # price", "2.5 #")):
        assert old in shipped
        assert f" {old}" not in text
        assert new in text
    assert "for: 1m # starved_for" in text
    assert f"runbook_url: {out}/runbooks/MountSlow.md" in text
    assert (out / "runbooks" / "MountSlow.md").read_text() == (
        ALERTS / "runbooks" / "MountSlow.md"
    ).read_text()
    assert (out / "alertmanager.yml").read_text() == (ALERTS / "alertmanager.yml").read_text()
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *FILES, cwd=out)


def test_rules_are_written_as_they_ship_when_nothing_is_set(tmp_path: Path) -> None:
    assert main(["alerts", "--write", str(tmp_path), "--runbooks", "alerts/runbooks"]) == 0
    for name in FILES:
        assert (tmp_path / name).read_text() == (ALERTS / name).read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--threshold", "starved_shar=0.2"], "did you mean 'starved_share'?"),
        (["--threshold", "starved_share=5m"], "write a number, as in starved_share=0.3"),
        (["--threshold", "starved_for=5"], "write 5m, as in starved_for=5m"),
        (["--threshold", "starved_share=0.2 or vector(1)"], "write a number"),
        (["--threshold", "starved_share"], "write name=value"),
        (["--price", "0"], "must be above 0"),
        (["--price", "H100=3,2"], "give one price"),
    ],
)
def test_a_wrong_threshold_gets_one_line_and_writes_nothing(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["alerts", "--write", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_a_folder_the_thresholds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alerts", "--threshold", "peers=8"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^peers=8 +members", listed, re.MULTILINE)
    assert len(listed.splitlines()) == len(rules.thresholds())


def test_a_folder_that_cannot_be_written_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["alerts", "--write", str(tmp_path / "file")]) == 2
    assert "cannot write to" in capsys.readouterr().err
