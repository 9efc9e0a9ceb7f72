"""The names of other exporters carry the values that those exporters publish for the same machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from programs import ROOT, Programs, fetch, free_port, until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from wellfed.collectors.names_dcgm import DcgmNames
from wellfed.collectors.names_node import NodeNames
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Roots, Row
from wellfed.collectors.sampler import Window

pytestmark = pytest.mark.real

COLLECTORS = "cpu diskstats infiniband meminfo mountstats netdev pressure vmstat"
PUBLISHED = (
    "node_cpu",
    "node_disk",
    "node_inf",
    "node_mem",
    "node_mount",
    "node_net",
    "node_press",
    "node_vm",
)
Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    running = Programs(tmp_path)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large node's /proc and /sys, as the benchmark has them."""
    spec = importlib.util.spec_from_file_location("tree", ROOT / "bench" / "tree.py")
    assert spec is not None
    assert spec.loader is not None
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    built: Path = tree.build(tmp_path_factory.mktemp("node"))
    return built


def exporter(programs: Programs, node: Path, *flags: str) -> str:
    """A node_exporter on the tree, ready; its address."""
    port = free_port()
    programs.start(
        "prometheus-node-exporter",
        f"--path.procfs={node}/proc",
        f"--path.sysfs={node}/sys",
        f"--web.listen-address=127.0.0.1:{port}",
        "--collector.disable-defaults",
        *flags,
    )
    url = f"http://127.0.0.1:{port}/metrics"
    until(lambda: fetch(url), what="node_exporter answers")
    return url


def page(names: NodeNames, roots: Roots) -> str:
    return b"\n".join([*names.lines(roots), b""]).decode()


def parsed(text: str) -> dict[Sample, tuple[float, str]]:
    return {
        (s.name, frozenset(s.labels.items())): (s.value, family.type)
        for family in text_families(text)
        for s in family.samples
    }


def test_every_value_is_node_exporters_own(programs: Programs, node: Path) -> None:
    flags = [f"--collector.{name}" for name in COLLECTORS.split()]
    url = exporter(programs, node, *flags, "--no-collector.netdev.netlink")
    theirs = {
        key: value for key, value in parsed(fetch(url).decode()).items() if key[0].startswith(PUBLISHED)
    }
    # What udev tells is not in these files; Debian's build leaves the loopback interface out.
    theirs = {key: value for key, value in theirs.items() if key[0] != "node_disk_info"}
    ours = parsed(page(NodeNames(openmetrics=False), Roots(f"{node}/proc", f"{node}/sys")))
    ours = {key: value for key, value in ours.items() if ("device", "lo") not in key[1]}
    assert len(theirs) > 2500
    assert ours == theirs


def test_the_same_in_openmetrics_with_the_hosts_label(node: Path) -> None:
    names = NodeNames(openmetrics=True, labels=[("hostname", "n1")])
    roots = Roots(f"{node}/proc", f"{node}/sys")
    families = list(openmetrics_families(page(names, roots) + "# EOF\n"))
    plain = parsed(page(NodeNames(openmetrics=False), roots))
    samples = [s for family in families for s in family.samples]
    assert len(samples) == len(plain)
    assert all(s.labels["hostname"] == "n1" for s in samples)


def test_the_same_by_otlp(node: Path) -> None:
    roots = Roots(f"{node}/proc", f"{node}/sys")
    plain = parsed(page(NodeNames(openmetrics=False), roots))
    names, encoder = NodeNames(openmetrics=False), Encoder({})
    for ts in (1000.0, 1010.0):
        body = encoder.encode(Window(ts, [Row("host", (), {"load1": 1.5})]), names.points(roots))
        metrics = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics
        found: dict[Sample, tuple[float, str]] = {}
        for metric in metrics:
            kind = metric.WhichOneof("data") or ""
            for point in getattr(metric, kind).data_points:
                assert point.time_unix_nano == ts * 10**9
                assert point.start_time_unix_nano == (1000 * 10**9 if kind == "sum" else 0)
                labels = frozenset((a.key, a.value.string_value) for a in point.attributes)
                found[metric.name, labels] = (point.as_double, kind)
        assert found.pop(("system.cpu.load_average.1m", frozenset()), None) or found.pop(
            ("wellfed.host.load1", frozenset())
        ) == (1.5, "gauge")
        sent = {key: (value, "sum" if kind == "counter" else "gauge") for key, (value, kind) in plain.items()}
        # Empty labels are no attributes.
        assert {
            (name, frozenset(p for p in labels if p[1])): v for (name, labels), v in sent.items()
        } == found


def test_a_device_that_goes_is_gone_and_a_broken_file_takes_only_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "diskstats").write_text(
        "259 0 nvme0n1 1 2 3 4 5 6 7 8 9 10 11\n259 1 sda 1 2 3 4 5 6 7 8 9 10 11 1\n"
    )
    (tmp_path / "vmstat").write_text("pgfault 5\n")
    names, roots = NodeNames(openmetrics=False), Roots(str(tmp_path), str(tmp_path))
    both = parsed(page(names, roots))
    assert both["node_disk_read_bytes_total", frozenset({("device", "sda")})][0] == 3 * 512
    assert ("node_disk_discards_completed_total", frozenset({("device", "nvme0n1")})) not in both
    assert ("node_disk_discards_completed_total", frozenset({("device", "sda")})) in both
    (tmp_path / "diskstats").write_text("259 0 nvme0n1 9 2 3 4 5 6 7 8 9 10 11\n")
    one = parsed(page(names, roots))
    assert {dict(labels).get("device") for name, labels in one if name.startswith("node_disk")} == {"nvme0n1"}
    (tmp_path / "diskstats").write_text("nonsense\n")
    assert {name for name, _ in parsed(page(names, roots))} == {"node_vmstat_pgfault"}


def test_dcgm_gauges_stand_while_nothing_was_measured_and_are_means_of_what_was() -> None:
    names, seen = DcgmNames("n1"), []
    for now, active, observed in (
        (50.0, 10.0, 20.0),
        (51.0, 10.5, 21.0),
        (52.0, 10.5, 21.0),
        (53.0, 11.5, 23.0),
    ):
        values: dict[str, float | None] = {"active_seconds": active, "observed_seconds": observed}
        rows = [Row("gpu", ("GPU-a",), values, {"vendor": "nvidia"})]
        seen.append({one.name: value for one, value in zip(*names.points(rows, now), strict=True)})
    assert [one.get("DCGM_FI_PROF_GR_ENGINE_ACTIVE") for one in seen] == [None, 0.5, 0.5, 0.5]


def test_dcgm_gauges_are_means_of_the_last_second_in_dcgms_units() -> None:
    names = DcgmNames("n1")
    info = {"vendor": "nvidia", "index": "3", "model": "H100", "pci_address": "0000:1b:00.0", "job": "j"}
    job = Row("job", ("j",), {}, {"kind": "kubernetes", "name": "ml/train-0", "namespace": "ml"})

    def gpu(active: float, received: float) -> list[Row]:
        values: dict[str, float | None] = {
            "active_seconds": active,
            "pcie_rx_bytes": received,
            "energy_joules": 2.5,
            "memory_used_bytes": 2.0**30,
            "memory_total_bytes": 3.0 * 2**30,
            "sm_clock_hertz": 1.98e9,
        }
        return [Row("gpu", ("GPU-a",), values, info), job]

    def told(rows: list[Row], now: float) -> dict[str, tuple[float, str]]:
        return {
            # The parser's own: a counter is called _total.
            s.name.removesuffix("_total"): (
                s.value,
                ",".join(f'{name}="{text}"' for name, text in s.labels.items()),
            )
            for family in text_families(names.text(rows, now) + "\n")
            for s in family.samples
        }

    assert not any("PROF" in name for name in told(gpu(10.0, 100.0), 50.0))
    found = told(gpu(11.0, 300.0), 52.0)
    assert "\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{" in names.text(gpu(11.0, 300.0), 52.0)
    value = {name: value for name, (value, _) in found.items()}
    assert value["DCGM_FI_PROF_GR_ENGINE_ACTIVE"] == 0.5
    assert value["DCGM_FI_DEV_GPU_UTIL"] == pytest.approx(50.0)
    assert value["DCGM_FI_PROF_PCIE_RX_BYTES"] == 100.0
    assert value["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"] == pytest.approx(2500.0)
    assert value["DCGM_FI_DEV_FB_USED"] == 1024.0
    assert value["DCGM_FI_DEV_FB_FREE"] == 2048.0
    assert value["DCGM_FI_DEV_SM_CLOCK"] == pytest.approx(1980.0)
    assert found["DCGM_FI_DEV_GPU_UTIL"][1] == (
        'gpu="3",UUID="GPU-a",pci_bus_id="0000:1b:00.0",device="nvidia3",modelName="H100",Hostname="n1",'
        'pod="train-0",namespace="ml"'
    )
    # A second scraper within the second sees the same; a reset counter is left out, not negative.
    assert told(gpu(11.9, 300.0), 52.5)["DCGM_FI_DEV_GPU_UTIL"][0] == pytest.approx(50.0)
    reset = told(gpu(1.0, 400.0), 54.0)
    assert "DCGM_FI_DEV_GPU_UTIL" not in reset
    assert "DCGM_FI_PROF_PCIE_RX_BYTES" in reset
    # OpenMetrics has no counter without _total; the name that dashboards ask for stays.
    other = DcgmNames("n1", openmetrics=True, labels=[("hostname", "n1")])
    energy = next(
        family
        for family in openmetrics_families(other.text(gpu(1.0, 400.0), 54.0) + "\n# EOF\n")
        if family.name == "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
    )
    assert [(s.name, s.value, s.labels["hostname"]) for s in energy.samples] == [(energy.name, 2500.0, "n1")]
    # A slice that moves to another pod is told under the new one's name.
    job.info["name"] = "ml/eval-1"
    assert 'pod="eval-1"' in told(gpu(2.0, 500.0), 56.0)["DCGM_FI_DEV_FB_USED"][1]


def test_the_textfile_is_read_by_a_real_node_exporter(programs: Programs, node: Path, tmp_path: Path) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    programs.wellfed(
        "agent",
        f"--metrics-address=127.0.0.1:{free_port()}",
        f"--procfs={node}/proc",
        f"--sysfs={node}/sys",
        f"--textfile={folder}",
        "--hostname-label",
        "--host=n1",
        "--collectors=cpu,disk,pressure",
    )
    until(lambda: (folder / "wellfed.prom").exists(), what="a first window on disk")
    url = exporter(programs, node, "--collector.textfile", f"--collector.textfile.directory={folder}")
    found = parsed(fetch(url).decode())
    assert found["node_textfile_scrape_error", frozenset()][0] == 0
    key = ("wellfed_disk_reads_total", frozenset({("device", "nvme0n1"), ("hostname", "n1")}))
    assert found[key][1] == "counter"
    assert sorted(path.name for path in folder.iterdir()) == ["wellfed.prom"]
