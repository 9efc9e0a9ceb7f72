"""The addresses of the API. Each answer is made on a thread of the server's pool, never on its loop."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request
from starlette.responses import JSONResponse

from wellfed import __version__
from wellfed.analysis.notes import Notes
from wellfed.analysis.trouble import find
from wellfed.dashboard.access import identity
from wellfed.dashboard.api import documents, models
from wellfed.dashboard.api.problems import MEDIA_TYPE, add_problems
from wellfed.dashboard.data import Source
from wellfed.dashboard.ranges import Range, parse_range, readable
from wellfed.dashboard.theme import DARK
from wellfed.dashboard.view import View

__all__ = ["PREFIX", "create_api"]

PREFIX = "/api/v1"

_ABOUT = (
    "Who is starved, by what, since when: the facts of the dashboard and of `wellfed diagnose --json`. "
    "`from` and `to` choose the range: an age such as 6h, or times in ISO 8601."
)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

_From = Annotated[str | None, Query(alias="from", description="start: 15m, 6h, 7d, or ISO 8601 (default 1h)")]
_To = Annotated[str | None, Query(description="end in ISO 8601, where `from` is a time")]
_Limit = Annotated[int, Query(ge=1, le=1000)]
_Offset = Annotated[int, Query(ge=0)]
_Order = Annotated[Literal["name", "lost"], Query(description="by name, or what lost most first")]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    body = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    texts = {404: "Not here in this range", 422: "Not understood", 507: "Could not be kept"}
    return {status: {"description": texts[status], "content": body} for status in statuses}


def _asked(start: _From = None, to: _To = None) -> Range:
    """The range of the request."""
    if not readable(start, to):
        detail = "from is an age such as 15m, 6h or 7d, or from and to are times in ISO 8601, from first"
        raise HTTPException(422, detail)
    return parse_range(start, to, datetime.now(UTC))


_Asked = Annotated[Range, Depends(_asked)]


def create_api(source: Source, notes: Notes) -> FastAPI:
    """The application to mount at PREFIX."""
    api = FastAPI(title="Wellfed", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None)
    add_problems(api)
    _describe(api)

    def view_of(wanted: Range) -> View:
        return View(source.answer(wanted), PREFIX, {}, DARK, notes)

    def answer(body: Mapping[str, Any], status: int = 200) -> JSONResponse:
        return JSONResponse(body, status, headers={"Cache-Control": "no-store"})

    def listed(request: Request, view: View, items: list[Any], offset: int, limit: int) -> JSONResponse:
        fixed = documents.ranged(view)
        return answer({**fixed, **documents.paged(items, offset, limit, _address(request, fixed))})

    def one_finding(view: View, name: str) -> Mapping[str, Any]:
        found = find(view.document["findings"], name)
        if found is not None:
            return found
        raise HTTPException(404, f"no finding {name} in this range: choose a longer one")

    def one_gpu(view: View, host: str, gpu: str) -> Any:
        found = documents.gpu(view, host, gpu)
        if found is None:
            raise HTTPException(404, f"no GPU {gpu} of {host} reported in this range")
        return found

    @api.get("/summary", response_model=models.Summary, responses=_errors(422))
    def summary(wanted: _Asked) -> JSONResponse:
        """The whole fleet in numbers."""
        return answer(documents.summary(view_of(wanted), source.simulated))

    @api.get("/findings", response_model=models.Paged[models.Finding], responses=_errors(422))
    def findings(
        request: Request,
        wanted: _Asked,
        cause: str | None = None,
        job: str | None = None,
        severity: Literal["info", "warning", "critical"] | None = None,
        state: Literal["new", "acknowledged", "muted"] | None = None,
        offset: _Offset = 0,
        limit: _Limit = 100,
    ) -> JSONResponse:
        """Findings, the costliest first."""
        view = view_of(wanted)
        asked = {"cause": cause, "job": job, "severity": severity, "state": state}
        return listed(request, view, documents.findings(view, asked), offset, limit)

    @api.get("/findings/{finding}", response_model=models.Finding, responses=_errors(404, 422))
    def finding(finding: str, wanted: _Asked) -> JSONResponse:
        """One finding, by its id, or by its key, which holds in every range."""
        view = view_of(wanted)
        return answer(documents.finding(view, one_finding(view, finding)))

    @api.post(
        "/findings/{finding}/notes",
        response_model=models.Note,
        status_code=201,
        responses=_errors(404, 422, 507),
    )
    def say(
        request: Request, finding: str, wanted: _Asked, said: Annotated[models.NewNote, Body()]
    ) -> JSONResponse:
        """Acknowledges a finding, mutes it for a while or comments on it."""
        about = one_finding(view_of(wanted), finding)
        until = None if said.for_ is None else datetime.now(UTC) + _length(said.for_)
        try:
            made = notes.say(about, said.kind, identity(request.scope), said.text, until)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except OSError as error:
            raise HTTPException(507, f"the note was not kept: {error.strerror}") from error
        return answer(made.document(), 201)

    @api.get("/notes", response_model=models.Listed[models.Note], responses=_errors(422))
    def history(request: Request, offset: _Offset = 0, limit: _Limit = 100) -> JSONResponse:
        """All that was said about findings, the newest first."""
        said = [note.document() for note in notes.history()]
        return answer(documents.paged(said, offset, limit, _address(request, {})))

    @api.delete("/notes/{note}", response_model=models.Note, responses=_errors(404, 422, 507))
    def undo(request: Request, note: str) -> JSONResponse:
        """Takes a note back; the answer is the note that says so."""
        try:
            return answer(notes.undo(note, identity(request.scope)).document())
        except KeyError as error:
            raise HTTPException(404, f"no note {note} that holds") from error
        except OSError as error:
            raise HTTPException(507, f"the note was not kept: {error.strerror}") from error

    @api.get("/jobs", response_model=models.Paged[models.Job], responses=_errors(422))
    def jobs(
        request: Request,
        wanted: _Asked,
        user: str | None = None,
        order: _Order = "lost",
        offset: _Offset = 0,
        limit: _Limit = 100,
    ) -> JSONResponse:
        """Jobs that held a GPU or reported steps."""
        view = view_of(wanted)
        chosen = [j for j in view.document["jobs"] if user is None or j["user"] == user]
        return listed(request, view, _ordered(chosen, order), offset, limit)

    @api.get("/jobs/{job:path}", response_model=models.Job, responses=_errors(404, 422))
    def job(job: str, wanted: _Asked) -> JSONResponse:
        """One job by its id."""
        found = next((j for j in view_of(wanted).document["jobs"] if j["job"] == job), None)
        if found is None:
            raise HTTPException(404, f"no job {job} in this range")
        return answer(found)

    @api.get("/gpus", response_model=models.Paged[models.Gpu], responses=_errors(422))
    def gpus(
        request: Request,
        wanted: _Asked,
        host: str | None = None,
        job: str | None = None,
        order: _Order = "name",
        offset: _Offset = 0,
        limit: _Limit = 100,
    ) -> JSONResponse:
        """GPUs that reported."""
        view = view_of(wanted)
        chosen = [
            g
            for g in view.document["gpus"]
            if (host is None or g["host"] == host) and (job is None or g["job"] == job)
        ]
        return listed(request, view, _ordered(chosen, order), offset, limit)

    @api.get("/gpus/{host}/{gpu:path}/series", response_model=models.Series, responses=_errors(404, 422))
    def series(
        host: str,
        gpu: str,
        wanted: _Asked,
        points: Annotated[int, Query(ge=2, le=1500)] = 360,
        signal: Annotated[list[str] | None, Query(description="only these, by name")] = None,
    ) -> JSONResponse:
        """Signals of a GPU over time, counters as rates, and what it was waiting on."""
        view = view_of(wanted)
        return answer(documents.series(view, one_gpu(view, host, gpu), points, signal or []))

    @api.get("/gpus/{host}/{gpu:path}", response_model=models.Gpu, responses=_errors(404, 422))
    def gpu(host: str, gpu: str, wanted: _Asked) -> JSONResponse:
        """One GPU by its host and its id or ordinal."""
        return answer(one_gpu(view_of(wanted), host, gpu))

    @api.get("/hosts", response_model=models.Paged[models.Host], responses=_errors(422))
    def hosts(
        request: Request,
        wanted: _Asked,
        order: _Order = "name",
        offset: _Offset = 0,
        limit: _Limit = 100,
    ) -> JSONResponse:
        """Hosts that reported, with their pressures."""
        view = view_of(wanted)
        return listed(request, view, _ordered(documents.hosts(view), order), offset, limit)

    @api.get("/coverage", response_model=models.Coverage, responses=_errors(422))
    def coverage(wanted: _Asked) -> JSONResponse:
        """Which signals were measured."""
        return answer(documents.coverage(view_of(wanted)))

    return api


def _describe(api: FastAPI) -> None:
    """The OpenAPI document names every error as a problem, in place of FastAPI's own."""
    made = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = made()
            schemas = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas["Problem"] = models.Problem.model_json_schema()
            document["servers"] = [{"url": PREFIX}]
            api.openapi_schema = document
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]


def _address(request: Request, fixed: Mapping[str, str]) -> str:
    """This list with its range fixed, so that its parts fit together."""
    kept = {k: v for k, v in request.query_params.items() if k != "offset"}
    return f"{request.url.path}?{urlencode({**kept, **fixed})}"


def _ordered(items: list[Any], order: str) -> list[Any]:
    return sorted(items, key=lambda item: -item["lost_seconds"]) if order == "lost" else items


def _length(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+)([mhd])", text)
    assert match
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
