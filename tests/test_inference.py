"""Inference servers: what is read of each engine's page, old names and new, and how servers are found."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from exporters import exporter
from hypothesis import given
from hypothesis import strategies as st
from programs import free_port

from wellfed.collectors.catalog import TABLES
from wellfed.collectors.endpoints import Endpoints
from wellfed.collectors.fetch import target
from wellfed.collectors.inference import Inference, parse
from wellfed.collectors.inference_names import SERVERS
from wellfed.collectors.listeners import gpus_behind, listening
from wellfed.collectors.registry import Roots, Row

VLLM_NEW = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llama"} 3.0
vllm:num_requests_running{engine="1",model_name="llama"} 4.0
vllm:num_requests_waiting{engine="0",model_name="llama"} 1.0
vllm:num_requests_waiting{engine="1",model_name="llama"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="llama"} 0.95
vllm:num_preemptions_total{engine="0",model_name="llama"} 2.0
vllm:num_preemptions_created{engine="0",model_name="llama"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="llama"} 1000.0
vllm:generation_tokens_total{engine="0",model_name="llama"} 500.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="llama"} 7.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="llama"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="llama"} 0.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="llama"} 9.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="llama"} 1.5
vllm:inter_token_latency_seconds_count{engine="0",model_name="llama"} 491.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="llama"} 9.5
vllm:time_per_output_token_seconds_count{engine="0",model_name="llama"} 1.0
vllm:time_per_output_token_seconds_sum{engine="0",model_name="llama"} 1.0
vllm:request_queue_time_seconds_count{engine="0",model_name="llama"} 9.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="llama"} 0.5
"""
VLLM_VALUES = {
    "running": 7.0,
    "waiting": 1.0,
    "kv_usage": 0.95,
    "preemptions": 2.0,
    "prompt_tokens": 1000.0,
    "generation_tokens": 500.0,
    "requests": 9.0,
    "ttft_seconds": 1.5,
    "ttft_count": 9.0,
    "itl_seconds": 9.5,
    "itl_count": 491.0,
    "queue_seconds": 0.5,
    "queue_count": 9.0,
}
VLLM_OLD = b"""\
vllm:num_requests_running{model_name="llama"} 2
vllm:gpu_cache_usage_perc{model_name="llama"} 0.5
vllm:cpu_cache_usage_perc{model_name="llama"} 0.9
vllm:time_per_output_token_seconds_sum{model_name="llama"} 3
vllm:time_per_output_token_seconds_count{model_name="llama"} 60
vllm:time_in_queue_requests_sum{model_name="llama"} 4
vllm:time_in_queue_requests_count{model_name="llama"} 8
"""
SGLANG = b"""\
sglang:num_running_reqs{engine_type="unified",model_name="qwen",pp_rank="0",tp_rank="0"} 5.0
sglang:num_running_reqs{engine_type="unified",model_name="qwen",pp_rank="0",tp_rank="1"} 5.0
sglang:num_queue_reqs{model_name="qwen",tp_rank="0"} 2.0
sglang:token_usage{model_name="qwen",tp_rank="0"} 0.28
sglang:num_requests_total{model_name="qwen"} 12.0
sglang:prompt_tokens_total{model_name="qwen"} 8.128902e+06
sglang:generation_tokens_total{model_name="qwen"} 7.557572e+06
sglang:time_to_first_token_seconds_sum{model_name="qwen"} 2.5
sglang:time_to_first_token_seconds_count{model_name="qwen"} 10
sglang:inter_token_latency_seconds_sum{model_name="qwen"} 20
sglang:inter_token_latency_seconds_count{model_name="qwen"} 1000
sglang:queue_time_seconds_sum{model_name="qwen",tp_rank="0"} 3
sglang:queue_time_seconds_count{model_name="qwen",tp_rank="0"} 10
"""
TRITON = b"""\
nv_inference_request_success{gpu_uuid="GPU-1",model="bert",version="1"} 30
nv_inference_request_success{gpu_uuid="GPU-2",model="bert",version="1"} 10
nv_inference_queue_duration_us{gpu_uuid="GPU-1",model="bert",version="1"} 2500000
nv_inference_pending_request_count{model="bert",version="1"} 3
nv_inference_request_success{model="tensorrt_llm",version="1"} 5
nv_inference_first_response_histogram_ms_sum{model="tensorrt_llm",version="1"} 1500
nv_inference_first_response_histogram_ms_count{model="tensorrt_llm",version="1"} 5
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 9
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.5
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 100
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.4
"""
TGI = b"""\
tgi_batch_current_size 6
tgi_queue_size 2
tgi_request_success{method="single"} 100
tgi_request_input_length_sum 5000
tgi_request_input_length_count 100
tgi_request_generated_tokens_sum 9000
tgi_request_queue_duration_sum 1.5
tgi_request_queue_duration_count 100
tgi_request_mean_time_per_token_duration_sum 2.5
tgi_request_mean_time_per_token_duration_count 100
"""
RAY = b"""\
ray_serve_deployment_request_counter_total{application="app1",deployment="f",replica="a",route="/f"} 4
ray_serve_deployment_request_counter_total{application="app1",deployment="f",replica="b",route="/f"} 6
ray_serve_deployment_queued_queries{application="app1",deployment="f",handle="h"} 3
ray_serve_replica_processing_queries{application="app1",deployment="f",replica="a"} 2
ray_serve_replica_processing_queries{application="app2",deployment="g",replica="c"} 1
ray_vllm_num_requests_running{model_name="llama",WorkerId="w"} 5
ray_vllm_kv_cache_usage_perc{model_name="llama",WorkerId="w"} 0.5
"""


def by_key(rows: list[Row]) -> dict[str, Row]:
    return {row.key[0]: row for row in rows}


def test_vllm_sums_its_engines_and_takes_the_fullest_cache() -> None:
    (row,) = parse(VLLM_NEW, "127.0.0.1:8000")
    assert row.key == ("127.0.0.1:8000",)
    assert row.info == {"engine": "vllm", "model": "llama"}
    assert row.values == VLLM_VALUES


def test_vllm_by_its_old_names() -> None:
    (row,) = parse(VLLM_OLD, "h:1")
    assert row.values == {
        "running": 2.0,
        "kv_usage": 0.5,
        "itl_seconds": 3.0,
        "itl_count": 60.0,
        "queue_seconds": 4.0,
        "queue_count": 8.0,
    }


def test_sglang_counts_a_tensor_parallel_group_once() -> None:
    (row,) = parse(SGLANG, "h:30000")
    assert row.info == {"engine": "sglang", "model": "qwen"}
    assert row.values["running"] == 5.0
    assert row.values["prompt_tokens"] == 8128902.0
    old = SGLANG.replace(b"inter_token_latency", b"time_per_output_token")
    assert parse(old, "h:30000")[0].values == row.values


def test_triton_has_a_row_for_each_model_and_knows_its_gpus() -> None:
    rows = by_key(parse(TRITON, "h:8002"))
    assert rows.keys() == {"h:8002/bert", "h:8002/tensorrt_llm"}
    bert, llm = rows["h:8002/bert"], rows["h:8002/tensorrt_llm"]
    assert bert.info == {"engine": "triton", "model": "bert", "gpu": "GPU-1,GPU-2"}
    assert bert.values == {"requests": 40.0, "queue_count": 40.0, "queue_seconds": 2.5, "waiting": 3.0}
    assert llm.values["waiting"] == 2.0
    assert (llm.values["running"], llm.values["max_running"], llm.values["kv_usage"]) == (4.0, 64.0, 0.5)
    assert (llm.values["ttft_seconds"], llm.values["ttft_count"]) == (1.5, 5.0)


def test_tgi_has_no_labels_and_its_histograms_are_sums() -> None:
    (row,) = parse(TGI, "h:3000")
    assert row.info == {"engine": "tgi"}
    assert row.values == {
        "running": 6.0,
        "waiting": 2.0,
        "requests": 100.0,
        "prompt_tokens": 5000.0,
        "generation_tokens": 9000.0,
        "queue_seconds": 1.5,
        "queue_count": 100.0,
        "itl_seconds": 2.5,
        "itl_count": 100.0,
    }


def test_ray_serve_has_a_row_for_each_deployment_and_for_the_vllm_inside() -> None:
    rows = by_key(parse(RAY, "h:8080"))
    assert rows.keys() == {"h:8080/app1/f", "h:8080/app2/g", "h:8080/llama"}
    assert rows["h:8080/app1/f"].values == {"requests": 10.0, "waiting": 3.0, "running": 2.0}
    assert rows["h:8080/llama"].info["engine"] == "vllm"
    assert rows["h:8080/llama"].values == {"running": 5.0, "kv_usage": 0.5}


def test_every_name_fills_a_column_and_every_column_is_filled_by_some_engine() -> None:
    columns = {column.name for column in TABLES["server"].signals}
    assert {name.column for group in SERVERS for name in group.names} == columns


@given(st.binary(max_size=100))
def test_hostile_bytes_are_read_or_refused(tail: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse(b'vllm:num_requests_running{model_name="a' + tail, "h:1")


def named(*urls: str) -> Roots:
    return Roots(endpoints=Endpoints(inference=tuple(target(url) for url in urls)))


def test_several_servers_are_rows_of_their_own_and_one_that_is_absent_is_named() -> None:
    gone = f"http://127.0.0.1:{free_port()}/metrics"
    with exporter(VLLM_NEW) as one, exporter(SGLANG) as two:
        collector = Inference(ports=[two.port])
        rows = by_key(collector.read(named(one.url, gone), 0.0))
        collector.close()
    assert rows.keys() == {f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}"}
    assert collector.reason == f"nothing listens at {gone}"


def test_a_server_named_and_found_on_its_usual_port_is_one() -> None:
    with exporter(VLLM_NEW) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            collector = Inference(ports=[server.port])
            assert len(collector.read(named(url), 0.0)) == 1
            collector.close()


def test_a_counter_that_starts_again_is_passed_on_as_it_is() -> None:
    with exporter(VLLM_NEW) as server:
        collector = Inference(ports=[server.port])
        collector.read(Roots(), 0.0)
        server.body = VLLM_NEW.replace(b"} 1000.0", b"} 5.0")
        (row,) = collector.read(Roots(), 10.0)
        collector.close()
    assert row.values["prompt_tokens"] == 5.0


def test_something_else_on_a_usual_port_is_left_alone_but_a_named_one_is_asked_again() -> None:
    with exporter(b"<html>hello</html>") as server:
        collector = Inference(ports=[server.port])
        for _ in range(3):
            assert collector.read(Roots(), 0.0) == []
        assert len(server.requests) == 1
        assert f"no inference server answers on ports {server.port}" in collector.reason
        assert "--inference-urls" in collector.remedy
        collector = Inference(ports=[])
        for _ in range(3):
            collector.read(named(server.url), 0.0)
        collector.close()
        assert len(server.requests) == 4
    assert collector.reason == f"{server.url} has no metrics of an inference server that is known here"


def test_a_broken_page_costs_its_own_row_alone() -> None:
    with exporter(VLLM_NEW) as good, exporter(b"vllm:num_requests_running much\n") as bad:
        collector = Inference(ports=[])
        rows = collector.read(named(good.url, bad.url), 0.0)
        assert [row.key[0] for row in rows] == [f"127.0.0.1:{good.port}"]
        assert collector.reason.startswith(f"{bad.url}: expected")
        alone = Inference(ports=[])
        with pytest.raises(ValueError, match=str(bad.port)):
            alone.read(named(bad.url), 0.0)
        alone.close()
        collector.close()


def test_the_gpus_are_those_held_by_the_process_that_listens() -> None:
    with exporter(VLLM_NEW) as server:
        roots = Roots()
        roots.board.hold("nvml", {"GPU-b": [os.getpid()], "GPU-a": [os.getpid()], "GPU-c": [1]})
        collector = Inference(ports=[server.port])
        (row,) = collector.read(roots, 0.0)
        collector.close()
    assert row.info["gpu"] == "GPU-a,GPU-b"


def test_tgis_gpus_are_those_of_the_shards_beside_its_router(tmp_path: Path) -> None:
    def process(pid: int, name: str, parent: int, *children: int, socket: str = "") -> None:
        folder = tmp_path / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / f"task/{pid}").mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} ({name}) S {parent} {' '.join('0' * 40)}\n")
        (folder / f"task/{pid}/children").write_text(" ".join(map(str, children)))
        if socket:
            (folder / "fd/3").symlink_to(f"socket:[{socket}]")

    process(10, "text-generation", 1, 11, 12)
    process(11, "text-generation", 10, socket="4711")
    process(12, "text-generation", 10, 13)
    process(13, "python3", 12)
    process(20, "bash", 1, 21, 22)
    process(21, "python3", 20)
    process(22, "router", 20, socket="4712")
    (tmp_path / "net").mkdir()
    line = "{0}: 0100007F:{1:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 {2} 1 0\n"
    (tmp_path / "net/tcp").write_text(line.format(0, 3000, 4711) + line.format(1, 3001, 4712))
    roots = Roots(str(tmp_path))
    roots.board.hold("nvml", {"GPU-a": [13], "GPU-b": [12], "GPU-c": [21]})
    assert gpus_behind(roots, target("http://127.0.0.1:3000")) == ["GPU-a", "GPU-b"]
    # Beside each other below anything else is not enough.
    assert gpus_behind(roots, target("http://127.0.0.1:3001")) == []


def test_a_listening_socket_is_found_in_the_kernels_table(tmp_path: Path) -> None:
    head = (
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    listen = b"   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100\n"
    other = listen.replace(b" 0A ", b" 01 ").replace(b"4711", b"4712")
    assert listening(head + listen + other + b"garbage\n", 8000) == {"4711"}
    assert listening(head + listen, 8001) == set()
