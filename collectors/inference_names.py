"""What inference servers call our columns, by engine; old and new spellings.

Plain data. Sources: the engines' own metrics pages: vLLM "Production metrics" (kv_cache_usage_perc was
gpu_cache_usage_perc, inter_token_latency was time_per_output_token, the queue's was time_in_queue_requests),
SGLang "Production metrics", Triton "Metrics" and its TensorRT-LLM backend, TGI "Metrics", Ray Serve
"Monitoring".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wellfed.collectors.names import Group, Name

__all__ = ["SERVERS"]

#: How Ray exports the metrics of a vLLM that runs inside it.
_VLLM_PREFIXES = ("vllm:", "ray_vllm:", "ray_vllm_")


_Where = Mapping[str, str]
_ANY: _Where = {}


def _counter(metric: str, column: str, factor: float = 1.0, rank: int = 0, where: _Where = _ANY) -> Name:
    return Name(metric, column, "counter", factor, where=where, rank=rank)


def _gauge(metric: str, column: str, rank: int = 0, where: _Where = _ANY) -> Name:
    return Name(metric, column, "gauge", where=where, rank=rank)


def _histogram(
    metric: str, column: str, factor: float = 1.0, rank: int = 0, where: _Where = _ANY
) -> Iterable[Name]:
    yield _counter(f"{metric}_sum", f"{column}_seconds", factor, rank, where)
    yield _counter(f"{metric}_count", f"{column}_count", 1.0, rank, where)


def _vllm(prefix: str) -> Iterable[Name]:
    yield _gauge(f"{prefix}num_requests_running", "running")
    yield _gauge(f"{prefix}num_requests_waiting", "waiting")
    yield _gauge(f"{prefix}kv_cache_usage_perc", "kv_usage")
    yield _gauge(f"{prefix}gpu_cache_usage_perc", "kv_usage", rank=1)
    yield _counter(f"{prefix}request_success_total", "requests")
    yield _counter(f"{prefix}prompt_tokens_total", "prompt_tokens")
    yield _counter(f"{prefix}generation_tokens_total", "generation_tokens")
    yield _counter(f"{prefix}num_preemptions_total", "preemptions")
    yield from _histogram(f"{prefix}request_queue_time_seconds", "queue")
    yield from _histogram(f"{prefix}time_in_queue_requests", "queue", rank=1)
    yield from _histogram(f"{prefix}time_to_first_token_seconds", "ttft")
    yield from _histogram(f"{prefix}inter_token_latency_seconds", "itl")
    yield from _histogram(f"{prefix}time_per_output_token_seconds", "itl", rank=1)


def _sglang() -> Iterable[Name]:
    # With --enable-metrics-for-all-schedulers every rank of a tensor-parallel group tells the same.
    first = {"tp_rank": "0?"}
    yield _gauge("sglang:num_running_reqs", "running", where=first)
    yield _gauge("sglang:num_queue_reqs", "waiting", where=first)
    yield _gauge("sglang:token_usage", "kv_usage", where=first)
    yield _counter("sglang:num_requests_total", "requests")
    yield _counter("sglang:prompt_tokens_total", "prompt_tokens")
    yield _counter("sglang:generation_tokens_total", "generation_tokens")
    yield from _histogram("sglang:queue_time_seconds", "queue", where=first)
    yield from _histogram("sglang:time_to_first_token_seconds", "ttft")
    yield from _histogram("sglang:inter_token_latency_seconds", "itl")
    yield from _histogram("sglang:time_per_output_token_seconds", "itl", rank=1)


def _triton() -> Iterable[Name]:
    requests = "nv_trt_llm_request_metrics"
    yield _gauge(requests, "running", where={"request_type": "scheduled"})
    yield _gauge(requests, "waiting", where={"request_type": "waiting"})
    yield _gauge(requests, "max_running", where={"request_type": "max"})
    yield _gauge("nv_inference_pending_request_count", "waiting", rank=1)
    yield _gauge("nv_trt_llm_kv_cache_block_metrics", "kv_usage", where={"kv_cache_block_type": "fraction"})
    yield _counter("nv_inference_request_success", "requests")
    yield _counter("nv_inference_queue_duration_us", "queue_seconds", 1e-6)
    yield _counter("nv_inference_request_success", "queue_count")
    yield from _histogram("nv_inference_first_response_histogram_ms", "ttft", 1e-3)


def _tgi() -> Iterable[Name]:
    yield _gauge("tgi_batch_current_size", "running")
    yield _gauge("tgi_queue_size", "waiting")
    yield _counter("tgi_request_success", "requests")
    yield _counter("tgi_request_success_total", "requests", rank=1)
    yield _counter("tgi_request_input_length_sum", "prompt_tokens")
    yield _counter("tgi_request_generated_tokens_sum", "generation_tokens")
    yield from _histogram("tgi_request_queue_duration", "queue")
    # Means of requests, summed over them: the ratio of both columns is right, the count is of requests.
    yield from _histogram("tgi_request_mean_time_per_token_duration", "itl")


def _ray() -> Iterable[Name]:
    yield _gauge("ray_serve_replica_processing_queries", "running")
    yield _gauge("ray_serve_deployment_queued_queries", "waiting")
    yield _counter("ray_serve_deployment_request_counter_total", "requests")
    yield _counter("ray_serve_deployment_request_counter", "requests", rank=1)


#: One group an engine. `model` of labels: one row for each of its values; `gpu`: where its requests run.
SERVERS: tuple[Group, ...] = (
    Group("vllm", "server", {"model": ("model_name",)}, tuple(n for p in _VLLM_PREFIXES for n in _vllm(p))),
    Group("sglang", "server", {"model": ("model_name",)}, tuple(_sglang())),
    Group("triton", "server", {"model": ("model",), "gpu": ("gpu_uuid",)}, tuple(_triton())),
    Group("tgi", "server", {}, tuple(_tgi())),
    Group("ray_serve", "server", {"model": ("application", "deployment")}, tuple(_ray())),
)
