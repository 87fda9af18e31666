"""HTTP errors: RFC 9457 problem details with a stable `code` and a `detail` that tells a person what to do."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from shared.database import is_transient
from shared.logs import get_logger

log = get_logger()

MEDIA_TYPE = "application/problem+json"


class ProblemBody(BaseModel):
    """The body of every error. More members may follow, such as `available` beside `insufficient_credits`."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str


class Problem(Exception):
    """An error response. `code` is stable and meant for programs, `detail` tells a person what to do, and `more` adds
    members to the body."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.more = more


def problem_response(problem: Problem) -> JSONResponse:
    """Converts a problem to a response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.code.replace("_", " ").capitalize(),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        **problem.more,
    }
    return JSONResponse(body, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the OpenAPI `responses` of a route that may respond with problems of these statuses."""
    return {status: {"model": ProblemBody, "content": {MEDIA_TYPE: {}}} for status in statuses}


def install_problem_handlers(app: FastAPI) -> None:
    """Makes the app respond with a problem to every error: `Problem`, the framework's errors, invalid requests, and any
    other exception."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_problem(_request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, Problem)
    return problem_response(problem)


async def _on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in detail["loc"][1:]), "message": detail["msg"]}
        for detail in error.errors()[:20]
    ]
    summary = "; ".join(f"{each['field']}: {each['message']}" for each in errors)
    return problem_response(
        Problem(422, "invalid_request", f"The request does not fit: {summary}"[:1000], errors=errors)
    )


_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}
_DETAILS = {404: "There is nothing here. /docs lists what there is.", 405: "This path is asked with another method."}


#: FastAPI's detail, with status 400, for a body that is not text. It becomes 422, as for a body that is not JSON.
_UNREADABLE_BODY_DETAIL = "There was an error parsing the body"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.detail == _UNREADABLE_BODY_DETAIL:
        return problem_response(Problem(422, "invalid_request", "The body is not JSON in UTF-8."))
    code = _CODES.get(error.status_code, "invalid_request")
    headers = dict(error.headers) if error.headers else None
    detail = str(error.detail)
    if detail == HTTPStatus(error.status_code).phrase:  # the framework's default, which only repeats the status
        detail = _DETAILS.get(error.status_code, f"{detail}.")
    if error.status_code == 405:  # the framework's `Allow` lists only the methods of the path's first route
        headers = {**(headers or {}), "Allow": ", ".join(_methods_of_path(request))}
    return problem_response(Problem(error.status_code, code, detail, headers=headers))


def _methods_of_path(request: Request) -> list[str]:
    routes = request.app.router.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    if is_transient(error):
        log.warning("request_failed_for_now", path=request.url.path, error=type(error).__name__)
        return problem_response(
            Problem(
                503,
                "temporarily_unavailable",
                "Nothing was changed for sure; repeat the request with the same idempotency key or reference.",
                headers={"Retry-After": "1"},
            )
        )
    log.error("request_failed", path=request.url.path, exc_info=error)
    return problem_response(Problem(500, "internal_error", "This is a fault of ours; it is logged. Try again later."))
