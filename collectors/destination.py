"""Where OTLP goes and who we say we are, from --otlp-endpoint and the standard OpenTelemetry variables.

OTEL_EXPORTER_OTLP_[METRICS_]{ENDPOINT,PROTOCOL,HEADERS,TIMEOUT,COMPRESSION,CERTIFICATE,CLIENT_KEY,
CLIENT_CERTIFICATE}, OTEL_METRIC_EXPORT_INTERVAL, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. Source: the
OpenTelemetry specification, "OTLP Exporter configuration".
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from wellfed.errors import UserError

__all__ = ["Destination", "destination", "interval", "resource"]

_GRAPHIC = re.compile(r"[!-~]+")
#: Names and values of headers (RFC 9110, section 5).
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where and how to send. headers hold credentials: never log them."""

    url: str
    protocol: str = "http/protobuf"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 10.0
    gzip: bool = True
    ca: str = ""
    key: str = field(default="", repr=False)
    certificate: str = ""


def destination(endpoint: str | None, environ: Mapping[str, str]) -> Destination | None:
    """Where --otlp-endpoint and the OTEL variables point; None without an endpoint. Raises UserError."""

    def variable(name: str) -> str:
        return environ.get(f"OTEL_EXPORTER_OTLP_METRICS_{name}") or environ.get(
            f"OTEL_EXPORTER_OTLP_{name}", ""
        )

    protocol = variable("PROTOCOL") or "http/protobuf"
    if protocol not in ("http/protobuf", "grpc"):
        raise UserError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: write http/protobuf or grpc")
    full = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "") if not endpoint else ""
    base = endpoint or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    url = full or base
    if not url:
        return None
    url, user = _apart(url)
    parts = urllib.parse.urlsplit(url)
    # The general endpoint names a base, the one for metrics the whole path.
    if protocol == "http/protobuf" and not full and not parts.path.rstrip("/").endswith("/v1/metrics"):
        url = url.rstrip("/") + "/v1/metrics"
    said = variable("TIMEOUT") or "10000"
    # The longest that a socket takes anywhere.
    if not said.isdecimal() or not said.isascii() or not 0 < int(said[:12]) < 2**31:
        raise UserError(f"OTEL_EXPORTER_OTLP_TIMEOUT is {said!r}: write milliseconds")
    headers = _headers(variable("HEADERS"))
    if user and "authorization" not in map(str.lower, headers):
        headers["Authorization"] = user
    return Destination(
        url,
        protocol,
        headers,
        int(said) / 1000,
        (variable("COMPRESSION") or "gzip") == "gzip",
        variable("CERTIFICATE"),
        variable("CLIENT_KEY"),
        variable("CLIENT_CERTIFICATE"),
    )


def _apart(url: str) -> tuple[str, str]:
    """The address without `user:password@`, and those as basic auth. Raises UserError, without them."""
    bare = re.sub(r"^(.*//)?.*@", r"\1", url, flags=re.DOTALL)
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not _GRAPHIC.fullmatch(url):
        raise UserError(f"OTLP endpoint {bare!r}: write it as http://host:4318")
    if parts.username is None:
        return url, ""
    said = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host).geturl(), "Basic " + base64.b64encode(said.encode()).decode()


def _headers(text: str) -> dict[str, str]:
    """OTEL_EXPORTER_OTLP_HEADERS. Raises UserError, without a value, for what HTTP could not carry."""
    found = _pairs(text, "OTEL_EXPORTER_OTLP_HEADERS")
    for name, value in found.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise UserError("OTEL_EXPORTER_OTLP_HEADERS: a name or value holds what no HTTP header may")
    return found


def interval(environ: Mapping[str, str]) -> float:
    """Seconds of a window: OTEL_METRIC_EXPORT_INTERVAL (milliseconds) or 10. Raises UserError."""
    text = environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if not text:
        return 10.0
    if not text.isdigit() or not 1000 <= int(text) <= 60_000:
        raise UserError(f"OTEL_METRIC_EXPORT_INTERVAL is {text!r}: write milliseconds from 1000 to 60000")
    return int(text) / 1000


def resource(host: str, version: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Attributes of this agent by the SDK's own rules: ours, then what OTEL_RESOURCE_ATTRIBUTES says."""
    ours = {
        "service.name": "wellfed-agent",
        "service.version": version,
        "host.name": host,
        "host.id": _host_id(),
        # The SDK's is random: each restart would begin every series anew.
        "service.instance.id": host,
    }
    for node in ("K8S_NODE_NAME", "NODE_NAME"):
        if environ.get(node):
            ours["k8s.node.name"] = environ[node]
            break
    ours = {key: text for key, text in ours.items() if text}
    name = environ.get("OTEL_SERVICE_NAME")
    named = {"service.name": name} if name else {}
    said = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES")
    return ours | _detected(environ) | said | named


def _detected(environ: Mapping[str, str]) -> dict[str, str]:
    """What the SDK's detectors find, where the user names any: elsewhere nobody pays the SDK's 1 MiB."""
    if not environ.get("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"):
        return {}
    from opentelemetry.sdk.resources import Resource

    found = Resource.create().attributes
    # No SDK makes our messages, nor does it know our name.
    ours = ("telemetry.sdk.", "service.")
    return {key: str(text) for key, text in found.items() if not key.startswith(ours)}


def _host_id() -> str:
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _pairs(text: str, where: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise UserError(f"{where}: write name=value, separated by commas")
        pairs[urllib.parse.unquote(name.strip())] = urllib.parse.unquote(value.strip())
    return pairs
