"""From a fault to one page and its end: agent -> hub -> Prometheus -> Alertmanager -> webhook, all real."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faulty import Faults
from programs import ROOT, Programs, fetch, free_port, until
from verdicts import VERDICTS, Hurried

from wellfed.cli import main

ALERTS = ROOT / "alerts"
NODE = ROOT / "tests" / "fixtures" / "node"


class Inbox:
    """What webhooks received: (path, alert, status) with how often."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str, str]] = Counter()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    inbox.seen[self.path, alert["labels"]["alertname"], alert["status"]] += 1
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def count(self, alert: str) -> dict[tuple[str, str], int]:
        return {(path, status): n for (path, name, status), n in self.seen.items() if name == alert}

    def let_pass(self, deliveries: int) -> None:
        """Waits until the watchdog, which always fires, was delivered some more times."""
        key = ("/watchdog", "WellfedWatchdog", "firing")
        wanted = self.seen[key] + deliveries
        until(lambda: self.seen[key] >= wanted, 60, "the watchdog arrives")


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    box = Inbox()
    thread = threading.Thread(target=box.server.serve_forever)
    thread.start()
    yield box
    box.server.shutdown()
    thread.join()
    box.server.server_close()


def alertmanager(programs: Programs, folder: Path, webhooks: str) -> str:
    """A real Alertmanager with the routing that ships, in a hurry. Returns its address."""
    text = (ALERTS / "alertmanager.yml").read_text().replace("http://127.0.0.1:9095", webhooks)
    for slow, quick in (("group_wait: 30s", "group_wait: 0s"), (": 5m", ": 1s"), (": 1m", ": 1s")):
        assert slow in text
        text = text.replace(slow, quick)
    (folder / "alertmanager.yml").write_text(text)
    address = f"127.0.0.1:{free_port()}"
    programs.start(
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    )
    until(lambda: fetch(f"http://{address}/-/ready"), what="Alertmanager is ready")
    return address


def prometheus(programs: Programs, folder: Path, alerts_to: str, agent: int, hub: int) -> str:
    """A real Prometheus with rendered rules, the shipped scrape settings and a second as its minute."""
    (folder / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{folder}/rules/*.rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alerts_to}']}}]}}]}}
scrape_configs:
  - job_name: wellfed-agent
    static_configs: [{{targets: ['127.0.0.1:{agent}'], labels: {{host: node-1}}}}]
  - job_name: wellfed-hub
    honor_labels: true
    static_configs: [{{targets: ['127.0.0.1:{hub}']}}]
""")
    port = free_port()
    programs.start(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # What fired before Alertmanager was discovered is else told again only after a minute.
        "--rules.alert.resend-delay=5s",
    )
    until(lambda: fetch(f"http://127.0.0.1:{port}/-/ready"), what="Prometheus is ready")
    return f"http://127.0.0.1:{port}"


@pytest.mark.real
def test_a_fault_becomes_one_page_and_one_resolution(
    programs: Programs, tmp_path: Path, inbox: Inbox, faults: Faults
) -> None:
    node = tmp_path / "node"
    shutil.copytree(NODE, node, symlinks=True)
    state = node / "sys/class/infiniband/mlx5_0/ports/1/state"
    quick = "starved_for=1s,link_down_for=1s,keep_firing=1s,starved_share=0.1"
    assert main(["alerts", "--write", str(tmp_path / "rules"), "--threshold", quick]) == 0
    hub = Hurried(programs, faults, tmp_path, "nfs-slow-server")
    agent = free_port()
    programs.wellfed(
        "agent",
        "--collectors=infiniband",
        "--host=node-1",
        f"--metrics-address=127.0.0.1:{agent}",
        f"--otlp-endpoint=http://127.0.0.1:{hub.otlp}",
        f"--procfs={node}/proc",
        f"--sysfs={node}/sys",
    )
    am = alertmanager(programs, tmp_path, inbox.url)
    server = prometheus(programs, tmp_path, am, agent, hub.metrics)
    first, last = hub.faulty
    hub.feed(first - 30)

    def holds(query: str) -> bool:
        answer = json.loads(fetch(f"{server}/api/v1/query?query={query}"))
        return bool(answer["data"]["result"])

    def firing(alert: str) -> bool:
        hub.feed(hub.fed + 6)
        return bool(inbox.count(alert))

    until(lambda: holds("wellfed_port_up==1"), what="the link is up")
    until(lambda: holds("wellfed_job_gpu_seconds_total"), what="verdicts are scraped")
    hub.feed(hub.fed + 4)
    until(lambda: holds("job:wellfed_job_gpus:rate5m"), what="verdicts are recorded")
    inbox.let_pass(2)
    assert {alert for _, alert, _ in inbox.seen} == {"WellfedWatchdog"}

    # The fault: a port loses its link, and the windows reach the minute in which the filer becomes slow.
    state.write_text("1: DOWN\n")
    hub.feed(first + 12)
    for alert in ("LinkDown", "JobStarvedByStorage"):
        until(lambda: firing(alert), 60, f"{alert} arrives")  # noqa: B023
    state.write_text("4: ACTIVE\n")
    # The filer has been well again for three minutes.
    hub.feed(last + 18)
    for alert in ("LinkDown", "JobStarvedByStorage"):
        until(lambda: inbox.count(alert).get(("/page", "resolved")), 60, f"{alert} ends")  # noqa: B023
    inbox.let_pass(3)
    once = {("/page", "firing"): 1, ("/page", "resolved"): 1}
    assert inbox.count("LinkDown") == once
    assert inbox.count("JobStarvedByStorage") == once
    lines = fetch(f"http://127.0.0.1:{hub.metrics}/metrics").decode().splitlines()
    assert {line.partition("{")[0].partition(" ")[0] for line in lines} >= VERDICTS - {
        "wellfed_finding_active"
    }


def amtool(am: str, *arguments: str) -> str:
    done = subprocess.run(
        ["amtool", *arguments, f"--alertmanager.url=http://{am}"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=LinkDown severity=critical", "page"),
        ("alertname=MountSlow severity=warning", "ticket"),
        ("alertname=WellfedWatchdog severity=none", "watchdog"),
        ("alertname=SomebodyElses", "ticket"),
    ],
)
def test_severity_decides_who_hears_of_it(labels: str, receiver: str) -> None:
    config = ALERTS / "alertmanager.yml"
    done = subprocess.run(
        ["amtool", "config", "routes", "test", f"--config.file={config}", *labels.split()],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, receiver)
    assert subprocess.run(["amtool", "check-config", str(config)], capture_output=True).returncode == 0


@pytest.mark.real
def test_a_slow_backend_and_a_silent_node_speak_for_the_rest(
    programs: Programs, tmp_path: Path, inbox: Inbox
) -> None:
    am = alertmanager(programs, tmp_path, inbox.url)
    for labels in (
        "StorageBackendSlow server=filer1",
        "JobStarvedByStorage job=train server=filer1",
        "JobStarvedByStorage job=other server=filer2",
        "JobStarvedByStorage job=local",
        "MountSlow host=n1 server=filer1",
        "NodeUnreachable host=n2",
        "GpuXid host=n2 gpu=GPU-1",
        "GpuXid host=n3 gpu=GPU-2",
        "WellfedHubStale instance=hub:9813",
        "LinkDown host=n3 instance=n3:9812 port=mlx5_0/1",
        "LinkErrors host=n3 instance=n3:9812 port=mlx5_0/1",
        "LinkErrors host=n3 instance=n3:9812 port=mlx5_1/1",
    ):
        amtool(am, "alert", "add", *labels.split(), "severity=critical")

    def query(*flags: str) -> set[str]:
        found = json.loads(amtool(am, "alert", "query", "-o", "json", *flags))
        labels = [alert["labels"] for alert in found]
        return {" ".join(v for k, v in sorted(label.items()) if k != "severity") for label in labels}

    wanted = {
        "JobStarvedByStorage train filer1",
        "MountSlow n1 filer1",
        "GpuXid GPU-1 n2",
        "LinkErrors n3 n3:9812 mlx5_0/1",
    }
    until(lambda: query("--inhibited") == wanted, 30, "the rest is inhibited")
    assert len(query("--active")) == 8
