"""Failures are answered here, as problem+json (RFC 9457). Never a value, a path, SQL or a stack."""

import json
from collections.abc import Mapping, Sequence
from http.client import responses
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Match

from ferrule.errors import Error, FieldError, Invalid
from ferrule.schemas import Schema

log = structlog.get_logger("ferrule.http")

MEDIA_TYPE = "application/problem+json"

CODES = {
    400: "bad_request",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    500: "internal_error",
}
"""Codes of the statuses that the framework answers by itself; `Error` classes carry their own."""

TITLES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: Invalid.title,
}
"""Names of RFC 9110 that are others in older versions of Python."""

DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not know the method.",
    413: "The body is larger than is accepted here.",
    500: "Something went wrong here. It was logged under the request id.",
}


class ProblemField(Schema):
    """One refused field."""

    loc: list[str | int] = Field(description="Where it stands, as in [body, price].")
    code: str
    detail: str


class Problem(Schema):
    """What every error answers with."""

    type: str = Field(description="about:blank: the code says which problem it is.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable name of the problem.")
    request_id: str = Field(description="Also in X-Request-ID and in the log.")
    errors: list[ProblemField] | None = Field(
        default=None, description="The refused fields of a 422."
    )


def problem(
    status: int,
    *,
    request_id: str,
    code: str | None = None,
    title: str | None = None,
    detail: str | None = None,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem+json response."""
    standard = TITLES.get(status) or responses.get(status, "Error")
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title or standard,
        "status": status,
        "detail": detail or DETAILS.get(status) or standard,
        "code": code or CODES.get(status) or standard.lower().replace(" ", "_"),
        "request_id": request_id,
    }
    if errors:
        body["errors"] = list(errors)
    content = json.dumps(body, ensure_ascii=True).encode()
    return Response(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def of_error(error: Error, *, request_id: str) -> Response:
    """The response that says an error."""
    return problem(
        error.status,
        request_id=request_id,
        code=error.code,
        title=error.title,
        detail=error.detail,
        errors=error.errors,
        headers=error.headers,
    )


def install(app: FastAPI) -> None:
    """Let the application answer every exception by this module, of WebSockets too."""
    app.add_exception_handler(HTTPException, cast(Any, _http))
    app.add_exception_handler(RequestValidationError, cast(Any, _validation))
    app.add_exception_handler(WebSocketRequestValidationError, cast(Any, _handshake))
    app.add_exception_handler(Exception, unexpected)


async def unexpected(connection: HTTPConnection, error: Exception) -> Response:
    """A defect of ours: logged with its stack, answered without."""
    log.error("unhandled exception", exc_info=error)
    return problem(500, request_id=_request_id(connection))


async def _http(request: Request, error: HTTPException) -> Response:
    if isinstance(error, Error):
        return of_error(error, request_id=_request_id(request))
    if error.status_code in (204, 304):
        return Response(status_code=error.status_code, headers=error.headers)
    # Details of the framework's own 404 and 405 only repeat the title.
    own = error.status_code not in DETAILS and isinstance(cast(Any, error.detail), str)
    headers = error.headers
    if error.status_code == 405:
        headers = {**(headers or {}), "Allow": ", ".join(sorted(_methods(request)))}
    return problem(
        error.status_code,
        request_id=_request_id(request),
        detail=error.detail if own else None,
        headers=headers,
    )


def _methods(request: Request) -> set[str]:
    """What the address knows; the framework names the methods of one route alone."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.router.routes):
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found


async def _validation(request: Request, error: RequestValidationError) -> Response:
    expected = _expected_media_type(request, error)
    if expected is not None:
        return problem(
            415,
            request_id=_request_id(request),
            detail=f"Send the body as {expected}, and say so in Content-Type.",
            headers={"Accept": expected},
        )
    return _invalid(request, error.errors())


async def _handshake(
    connection: HTTPConnection, error: WebSocketRequestValidationError
) -> Response:
    return _invalid(connection, error.errors())


def _invalid(connection: HTTPConnection, errors: Sequence[Any]) -> Response:
    return problem(
        Invalid.status,
        request_id=_request_id(connection),
        code=Invalid.code,
        detail="The request has invalid fields.",
        errors=[_field(item) for item in errors],
    )


def _field(item: Mapping[str, Any]) -> FieldError:
    """Without `input` and `ctx`, which hold what the client sent: it may be a password."""
    kind = str(item["type"])
    loc = [part for part in item["loc"] if isinstance(part, str | int)]
    loc = [printable(part) for part in loc]
    detail = str(item["msg"]) if kind not in _ECHOING else _ECHOING[kind]
    return {"loc": loc, "code": kind, "detail": detail}


def printable(name: str | int) -> str | int:
    """A name that the client may have made up: cut, and safe to print."""
    if isinstance(name, int):
        return name
    return name[:100].encode("ascii", "backslashreplace").decode()


_ECHOING = {
    "json_invalid": "The body is not valid JSON.",
    "value_error": "The value is not valid.",
    "uuid_parsing": "Not a valid UUID.",
    "datetime_parsing": "Not a valid date and time.",
    "datetime_from_date_parsing": "Not a valid date and time.",
    "date_parsing": "Not a valid date.",
    "date_from_datetime_parsing": "Not a valid date.",
    "time_parsing": "Not a valid time.",
    "url_parsing": "Not a valid URL.",
}
"""Messages that would repeat a part of the input."""


def _expected_media_type(request: Request, error: RequestValidationError) -> str | None:
    """What the route expects, where the body failed because it came as something else."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    in_body = any(tuple(item["loc"])[:1] == ("body",) for item in error.errors())
    if not in_body:
        return None
    field = getattr(request.scope.get("route"), "body_field", None)
    wants = getattr(getattr(field, "field_info", None), "media_type", "application/json")
    if wants == "application/json":
        is_json = given == wants or (given.startswith("application/") and given.endswith("+json"))
        return wants if isinstance(error.body, bytes) and not is_json else None
    forms = ("application/x-www-form-urlencoded", "multipart/form-data")
    return wants if given and given not in forms else None


def _request_id(connection: HTTPConnection) -> str:
    return connection.scope.get("ferrule.request_id", "")
