# Problem documents (RFC 9457): every error leaves the service as application/problem+json.
from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from msgspec import UNSET, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

_LOG = logging.getLogger("runnel.serving")
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class ProblemDocument(Struct, omit_defaults=True):
    """The body of every error. `field` is the path of the field that broke a rule."""

    status: int
    title: str
    detail: str
    field: str | UnsetType = UNSET
    type: str = "about:blank"


class Problem(Exception):  # noqa: N818  RFC 9457's word
    """An error a caller can act on; becomes a problem document with this status."""

    def __init__(self, status: int, detail: str, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.field, self.headers = status, detail, field, headers


def unavailable(detail: str) -> Problem:
    """503 with Retry-After: nothing is wrong with the request, but not now."""
    return Problem(503, detail, headers={"Retry-After": "1"})


def overloaded(detail: str) -> Problem:
    """429 with Retry-After: more was asked for than can be done."""
    return Problem(429, f"too much at once: {detail}; try again", headers={"Retry-After": "1"})


def problem_response(problem: Problem) -> Response:
    """The problem as an HTTP response."""
    title = _TITLES.get(problem.status, "Error")
    document = ProblemDocument(problem.status, title, problem.detail, field=problem.field or UNSET)
    body = msgspec.json.encode({"type": document.type, **msgspec.to_builtins(document)})
    return Response(body, problem.status, problem.headers, media_type="application/problem+json")


def install_problem_handlers(app: FastAPI) -> None:
    """Turn every error that can leave a route into a problem document."""

    async def on_problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return problem_response(error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = f"{request.method} {request.url.path}: {error.detail}; the calls are listed at /docs"
        return problem_response(Problem(error.status_code, detail, headers=error.headers))

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return problem_response(Problem(422, f"{field}: {first['msg']}", field))

    async def on_disconnect(_: Request, __: Exception) -> Response:
        return problem_response(Problem(400, "the body did not come to its end"))  # nobody is there to read it

    async def on_anything(request: Request, error: Exception) -> Response:
        route = getattr(request.scope.get("route"), "path", "?")  # not the path itself: it may name a user
        _LOG.error("%s %s failed", request.method, route, exc_info=error)
        return problem_response(Problem(500, "the service failed on this request; its log tells how"))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_anything)
