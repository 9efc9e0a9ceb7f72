"""Every parser of bytes from outside with an input it likes, and damage to do to it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import client
from pathlib import Path
from urllib.parse import urlsplit

from google.protobuf import json_format
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from scripted import answering

from wellfed import ingest
from wellfed.analysis.receiver import Limits, Receiver, frames
from wellfed.analysis.segments import Hot
from wellfed.collectors import (
    amdgpu,
    cgroup,
    cpu,
    dcgm,
    destination,
    disk,
    fetch,
    flashblade,
    flashblade_names,
    http,
    inference,
    infiniband,
    kubernetes,
    kueue,
    listeners,
    lustre,
    memory,
    mountstats,
    network,
    neuron,
    nvidia_fs,
    pressure,
    processes,
    slurm,
    steps,
    tpu,
)
from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.collectors.web import read_web_config
from wellfed.dashboard.ranges import parse_range
from wellfed.options import OPTIONS, read_config, resolve
from wellfed.prices import Prices
from wellfed.values import parse_pairs, parse_size, parse_time

__all__ = ["NOW", "OTLP", "PARSERS", "SPICE", "damaged"]

NODE = Path(__file__).parents[1] / "fixtures" / "node"
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp()

Parser = Callable[[bytes], object]


def text(parse: Callable[[str], object]) -> Parser:
    """A parser of text, fed with what the bytes say in Latin 1."""
    return lambda data: parse(data.decode("latin-1"))


def file(parse: Callable[[str], object]) -> Parser:
    """A parser of a file's path, fed with a file in memory that holds the bytes."""
    descriptor = os.memfd_create("input")

    def fed(data: bytes) -> object:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        return parse(f"/proc/self/fd/{descriptor}")

    return fed


def fixture(path: str) -> bytes:
    return (NODE / path).read_bytes()


def otlp(data: bytes) -> object:
    """As the hub reads a request, up to the frames that it would store."""
    return frames(RECEIVER.decode(data, NOW).parts)


RECEIVER = Receiver(None, Limits(layouts=1 << 20))  # type: ignore[arg-type]


def sendable(environ: Mapping[str, str]) -> object:
    """Where OTLP goes, asked of the standard library: what is accepted at start must not end the sender."""
    to = destination.destination(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://hub:4318", **environ})
    if to is not None:
        url = urlsplit(to.url)
        try:
            connection = client.HTTPConnection(url.hostname or "", url.port, timeout=to.timeout)
            connection.putrequest("POST", f"{url.path}?{url.query}")
            for name, value in to.headers.items():
                connection.putheader(name, value)
        except (ValueError, client.HTTPException) as error:
            raise AssertionError(f"{to.url}: accepted, but {error!r}") from error
    return to


def environment(name: str) -> Parser:
    """A variable of the standard OpenTelemetry environment."""
    return text(lambda said: sendable({name: said}))


OTLP = Encoder({"host.name": "n1", "service.name": "wellfed-agent"}).encode(
    Window(
        NOW,
        [
            Row("gpu", ("GPU-1",), {"active_seconds": 5.0, "power_watts": 300.0}, {"index": "0", "job": "a"}),
            Row("host", (), {"load1": 1.5, "cpu_busy_seconds": 12.25}),
            Row("disk", ("nvme0n1",), {"read_bytes": 4096.0, "reads": 3.0}),
        ],
    )
)
NEURON = (
    b'{"neuron_runtime_data":[{"pid":1,"report":{"neuroncore_counters":{"period":1.0,"neuroncores_in_use":'
    b'{"0":{"neuroncore_utilization":50.0}}},"memory_used":{"neuron_runtime_used_bytes":{"neuron_device":9}}}}],'
    b'"system_data":{"neuron_hw_counters":{"period":1.0,"neuron_devices":[{"neuron_device_index":0,'
    b'"mem_ecc_corrected":1}]}},"neuron_hardware_info":{"neuron_device_count":2,"neuroncore_per_device_count":2}}'
)
TPU = (
    tpu._MESSAGES.of("MetricResponse")(
        metric={"metrics": [{"attribute": {"value": {"int_attr": 3}}, "gauge": {"as_double": 50.0}}]}
    )
).SerializeToString()
MATRIX = (
    b'{"status":"success","warnings":["partial"],"data":{"resultType":"matrix","result":'
    b'[{"metric":{"__name__":"node_load1","instance":"n1:9100"},"values":[[1770000000.5,"1.5"],[1770000010.5,"NaN"]]}]}}'
)
WEB = (
    b"tls_server_config: {cert_file: cert.pem, key_file: key.pem, min_version: TLS13}\n"
    b"basic_auth_users: {ann: $2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi}\n"
    b"http_server_config: {headers: {X-Frame-Options: deny}}\n"
)
TOML = (
    b'address = "127.0.0.1:0"\nretention_days = 3.5\nprice = "H100=2.98,2.5"\nspool_bytes = "1 GiB"\n'
    b'[array.filer]\nurl = "http://filer:9491/metrics"\nprotocol = "nfs"\n[array.filer.columns]\nread_latency_seconds = {metric = "lat", factor = 1e-6, where = {op = "read"}}\n'
)
JSON = json_format.MessageToJson(ExportMetricsServiceRequest.FromString(OTLP), indent=None).encode()

#: Parser -> an input it likes, which is then damaged.
PARSERS: dict[str, tuple[Parser, bytes]] = {
    "cpu.parse_stat": (cpu.parse_stat, fixture("proc/stat")),
    "cpu.parse_loadavg": (cpu.parse_loadavg, fixture("proc/loadavg")),
    "pressure.parse": (pressure.parse, fixture("proc/pressure/io")),
    "memory.parse_meminfo": (memory.parse_meminfo, fixture("proc/meminfo")),
    "memory.parse_vmstat": (memory.parse_vmstat, fixture("proc/vmstat")),
    "disk.parse": (disk.parse, fixture("proc/diskstats")),
    "network.parse_dev": (network.parse_dev, fixture("proc/net/dev")),
    "network.parse_snmp": (network.parse_snmp, fixture("proc/net/snmp")),
    "mountstats.parse": (mountstats.parse, fixture("proc/1/mountstats")),
    "lustre.parse": (
        lustre.parse,
        fixture("sys/kernel/debug/lustre/mdc/scratch-MDT0000-mdc-ffff8a3b1c2d3000/stats"),
    ),
    "nvidia_fs.parse": (nvidia_fs.parse, fixture("proc/driver/nvidia-fs/stats")),
    "infiniband.parse_number": (infiniband.parse_number, b"184467440737\n"),
    "infiniband.parse_rate": (infiniband.parse_rate, b"400 Gb/sec (4X NDR)\n"),
    "processes.parse_stat": (
        processes.parse_stat,
        b"4711 (a b) c) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 99 1000 100 1844 1 1 0 0 0 0 0\n",
    ),
    "cgroup.parse_membership": (
        cgroup.parse_membership,
        b"12:cpu,cpuacct:/slurm/uid_1000/job_42/step_0\n0::/kubepods.slice/x\n",
    ),
    "cgroup.identify": (
        text(cgroup.identify),
        b"/kubepods.slice/kubepods-podaaaa.slice/cri-containerd-b.scope",
    ),
    "steps.parse": (steps.parse, b'{"version":1,"job":"j","rank":"0","steps":3,"step_seconds":1.5}'),
    "neuron.parse": (neuron.parse, NEURON),
    "kueue.pending": (kueue.pending, b'kueue_pending_workloads{cluster_queue="a",status="active"} 2\n'),
    "dcgm.parse": (
        dcgm.parse,
        b'DCGM_FI_PROF_SM_ACTIVE{gpu="0",UUID="GPU-1",modelName="H100",GPU_I_ID="3"} 0.5 1770000000000\n',
    ),
    "inference.parse": (
        lambda data: inference.parse(data, "127.0.0.1:8000"),
        b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="a"} 3\n',
    ),
    "flashblade.parse": (
        lambda data: flashblade.parse(data, "a", flashblade_names.FLASHBLADE),
        b'purefb_array_performance_latency_usec{dimension="usec_per_read_op",protocol="nfs"} 812\n',
    ),
    "kubernetes.pods": (
        kubernetes.pods,
        b"\n\x1f\n\x05train\x12\x02ml\x1a\x12\n\x01c\x12\r\n\x03gpu\x12\x06GPU-11",
    ),
    "kubernetes.allocatable": (kubernetes.allocatable, b"\n\r\n\x03gpu\x12\x06GPU-11"),
    "slurm.jobs_of": (
        slurm.jobs_of,
        b'{"jobs":[{"job_id":{"set":true,"number":42},"name":"a","user_name":"b","account":"c","partition":"d"}]}',
    ),
    "slurm.minors_of": (slurm.minors_of, b"c 1:3 rwm\nc 195:0 rw\nc 195:255 rw\n"),
    "tpu.metrics_of": (tpu.metrics_of, TPU),
    "listeners.listening": (
        lambda data: listeners.listening(data, 8000),
        b"   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1 0 100 0\n",
    ),
    "fetch.target": (text(fetch.target), b"https://[::1]:9400/metrics?a=b"),
    "destination.endpoint": (
        environment("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
        b"https://ann:secret@[::1]:4318/otlp",
    ),
    "destination.headers": (environment("OTEL_EXPORTER_OTLP_HEADERS"), b"authorization=Bearer%20x,a=b"),
    "destination.timeout": (environment("OTEL_EXPORTER_OTLP_TIMEOUT"), b"10000"),
    "options.read_config": (file(read_config), TOML),
    "options.resolve": (
        file(lambda path: resolve(tuple(n for n in OPTIONS if n != "config"), {"config": path}, {})),
        TOML,
    ),
    "options.parse_pairs": (text(parse_pairs), b"starved_share=0.2,peers=8"),
    "web.read_web_config": (file(read_web_config), WEB),
    "hub.token": (file(lambda path: ingest.Token(path).admits("Bearer a")), b"first-token\nsecond-token\n"),
    "otlp.protobuf": (otlp, OTLP),
    "otlp.gzip": (lambda data: otlp(ingest._unzip(data)), gzip.compress(OTLP, mtime=0)),
    "otlp.json": (lambda data: otlp(ingest._from_json(data)), JSON),
    "promql.range": (lambda data: answering(data).range("x", 0, 10, 10), MATRIX),
    "promql.names": (
        lambda data: answering(data).names(0, 10),
        b'{"status":"success","data":["node_load1","DCGM_FI_DEV_GPU_UTIL"]}',
    ),
    "amdgpu.parse_clock": (amdgpu.parse_clock, b"0: 500Mhz\n1: 1700Mhz *\n"),
    "amdgpu.parse_errors": (amdgpu.parse_errors, b"ue: 0\nce: 12\n"),
    "amdgpu.parse_energy": (amdgpu.parse_energy, bytes(range(120))),
    "amdgpu.parse_generation": (amdgpu.parse_generation, b"16.0 GT/s PCIe\n"),
    "http.parse_address": (text(http.parse_address), b"[::1]:9812"),
    "options.parse_size": (text(parse_size), b"20 GiB"),
    "options.parse_time": (text(parse_time), b"2026-05-01T12:00+02:00"),
    "prices.parse": (text(Prices.parse), b"H100=2.98,A100=1.29,2.5"),
    "segments.Hot.parse": (text(Hot.parse), b"00000000000000000001-0000010-0000020-0123abcd-89abcdef.arrow"),
    "dashboard.parse_range": (
        lambda data: parse_range(data.decode("latin-1"), None, datetime(2026, 3, 1, tzinfo=UTC)),
        b"2026-05-01T12:00",
    ),
}

#: Numbers and marks that have broken parsers elsewhere.
SPICE = (b"-1", b"18446744073709551616", b"1e999", b"nan", b"\x00", b"\xff\xfe", b"\n\n", b":", b" " * 40, b"(", b"9" * 400)  # fmt: skip


def damaged(seed: bytes) -> st.SearchStrategy[bytes]:
    """The seed cut, spliced, overwritten, doubled or spiced; and bytes that never were one."""
    at = st.integers(0, len(seed))
    bits = st.binary(max_size=12) | st.sampled_from(SPICE)

    def splice(start: int, end: int, middle: bytes) -> bytes:
        return seed[: min(start, end)] + middle + seed[max(start, end) :]

    def overwrite(start: int, middle: bytes) -> bytes:
        return seed[:start] + middle + seed[start + len(middle) :]

    once = st.builds(splice, at, at, bits) | st.builds(overwrite, at, bits)
    twice = st.builds(lambda a, b, m: seed[:a] + m + seed[b:] + m, at, at, bits)
    return once | twice | st.binary(max_size=200)
