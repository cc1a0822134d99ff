"""Finds the route of a request by its path, and answers by its plan where there is one.

FastAPI asks each route in turn and resolves its dependencies anew for every request. Whatever has
no plan, whatever is refused, and everything while dependencies are overridden goes to FastAPI.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from fastapi import APIRouter, FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.datastructures import URLPath
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, NoMatchFound, Route
from starlette.types import Message, Receive, Scope, Send

from ferrule.errors import Error
from ferrule.http.body import check_json, has_type
from ferrule.http.envelope import MEDIA_TYPE
from ferrule.http.parameters import NotPlanned, Refused
from ferrule.http.plan import Plan
from ferrule.http.problems import MEDIA_TYPE as PROBLEM
from ferrule.http.problems import problem
from ferrule.http.routes import routers
from ferrule.http.settings import HttpSettings
from ferrule.kit import Kit

ENVELOPE = MEDIA_TYPE.encode()
RAISED = "ferrule.raised"
"""Where a scope holds what a plan raised, for the layers that answer exceptions."""
SEEN = "ferrule.indexed"
"""Marks a scope that no plan answers."""


@dataclass(frozen=True)
class _Entry:
    """One route, in the order of registration."""

    order: int
    route: Any
    methods: frozenset[str] | None
    regex: Any
    convertors: Any
    exact: bool

    @cached_property
    def plan(self) -> Plan | None:
        """How it is answered, worked out when it is first asked for."""
        try:
            return Plan(self.route)
        except NotPlanned:
            return None


class RouteIndex(BaseRoute):
    """Stands before all other routes.

    It is worked out for the first request, and again when routes were added.
    """

    def __init__(self, app: FastAPI, kit: Kit) -> None:
        self._app = app
        self._max_depth = kit[HttpSettings].max_json_depth
        self._routers: list[APIRouter] = []
        self._version: list[tuple[int, int]] | None = None
        self._by_prefix: dict[str, list[_Entry]] = {}

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, *, edge: bool = False
    ) -> Receive | None:
        """Answer by a plan. Otherwise the `receive` with which the request goes on.

        What was raised stands in the scope then, for the layers that answer exceptions. At the
        `edge` only that is answered which the layers between there and the routes leave as it is.
        """
        plan = self._find(scope)
        length = None if plan is None else self._length(scope, edge)
        if plan is None or length is None or (length and plan.body is None):
            return receive
        body, onward, request = cast(Any, None), receive, Request(scope, receive, send)
        if plan.body is not None:
            limits = (plan.max_body, cast(Any, self._app).max_body_size)
            if (
                not length
                or not _is_plain_json(scope)
                or any(limit is not None and limit < length for limit in limits)
            ):
                return receive
            onward, content = await _read(receive, length)
            if content is None:
                return self._pass(scope, onward)
            try:
                body = check_json(content, max_depth=self._max_depth)
            except Error:
                return self._pass(scope, onward)
            # As if the request had read it itself, who may be asked for it again.
            cast(Any, request)._body = content
        try:
            response = await plan.answer(request, body)
            if edge:
                response = self._seen_from_edge(scope, response)
            await response(scope, receive, send)
        except Refused:
            return self._pass(scope, onward)
        except Exception as error:
            scope[RAISED] = error
            return _again(request, receive)
        return None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if RAISED in scope or (scope["type"] == "http" and self._find(scope) is not None):
            return Match.FULL, {}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if RAISED in scope:
            raise scope.pop(RAISED)
        onward = await self.serve(scope, receive, send)
        if RAISED in scope and onward is not None:
            # As FastAPI does it: a handler can read the body, though it was read.
            answer = wrap_app_handling_exceptions(_raise, Request(scope, onward, send))
            await answer(scope, onward, send)
        elif onward is not None:
            await self._app.router.app(self._passed(scope), onward, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        raise NoMatchFound(name, path_params)

    def _pass(self, scope: Scope, receive: Receive) -> Receive:
        scope[SEEN] = True
        return receive

    def _passed(self, scope: Scope) -> Scope:
        scope[SEEN] = True
        return scope

    def _length(self, scope: Scope, edge: bool) -> int | None:
        """Bytes of the body; None if that is not said, or if others have to see the request."""
        # Without a length there is no body, unless frames of HTTP/2 carry one.
        length = 0 if scope.get("http_version", "1.1") < "2" else None
        for name, value in scope["headers"]:
            if name == b"content-length":
                if not value.isdigit() or len(value) > 18:
                    return None
                length = int(value)
            elif name == b"transfer-encoding" or (
                edge and (name == b"origin" or (name == b"accept" and ENVELOPE in value))
            ):
                return None
        return length

    def _seen_from_edge(self, scope: Scope, response: Response) -> Response:
        """The response as the layers between would have left it."""
        if response.status_code == 413 and not has_type(response.raw_headers, PROBLEM):
            response = problem(413, request_id=scope["ferrule.request_id"])
        vary = [value for name, value in response.raw_headers if name == b"vary"]
        headers = [header for header in response.raw_headers if header[0] != b"vary"]
        headers.append((b"vary", b", ".join([*vary, b"Origin"])))
        response.raw_headers = headers
        return response

    def _find(self, scope: Scope) -> Plan | None:
        """The plan of the route that FastAPI would choose; the scope tells which it is."""
        app = self._app
        if SEEN in scope or app.dependency_overrides or "fastapi.telemetry" in scope:
            return None
        if self._changed():
            self._compile()
        path, root = cast(str, scope["path"]), scope.get("root_path")
        if root and path.startswith(root):
            path = path[len(root) :]
            if not path.startswith("/"):
                return None
        method = scope["method"]
        for entry in self._candidates(path):
            if entry.methods is not None and method not in entry.methods:
                continue
            plan = entry.plan
            if plan is None:
                if entry.route.matches(scope)[0] is Match.FULL:
                    return None
            elif (match := entry.regex.match(path)) is not None:
                try:
                    self._chosen(scope, entry, plan, match)
                except ValueError:
                    # A convertor cannot take it: FastAPI fails by it in its own way.
                    return None
                return plan
        return None

    def _chosen(self, scope: Scope, entry: _Entry, plan: Plan, match: re.Match[str]) -> None:
        """Tell the scope what FastAPI would tell it, and the template for logs and metrics."""
        parameters = match.groupdict()
        if parameters:
            convertors = entry.convertors
            parameters = {
                name: convertors[name].convert(value) for name, value in parameters.items()
            }
        scope["path_params"] = {**scope.get("path_params", {}), **parameters}
        scope["endpoint"] = plan.endpoint
        scope["route"] = plan.route
        scope["ferrule.route"] = plan.template
        scope.setdefault("router", self._app.router)

    def _changed(self) -> bool:
        """Whether routes were added or removed, here or in a router that was included."""
        return self._version != [
            (len(router.routes), cast(Any, router)._routes_version) for router in self._routers
        ]

    def _candidates(self, path: str) -> list[_Entry]:
        """The entries whose static beginning the path has, in the order of registration."""
        # The `$` of a route's pattern matches before a line feed, too.
        path = path.removesuffix("\n")
        found = self._by_prefix.get(path)
        end = len(path)
        while found is None:
            end = path.rfind("/", 0, end)
            if end < 0:
                return self._by_prefix[""]
            found = self._by_prefix.get(path[: end + 1])
        return found

    def _compile(self) -> None:
        routes = self._app.router.routes
        entries: dict[str, list[_Entry]] = {"": []}
        for order, route in enumerate(iter_route_contexts(routes)):
            if route.original_route is not self:
                entries.setdefault(_prefix(route), []).append(_entry(order, route))
        self._by_prefix = {
            prefix: sorted(
                (
                    entry
                    for each in entries
                    if prefix.startswith(each)
                    for entry in entries[each]
                    if each == prefix or not entry.exact
                ),
                key=lambda entry: entry.order,
            )
            for prefix in entries
        }
        self._routers = list(routers(self._app.router))
        self._version = [
            (len(router.routes), cast(Any, router)._routes_version) for router in self._routers
        ]


def _is_plain_json(scope: Scope) -> bool:
    """Whether the body is JSON without a doubt; FastAPI knows more kinds."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    return len(kinds) == 1 and kinds[0].partition(b";")[0].strip().lower() == b"application/json"


async def _read(receive: Receive, length: int) -> tuple[Receive, bytes | None]:
    """A body of known length, None if it does not come so; and what gives it again."""
    messages: list[Message] = []
    size = 0
    while True:
        try:
            message = await receive()
        except Exception as error:
            return _replay(messages, receive, error), None
        messages.append(message)
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or size > length:
            return _replay(messages, receive), None
        if not message.get("more_body", False):
            break
    body = b"".join(message.get("body", b"") for message in messages)
    return _replay(messages, receive), body or None


async def _raise(scope: Scope, receive: Receive, send: Send) -> None:
    raise scope.pop(RAISED)


def _again(request: Request, receive: Receive) -> Receive:
    """A `receive` that gives again what a request has read, for who handles its exception."""
    body: bytes | None = getattr(request, "_body", None)
    if body is None:
        return receive
    return _replay([{"type": "http.request", "body": body, "more_body": False}], receive)


def _replay(messages: list[Message], receive: Receive, error: Exception | None = None) -> Receive:
    """A `receive` that gives these messages, or raises, again before it goes on."""
    waiting = iter(messages)

    async def again() -> Message:
        for message in waiting:
            return message
        if error is not None:
            raise error
        return await receive()

    return again


def _entry(order: int, route: RouteContext) -> _Entry:
    return _Entry(
        order,
        route,
        frozenset(route.methods) if route.methods else None,
        getattr(route, "path_regex", None),
        getattr(route, "param_convertors", None),
        exact=isinstance(route.original_route, Route) and "{" not in str(route.path_format),
    )


def _prefix(route: RouteContext) -> str:
    """The part of a route's path before its first parameter; none for what has no path."""
    path = route.path_format
    if path is None or not isinstance(route.original_route, Route | Mount):
        return ""
    static, brace, _ = path.partition("{")
    return static[: static.rfind("/") + 1] if brace else static
