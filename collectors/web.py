"""TLS and basic auth from an exporter-toolkit `web.yml`, reread when the file or a certificate changes.

Understands tls_server_config (cert_file, key_file, client_ca_file, client_auth_type, min_version),
basic_auth_users (bcrypt) and http_server_config.headers; `promtool check web-config` accepts the same file.
Source: github.com/prometheus/exporter-toolkit, docs/web-configuration.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wellfed.errors import UserError

__all__ = ["Web", "WebConfig", "read_web_config"]

log = logging.getLogger("wellfed.web")

_KEYS = {
    "": {"tls_server_config", "basic_auth_users", "http_server_config"},
    "tls_server_config": {"cert_file", "key_file", "client_ca_file", "client_auth_type", "min_version"},
    "http_server_config": {"headers", "http2"},
}
_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_OPTIONAL,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAnyClientCert": ssl.CERT_REQUIRED,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
#: A header line: a token, then visible text of latin-1 (RFC 9110, 5.1 and 5.5).
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*")
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
#: Checked for users that do not exist, so that they take as long as those that do.
_NOBODY = b"$2b$10$CwTycUXWue0Thq9StjUM0uJ8tXkQJnR0kxA0o5cQdJ1pD7rSxFq3K"
#: Passwords known good are remembered: bcrypt costs 50 ms of CPU on purpose.
_MAX_KNOWN = 100


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What a web.yml says. tls: keys of tls_server_config with absolute paths."""

    tls: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Files whose change matters."""
        return [path for name, path in self.tls.items() if name.endswith("_file")]


def read_web_config(path: str) -> WebConfig:
    """Reads a web.yml. Raises UserError: not there, not YAML, unknown keys, half a key pair."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            said = yaml.safe_load(file) or {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    _check(path, "", said)
    tls = _section(path, said, "tls_server_config")
    http = _section(path, said, "http_server_config")
    users = said.get("basic_auth_users") or {}
    if not isinstance(users, dict):
        raise UserError(f"{path}: basic_auth_users must map names to bcrypt hashes")
    for name, hashed in users.items():
        if not str(hashed).startswith(("$2a$", "$2b$", "$2y$")):
            raise UserError(
                f"{path}: the password of {name} is no bcrypt hash; make one with htpasswd -nB {name}"
            )
    folder = os.path.dirname(os.path.abspath(path))
    resolved = {
        k: os.path.join(folder, str(v)) if k.endswith("_file") else str(v) for k, v in tls.items() if v
    }
    if bool(resolved.get("cert_file")) != bool(resolved.get("key_file")):
        raise UserError(f"{path}: tls_server_config needs both cert_file and key_file")
    for key, known in (("client_auth_type", _AUTH), ("min_version", _VERSIONS)):
        if key in resolved and resolved[key] not in known:
            raise UserError(f"{path}: {key} is {resolved[key]!r}: write one of {', '.join(known)}")
    headers = {str(k): str(v) for k, v in (http.get("headers") or {}).items()}
    for name, text in headers.items():
        if not _HEADER.fullmatch(f"{name}: {text}"):
            raise UserError(f"{path}: http_server_config: {name!r} is no header that HTTP can carry")
    return WebConfig(resolved, {str(k): str(v).encode() for k, v in users.items()}, headers)


def _section(path: str, said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = said.get(name) or {}
    _check(path, name, section)
    return dict(section)


def _check(path: str, name: str, section: object) -> None:
    if not isinstance(section, dict):
        raise UserError(f"{path}: {name or 'the file'} must be a mapping")
    for key in section:
        if key not in _KEYS[name]:
            raise UserError(f"{path}: unknown key {key!r}{' in ' + name if name else ''}")


class Web:
    """The web.yml in force. A bad file raises UserError at start; a bad change later keeps the old one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._config = read_web_config(path)
        self.context: ssl.SSLContext | None = None
        if self._config.tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            _load(self.context, self._config, path)
        self._stamp = self._stamps()
        self._known: set[bytes] = set()

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers added to every answer."""
        return self._config.headers

    def refresh(self) -> None:
        """Takes over a changed file; new connections use it."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            config = read_web_config(self._path)
            if bool(config.tls) != (self.context is not None):
                raise UserError(f"{self._path}: turning TLS on or off needs a restart")
            if self.context is not None:
                _load(self.context, config, self._path)
        except UserError as error:
            log.error("%s; the former configuration stays in force", error)
            return
        self._config = config
        self._known.clear()

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header may pass; everything may without users."""
        if not self._config.users:
            return True
        import bcrypt

        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, colon, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        hashed = self._config.users.get(user, b"")
        seen = hashlib.sha256(hashed + b"\0" + user.encode() + b"\0" + password.encode()).digest()
        if hashed and seen in self._known:
            return True
        good = bcrypt.checkpw(password.encode()[:72], hashed or _NOBODY) and bool(hashed) and bool(colon)
        if good and len(self._known) < _MAX_KNOWN:
            self._known.add(seen)
        return good

    def _stamps(self) -> tuple[tuple[str, int, int], ...]:
        stamps = []
        for path in (self._path, *self._config.files):
            try:
                status = os.stat(path)
            except OSError:
                continue
            stamps.append((path, status.st_mtime_ns, status.st_size))
        return tuple(stamps)


def _load(context: ssl.SSLContext, config: WebConfig, path: str) -> None:
    tls = config.tls
    try:
        context.load_cert_chain(tls["cert_file"], tls["key_file"])
        if "client_ca_file" in tls:
            context.load_verify_locations(tls["client_ca_file"])
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{path}: cannot load the certificates: {error}") from error
    context.minimum_version = _VERSIONS[tls.get("min_version", "TLS12")]
    default = "RequireAndVerifyClientCert" if "client_ca_file" in tls else "NoClientCert"
    context.verify_mode = _AUTH[tls.get("client_auth_type", default)]
