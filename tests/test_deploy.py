"""What deploy/ ships, each kind of file checked by the tool that knows it; nothing here needs a network."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from programs import ROOT, Programs, fetch, free_port, until
from published import EXPORTERS, OURS
from test_alerts import metrics_in, run

DEPLOY = ROOT / "deploy"
UNITS = ("wellfed-agent.service", "wellfed-hub.service")
OVERLAYS = ("nvidia", "amd", "tpu")
DASHBOARDS = {"wellfed.json": OURS, "dcgm.json": EXPORTERS}
#: systemd-analyze counts in tenths: 2.0 of 10.
EXPOSURE = 20
KUBERNETES = ("1.30", "1.34")
OPERATOR = {
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "PrometheusRule": {"groups"},
}
ENDPOINT = {"port", "interval", "honorLabels", "relabelings"}


def tool(name: str) -> str:
    """A program of a development dependency: it lies beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def tracked(*patterns: str) -> list[str]:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns, cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.fixture
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A unit with a program that exists in place of /opt/wellfed."""
    program = tmp_path / "wellfed"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / request.param
    text = (DEPLOY / "systemd" / request.param).read_text()
    assert "ExecStart=/opt/wellfed/bin/wellfed " in text
    path.write_text(text.replace("/opt/wellfed/bin/wellfed", str(program)))
    return path


@pytest.mark.real
@pytest.mark.parametrize("unit", UNITS, indirect=True)
def test_systemd_has_nothing_to_say_about_the_units(unit: Path) -> None:
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


@pytest.mark.real
@pytest.mark.parametrize("unit", UNITS, indirect=True)
def test_the_units_expose_little(unit: Path) -> None:
    run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", unit)


@contextlib.contextmanager
def nobodys_folder() -> Iterator[Path]:
    """A folder that another user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="wellfed-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def test_the_agent_runs_without_privileges(programs: Programs) -> None:
    # The user, capabilities and no_new_privs of unit and pod; systemd's mounts and filters need a system that it booted.
    lowered = [
        *("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all", "--bounding-set=-all"),
    ]
    port = free_port()
    with nobodys_folder() as state:
        process = programs.start(
            *(lowered if os.getuid() == 0 else []),
            *(sys.executable, "-B", "-m", "wellfed", "agent", "--spool", str(state / "spool")),
            *(f"--metrics-address=127.0.0.1:{port}", "--otlp-endpoint=http://127.0.0.1:9"),
            PYTHONPATH=os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]),
            WELLFED_SOCKET=str(state / "steps.sock"),
            HOME=str(state),
        )
        until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="the agent is ready")
        text = fetch(f"http://127.0.0.1:{port}/metrics").decode()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert not re.search(r"^Uid:\s+0\b", status, re.MULTILINE)
        for collector in ("cpu", "memory", "disk", "pressure", "network"):
            assert f'wellfed_collector_success{{collector="{collector}"}} 1' in text
        process.terminate()
        assert process.wait(20) == 0
        assert (state / "spool").is_dir()


def built(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay, as kustomize makes them."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.real
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_objects_fit_the_schemas_of_old_and_new_clusters(overlay: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "k")
    kustomization = tmp_path / "k" / "overlays" / overlay / "kustomization.yaml"
    text = kustomization.read_text()
    assert "# components:" in text
    kustomization.write_text(re.sub(r"^# (components:|  - \.\.)", r"\1", text, flags=re.MULTILINE))
    objects = built(str(kustomization.parent))
    kinds = sorted(thing["kind"] for thing in objects)
    assert kinds == [
        *("DaemonSet", "Namespace", "NetworkPolicy", "PodMonitor", "PodMonitor", "PrometheusRule"),
        *("Service", "ServiceAccount", "StatefulSet"),
    ]
    for thing in objects:
        # The operator's kinds are not Kubernetes' own: the fields that we use are compared with its API's.
        if thing["kind"] in OPERATOR:
            assert set(thing["spec"]) == OPERATOR[thing["kind"]]
            for endpoint in thing["spec"].get("podMetricsEndpoints", []):
                assert set(endpoint) <= ENDPOINT
        else:
            for version in KUBERNETES:
                kubernetes_validate.validate(thing, version, strict=True)


@pytest.mark.real
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_have_no_privilege(overlay: str) -> None:
    for thing in built(str(DEPLOY / "kubernetes" / "overlays" / overlay)):
        if thing["kind"] not in ("DaemonSet", "StatefulSet"):
            continue
        pod = thing["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["image"] == "wellfed/wellfed:0.1.0"
            assert {"requests", "limits"} <= set(container["resources"])
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"]["drop"] == ["ALL"]
            assert rights["capabilities"].get("add", []) == (
                ["CHOWN"] if container["name"] == "folders" else []
            )


@pytest.mark.real
def test_the_operators_rules_are_the_shipped_rules(tmp_path: Path) -> None:
    path = DEPLOY / "kubernetes" / "components" / "prometheus-operator" / "rules.yaml"
    spec = yaml.safe_load(path.read_text())["spec"]
    assert spec == yaml.safe_load((ROOT / "alerts" / "wellfed.rules.yml").read_text())
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec))
    run("promtool", "check", "rules", tmp_path / "rules.yml")


@pytest.mark.real
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert "/etc/prometheus/wellfed" in text
    shutil.copytree(ROOT / "alerts", tmp_path, dirs_exist_ok=True)
    for name in ("nodes", "dcgm", "node"):
        (tmp_path / f"{name}.json").write_text('[{"targets": ["node-1:9812"]}]')
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/wellfed", str(tmp_path)))
    assert "2 rule files found" in run("promtool", "check", "config", config)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_own_model_keeps_every_field_of_a_dashboard(name: str) -> None:
    raw = json.loads((DEPLOY / "grafana" / "dashboards" / name).read_text())
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(raw)))
    assert not list(lost(raw, kept))


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Paths of what a model did not understand."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept[key], f"{path}/{key}") if key in kept else [f"{path}/{key}"]
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for place, pair in enumerate(zip(given, kept, strict=True)):
            yield from lost(*pair, f"{path}/{place}")
    elif given != kept:
        yield path


@pytest.mark.real
@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_ask_promql_for_what_exists(name: str, tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / name).read_text())
    variables = {v["name"] for v in dashboard["templating"]["list"]}
    rules = []
    for panel in dashboard["panels"]:
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$", "")
            assert metrics_in(expression) <= DASHBOARDS[name], panel["title"]
            rules.append({"record": f"panel:query:{len(rules)}", "expr": expression})
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "p", "rules": rules}]}))
    run("promtool", "check", "rules", tmp_path / "panels.yml")
    boxes = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24


def test_grafana_provisioning_points_at_its_parts() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/wellfed.yml").read_text())[
        "datasources"
    ][0]
    for name in DASHBOARDS:
        dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / name).read_text())
        assert dashboard["templating"]["list"][0]["current"]["value"] == source["uid"]


def test_the_collectors_pipelines_use_what_is_defined_and_queue_on_disk() -> None:
    config = yaml.safe_load((DEPLOY / "collector" / "config.yaml").read_text())
    used: dict[str, set[str]] = {"extensions": set(config["service"]["extensions"])}
    for pipeline in config["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            used.setdefault(part, set()).update(pipeline[part])
    assert {part: set(config[part]) for part in used} == used
    for exporter in config["exporters"].values():
        assert exporter["sending_queue"]["storage"] in config["extensions"]
        assert exporter.get("auth", {}).get("authenticator", "health_check") in config["extensions"]
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s"


def test_hadolint_has_nothing_to_say_and_the_base_is_pinned_by_digest() -> None:
    path = DEPLOY / "Dockerfile"
    assert run(tool("hadolint"), "--failure-threshold=style", path) == ""
    text = path.read_text()
    assert re.search(r"^ARG PYTHON=python:[\w.-]+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON}"}
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)


def test_what_the_image_is_built_from_is_let_through() -> None:
    patterns = (ROOT / ".dockerignore").read_text().split()
    let = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "wellfed"}
    links = {link.name for link in (ROOT / "wellfed").iterdir() if link.is_symlink()}
    assert let == needed | links


def test_workflows_fit_githubs_schema() -> None:
    files = tracked(".github/workflows/*.yml")
    assert files
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *files, cwd=ROOT)


def test_the_release_publishes_without_a_stored_secret() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}
    assert jobs["pypi"]["environment"] == "pypi"
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"GITHUB_TOKEN"}


def test_yaml_and_shell_are_clean() -> None:
    run(tool("yamllint"), "--strict", *tracked("*.yml", "*.yaml"), cwd=ROOT)
    run(tool("shellcheck"), *tracked("deploy/*.sh", "deploy/*.sbatch"), cwd=ROOT)


@pytest.mark.parametrize(
    ("metrics", "status"),
    [
        ('wellfed_gpu_remap_failed{gpu="GPU-1"} 0\n', 0),
        ('wellfed_gpu_remap_failed{gpu="GPU-1"} 1\n', 1),
        ('wellfed_collector_stuck{collector="nvml"} 1\n', 1),
        ('wellfed_collector_stuck{collector="mountstats"} 1\n', 0),
        (None, 0),
    ],
)
def test_slurms_prolog_keeps_jobs_off_a_bad_node(metrics: str | None, status: int, tmp_path: Path) -> None:
    # curl is replaced: the script must work with what the agent says, and when it says nothing.
    curl = tmp_path / "curl"
    curl.write_text(f"#!/bin/sh\ncat <<'EOF'\n{metrics}EOF\n" if metrics else "#!/bin/sh\nexit 7\n")
    curl.chmod(0o755)
    done = subprocess.run(
        ["sh", str(DEPLOY / "slurm" / "prolog.sh")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert ("node refused" in done.stderr) == bool(status)


def found(port: int) -> str:
    """The page, once the collectors have read something."""
    text = fetch(f"http://127.0.0.1:{port}/metrics").decode()
    return text if "wellfed_host_cpu_busy" in text and "pressure" in text else ""


def test_the_collectors_can_be_embedded_in_another_exporter(programs: Programs) -> None:
    port = free_port()
    code = [line for line in (ROOT / "examples" / "embed.py").read_text().splitlines() if line][1:]
    assert len(code) <= 10
    programs.start(
        *(sys.executable, str(ROOT / "examples" / "embed.py"), str(port)),
        PYTHONPATH=os.pathsep.join([str(ROOT), *(p for p in sys.path if p)]),
    )
    text = until(
        lambda: found(port),
        what="collectors and the exporter's own metrics are on one page",
    )
    assert "python_info" in text
    assert re.search(r"^wellfed_host_cpu_busy_seconds_total [\d.]+$", text, re.MULTILINE)
    assert 'wellfed_collector_success{collector="pressure"}' in text
