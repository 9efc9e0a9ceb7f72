"""`wellfed hub`: takes OTLP or reads a Prometheus, judges every window, serves pages and verdicts.

One process: OTLP on one thread, the receiver's writer on another, the live verdict and the store's upkeep on
two more, the dashboard on the main thread.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import polars as pl

from wellfed.analysis.live import Live, settled
from wellfed.analysis.receiver import Limits, Receiver
from wellfed.analysis.sealed_verdicts import Latecomers
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.background import Background
from wellfed.collectors.exposition import Family
from wellfed.collectors.http import Endpoint, Request, Response, parse_address
from wellfed.collectors.web import Web, read_web_config
from wellfed.errors import UserError, bare
from wellfed.ingest import Ingest, Token
from wellfed.options import DEFAULT_DATA
from wellfed.otlp_server import OtlpServer, Tls
from wellfed.polled import poll
from wellfed.prices import Prices
from wellfed.serve import bind, doorway, prepare, wiring
from wellfed.source import reader
from wellfed.verdicts import hub_families, scrape, verdicts

__all__ = ["hub", "judge", "keep"]

log = logging.getLogger("wellfed.hub")

#: Seconds between two looks at what can be sealed or removed, and at whether a window is complete.
KEEP_INTERVAL = 60.0
LOOK_INTERVAL = 1.0
#: Hosts that sent in this time before a restart are known after it.
KNOWN = timedelta(hours=1)


def hub(options: Mapping[str, object]) -> int:
    """Runs until Ctrl-C or SIGTERM. Raises UserError for a taken port or store, or an open door."""
    otlp, grpc = str(options["otlp_address"]), str(options["otlp_grpc_address"] or "")
    token = _token(options.get("token_file"), otlp, grpc)
    web = Web(str(options["web_config"])) if options.get("web_config") else None
    topology = wiring(options)
    with ExitStack() as stack:
        store = stack.enter_context(Store(str(options.get("data") or DEFAULT_DATA)))
        pages = stack.enter_context(bind(str(options["address"])))
        access = doorway(options, pages)
        listener = stack.enter_context(bind(otlp))
        price, days, size = options.get("price"), options["retention_days"], options["retention_bytes"]
        assert price is None or isinstance(price, Prices)
        assert isinstance(days, float)
        assert isinstance(size, int)
        receiver = Receiver(store, Limits(late=min(Limits().late, days * 86_400)))
        stack.callback(receiver.close)
        receiver.remember(_hosts(store))
        live = Live(store, Streaming(store, price))
        server = OtlpServer(Ingest(receiver, token), listener, _with_grpc(grpc), _tls(web, options))
        served = threading.Event()
        run = prepare(
            pages,
            store,
            access,
            price=price,
            version=lambda: live.updates,
            refused=lambda: dict(receiver.rejected),
            topology=topology,
            ready=served.set,
        )
        endpoint = _metrics(
            str(options["metrics_address"]),
            web,
            lambda: [*verdicts(live), *hub_families(receiver)],
            lambda: served.is_set() and server.serving,
        )
        stack.callback(endpoint.close)
        server.start()
        stack.callback(server.close)
        endpoint.start()
        stack.enter_context(Background("wellfed-keeper", partial(keep, store, timedelta(days=days), size)))
        stack.enter_context(Background("wellfed-live", partial(judge, live)))
        if options.get("prometheus"):
            work = partial(poll, reader(options), store, receiver)
            stack.enter_context(Background("wellfed-prometheus", work))
            print(f"wellfed: reading   {bare(str(options['prometheus']))}", file=sys.stderr)
        scheme = "https" if web is not None and web.context else "http"
        print(f"wellfed: OTLP      {scheme}://{_shown(listener)}/v1/metrics", file=sys.stderr)
        print(f"wellfed: /metrics  {scheme}://{options['metrics_address']}/metrics", file=sys.stderr)
        print(f"wellfed: store     {store.path}", file=sys.stderr)
        run()
    return 0


def keep(store: Store, age: timedelta, size: int, stop: threading.Event) -> None:
    """Seals finished hours, judges those that were not, and applies retention until told to stop."""
    latecomers = Latecomers(store)
    while not stop.wait(KEEP_INTERVAL):
        try:
            store.seal()
            store.retain(age=age, size=size)
            latecomers.judge(datetime.now(UTC))
        except OSError as error:
            log.warning("the store could not be tidied: %s", error)


def judge(live: Live, stop: threading.Event) -> None:
    """Judges each window once it has had time to arrive, until told to stop."""
    done: datetime | None = None
    while not stop.wait(LOOK_INTERVAL):
        until = settled(datetime.now(UTC))
        if until == done:
            continue
        try:
            live.update(until)
        except OSError as error:
            log.warning("a window was not judged: %s", error)
        except Exception:
            # The next window is judged with what this one left.
            log.exception("a window was not judged")
        done = until


def _metrics(
    address: str, web: Web | None, families: Callable[[], Sequence[Family]], ready: Callable[[], bool]
) -> Endpoint:
    def readiness(_: Request) -> Response:
        return Response(b"ready\n") if ready() else Response(b"starting\n", status=503)

    return Endpoint(
        address,
        {
            "/": lambda _: Response(b'<a href="/metrics">metrics</a>\n', "text/html; charset=utf-8"),
            "/metrics": scrape(families),
            "/-/healthy": lambda _: Response(b"healthy\n"),
            "/-/ready": readiness,
        },
        web,
    )


def _hosts(store: Store) -> dict[str, float]:
    """Hosts in the store with the epoch of their last window, as far as they sent lately."""
    rows = store.scan("host", datetime.now(UTC) - KNOWN).group_by("host").agg(pl.col("ts").max())
    return {host: ts.timestamp() for host, ts in rows.collect(engine="streaming").iter_rows() if host}


def _token(path: object, *addresses: str) -> Token | None:
    """The senders' token. Raises UserError when anybody could write from elsewhere without one."""
    if path:
        return Token(str(path))
    for address in filter(None, addresses):
        host, _ = parse_address(address)
        if not _is_loopback(host):
            raise UserError(
                f"{address} is not loopback: senders need a token, name its file with --token-file"
            )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_grpc(address: str) -> str:
    """The address, or "" where grpcio is not installed."""
    if address:
        try:
            import grpc  # noqa: F401
        except ModuleNotFoundError:
            print("wellfed: no OTLP over gRPC: pip install 'wellfed[grpc]'", file=sys.stderr)
            return ""
    return address


def _tls(web: Web | None, options: Mapping[str, object]) -> Tls | None:
    if web is None or web.context is None:
        return None
    tls = read_web_config(str(options["web_config"])).tls
    parts = []
    for name in ("key_file", "cert_file"):
        with open(tls[name], "rb") as file:
            parts.append(file.read())
    return Tls(web.context, (parts[0], parts[1]))


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
