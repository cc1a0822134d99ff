"""The application's routes: their templates for logs and metrics, and what each must declare."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast, get_type_hints

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.params import Form
from fastapi.routing import APIRoute, APIWebSocketRoute, RouteContext, iter_route_contexts
from starlette.responses import Response
from starlette.types import Scope

from ferrule.actor import Access
from ferrule.errors import ConfigurationError
from ferrule.observability.metrics import UNMATCHED
from ferrule.schemas import Schema, TextSchema

API = "/api/v1"
"""Where the routers of modules are mounted."""


class RouteNames:
    """Finds the template of the route that answered a request, as `/api/v1/items/{id}`.

    `scope["route"].path` lacks the prefix behind included routers, so the endpoint leads to it.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._templates: dict[Any, list[RouteContext]] | None = None
        self._count = 0

    def template(self, scope: Scope) -> str:
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return UNMATCHED
        routes = self._app.router.routes
        if self._templates is None or self._count != len(routes):
            self._count = len(routes)
            self._templates = {}
            for route in iter_route_contexts(self._app.router.routes):
                self._templates.setdefault(route.endpoint, []).append(route)
        candidates = self._templates.get(endpoint, [])
        if len(candidates) > 1:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            matching = [route for route in candidates if route.path_regex.match(path)]
            candidates = matching or candidates
        return (candidates[0].path_format if candidates else None) or UNMATCHED


def routers(router: APIRouter) -> Iterator[APIRouter]:
    """A router and all that are included in it."""
    yield router
    for route in router.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from routers(included)


def endpoints(router: APIRouter) -> Iterator[Any]:
    """What answers the routes of a router, without the routes being built for where it stands."""
    for each in routers(router):
        for route in each.routes:
            yield getattr(route, "endpoint", None)


def api_routes(app: FastAPI) -> Iterator[RouteContext]:
    """Every route that FastAPI answers, with the path and dependencies that apply in the end."""
    for route in iter_route_contexts(app.router.routes):
        if isinstance(route.original_route, APIRoute):
            yield route


def access_of(route: RouteContext) -> list[Access]:
    """The declared accesses of a route; each must let the actor pass."""
    return [call for call in _calls(route.dependant) if isinstance(call, Access)]


def check_routes(app: FastAPI, module_of: Callable[[RouteContext], str]) -> None:
    """Refuse routes without declared access or response type, and routes that hide each other."""
    seen: dict[tuple[str, str], str] = {}
    for route in iter_route_contexts(app.router.routes):
        if isinstance(route.original_route, APIRoute | APIWebSocketRoute) and not access_of(route):
            methods = " ".join(sorted(route.methods or ()))
            raise ConfigurationError(
                f"Module {module_of(route)!r}: {methods or 'WebSocket'} {route.path} does not "
                f"declare who may use it. Give the endpoint a parameter `actor: SignedIn` (or "
                f"Anyone, Administrator), or the module an access: Module(access=public)."
            )
    for route in api_routes(app):
        for method in sorted(route.methods or ()):
            where = f"Module {module_of(route)!r}: {method} {route.path}"
            for name in _strict_models(route):
                raise ConfigurationError(
                    f"{where} takes {name} from a query or a form, where numbers come as text, "
                    f"which a Schema refuses: derive it from TextSchema."
                )
            if not _has_response_type(route):
                raise ConfigurationError(
                    f"{where} does not declare what it answers. Annotate what the endpoint "
                    f"returns, or give the route response_model=… (or status_code=204)."
                )
            key = (method, route.path_format or "")
            if key in seen:
                raise ConfigurationError(
                    f"{where} is declared twice ({seen[key]} comes first and hides it). To "
                    f"replace a generated route: resource_router(…, without={{…}})."
                )
            seen[key] = getattr(route.endpoint, "__name__", "another")


def _calls(dependant: Dependant | None) -> Iterator[Any]:
    if dependant is not None:
        yield dependant.call
        for dependency in dependant.dependencies:
            yield from _calls(dependency)


def _strict_models(route: RouteContext) -> Iterator[str]:
    """The names of models for JSON that the route takes from elsewhere."""
    dependants = [cast(Dependant, route.dependant)]
    while dependants:
        dependant = dependants.pop()
        dependants.extend(dependant.dependencies)
        forms = [field for field in dependant.body_params if isinstance(field.field_info, Form)]
        for field in (*dependant.query_params, *dependant.header_params, *forms):
            kind = field.field_info.annotation
            if not inspect.isclass(kind) or issubclass(kind, TextSchema):
                continue
            if issubclass(kind, Schema):
                yield kind.__name__


def _has_response_type(route: RouteContext) -> bool:
    if route.response_model is not None or route.status_code in (204, 304):
        return True
    try:
        answer = get_type_hints(route.endpoint).get("return")
    except (NameError, TypeError):
        return False
    return inspect.isclass(answer) and issubclass(answer, Response)
