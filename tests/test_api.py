"""The JSON API: its answers are the document's, fit their own schema, and fail as problems."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import dashboards
import pytest
from dashboards import EVIL, Fixed
from openapi_spec_validator import validate
from served import Asked, serving

from wellfed.dashboard.api import models
from wellfed.dashboard.app import create_app

API = "/api/v1"


@pytest.fixture(scope="module")
def source() -> Fixed:
    return dashboards.simulated_fleet(duration=600)


@pytest.fixture(scope="module")
def hub(source: Fixed) -> Iterator[Asked]:
    with serving(create_app(source).server) as asked:
        yield asked


def whole(hub: Asked, path: str) -> list[dict[str, object]]:
    """All parts of a list."""
    items: list[dict[str, object]] = []
    while path:
        part = hub.get(path).json
        items += part["items"]
        assert len(part["items"]) <= part["limit"]
        path = part["next"]
    assert len(items) == part["total"]
    return items


def test_the_openapi_document_is_valid_and_served_from_here(hub: Asked) -> None:
    answer = hub.get(f"{API}/openapi.json")
    assert answer.status == 200
    validate(answer.json)
    assert b"://" not in answer.body.replace(b"about:blank", b"")
    assert answer.json["servers"] == [{"url": API}]
    for path in ("/docs", "/redoc"):
        assert hub.get(API + path).status == 404


def test_every_answer_fits_the_schema_that_the_document_promises(hub: Asked, source: Fixed) -> None:
    document = source.diagnosis.document
    gpu, job, finding = document["gpus"][0], document["jobs"][0], document["findings"][0]
    where = f"/gpus/{gpu['host']}/{gpu['index']}"
    for path, model in (
        ("/summary", models.Summary),
        ("/findings", models.Paged[models.Finding]),
        (f"/findings/{finding['id']}", models.Finding),
        ("/notes", models.Listed[models.Note]),
        ("/jobs", models.Paged[models.Job]),
        (f"/jobs/{quote(job['job'])}", models.Job),
        ("/gpus", models.Paged[models.Gpu]),
        (where, models.Gpu),
        (f"{where}/series", models.Series),
        ("/hosts", models.Paged[models.Host]),
        ("/coverage", models.Coverage),
    ):
        answer = hub.get(API + path)
        assert answer.status == 200, path
        assert answer.headers["cache-control"] == "no-store"
        model.model_validate_json(answer.body)


def test_lists_hold_what_the_document_holds_part_by_part(hub: Asked, source: Fixed) -> None:
    document = source.diagnosis.document
    assert whole(hub, f"{API}/gpus?limit=7") == document["gpus"]
    lost = [job["lost_seconds"] for job in whole(hub, f"{API}/jobs?limit=3")]
    assert lost == sorted((job["lost_seconds"] for job in document["jobs"]), reverse=True)
    found = whole(hub, f"{API}/findings?limit=2")
    assert [{k: v for k, v in f.items() if k != "standing"} for f in found] == document["findings"]
    assert hub.get(f"{API}/coverage").json["items"] == document["coverage"]
    hosts = {host["host"]: host for host in whole(hub, f"{API}/hosts")}
    assert sum(host["gpus"] for host in hosts.values()) == len(document["gpus"])
    for host in document["hosts"]:
        assert hosts[host["host"]].items() >= host.items()


def test_lists_are_filtered(hub: Asked, source: Fixed) -> None:
    document = source.diagnosis.document
    for name in ("cause", "severity"):
        wanted = document["findings"][0][name]
        found = whole(hub, f"{API}/findings?{name}={wanted}")
        assert len(found) == sum(f[name] == wanted for f in document["findings"])
    host = document["gpus"][0]["host"]
    assert {gpu["host"] for gpu in whole(hub, f"{API}/gpus?host={host}")} == {host}
    held = [g for g in document["gpus"] if g["job"] == EVIL]
    assert whole(hub, f"{API}/gpus?job={quote(EVIL)}") == held != []


def test_a_job_is_found_under_any_name(hub: Asked, source: Fixed) -> None:
    for job in source.diagnosis.document["jobs"]:
        assert hub.get(f"{API}/jobs/{quote(job['job'], safe='')}").json == job


def test_the_series_of_a_gpu_is_what_its_page_draws(hub: Asked, source: Fixed) -> None:
    gpu = source.diagnosis.document["gpus"][0]
    told = hub.get(f"{API}/gpus/{gpu['host']}/{gpu['gpu']}/series?points=20").json
    assert 10 <= len(told["stamps"]) <= 21
    assert len(told["waiting_on"]) == len(told["stamps"])
    assert {len(signal["values"]) for signal in told["signals"]} == {len(told["stamps"])}
    active = next(s for s in told["signals"] if s["name"] == "sm_active_seconds")
    assert active["unit"] == "s/s"
    assert all(value is None or 0 <= value <= 1 for value in active["values"])
    assert any(active["values"])
    one = hub.get(f"{API}/gpus/{gpu['host']}/{gpu['gpu']}/series?signal=power_watts").json
    assert [signal["name"] for signal in one["signals"]] == ["power_watts"]


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/findings/none", 404, "choose a longer one"),
        ("/jobs/none", 404, "no job none"),
        ("/gpus/nobody/0", 404, "no GPU 0 of nobody"),
        ("/gpus/nobody/0/series", 404, "no GPU 0 of nobody"),
        ("/nonsense", 404, "Not Found"),
        ("/summary?from=yesterday", 422, "from is an age"),
        ("/summary?from=2026-03-02T12:00&to=2026-03-02T11:00", 422, "from is an age"),
        ("/summary?to=2026-03-02T11:00", 422, "from is an age"),
        ("/gpus?limit=100000", 422, "limit"),
        ("/findings?severity=awful", 422, "severity"),
    ],
)
def test_what_fails_is_a_problem_that_says_what_to_do(
    hub: Asked, path: str, status: int, detail: str
) -> None:
    answer = hub.get(API + path)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    models.Problem.model_validate_json(answer.body)
    assert detail in answer.json["detail"]
    assert answer.json["instance"] == API + path.partition("?")[0]


def test_an_error_inside_tells_nothing_of_the_inside(source: Fixed) -> None:
    class Broken:
        simulated = False

        def answer(self, wanted: object) -> object:
            raise OSError("/secret/path")

    with serving(create_app(Broken()).server) as hub:  # type: ignore[arg-type]
        answer = hub.get(f"{API}/summary")
    assert (answer.status, answer.headers["content-type"]) == (500, "application/problem+json")
    assert b"secret" not in answer.body


def test_a_finding_is_acknowledged_muted_commented_on_and_all_of_it_taken_back(source: Fixed) -> None:
    with serving(create_app(source).server) as hub:
        finding = source.diagnosis.document["findings"][0]
        path = f"{API}/findings/{finding['id']}"

        def state() -> str:
            return str(hub.get(path).json["standing"]["state"])

        assert state() == "new"
        seen = hub.ask("POST", f"{path}/notes", {"kind": "acknowledge", "text": "on it"})
        assert seen.status == 201
        models.Note.model_validate_json(seen.body)
        assert (seen.json["who"], state()) == ("local", "acknowledged")
        muted = hub.ask("POST", f"{path}/notes", {"kind": "mute", "for": "4h"}).json
        assert state() == "muted"
        assert hub.get(f"{API}/findings?state=muted").json["total"] == 1
        assert hub.get(f"{API}/summary").json["findings"]["muted"] == 1
        hub.ask("POST", f"{path}/notes", {"kind": "comment", "text": EVIL})
        assert [n["text"] for n in hub.get(path).json["standing"]["notes"]] == ["on it", "", EVIL]
        names = hub.get(path).json["standing"]
        for name in (names["key"], names["trouble"]):
            assert hub.get(f"{API}/findings/{name}").json["id"] == finding["id"]
        assert hub.ask("DELETE", f"{API}/notes/{muted['id']}").json["undoes"] == muted["id"]
        assert hub.ask("DELETE", f"{API}/notes/{muted['id']}").status == 404
        assert state() == "acknowledged"
        hub.ask("DELETE", f"{API}/notes/{seen.json['id']}")
        assert state() == "new"
        kinds = [note["kind"] for note in whole(hub, f"{API}/notes?limit=2")]
        assert kinds == ["undo", "undo", "comment", "mute", "acknowledge"]


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "praise"},
        {"kind": "comment"},
        {"kind": "comment", "text": "\ud800"},
        {"kind": "comment", "text": "x" * 2001},
        {"kind": "mute"},
        {"kind": "mute", "for": "long"},
        {"kind": "acknowledge", "for": "4h"},
        {"kind": "acknowledge", "who": "root"},
        [],
    ],
)
def test_what_cannot_be_said_is_refused(hub: Asked, source: Fixed, said: object) -> None:
    id_ = source.diagnosis.document["findings"][0]["id"]
    answer = hub.ask("POST", f"{API}/findings/{id_}/notes", said)
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert hub.get(f"{API}/notes").json["total"] == 0
