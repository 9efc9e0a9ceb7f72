"""The dashboard lets in whom it should, and nobody else: tokens, proxies, other sites, rebound names."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlencode

import dashboards
import pytest
from dashboards import Fixed
from programs import Programs, free_port
from served import Answer, Asked, serving

from wellfed.dashboard.access import Access, read_token
from wellfed.dashboard.app import create_app
from wellfed.errors import UserError

TOKEN = "a-token-that-is-long-enough"
SUMMARY = "/api/v1/summary"
PATHS = ("/", "/findings", SUMMARY, "/api/v1/openapi.json", "/export/report.html", "/_dash-layout")


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=300)


def server(source: Fixed, access: Access):  # type: ignore[no-untyped-def]
    return serving(create_app(source, access=access).server)


def note(hub: Asked, source: Fixed, **headers: str) -> Answer:
    id_ = source.diagnosis.document["findings"][0]["id"]
    return hub.ask("POST", f"/api/v1/findings/{id_}/notes", {"kind": "acknowledge"}, **headers)


def test_on_loopback_this_machine_comes_in_and_a_rebound_name_does_not(source: Fixed) -> None:
    with server(source, Access()) as hub:
        for host in ("127.0.0.1", "localhost:8050", "[::1]:8050", "wellfed.localhost"):
            assert hub.get(SUMMARY, Host=host).status == 200, host
        for host in ("evil.example", "evil.example:8050", "127.0.0.1.evil.example", "10.0.0.1", "[::"):
            for path in PATHS:
                assert hub.get(path, Host=host).status == 421, (host, path)
    with server(source, Access(external="wellfed.example.org")) as hub:
        assert hub.get(SUMMARY, Host="wellfed.example.org").status == 200


def test_with_a_token_every_address_but_the_probe_wants_it(source: Fixed) -> None:
    with server(source, Access(token=TOKEN)) as hub:
        for path in PATHS:
            assert hub.get(path).status == 401, path
            assert hub.get(path, Authorization="Bearer wrong").status == 401, path
            assert hub.get(path, Cookie="wellfed=wrong").status == 401, path
            assert hub.get(path, Authorization=f"Bearer {TOKEN}").status == 200, path
        assert hub.get("/healthz").status == 200
        assert hub.get(SUMMARY).headers["content-type"] == "application/problem+json"
        made = note(hub, source, Authorization=f"Bearer {TOKEN}")
        assert (made.status, made.json["who"]) == (201, "token")
        assert note(hub, source).status == 401


def login(hub: Asked, token: str, after: str = "/") -> Answer:
    form = urlencode({"token": token, "next": after}).encode()
    return hub.ask("POST", "/login", form, Content_Type="application/x-www-form-urlencoded")


def test_a_browser_logs_in_once_and_comes_back_to_where_it_was(source: Fixed) -> None:
    with server(source, Access(token=TOKEN)) as hub:
        asked = hub.get("/findings?from=6h", Accept="text/html")
        assert asked.status == 401
        assert b'value="/findings?from=6h"' in asked.body
        assert "default-src 'self'" in asked.headers["content-security-policy"]
        assert login(hub, "wrong").status == 401
        done = login(hub, TOKEN, "/findings?from=6h")
        assert (done.status, done.headers["location"]) == (303, "/findings?from=6h")
        cookie = done.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert hub.get(SUMMARY, Cookie=cookie.partition(";")[0]).status == 200
        for after in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
            assert login(hub, TOKEN, after).headers["location"] == "/", after


def test_a_link_from_another_site_gets_a_page_that_loads_itself_with_the_cookie(source: Fixed) -> None:
    with server(source, Access(token=TOKEN)) as hub:
        led = hub.get("/findings", Accept="text/html", Sec_Fetch_Site="cross-site")
    assert b'http-equiv="refresh"' in led.body
    assert b"password" not in led.body


def test_the_identity_header_counts_from_listed_proxies_alone(source: Fixed) -> None:
    me, other = (ip_network("127.0.0.0/8"),), (ip_network("10.0.0.0/8"),)
    with server(source, Access(proxies=me)) as hub:
        assert hub.get(SUMMARY).status == 403
        assert hub.get(SUMMARY, X_Forwarded_User=" ").status == 403
        made = note(hub, source, X_Forwarded_User="ada@example.org")
        assert (made.status, made.json["who"]) == (201, "ada@example.org")
    with server(source, Access(proxies=other)) as hub:
        forged = {"X_Forwarded_User": "root", "X_Forwarded_For": "10.0.0.7", "Forwarded": "for=10.0.0.7"}
        assert hub.get(SUMMARY, **forged).status == 403
    with server(source, Access()) as hub:
        assert note(hub, source, X_Forwarded_User="root").json["who"] == "local"


def test_another_site_changes_nothing(source: Fixed) -> None:
    with server(source, Access()) as hub:
        assert note(hub, source, Sec_Fetch_Site="same-origin").status == 201
        assert note(hub, source, Origin=hub.url).status == 201
        for headers in (
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
        ):
            assert note(hub, source, **headers).status == 403, headers
        assert note(hub, source, Content_Type="text/plain").status == 415
        undo = hub.ask("DELETE", "/api/v1/notes/none", Origin="https://evil.example")
        assert undo.status == 403
        huge = hub.ask(
            "POST",
            "/api/v1/findings/x/notes",
            b"[",
            Content_Type="application/json",
            Content_Length="1000001",
        )
        assert huge.status == 413


def test_a_token_that_is_no_secret_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "token"
    short.write_text("secret\n")
    with pytest.raises(UserError, match="openssl rand"):
        read_token(str(short))
    with pytest.raises(UserError, match="cannot read the token"):
        read_token(str(tmp_path / "none"))


def test_nobody_listens_to_the_network_by_accident(programs: Programs, tmp_path: Path) -> None:
    arguments = ("demo", f"--address=0.0.0.0:{free_port()}", "--gpus=8")
    refused = programs.wellfed(*arguments)
    assert refused.wait(60) == 2
    text = refused.log.read_text()  # type: ignore[attr-defined]
    assert "0.0.0.0 is not loopback: name --dashboard-token-file or --trusted-proxy" in text
    assert "Traceback" not in text
    wrong = programs.wellfed(*arguments, "--trusted-proxy=everybody")
    assert wrong.wait(60) == 2
    assert "write addresses or networks" in wrong.log.read_text()  # type: ignore[attr-defined]
