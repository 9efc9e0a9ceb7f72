"""Errors as application/problem+json (RFC 9457): one document for every way in which a request can fail."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from wellfed.errors import UserError

__all__ = ["MEDIA_TYPE", "add_problems", "problem"]

log = logging.getLogger("wellfed.api")

MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, path: str, **more: object) -> JSONResponse:
    """The answer to a request that failed. detail: what to do about it."""
    said = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": path,
        **more,
    }
    return JSONResponse(said, status, media_type=MEDIA_TYPE)


def add_problems(api: FastAPI) -> None:
    """Every error of the application leaves as a problem; what went wrong inside stays in the log."""

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        made = problem(error.status_code, str(error.detail), request.url.path)
        made.headers.update(error.headers or {})
        return made

    @api.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"in": ".".join(str(part) for part in e["loc"]), "detail": str(e["msg"])} for e in error.errors()
        ]
        detail = "; ".join(f"{e['in']}: {e['detail']}" for e in errors)
        return problem(422, detail, request.url.path, errors=errors)

    @api.exception_handler(UserError)
    async def unfit(request: Request, error: UserError) -> JSONResponse:
        return problem(422, str(error), request.url.path)

    @api.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("%s failed", request.url.path, exc_info=error)
        return problem(500, "the log of the hub says why", request.url.path)
