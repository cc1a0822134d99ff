"""The description of the API: FastAPI's own, with typed errors, security and the envelope named."""

from inspect import isclass
from operator import attrgetter
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext

from ferrule.http.problems import MEDIA_TYPE, Problem
from ferrule.http.routes import access_of, api_routes
from ferrule.schemas import SETTINGS, Schema

SCHEMAS = "#/components/schemas/{model}"
REFERENCE = SCHEMAS.format(model="Problem")

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


def describe(app: FastAPI, schemes: dict[str, Any], settings: object) -> dict[str, Any]:
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
    model = Problem.model_json_schema(ref_template=SCHEMAS)
    schemas.update(model.pop("$defs", {}))
    schemas["Problem"] = model
    _take_settings(schemas, settings)
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
    bounded = _bounded(route)
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = bounded.get(parameter["name"], parameter["schema"])
        _not_null(parameter["schema"])
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


def _take_settings(node: Any, settings: object) -> None:
    """Replace what `from_settings` has marked by the values."""
    if isinstance(node, list):
        for part in cast(list[Any], node):
            _take_settings(part, settings)
    elif isinstance(node, dict):
        schema = cast(dict[str, Any], node)
        for keyword, setting in schema.pop(SETTINGS, {}).items():
            schema[keyword] = attrgetter(setting)(settings)
        _take_settings(list(schema.values()), settings)


def _bounded(route: RouteContext) -> dict[str, Any]:
    """The query parameters of `Schema` types: FastAPI knows their fields, not the bounds."""
    found: dict[str, Any] = {}
    for field in route.dependant.query_params:
        kind = field.field_info.annotation
        if isclass(kind) and issubclass(kind, Schema):
            found |= kind.model_json_schema(ref_template=SCHEMAS)["properties"]
    return found


def _not_null(schema: dict[str, Any]) -> None:
    """A parameter is left out or has a value: null, in Python, stands for the former."""
    if schema.get("default", ...) is None:
        del schema["default"]
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])
    elif kinds:
        schema["anyOf"] = kinds


def _statuses(operation: dict[str, Any], route: RouteContext) -> set[int]:
    """The errors that an operation can answer, from its parts."""
    statuses = {400, 500, 503}
    parameters = cast(list[dict[str, Any]], operation.get("parameters", []))
    body = "requestBody" in operation
    if not all(access.anonymous for access in access_of(route)):
        statuses |= {401, 403}
    if any(parameter["in"] == "path" for parameter in parameters):
        statuses.add(404)
    if any(parameter["name"].lower() == "if-match" for parameter in parameters):
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
