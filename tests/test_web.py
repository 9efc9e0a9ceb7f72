"""web.yml: TLS and basic auth as exporter-toolkit understands them, reread on change."""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from wellfed.collectors.http import Endpoint, Request, Response
from wellfed.collectors.web import Web, read_web_config
from wellfed.errors import UserError

HASH = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def web_yml(tmp_path: Path) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    path = tmp_path / "web.yml"
    path.write_text(
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
        "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n"
        f"basic_auth_users:\n  prom: {HASH}\n"
    )
    return path


calls: list[str] = []


def scrape(request: Request) -> Response:
    calls.append(request.path)
    return Response(b"metrics\n")


@pytest.fixture
def endpoint(web_yml: Path) -> Iterator[Endpoint]:
    serving = Endpoint("127.0.0.1:0", {"/metrics": scrape}, Web(str(web_yml)))
    serving.start()
    calls.clear()
    yield serving
    serving.close()


def get(endpoint: Endpoint, ca: Path, authorization: str = "") -> http.client.HTTPResponse:
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection("127.0.0.1", endpoint.port, timeout=10, context=context)
    connection.request("GET", "/metrics", headers={"Authorization": authorization} if authorization else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_tls_and_basic_auth(endpoint: Endpoint, web_yml: Path) -> None:
    ca = web_yml.parent / "cert.pem"
    assert get(endpoint, ca).status == 401
    assert get(endpoint, ca, basic("prom", "wrong")).status == 401
    assert get(endpoint, ca, basic("nobody", "open sesame")).status == 401
    assert get(endpoint, ca, "Basic !!!").status == 401
    assert get(endpoint, ca, "Bearer x").status == 401
    assert calls == []
    good = get(endpoint, ca, basic("prom", "open sesame"))
    assert (good.status, good.getheader("Strict-Transport-Security")) == (200, "max-age=60")
    assert calls == ["/metrics"]


def test_a_changed_file_is_taken_over_and_a_broken_one_is_not(endpoint: Endpoint, web_yml: Path) -> None:
    ca = web_yml.parent / "cert.pem"
    text = web_yml.read_text()
    web_yml.write_text("nonsense: [")
    assert get(endpoint, ca, basic("prom", "open sesame")).status == 200
    other = bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode()
    web_yml.write_text(text.replace(HASH, other))
    os.utime(web_yml, ns=(1, 1))
    assert get(endpoint, ca, basic("prom", "open sesame")).status == 401
    assert get(endpoint, ca, basic("prom", "new")).status == 200


def test_promtool_accepts_the_same_file(web_yml: Path) -> None:
    checked = subprocess.run(
        ["promtool", "check", "web-config", str(web_yml)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "must be a mapping"),
        ("tls: {}", "unknown key 'tls'"),
        ("tls_server_config: {cert: x}", "unknown key 'cert' in tls_server_config"),
        ("tls_server_config: {cert_file: x}", "both cert_file and key_file"),
        ("tls_server_config: {cert_file: x, key_file: y, min_version: TLS10}", "write one of TLS12"),
        ("basic_auth_users: {a: secret}", "htpasswd"),
        ('http_server_config: {headers: {X-A: "b\\r\\nX-C: d"}}', "'X-A' is no header"),
    ],
)
def test_a_bad_file_is_one_line_without_the_secret(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "web.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_web_config(str(path))
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_missing_certificates_are_said_at_start(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config: {cert_file: x.pem, key_file: y.pem}")
    with pytest.raises(UserError, match="cannot load the certificates"):
        Web(str(path))
