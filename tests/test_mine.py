"""A viewer's own jobs: who looks is known from a proxy or on this machine, and the address narrows to them."""

from __future__ import annotations

import base64
import getpass
import json
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import dashboards
import numpy as np
import pytest
from dash import dcc, html
from dashboards import EVIL, Fixed
from served import Asked, serving

from wellfed.dashboard import tabular
from wellfed.dashboard.access import BEARER, LOCAL, Access
from wellfed.dashboard.app import create_app, view_of
from wellfed.dashboard.mine import is_of, jobs_of, mine
from wellfed.dashboard.pages.rackmap import _outside
from wellfed.dashboard.registry import parse

ME = (ip_network("127.0.0.0/8"),)


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=300)


def page(source: Fixed, path: str, search: str = "", viewer: str = "") -> list[Any]:
    return list(parse(path, replace(view_of(source, path, search), viewer=viewer)).main)


def chips(parts: list[Any]) -> dict[str, tuple[str, bool]]:
    """What the chips about users say: text -> (address, chosen)."""
    found = [
        n for n in tabular._walk(parts) if isinstance(n, html.Nav) and getattr(n, "aria-label", "") == "Whose"
    ]
    links = [link for nav in found for link in tabular._walk(nav) if isinstance(link, dcc.Link)]
    return {str(link.children): (link.href, "on" in link.className.split()) for link in links}


def rows(parts: list[Any], caption: str) -> list[str]:
    table = dict(tabular.tables(parts))[caption]
    return [getattr(row, "data-href", "") for row in table.children[2].children]


def test_who_looks_is_known_by_a_proxy_or_alone_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert Access().person(LOCAL) == "ada"
    assert Access(loopback=False).person(LOCAL) == ""
    assert Access(token="0" * 32).person(BEARER) == ""
    assert Access(proxies=ME).person("ada@example.org") == "ada@example.org"
    assert Access(proxies=ME, token="0" * 32).person(BEARER) == ""

    def nobody() -> str:
        raise OSError("no name for uid 65532")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert Access().person(LOCAL) == ""


def test_a_proxys_name_is_the_user_of_the_jobs_where_there_is_one(source: Fixed) -> None:
    for viewer, user in (
        ("bruno", "bruno"),
        ("Bruno@example.org", "bruno"),
        ("nobody@example.org", "nobody@example.org"),
        (EVIL, EVIL),
        ("", ""),
    ):
        assert mine(replace(view_of(source, "/", ""), viewer=viewer)) == user


def test_the_chip_is_there_where_it_is_known_who_looks(source: Fixed) -> None:
    jobs = len(source.made.once(jobs_of, "bruno"))
    assert jobs
    for path in ("/", "/findings", "/jobs"):
        assert chips(page(source, path)) == {}
        (told,) = chips(page(source, path, "from=6h&sort=lost", "bruno@example.org")).items()
        assert told[0].startswith("Mine ")
        assert told[1] == (f"{path}?from=6h&sort=lost&user=bruno", False)
        (told,) = chips(page(source, path, "user=bruno", "bruno")).items()
        assert told[1] == (path, True)
    assert f"Mine {jobs}" in chips(page(source, "/jobs", viewer="bruno"))
    assert chips(page(source, "/jobs", "user=chen", "bruno")).keys() == {f"Mine {jobs}", "chen ✕"}
    assert "Mine 0" in chips(page(source, "/findings", viewer="nobody"))


def test_jobs_and_findings_are_narrowed_to_a_user(source: Fixed) -> None:
    document = source.diagnosis.document
    user = next(j["user"] for j in document["jobs"] if j["user"] not in (None, EVIL) and j["by_cause"])
    own = [j["job"] for j in document["jobs"] if j["user"] == user]
    assert len(rows(page(source, "/jobs", f"user={user}"), "Jobs")) == len(own)
    gpus = {g["gpu"] for g in document["gpus"] if g["job"] in own}
    mine_ = [
        f for f in document["findings"]
        if (f["scope"]["job"] in own if f["scope"]["job"] else gpus & set(f["scope"]["gpus"]))
    ]  # fmt: skip
    assert 0 < len(mine_) < len(document["findings"])
    for path in ("/", "/findings"):
        assert len(rows(page(source, path, f"user={user}"), "Findings")) == len(mine_)
    view = view_of(source, "/", f"user={user}")
    assert [bool(out) for out in _outside(view)] == [g["job"] not in own for g in document["gpus"]]
    for by in ("", "sm", "cost", "job"):
        shown = page(source, "/", f"user={user}&by={by}")
        (figure,) = (n.figure for n in tabular._walk(shown) if getattr(n, "id", "") == "heat")
        z = np.frombuffer(base64.b64decode(figure["data"][0]["z"]["bdata"]), np.uint8)
        # The last colour is none at all.
        assert (z < figure["data"][0]["zmax"] - 1).sum() == len(gpus)
    assert "nobody has no job in this range" in json.dumps(
        [str(p) for p in page(source, "/jobs", "user=nobody")]
    )


def test_a_finding_without_a_job_is_of_all_whose_gpus_it_touches(source: Fixed) -> None:
    view = view_of(source, "/", "")
    gpu = next(g for g in source.diagnosis.document["gpus"] if g["job"] in source.made.once(jobs_of, "bruno"))
    shared = {"scope": {"job": None, "gpus": [gpu["gpu"], "GPU-other"]}}
    assert is_of(view, shared, "bruno")
    assert not is_of(view, shared, "nobody")
    assert not is_of(view, {"scope": {"job": "none", "gpus": [gpu["gpu"]]}}, "bruno")


def shown(hub: Asked, path: str, **headers: str) -> str:
    """What the render callback answers a browser."""
    (spec,) = (d for d in hub.get("/_dash-dependencies", **headers).json if "main.children" in d["output"])
    values = {"url.pathname": path, "url.search": "", "theme.data": "dark", "beat.data": 1}
    outputs = [name.split(".") for name in spec["output"].strip(".").split("...")]
    asked = {
        "output": spec["output"],
        "outputs": [{"id": id_, "property": name} for id_, name in outputs],
        "inputs": [{**i, "value": values[f"{i['id']}.{i['property']}"]} for i in spec["inputs"]],
        "changedPropIds": ["url.pathname"],
        "state": [{**s, "value": None} for s in spec["state"]],
    }
    answer = hub.ask("POST", "/_dash-update-component", asked, **headers)
    assert answer.status == 200
    return json.dumps(answer.json)


def test_each_viewer_of_one_hub_is_shown_their_own_chip(
    source: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(create_app(source, access=Access(proxies=ME)).server) as hub:
        for user in ("bruno", "chen", "bruno"):
            text = shown(hub, "/jobs", X_Forwarded_User=f"{user}@example.org")
            assert f"/jobs?user={user}" in text
            assert "Mine " in text
    with serving(create_app(source, access=Access(token="0" * 32)).server) as hub:
        assert "Mine " not in shown(hub, "/jobs", Authorization=f"Bearer {'0' * 32}")
    monkeypatch.setenv("LOGNAME", "dara")
    with serving(create_app(source).server) as hub:
        assert "/jobs?user=dara" in shown(hub, "/jobs", X_Forwarded_User="bruno")
