"""Where OTLP goes and who we say we are, from --otlp-endpoint and the standard OpenTelemetry variables.

OTEL_EXPORTER_OTLP_[METRICS_]{ENDPOINT,PROTOCOL,HEADERS,TIMEOUT,COMPRESSION,CERTIFICATE,CLIENT_KEY,
CLIENT_CERTIFICATE}, OTEL_METRIC_EXPORT_INTERVAL, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. Source: the
OpenTelemetry specification, "OTLP Exporter configuration".
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from wellfed.errors import UserError

__all__ = ["Destination", "destination", "interval", "resource"]


#: A header's name (RFC 9110, 5.1).
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


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
    try:
        parts = urllib.parse.urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not _printable(url):
        raise UserError(f"OTLP endpoint {url!r}: write it as http://host:4318")
    # The general endpoint names a base, the one for metrics the whole path.
    if protocol == "http/protobuf" and not full and not parts.path.rstrip("/").endswith("/v1/metrics"):
        url = url.rstrip("/") + "/v1/metrics"
    try:
        timeout = float(variable("TIMEOUT") or 10000) / 1000
    except ValueError:
        raise UserError(
            f"OTEL_EXPORTER_OTLP_TIMEOUT is {variable('TIMEOUT')!r}: write milliseconds"
        ) from None
    said = _pairs(variable("HEADERS"), "OTEL_EXPORTER_OTLP_HEADERS")
    headers = {name: text.strip() for name, text in said.items()}
    for name, text in headers.items():
        if not _TOKEN.fullmatch(name) or not _printable(text.replace(" ", "")):
            # Never the value: it is a secret more often than not.
            raise UserError(f"OTEL_EXPORTER_OTLP_HEADERS: {name!r} is no header that HTTP can carry")
    return Destination(
        url,
        protocol,
        headers,
        timeout,
        (variable("COMPRESSION") or "gzip") == "gzip",
        variable("CERTIFICATE"),
        variable("CLIENT_KEY"),
        variable("CLIENT_CERTIFICATE"),
    )


def _printable(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


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
    from opentelemetry.sdk.resources import Resource

    ours = {
        "service.name": "wellfed-agent",
        "service.version": version,
        "host.name": host,
        "host.id": _host_id(),
    }
    for name in ("K8S_NODE_NAME", "NODE_NAME"):
        if environ.get(name):
            ours["k8s.node.name"] = environ[name]
            break
    merged = Resource({k: v for k, v in ours.items() if v}).merge(Resource.create())
    # No SDK makes our messages.
    given = {k: str(v) for k, v in merged.attributes.items() if not k.startswith("telemetry.sdk.")}
    said = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES")
    if not environ.get("OTEL_SERVICE_NAME") and "service.name" not in said:
        given["service.name"] = ours["service.name"]
    # The SDK's is random: each restart would begin every series anew.
    given["service.instance.id"] = said.get("service.instance.id", host)
    return given


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
