"""What servers get wrong or say differently: one clear line or one warning, and never an invented number."""

from __future__ import annotations

import base64
import json
import math
import ssl
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import JSON, Held, Reply, answering, refusal, serving, success

from wellfed.analysis import promql_http
from wellfed.analysis.promql import Access, Reader, Reading, from_headers, read, server
from wellfed.analysis.promql_families import Owners, united
from wellfed.analysis.promql_http import RefusedError, Series
from wellfed.analysis.promql_plan import OWN, UNAME, plan
from wellfed.analysis.promql_rows import Answer, Carry, Grid, rows
from wellfed.analysis.schema import schema
from wellfed.cli import main
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.names import BLANK, GROUPS
from wellfed.errors import UserError

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTES = 10
END = START + timedelta(minutes=MINUTES)
ZERO = START.timestamp()
Value = Callable[[float], object]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promql_http, "BACKOFF", 0.0)


def counter(rate: float, start: float = 1000.0) -> Value:
    return lambda at: start + rate * (at - ZERO)


def gauge(value: object) -> Value:
    return lambda at: value


def tables(held: Held, folder: Path, **options: Any) -> Reading:
    folder.mkdir(exist_ok=True)
    with serving(held) as url:
        return read(Reader(server(url), **options), START, END, str(folder))


def dcgm(value: Value, **labels: str) -> tuple[dict[str, str], Value]:
    return {"UUID": "GPU-1", "gpu": "0", "Hostname": "n1", "instance": "n1:9400", **labels}, value


def own(value: Value, **labels: str) -> tuple[dict[str, str], Value]:
    return {"instance": "n1:9812", "job": "wellfed", **labels}, value


# --- servers that cannot be used


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((401, {}, b"Unauthorized"), "answers 401.*--bearer-token-file"),
        ((403, JSON, b"{}"), "answers 403"),
        ((200, {"content-type": "text/html"}, b"<html>Grafana</html>"), "text/html; is a path missing"),
        ((404, {"content-type": "text/plain"}, b"404 page not found"), "status 404"),
        ((200, JSON, b'{"status": "success", "data": ["a"'), "ends in the middle"),
        ((200, JSON, b"[]"), "does not answer as Prometheus does"),
        (refusal("no tenant", 400), "does not list its metrics: no tenant"),
        (success({"a": 1}), "the answer is no list"),
        (success(["go_goroutines"]), "holds none of the metrics that wellfed reads"),
        (success([]), "holds none of the metrics"),
        ((200, JSON, None), "cannot reach"),
    ],
)
def test_a_server_that_is_no_use_is_one_line(
    reply: Reply, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda *_: reply) as url:
        with pytest.raises(UserError, match=says):
            read(Reader(server(url)), START, END, str(tmp_path))
        arguments = ["diagnose", "--prometheus", url, "--from", START.isoformat(), "--to", END.isoformat()]
        assert main([*arguments, "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with serving(lambda *_: success([])) as url:
        pass
    with pytest.raises(UserError, match=r"cannot reach http://127.0.0.1:\d+: .*refused"):
        read(Reader(server(url)), START, END, str(tmp_path))


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://a", "http://", "http://a:port", "", "http://[::1"])
def test_a_bad_address_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(UserError, match="--prometheus is"):
        server(url)


def test_an_answer_of_another_kind_is_refused() -> None:
    body = json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}).encode()
    with pytest.raises(UserError, match="expected series, the answer is a scalar"):
        answering(body).range("x", 0, 10, 10)


@pytest.mark.parametrize("said", [True, "one\nline", {"a": 1}])
def test_a_warning_of_any_kind_is_one_line(said: object) -> None:
    # What `make chaos` found.
    api = answering(json.dumps({"status": "success", "data": ["up"], "warnings": said}).encode())
    assert api.names(0, 10) == {"up"}
    (line,) = api.warnings
    assert len(line.splitlines()) == 1


def test_a_rhythm_that_cannot_be_seen_is_the_default(tmp_path: Path) -> None:
    # What `make chaos` found: a range query has samples, the instant query at the same time has none.
    held = Held({"node_load1": [own(gauge(1.5))]})

    def blind(path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        if path.endswith("/query"):
            return success({"resultType": "vector", "result": []})
        return held(path, query, headers)

    with serving(blind) as url:
        got = read(Reader(server(url)), START, END, str(tmp_path))
    assert (got.step, got.tables["host"].collect()["load1"].to_list()) == (10.0, [1.5] * 6 * MINUTES)


@pytest.mark.parametrize("at", [-1, 1e300, float("nan")])
def test_a_sample_of_no_time_is_refused(at: float) -> None:
    # What `make chaos` found.
    series = {"metric": {}, "values": [[at, "1"]]}
    data = {"resultType": "matrix", "result": [series]}
    with pytest.raises(UserError, match="lies at no time"):
        answering(json.dumps({"status": "success", "data": data}).encode()).range("x", 0, 10, 10)


# --- servers that are slow, limited or guarded


def test_too_many_requests_are_repeated_after_the_time_asked_for(tmp_path: Path) -> None:
    held = Held({"node_load1": [own(gauge(1.5))]})
    tries: dict[str, int] = {}

    def busy(path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        tries[path] = tries.get(path, 0) + 1
        status = {1: 429, 2: 503}.get(tries[path])
        return (status, {"retry-after": "0"}, b"") if status else held(path, query, headers)

    with serving(busy) as url:
        got = read(Reader(server(url)), START, END, str(tmp_path))
    assert got.tables["host"].collect()["load1"].to_list() == [1.5] * 6 * MINUTES
    assert not any("not read" in text for text in got.warnings)


def test_a_limit_on_samples_halves_the_slice_until_it_fits(tmp_path: Path) -> None:
    series = {"node_load1": [own(gauge(float(n)), instance=f"n{n}:9100") for n in range(8)]}
    held = Held(series, limit=16)
    got = tables(held, tmp_path / "a").tables["host"].collect()
    assert got.height == 8 * 6 * MINUTES
    assert got.select(pl.struct("host", "ts").is_unique().all()).item()


def test_what_is_refused_for_good_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    held = Held({"node_load1": [own(gauge(1.0))], "node_vmstat_pgmajfault": [own(counter(1.0))]})

    def picky(path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        if "pgmajfault" in query.get("query", ""):
            return refusal("the store of this metric is down")
        return held(path, query, headers)

    with serving(picky) as url:
        got = read(Reader(server(url)), START, END, str(tmp_path))
    host = got.tables["host"].collect()
    assert host["load1"].to_list() == [1.0] * 6 * MINUTES
    assert host["major_faults"].null_count() == host.height
    (line,) = [text for text in got.warnings if text.startswith("not read")]
    assert "node_vmstat_pgmajfault" in line
    assert "the store of this metric is down" in line


def test_what_a_server_says_about_its_answer_is_passed_on(tmp_path: Path) -> None:
    held = Held({"node_load1": [own(gauge(1.0))]})

    def partial(path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        status, kind, body = held(path, query, headers)
        assert body is not None
        return status, kind, json.dumps({**json.loads(body), "warnings": ["store n7 is away"]}).encode()

    with serving(partial) as url:
        got = read(Reader(server(url)), START, END, str(tmp_path))
    assert [text for text in got.warnings if "store n7 is away" in text]


def test_who_we_are_is_told_in_every_way(tmp_path: Path) -> None:
    seen: list[Mapping[str, str]] = []
    token, user = tmp_path / "token", tmp_path / "user"
    token.write_text("s3cret\n")
    user.write_text("ann:pässword\n")
    basic = "Basic " + base64.b64encode("ann:pässword".encode()).decode()

    def answer(path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        seen.append(headers)
        return success([])

    with serving(answer) as url:
        for flags in (
            ["--bearer-token-file", str(token)],
            ["--basic-auth-file", str(user)],
            ["--header", "X-Scope-OrgID: team a", "--header", "Authorization: Custom x"],
        ):
            assert main(["diagnose", "--prometheus", url, *flags]) == 2
        with pytest.raises(UserError):
            next(Reader(server(url.replace("//", "//ann:p%C3%A4ssword@"))).slices(0.0, 10.0))
    told = [headers.get("authorization") for headers in seen]
    assert told == ["Bearer s3cret", basic, "Custom x", basic]
    assert seen[2]["x-scope-orgid"] == "team a"


def test_secrets_are_never_in_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    assert main(["diagnose", "--prometheus", "http://ann:s3cret@127.0.0.1:1"]) == 2
    assert main(["diagnose", "--prometheus", "ann:s3cret@127.0.0.1:1"]) == 2
    with serving(lambda *_: (401, {}, b"")) as url:
        assert main(["diagnose", "--prometheus", url, "--bearer-token-file", str(token)]) == 2
    assert "s3cret" not in "".join(capsys.readouterr())
    assert "s3cret" not in repr(Access(bearer="s3cret", basic="s3cret"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--header", "no colon"], "--header takes"),
        (["--bearer-token-file", "/nowhere"], "cannot read /nowhere"),
        (["--bearer-token-file", "/dev/null"], "holds no secret on one line"),
        (["--data", "/tmp"], "are 2 sources"),
        (["--parallel", "0"], "--parallel is '0'"),
    ],
)
def test_bad_options_are_one_line(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--prometheus", "http://127.0.0.1:1", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_headers_are_one_a_line() -> None:
    assert from_headers("A: b: c\n\n X-Y :z") == {"A": "b: c", "X-Y": "z"}


def test_tls_with_an_own_authority_and_a_client_certificate(tmp_path: Path) -> None:
    def openssl(arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=tmp_path, check=True, capture_output=True)

    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2")
    (tmp_path / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
        openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile ext"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    ca, cert, key = (str(tmp_path / name) for name in ("ca.pem", "client.pem", "client.key"))
    with serving(lambda *_: success(["node_load1"]), context) as url:
        assert server(url, Access(ca_file=ca, cert_file=cert, key_file=key)).names(0, 1) == {"node_load1"}
        for access in (Access(), Access(cert_file=cert, key_file=key), Access(ca_file=ca)):
            with pytest.raises(UserError, match="cannot reach"):
                server(url, access).names(0, 1)
        with pytest.raises(UserError, match="no such file"):
            server(url, Access(ca_file="/nowhere"))
        with pytest.raises(UserError, match="cannot use the certificates"):
            server(url, Access(cert_file=ca, key_file=key))


# --- labels and values


def test_not_a_number_and_a_blank_are_null_and_a_gap_stays_one(tmp_path: Path) -> None:
    def patchy(at: float) -> object:
        second = at - ZERO
        return {20: "NaN", 30: "+Inf", 40: "-Inf", 50: BLANK}.get(second, None if 100 <= second < 200 else 80)

    held = Held({"DCGM_FI_DEV_GPU_UTIL": [dcgm(patchy)], "DCGM_FI_DEV_GPU_TEMP": [dcgm(gauge(50))]})
    gpu = tables(held, tmp_path / "a").tables["gpu"].collect().sort("ts")
    assert gpu.height == 6 * MINUTES
    active = dict(zip((gpu["ts"].dt.epoch("s") - int(ZERO)).to_list(), gpu["active_seconds"], strict=True))
    assert [second for second, value in active.items() if value is None] == [
        20,
        30,
        40,
        50,
        *range(100, 200, 10),
    ]
    # 45 windows with a reading, 8 s each: nothing was added for the ones without.
    assert gpu["active_seconds"].max() == pytest.approx(8.0 * (6 * MINUTES - 14))
    assert gpu["observed_seconds"].max() == pytest.approx(10.0 * (6 * MINUTES - 14))


@pytest.mark.parametrize(
    ("labels", "host", "job", "gpu"),
    [
        ({"Hostname": "n1"}, "n1", None, "GPU-1"),
        ({"hostname": "n1", "hpc_job": "42"}, "n1", "slurm:42", "GPU-1"),
        ({"Hostname": "", "instance": "n1:9400", "exported_hpc_job": "7"}, "n1", "slurm:7", "GPU-1"),
        ({"Hostname": "", "node": "n1", "namespace": "a", "pod": "b"}, "n1", "kubernetes:a/b", "GPU-1"),
        (
            {
                "Hostname": "nvidia-dcgm-exporter-x7x2k",
                "node": "n1",
                "namespace": "monitoring",
                "pod": "nvidia-dcgm-exporter-x7x2k",
            },
            "n1",
            None,
            "GPU-1",
        ),
        (
            {"exported_namespace": "a", "exported_pod": "b", "namespace": "mon", "pod": "dcgm-exporter-1"},
            "n1",
            "kubernetes:a/b",
            "GPU-1",
        ),
        ({"GPU_I_ID": "3", "GPU_I_PROFILE": "1g.10gb"}, "n1", None, "MIG-GPU-1/3"),
        ({"Hostname": "", "instance": "[::1]:9400"}, "[::1]", None, "GPU-1"),
    ],
)
def test_label_habits(labels: dict[str, str], host: str, job: str | None, gpu: str, tmp_path: Path) -> None:
    held = Held({"DCGM_FI_PROF_SM_ACTIVE": [dcgm(gauge(0.5), **labels)]})
    found = tables(held, tmp_path / "a").tables["gpu"].collect()
    assert found.select("host", "job", "gpu").unique().rows() == [(host, job, gpu)]


def test_a_slice_of_a_gpu_is_not_told_the_energy_of_the_whole(tmp_path: Path) -> None:
    slices = [dcgm(gauge(300), GPU_I_ID=str(n)) for n in range(7)]
    held = Held(
        {"DCGM_FI_DEV_POWER_USAGE": slices, "DCGM_FI_PROF_SM_ACTIVE": [dcgm(gauge(0.5), GPU_I_ID="1")]}
    )
    gpu = tables(held, tmp_path / "a").tables["gpu"].collect()
    assert gpu["gpu"].n_unique() == 7
    assert gpu["energy_joules"].null_count() == gpu.height
    assert set(gpu["parent"]) == {"GPU-1"}


def test_a_large_energy_counter_is_no_blank(tmp_path: Path) -> None:
    held = Held({"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": [dcgm(counter(700e3, start=6e13))]})
    gpu = tables(held, tmp_path / "a").tables["gpu"].collect().sort("ts")
    assert gpu["energy_joules"].diff().drop_nulls().to_list() == pytest.approx([7000.0] * (6 * MINUTES - 1))


def test_the_smi_exporter_is_read(tmp_path: Path) -> None:
    uuid = "df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"
    held = Held(
        {
            "nvidia_smi_utilization_gpu_ratio": [own(gauge(0.75), uuid=uuid)],
            "nvidia_smi_gpu_info": [own(gauge(1), uuid=uuid, name="NVIDIA A100")],
            "nvidia_smi_clocks_event_reasons_active": [own(gauge(0x20 | 0x200), uuid=uuid)],
        }
    )
    gpu = tables(held, tmp_path / "a").tables["gpu"].collect().sort("ts")
    assert set(gpu["gpu"]) == {f"GPU-{uuid}"}
    assert set(gpu["model"]) == {"NVIDIA A100"}
    assert gpu["active_seconds"].diff().drop_nulls().unique().to_list() == [7.5]
    assert gpu["throttle_thermal_seconds"].diff().drop_nulls().unique().to_list() == [10.0]
    assert gpu["throttle_power_seconds"].max() == 0.0


def test_ports_of_switches_are_read_by_the_id_of_the_switch(tmp_path: Path) -> None:
    where = {"guid": "0x0000b8599f0300a1", "port": "33", "instance": "subnet-manager:9315"}
    held = Held(
        {
            "infiniband_switch_port_transmit_data_bytes_total": [own(counter(5e9), **where)],
            "infiniband_switch_port_transmit_wait_total": [own(counter(7.0), **where)],
        }
    )
    port = tables(held, tmp_path / "a").tables["port"].collect().sort("ts")
    assert port.select("host", "port", "link").unique().rows() == [("0x0000b8599f0300a1", "33", "infiniband")]
    assert port["tx_bytes"].diff().drop_nulls().unique().to_list() == [5e10]
    assert port["xmit_wait_ticks"].diff().drop_nulls().unique().to_list() == [70.0]


def test_a_change_of_the_last_xid_is_an_error(tmp_path: Path) -> None:
    def xid(at: float) -> object:
        return 0 if at - ZERO < 100 else 79 if at - ZERO < 300 else 31

    held = Held({"DCGM_FI_DEV_XID_ERRORS": [dcgm(xid)]})
    gpu = tables(held, tmp_path / "a").tables["gpu"].collect().sort("ts")
    steps = gpu.with_columns(pl.col("xid_errors").diff().alias("new")).filter(pl.col("new") > 0)
    assert (steps["ts"].dt.epoch("s") - int(ZERO)).to_list() == [100, 300]
    assert steps["xid_last"].to_list() == [79.0, 31.0]


def test_the_scrapes_own_job_label_is_no_job(tmp_path: Path) -> None:
    held = Held(
        {
            "wellfed_gpu_observed_seconds_total": [
                own(counter(1.0), gpu="GPU-1", exported_job="slurm:1"),
                own(counter(1.0), gpu="GPU-2"),
                own(counter(1.0), gpu="GPU-3", job="slurm:3"),
            ],
            "wellfed_host_load1": [own(gauge(1))],
        }
    )
    gpu = tables(held, tmp_path / "a").tables["gpu"].collect()
    assert dict(gpu.select("gpu", "job").unique().rows()) == {
        "GPU-1": "slurm:1",
        "GPU-2": None,
        "GPU-3": "slurm:3",
    }


def test_two_replicas_of_a_series_are_one_with_a_warning(tmp_path: Path) -> None:
    pair = [own(counter(0.5, start=n), gpu="GPU-1", replica=name) for n, name in ((0.0, "a"), (5.0, "b"))]
    held = Held({"wellfed_gpu_observed_seconds_total": pair})
    got = tables(held, tmp_path / "a")
    gpu = got.tables["gpu"].collect().sort("ts")
    assert gpu.height == 6 * MINUTES
    assert gpu["observed_seconds"].diff().drop_nulls().unique().to_list() == [5.0]
    assert [text for text in got.warnings if text.startswith("two sources tell of gpu n1/GPU-1")]
    narrowed = tables(held, tmp_path / "b", selector='replica="a"')
    assert any('{replica="a"}' in text for text in held.asked)
    assert narrowed.tables["gpu"].collect().height == 6 * MINUTES


def test_two_exporters_for_one_host_do_not_count_twice(tmp_path: Path) -> None:
    held = Held(
        {
            "wellfed_host_load1": [own(gauge(1.0))],
            "wellfed_host_net_rx_bytes_total": [own(counter(100.0))],
            "node_load1": [own(gauge(2.0), instance="n1:9100"), own(gauge(3.0), instance="n2:9100")],
            "node_network_receive_bytes_total": [own(counter(900.0), instance="n1:9100", device="eth0")],
        }
    )
    got = tables(held, tmp_path / "a")
    host = got.tables["host"].collect()
    assert dict(host.group_by("host").agg(pl.col("load1").unique().first()).rows()) == {"n1": 1.0, "n2": 3.0}
    assert host.height == 2 * 6 * MINUTES
    assert [text for text in got.warnings if text.startswith("host of some hosts is told by node_exporter")]


def test_a_gpu_that_two_hosts_report_belongs_to_the_one_that_is_a_host(tmp_path: Path) -> None:
    held = Held(
        {
            "DCGM_FI_PROF_SM_ACTIVE": [dcgm(gauge(0.5)), dcgm(gauge(0.5), Hostname="container-7")],
            "node_load1": [own(gauge(2.0), instance="n1:9100")],
        }
    )
    got = tables(held, tmp_path / "a")
    assert set(got.tables["gpu"].collect()["host"]) == {"n1"}
    assert any("two hosts report GPU-1" in text for text in got.warnings)


def test_a_series_that_names_nothing_is_left_out_and_told(tmp_path: Path) -> None:
    held = Held({"DCGM_FI_PROF_SM_ACTIVE": [dcgm(gauge(0.5)), dcgm(gauge(0.5), UUID="")]})
    got = tables(held, tmp_path / "a")
    assert got.tables["gpu"].collect().height == 6 * MINUTES
    assert any("labels name no host or key" in text for text in got.warnings)


def test_what_is_missing_is_told_with_what_it_costs(tmp_path: Path) -> None:
    held = Held({"DCGM_FI_DEV_GPU_UTIL": [dcgm(gauge(50))]})
    warnings = "\n".join(tables(held, tmp_path / "a").warnings)
    for cause in ("straggler", "throttle.*", "pcie.copy", "storage.read", "storage.remote", "cpu.quota"):
        assert cause in warnings
    assert "lower fidelity: active_seconds, idle_seconds, observed_seconds of gpu" in warnings


def test_every_pattern_of_the_names_is_one_that_promql_takes() -> None:
    every = {name.metric for group in GROUPS for name in group.names}
    texts = {query.text for query in plan(every, 10.0, 'cluster="a"')}
    assert len(texts) > 60
    assert all('cluster="a"' in text and "[9999ms]" in text for text in texts)
    assert not any("(?!" in text for text in texts)


# --- anything at all


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([200, 400, 422, 500, 503]))
def test_no_bytes_are_mistaken_for_an_answer(body: bytes, status: int) -> None:
    with pytest.raises((UserError, RefusedError)):
        answering(body, status).range("x", 0, 10, 10)


LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(-(2**70), 2**70)
TREES = st.recursive(
    LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=3), t, max_size=3)
)
SERIES = st.fixed_dictionaries(
    {"metric": st.dictionaries(st.text(max_size=3), LEAVES, max_size=3) | TREES, "values": TREES}
)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {"resultType": st.just("matrix") | TREES, "result": st.lists(SERIES, max_size=3) | TREES}
    )
    | TREES
)
def test_no_json_is_mistaken_for_series(data: object) -> None:
    body = json.dumps({"status": "success", "data": data}).encode()
    try:
        found = answering(body).range("x", 0, 10, 10)
    except (UserError, RefusedError):
        return
    for one in found:
        assert len(one.times) == len(one.values)
        assert not any(math.isinf(value) for value in one.values)


NAMES = [
    "UUID",
    "gpu",
    "Hostname",
    "hostname",
    "instance",
    "node",
    "job",
    "exported_job",
    "device",
    "nodename",
]
NAMES += ["port", "export", "mountaddr", "GPU_I_ID", "pod", "namespace", "hpc_job", "mount", "uuid", "rank"]
LABELS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["a", "b", "c.d", "", "n:1"]), max_size=8)
METRICS = sorted({name.metric for group in GROUPS for name in group.names} | {UNAME})
METRICS += [table.metric(column) for table in TABLES.values() for column in table.signals]
WINDOWS = 4
VALUES = st.floats(allow_nan=True, allow_infinity=False) | st.sampled_from([0.0, 79.0, BLANK, 1e300, -5.0])
POINTS = st.dictionaries(st.integers(-1, WINDOWS), VALUES, max_size=6)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(METRICS), st.lists(st.tuples(LABELS, POINTS), max_size=3), max_size=6))
def test_any_series_become_rows_that_keep_the_contract(
    held: dict[str, list[tuple[dict[str, str], dict[int, float]]]],
) -> None:
    carry, owners = Carry(), Owners()
    for turn in range(2):
        grid = Grid(1000.0 + 10 * WINDOWS * turn, 10.0, WINDOWS)
        answers = []
        for query in plan(held, 10.0):
            metric = next(metric for metric in held if metric in query.text)
            series = [
                Series(
                    labels,
                    [grid.first + 10 * at for at in sorted(points)],
                    [points[at] for at in sorted(points)],
                )
                for labels, points in held[metric]
            ]
            answers.append(Answer(query, series))
        for name, frame in united(rows(answers, grid, carry), owners).items():
            table = TABLES[name]
            assert frame.schema == schema(table)
            keys = ["ts", "host", *(k for k in table.keys if k != "host")]
            assert frame.select(pl.struct(keys).is_unique().all()).item()
            assert (
                frame["ts"]
                .dt.epoch("ms")
                .is_between(grid.first * 1000, grid.first * 1000 + 10_000 * (WINDOWS - 1))
                .all()
            )
            numbers = frame.select(pl.selectors.float())
            assert not numbers.select(pl.any_horizontal(pl.all().is_nan().any())).item()
            if "host" in table.keys:
                assert frame["host"].null_count() == 0
    assert OWN not in owners.homes
