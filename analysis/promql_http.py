"""One server that speaks the Prometheus HTTP API: its address, who we are to it, and its answers.

Source: prometheus.io/docs/prometheus/latest/querying/api; Thanos, Mimir and VictoriaMetrics speak it too.
Retries (429 with Retry-After, 502, 503, 504, cut connections) and TLS are urllib3's. Secrets are never part
of a message.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

import urllib3

from wellfed.errors import UserError

__all__ = ["Access", "Api", "RefusedError", "Series", "server"]

#: Seconds for one answer; a server gives up on its own after two minutes.
TIMEOUT = 150.0
CONNECT_TIMEOUT = 10.0
#: Tries of one question; seconds of the first pause, which doubles, and of the longest one.
TRIES, BACKOFF, LONGEST_PAUSE = 5, 0.3, 30
#: How servers say that a query is too much: by its samples, points, series, bytes or time.
_LARGE = re.compile(
    r"too (many|large|long|big)|limit|exceed|max|memory|time.?out|timed out|status (4(13|22|29)|50[234])",
    re.IGNORECASE,
)
#: Epoch seconds of the year 9999; later ones are no times.
_END_OF_TIME = 253_402_300_800.0
#: What no split of a query helps against.
_DENIED = {401: "who we are", 403: "what we may read", 407: "who we are (a proxy)"}


class RefusedError(Exception):
    """The server would not answer one query. large: because it was too much at once, as far as it says."""

    @property
    def large(self) -> bool:
        """Whether less at once might be answered."""
        return _LARGE.search(str(self)) is not None


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in. headers: `Name: value`. bearer: token. basic: `user:password`. The rest: PEM files."""

    headers: Mapping[str, str] = field(default_factory=dict)
    bearer: str = field(default="", repr=False)
    basic: str = field(default="", repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer. times: epoch seconds. values: as many, NaN where there is no finite number."""

    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]


@dataclass(slots=True)
class Api:
    """Asks one server, from any thread. warnings: what the server said beside its answers."""

    url: str
    _pool: urllib3.PoolManager
    _headers: Mapping[str, str]
    warnings: dict[str, None] = field(default_factory=dict)

    def names(self, start: float, end: float) -> set[str]:
        """Every metric name in a range of epoch seconds. Raises UserError."""
        try:
            found = self._get("label/__name__/values", start=f"{start:.3f}", end=f"{end:.3f}")
        except RefusedError as error:
            raise UserError(f"{self.url} does not list its metrics: {error}") from error
        if not isinstance(found, list):
            raise UserError(f"{self.url} does not list its metrics: the answer is no list")
        return {name for name in found if isinstance(name, str)}

    def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """The series of a range query. Raises RefusedError, or UserError when the server is of no use."""
        data = self._get(
            "query_range",
            query=query,
            start=f"{start:.3f}",
            end=f"{end:.3f}",
            step=f"{step:g}",
            # VictoriaMetrics: neither answers of yesterday nor half a minute held back; others ignore these.
            nocache="1",
            latency_offset="1ms",
        )
        return self._matrix(data)

    def instant(self, query: str, time: float) -> list[Series]:
        """The series of a query at one time: one value each, or the raw samples of a range selector.

        Raises as `range` does.
        """
        return self._matrix(self._get("query", query=query, time=f"{time:.3f}", nocache="1"))

    def _matrix(self, data: Any) -> list[Series]:
        try:
            kind = data["resultType"]
            if kind not in ("matrix", "vector"):
                raise UserError(f"{self.url}: expected series, the answer is a {kind}")
            pairs = "values" if kind == "matrix" else "value"
            return [
                _series(one["metric"], one[pairs] if pairs == "values" else [one[pairs]])
                for one in data["result"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"{self.url}: the answer holds no Prometheus series: {error!r}") from error

    def _get(self, path: str, **fields: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urlencode(fields)}"
        try:
            answer = self._pool.request("GET", url, headers=dict(self._headers))
        except urllib3.exceptions.HTTPError as error:
            raise UserError(f"cannot reach {self.url}: {_reason(error)}") from error
        if answer.status in _DENIED:
            raise UserError(
                f"{self.url} answers {answer.status}: it wants to know {_DENIED[answer.status]}; give "
                "--bearer-token-file, --basic-auth-file, --header or --cert-file"
            )
        return self._data(answer)

    def _data(self, answer: urllib3.BaseHTTPResponse) -> Any:
        try:
            body = json.loads(answer.data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or body.get("status") not in ("success", "error"):
            if answer.status in (413, 422, 429, 502, 503, 504):
                raise RefusedError(f"status {answer.status}")
            kind = answer.headers.get("content-type", "no content type").partition(";")[0]
            hint = "; is a path missing, such as /prometheus or /select/0/prometheus?"
            cut = "; it ends in the middle" if kind == "application/json" else hint
            raise UserError(
                f"{self.url} does not answer as Prometheus does: status {answer.status}, {kind}{cut}"
            )
        said = body.get("warnings") or []
        partial = ["it is partial"] if body.get("isPartial") else []
        for text in [*(said if isinstance(said, list) else [said]), *partial]:
            self.warnings.setdefault(f"{self.url} says about its answer: {_line(text)}")
        if body["status"] == "error":
            raise RefusedError(_line(body.get("error", "error")))
        return body.get("data")


def server(url: str, access: Access | None = None) -> Api:
    """A server by its address, up to where `/api/v1` begins; `user:password@` in it is understood.

    Raises UserError when the address or one of the files is no good. Nothing is asked yet.
    """
    access = access or Access()
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise UserError(f"--prometheus is {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--prometheus is {_shown(url)!r}: write an address such as http://prometheus:9090")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/api/v1")
    clean = urlunsplit((parts.scheme, f"{name}:{port}" if port else name, path, "", ""))
    basic = access.basic
    if parts.username is not None:
        basic = basic or f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    headers = {"accept": "application/json", "accept-encoding": "gzip", "user-agent": "wellfed"}
    if basic:
        headers["authorization"] = "Basic " + base64.b64encode(basic.encode()).decode()
    if access.bearer:
        headers["authorization"] = f"Bearer {access.bearer}"
    headers |= {key.lower(): value for key, value in access.headers.items()}
    retries = urllib3.Retry(
        total=TRIES,
        connect=2,
        redirect=3,
        status_forcelist=(429, 502, 503, 504),
        allowed_methods=None,
        backoff_factor=BACKOFF,
        backoff_max=LONGEST_PAUSE,
        backoff_jitter=BACKOFF,
        retry_after_max=LONGEST_PAUSE,
        raise_on_status=False,
    )
    # What a retry is about is told once, when the last one failed.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=TIMEOUT)
    context = _context(access) if parts.scheme == "https" else None
    pool = urllib3.PoolManager(maxsize=16, retries=retries, timeout=timeout, ssl_context=context)
    return Api(clean, pool, headers)


def _context(access: Access) -> ssl.SSLContext:
    for path in (access.ca_file, access.cert_file, access.key_file):
        if path is not None and not os.path.isfile(path):
            raise UserError(f"no such file: {path}")
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
        if access.cert_file is not None:
            context.load_cert_chain(access.cert_file, access.key_file)
    except (ssl.SSLError, OSError) as error:
        raise UserError(f"cannot use the certificates given: {error}") from error
    return context


def _series(labels: Mapping[str, Any], pairs: Sequence[tuple[float, str]]) -> Series:
    times = [float(at) for at, _ in pairs]
    if not all(0.0 <= at < _END_OF_TIME for at in times):
        raise ValueError("a sample lies at no time")
    values = [number if math.isfinite(number := float(text)) else math.nan for _, text in pairs]
    return Series({str(key): str(value) for key, value in labels.items()}, times, values)


def _line(text: object) -> str:
    """What a server said, on one short line."""
    return " ".join(str(text).split())[:200]


def _shown(url: str) -> str:
    """The address without what stands before an @."""
    scheme, mark, rest = url.rpartition("://")
    return scheme + mark + rest.rpartition("@")[2]


def _reason(error: BaseException) -> str:
    while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    text = str(error.args[0] if error.args else error)
    # urllib3 begins with the pool or connection object it failed on.
    return text.rpartition(">: ")[2].rpartition(": Failed")[2].strip() or type(error).__name__
