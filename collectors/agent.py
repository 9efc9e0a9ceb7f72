"""`wellfed agent`: wires the collectors to the sampler and the sampler to /metrics.

Needs no privilege; what a missing one costs is what `wellfed doctor` says. Imports neither Polars nor Dash.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from wellfed import __version__
from wellfed.collectors import heap, registry
from wellfed.collectors.destination import destination, interval, resource
from wellfed.collectors.exposition import OPENMETRICS, TEXT, Family, wants_openmetrics
from wellfed.collectors.http import Endpoint, Request, Response
from wellfed.collectors.page import Names, Page, host_name, roots_of, textfile
from wellfed.collectors.registry import Collector
from wellfed.collectors.sampler import Sampler, Window
from wellfed.collectors.selfcost import Marker, families, profile
from wellfed.collectors.spool import Spool
from wellfed.errors import UserError

if TYPE_CHECKING:
    # Protobuf costs 15 MiB; an agent that only serves /metrics does without.
    from wellfed.collectors.publisher import Publisher

#: Seconds that --self-profile watches.
PROFILED = 10.0

__all__ = ["agent", "choose", "host_name", "metrics", "otlp", "roots_of"]


def agent(options: Mapping[str, object]) -> int:
    """Runs until SIGTERM or SIGINT, or once with --once. Returns the exit status."""
    collectors = choose(options.get("collectors"))
    roots = roots_of(options)
    if options.get("once"):
        sampler = Sampler(collectors, roots)
        rows = sampler.read_once().rows
        sys.stdout.buffer.write(Page(options, openmetrics=False).render(rows, families(())))
        sys.stdout.flush()
        sampler.stop(timeout=0)
        return 0
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.get("self_profile"):
        sampler = Sampler(collectors, roots)
        sampler.start()
        profile(sampler.slots, stop, PROFILED)
        sampler.stop()
        return 0
    heap.keep()
    publisher = otlp(options)
    marker = Marker(str(options.get("spool") or ""))
    window = interval(os.environ)
    outputs: list[Callable[[Window], None]] = [publisher.publish] if publisher else []
    if options.get("textfile"):
        outputs.append(textfile(str(options["textfile"]), options))
    sampler = Sampler(collectors, roots, window, on_window=partial(_each, outputs) if outputs else None)
    endpoint = metrics(sampler, options, publisher, marker)
    sampler.start()
    endpoint.start()
    if publisher:
        publisher.start()
        print(f"wellfed agent: OTLP to {publisher.url}", file=sys.stderr)
    print(f"wellfed agent: http://{options['metrics_address']}/metrics", file=sys.stderr, flush=True)
    stop.wait()
    endpoint.close()
    sampler.stop()
    if publisher:
        publisher.close()
    marker.close()
    return 0


def _each(outputs: Sequence[Callable[[Window], None]], window: Window) -> None:
    for output in outputs:
        output(window)


def choose(names: object) -> list[Collector]:
    """The collectors of a comma-separated list, or all of them. Raises UserError for an unknown name."""
    known = registry.load()
    wanted = [name.strip() for name in str(names).split(",") if name.strip()] if names else list(known)
    for name in wanted:
        if name not in known:
            raise UserError(f"no collector is called {name!r}; there are {', '.join(known)}")
    return [known[name]() for name in dict.fromkeys(wanted)]


def metrics(
    sampler: Sampler,
    options: Mapping[str, object],
    publisher: Publisher | None = None,
    marker: Marker | None = None,
    more: Callable[[], Sequence[Family]] = tuple,
) -> Endpoint:
    """The agent's HTTP endpoint: /metrics (text or OpenMetrics, as the client asks) and health pages.

    more: what else is on /metrics.
    """
    formats = {openmetrics: Page(options, openmetrics) for openmetrics in (False, True)}

    def scrape(request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        own = families(sampler.slots, marker) + (publisher.families() if publisher else [])
        body = formats[openmetrics].render(sampler.snapshot(time.time()).rows, [*own, *more()])
        return Response(body, OPENMETRICS if openmetrics else TEXT)

    def ready(_: Request) -> Response:
        done = all(slot.read_at for slot in sampler.slots)
        return Response(b"ready\n") if done else Response(b"first reads under way\n", status=503)

    web = None
    if options.get("web_config"):
        from wellfed.collectors.web import Web

        web = Web(str(options["web_config"]))
    # An agent that pushes may never be scraped, and pages take memory.
    formats_asked = () if publisher else (OPENMETRICS, TEXT)
    return Endpoint(
        str(options["metrics_address"]),
        {
            "/": lambda _: Response(b'<a href="/metrics">metrics</a>\n', "text/html; charset=utf-8"),
            "/metrics": scrape,
            "/-/healthy": lambda _: Response(b"healthy\n"),
            "/-/ready": ready,
        },
        web,
        [Request("/metrics", {"accept": kind, "accept-encoding": "gzip"}) for kind in formats_asked],
    )


def otlp(options: Mapping[str, object]) -> Publisher | None:
    """What sends windows by OTLP, or None without an endpoint. Raises UserError."""
    endpoint = options.get("otlp_endpoint")
    to = destination(str(endpoint) if endpoint else None, os.environ)
    if to is None:
        return None
    from wellfed.collectors.publisher import Publisher

    size, age = options["spool_bytes"], options["spool_hours"]
    assert isinstance(size, int)
    assert isinstance(age, float)
    folder = options.get("spool")
    spool = Spool(str(folder) if folder else None, size, age * 3600)
    who = resource(host_name(options), __version__, os.environ)
    return Publisher(to, spool, who, Names(options).points)
