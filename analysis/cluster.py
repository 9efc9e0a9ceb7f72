"""The segments of a lake on one process, on Ray or on Dask: the same partials, in whatever order they come.

A task whose worker dies is started again elsewhere, since a segment depends on nothing but its files. At
most two tasks a CPU are under way, so that results do not pile up. Each worker computes on one thread: the
cores are shared out among tasks (Dask's workers are told so by whoever starts them). Workers of a remote
cluster need this wellfed with its `ray` or `dask` extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from wellfed.analysis.history import Partial, Segment, map_segment
from wellfed.errors import UserError

__all__ = ["run"]

#: Times that a task is tried again after its worker died.
RETRIES = 5
#: What the addresses of Dask's schedulers begin with.
_DASK = ("tcp://", "tls://")


def run(segments: Sequence[Segment], cluster: str | None = None) -> Iterator[Partial]:
    """A partial for each segment, as they become ready.

    cluster: None for this process; `local` for a Ray on this machine's cores; else a Ray address such as
    `ray://head:10001` or `auto`; or that of a Dask scheduler, `tcp://head:8786` or `tls://`. Raises UserError
    when there is no such cluster or a segment cannot be read.
    """
    if cluster is None:
        return map(map_segment, segments)
    return _on_dask(segments, cluster) if cluster.startswith(_DASK) else _on_ray(segments, cluster)


def _on_ray(segments: Sequence[Segment], cluster: str) -> Iterator[Partial]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("--cluster needs ray: pip install 'wellfed[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(cluster)
    try:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(map_segment)
        left = iter(segments)
        width = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        waiting = {task.remote(segment) for segment in islice(left, width)}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            waiting.discard(ready)
            waiting |= {task.remote(segment) for segment in islice(left, 1)}
            try:
                yield ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from error
    finally:
        if ours:
            ray.shutdown()


def _connect(cluster: str) -> None:
    import ray

    environment = {"env_vars": {"POLARS_MAX_THREADS": "1"}}
    try:
        ray.init(
            address=None if cluster == "local" else cluster,
            include_dashboard=False if cluster == "local" else None,
            runtime_env=environment,
            logging_level="ERROR",
            log_to_driver=False,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"no Ray cluster at {cluster}: {(str(error).splitlines() or [''])[0]}") from error


def _on_dask(segments: Sequence[Segment], cluster: str) -> Iterator[Partial]:
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError as error:
        raise UserError("--cluster needs dask: pip install 'wellfed[dask]'") from error
    try:
        client = Client(cluster, timeout=5)
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask scheduler at {cluster}: {(str(error).splitlines() or [''])[0]}") from error
    with client:
        left = iter(segments)
        width = max(2, 2 * sum(client.nthreads().values()))

        def begin(count: int) -> list[Any]:
            return [client.submit(map_segment, s, pure=False, retries=RETRIES) for s in islice(left, count)]

        running = as_completed(begin(width))
        for future in running:
            for another in begin(1):
                running.add(another)
            yield future.result()
            future.release()
