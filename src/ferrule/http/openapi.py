"""The description of the API: FastAPI's own, with typed errors, security and the envelope named."""

from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext

from ferrule.http.problems import MEDIA_TYPE, Problem
from ferrule.http.routes import access_of, api_routes

REFERENCE = "#/components/schemas/Problem"

DESCRIPTIONS = {
    400: "The address or the host is refused",
    401: "Nobody is signed in",
    403: "The actor may not do this",
    404: "It does not exist, or is not yours",
    409: "It contradicts what is stored",
    412: "It changed since it was read",
    413: "The body is too large",
    415: "The body is of another media type",
    422: "Fields are invalid",
    500: "A defect; it was logged",
    503: "Busy; retry after a while",
}


def describe(app: FastAPI, schemes: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document. `schemes` are the security schemes of the doors."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    model = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(model.pop("$defs", {}))
    schemas["Problem"] = model
    if schemes:
        components["securitySchemes"] = schemes
    for route in api_routes(app):
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                _complete(operation, route, list(schemes))
    return document


def _complete(operation: dict[str, Any], route: RouteContext, doors: list[str]) -> None:
    accesses = access_of(route)
    if not all(access.anonymous for access in accesses):
        operation["security"] = [{door: []} for door in doors]
    responses = operation["responses"]
    for status in sorted(_statuses(operation, route)):
        if str(status) == "422" or str(status) not in responses:
            responses[str(status)] = {
                "description": DESCRIPTIONS[status],
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": REFERENCE},
                        "example": _example(status),
                    }
                },
            }


def _statuses(operation: dict[str, Any], route: RouteContext) -> set[int]:
    """The errors that an operation can answer, from its parts."""
    statuses = {400, 500, 503}
    parameters = cast(list[dict[str, Any]], operation.get("parameters", []))
    body = "requestBody" in operation
    if not all(access.anonymous for access in access_of(route)):
        statuses |= {401, 403}
    if any(parameter["in"] == "path" for parameter in parameters):
        statuses.add(404)
    if any(parameter["name"] == "If-Match" for parameter in parameters):
        statuses.add(412)
    if parameters or body:
        statuses.add(422)
    if body:
        statuses |= {413, 415}
    if route.methods and route.methods & {"POST", "PUT", "PATCH", "DELETE"}:
        statuses.add(409)
    return statuses


def _example(status: int) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": "about:blank",
        "title": DESCRIPTIONS[status],
        "status": status,
        "detail": DESCRIPTIONS[status] + ".",
        "code": "validation_error" if status == 422 else "example",
        "request_id": "0f9c1b7e5d3a48d2a6c4e8f01b2d3c4a",
    }
    if status == 422:
        example["errors"] = [
            {"loc": ["body", "name"], "code": "missing", "detail": "Field required"}
        ]
    return example
