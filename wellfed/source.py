"""What `wellfed diagnose` reads: a store or folder, a server with the Prometheus API, or a lake."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from wellfed.analysis.cluster import run
from wellfed.analysis.diagnose import Diagnosis, diagnose
from wellfed.analysis.history import combine, plan
from wellfed.analysis.inputs import read_tables
from wellfed.analysis.judged import kept
from wellfed.analysis.promql import Access, Reader, annotate, from_headers, read, server
from wellfed.analysis.store import Store, is_store
from wellfed.errors import UserError
from wellfed.options import DEFAULT_DATA
from wellfed.prices import Prices
from wellfed.progress import progress

__all__ = ["answer", "reader"]

#: What a server is asked about unless --from says more: it may hold years.
DEFAULT_RANGE = timedelta(hours=1)


def answer(options: Mapping[str, object]) -> Diagnosis:
    """The diagnosis of whatever source the options name. Raises UserError."""
    start, end = options.get("from"), options.get("to")
    assert start is None or isinstance(start, datetime)
    assert end is None or isinstance(end, datetime)
    if start and end and start >= end:
        raise UserError("--from is not before --to")
    named = [f"--{name}" for name in ("data", "prometheus", "lake") if options.get(name)]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} are {len(named)} sources: give one")
    if options.get("cluster") and not options.get("lake"):
        raise UserError("--cluster runs a --lake: name that too")
    if options.get("prometheus"):
        return _of_server(options, start, end)
    if options.get("lake"):
        return _of_lake(options, start, end)
    return _of_files(options, start, end)


def _of_files(options: Mapping[str, object], start: datetime | None, end: datetime | None) -> Diagnosis:
    path = str(options.get("data") or DEFAULT_DATA)
    if not options.get("data") and not os.path.isdir(path):
        raise UserError(f"no local store at {path} yet: run `wellfed up`, or name a folder with --data")
    try:
        with progress(f"reading {path}"):
            known = kept(Store(path, readonly=True).scan, start, end) if is_store(path) else None
            tables = read_tables(path, start, known.until or end if known else end)
        judged = known.partial if known else None
        with progress("diagnosing"):
            return diagnose(tables, start=start, end=end, price=_price(options), judged=judged)
    except (OSError, pl.exceptions.ComputeError) as error:
        # Damage inside a file shows only when its rows are read.
        raise UserError(f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}") from error


def _of_server(options: Mapping[str, object], start: datetime | None, end: datetime | None) -> Diagnosis:
    end = end or datetime.now(UTC)
    start = start or end - DEFAULT_RANGE
    if start >= end:
        raise UserError("--from is not before --to")
    source = reader(options)
    with tempfile.TemporaryDirectory(prefix="wellfed-") as folder:
        with progress(f"reading {source.api.url}") as tell:
            reading = read(source, start, end, folder, tell)
        with progress("diagnosing"):
            diagnosis = diagnose(reading.tables, start=start, end=end, price=_price(options))
    annotate(diagnosis.document, reading)
    return diagnosis


def _of_lake(options: Mapping[str, object], start: datetime | None, end: datetime | None) -> Diagnosis:
    """The document alone: a lake's windows would not fit anywhere."""
    cluster = options.get("cluster")
    urls = str(options["lake"]).splitlines()
    segments = plan(*urls, start=start, end=end)
    partials = []
    with progress(f"diagnosing {' and '.join(urls)}") as tell:
        for partial in run(segments, None if cluster is None else str(cluster)):
            partials.append(partial)
            tell(len(partials) / len(segments))
    none = pl.DataFrame()
    return Diagnosis(combine(partials, _price(options)), none, none, none, none, none)


def reader(options: Mapping[str, object]) -> Reader:
    """A reader of the server that --prometheus names. Raises UserError; nothing is asked yet."""
    parallel = options["parallel"]
    assert isinstance(parallel, int)
    access = Access(
        headers=from_headers(str(options.get("header") or "")),
        bearer=_secret(options.get("bearer_token_file")),
        basic=_secret(options.get("basic_auth_file")),
        ca_file=_path(options.get("ca_file")),
        cert_file=_path(options.get("cert_file")),
        key_file=_path(options.get("key_file")),
    )
    selector = str(options.get("selector") or "").strip().removeprefix("{").removesuffix("}")
    return Reader(server(str(options["prometheus"]), access), selector=selector, parallel=parallel)


def _price(options: Mapping[str, object]) -> Prices | None:
    price = options.get("price")
    assert price is None or isinstance(price, Prices)
    return price


def _path(value: object) -> str | None:
    return None if value is None else str(value)


def _secret(path: object) -> str:
    if path is None:
        return ""
    try:
        with open(str(path), encoding="utf-8") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path}: {reason}") from error
    if not text or not text.isprintable():
        raise UserError(f"{path} holds no secret on one line")
    return text
