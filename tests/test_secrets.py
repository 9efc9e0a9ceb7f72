"""Tokens, passwords, headers and addresses with passwords: never in logs, errors, pages or files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import bcrypt
import pytest
from programs import ROOT, Programs, fetch, free_port, until
from scripted import serving

from wellfed.collectors.otlp import Encoder
from wellfed.collectors.registry import Row
from wellfed.collectors.sampler import Window
from wellfed.errors import UserError

NODE = ROOT / "tests" / "fixtures" / "node"
PLANTED = "planted-secret-4711"
#: As it stands in headers.
BASIC = b64encode(f"ann:{PLANTED}".encode()).decode()


def told(*found: str | bytes) -> None:
    """Fails where the secret, or what it is in a header, stands in one of these."""
    for text in found:
        data = text.encode() if isinstance(text, str) else text
        for secret in (PLANTED, BASIC):
            assert secret.encode() not in data


def files(folder: Path) -> list[bytes]:
    """What all files below a folder hold, and their names."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert paths
    return [b"\n".join([str(path.relative_to(folder)).encode(), path.read_bytes()]) for path in paths]


def web_yml(folder: Path) -> Path:
    """Basic auth for a user whose password is the secret."""
    path = folder / "web.yml"
    path.write_text(
        f"basic_auth_users: {{ann: '{bcrypt.hashpw(PLANTED.encode(), bcrypt.gensalt(4)).decode()}'}}\n"
    )
    return path


def guarded(url: str, password: str = PLANTED) -> bytes:
    """A page behind basic auth, or why not."""
    basic = b64encode(f"ann:{password}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {basic}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.read()


def test_an_agent_keeps_its_secrets(programs: Programs, tmp_path: Path) -> None:
    port, spool = free_port(), tmp_path / "spool"
    process = programs.wellfed(
        "agent",
        f"--metrics-address=127.0.0.1:{port}",
        f"--web-config={web_yml(tmp_path)}",
        f"--procfs={NODE / 'proc'}",
        f"--sysfs={NODE / 'sys'}",
        "--collectors=cpu,memory",
        f"--otlp-endpoint=http://ann:{PLANTED}@127.0.0.1:9/",
        f"--spool={spool}",
        "--log-level=debug",
        OTEL_EXPORTER_OTLP_HEADERS=f"x-token={PLANTED}",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )
    metrics = f"http://127.0.0.1:{port}/metrics"
    page = until(
        lambda: found if b"wellfed_export_failed_total 1" in (found := guarded(metrics)) else None,
        what="a window was refused",
    )
    wrong = guarded(metrics, PLANTED + "x")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    log = process.log.read_bytes()  # type: ignore[attr-defined]
    assert b"OTLP to http://127.0.0.1:9/v1/metrics" in log
    told(page, wrong, log, *files(spool))


def test_a_hub_keeps_its_secrets(programs: Programs, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{PLANTED}\n")
    ports = {flag: free_port() for flag in ("--address", "--otlp-address", "--metrics-address")}
    process = programs.wellfed(
        "hub",
        f"--data={tmp_path / 'store'}",
        *(f"{flag}=127.0.0.1:{port}" for flag, port in ports.items()),
        "--otlp-grpc-address=",
        f"--token-file={token}",
        f"--web-config={web_yml(tmp_path)}",
        f"--prometheus=http://ann:{PLANTED}@127.0.0.1:9",
        "--header",
        f"X-Token: {PLANTED}",
        f"--bearer-token-file={token}",
        f"--dashboard-token-file={token}",
        "--log-level=debug",
    )
    metrics = f"http://127.0.0.1:{ports['--metrics-address']}/metrics"
    pages = f"http://127.0.0.1:{ports['--address']}"
    until(lambda: fetch(pages + "/healthz"), what="the pages")

    def page(path: str, body: bytes | None = None, secret: str = PLANTED) -> bytes:
        """A page of the dashboard with its headers, cookies among them."""
        request = urllib.request.Request(pages + path, body, {"Authorization": f"Bearer {secret}"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return bytes(answer.headers) + answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return bytes(error.headers) + error.read()

    def post(secret: str) -> bytes:
        body = Encoder({"host.name": "n1"}).encode(Window(1.0, [Row("host", (), {"load1": 1.0})]))
        headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {secret}"}
        url = f"http://127.0.0.1:{ports['--otlp-address']}/v1/metrics"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return str(error.code).encode() + error.read()

    answers = [post(PLANTED), post(PLANTED + "x"), guarded(metrics), guarded(metrics, PLANTED + "x")]
    assert [answer[:3] == b"401" for answer in answers[:2]] == [False, True]
    until(lambda: b"cannot reach" in process.log.read_bytes(), what="the server is away")  # type: ignore[attr-defined]
    answers += [page(path) for path in ("/", "/_dash-layout", "/_dash-dependencies", "/login")]
    answers += [page("/login", f"token={secret}".encode()) for secret in (PLANTED, PLANTED + "x")]
    answers += [page("/", secret=PLANTED + "x")]
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    told(process.log.read_bytes(), *answers, *files(tmp_path / "store"))  # type: ignore[attr-defined]


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    """Status and all output of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "wellfed", *arguments, "--log-level=debug"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("status", [200, 401, 500])
def test_diagnose_keeps_what_it_tells_a_prometheus(tmp_path: Path, status: int) -> None:
    token = tmp_path / "token"
    token.write_text(f"{PLANTED}\n")
    with serving(lambda *_: (status, {"content-type": "text/html"}, b"<html>no</html>")) as url:
        code, said = run(
            "diagnose",
            "--prometheus",
            url.replace("//", f"//ann:{PLANTED}@"),
            f"--bearer-token-file={token}",
            "--header",
            f"X-Token: {PLANTED}",
        )
    assert (code, "127.0.0.1" in said) == (2, True)
    told(said)


@pytest.mark.parametrize("command", [["diagnose", "--lake"], ["diagnose", "--data"]])
def test_a_lake_keeps_its_credentials(command: list[str]) -> None:
    with serving(
        lambda *_: (403, {"content-type": "application/xml"}, b"<Error><Code>No</Code></Error>")
    ) as url:
        code, said = run(
            *command,
            f"s3://ann:{PLANTED}@bucket/x",
            AWS_ENDPOINT_URL=url.replace("//", f"//ann:{PLANTED}@"),
            AWS_ALLOW_HTTP="true",
            AWS_ACCESS_KEY_ID=PLANTED,
            AWS_SECRET_ACCESS_KEY=PLANTED,
            AWS_SESSION_TOKEN=PLANTED,
            AWS_REGION="us-east-1",
        )
    assert (code, "s3://bucket/x" in said) == (2, True)
    told(said)


def test_no_error_of_ours_shows_a_password() -> None:
    for text in (f"cannot reach http://ann:{PLANTED}@hub:1/x", f"s3://{PLANTED}@b/c and gs://a:{PLANTED}@b"):
        with pytest.raises(UserError) as error:
            raise UserError(text)
        told(str(error.value), repr(error.value))
