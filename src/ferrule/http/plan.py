"""A route's endpoint and its dependencies, worked out once instead of for each request.

What a plan does is what FastAPI does for the same route; what it does not know, it does not plan.
Input that does not pass is not answered by it either: FastAPI gets the request, and refuses it.
"""

import inspect
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

from anyio import CancelScope
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import FastAPIError, ResponseValidationError
from fastapi.routing import APIRoute, RouteContext
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ferrule.db.database import READ
from ferrule.dependencies import manager_of
from ferrule.http.parameters import Body, NotPlanned, Parameter, body_of, parameters_of
from ferrule.http.rows import RowWriter

JSON = "application/json"
Values = dict[str, Any]


@dataclass(frozen=True)
class _Call:
    """One function with where each of its arguments comes from."""

    call: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    dependencies: tuple[tuple[str, int], ...]
    request: tuple[str, ...]
    response: str | None
    generator: bool = False
    shielded: bool = False

    def read(self, request: Request, body: Any, values: Values) -> None:
        """Validate what is taken from the request. Raises `Refused`."""
        for parameter in self.parameters:
            values[parameter.name] = parameter.read(request, body)

    def complete(self, values: Values, request: Request, response: Any, solved: list[Any]) -> None:
        """Add what is not input: the request, the response, what dependencies gave."""
        for name in self.request:
            values[name] = request
        if self.response is not None:
            values[self.response] = response
        for name, place in self.dependencies:
            values[name] = solved[place]


class Plan:
    """How a route is answered. Raises `NotPlanned` where FastAPI has to do it."""

    def __init__(self, route: RouteContext) -> None:
        _check(route)
        self.endpoint: Any = route.endpoint
        self.template: str = cast(str, route.path_format)
        self.route = route.original_route
        self.max_body: int | None = route.max_body_size
        self._status: int | None = route.status_code
        self._field: Any = route.response_field
        self._rows = RowWriter(route.response_model)
        self._steps: list[_Call] = []
        self._places: dict[Any, int] = {}
        dependant = cast(Dependant, route.dependant)
        self.body: Body | None = body_of(route)
        self._last = self._call(dependant)
        self._shielded = any(step.shielded for step in self._steps)
        self._responds = any(step.response for step in (*self._steps, self._last))

    async def answer(self, request: Request, body: Any) -> Response:
        """The response. Raises `Refused`, before anything was called, for input to be refused.

        Dependencies have ended when this returns: what is to be committed, is. Their ends are
        shielded from cancellation, as by FastAPI; those that only read have nothing to lose.
        """
        inputs: list[Values] = []
        for step in self._steps:
            values: Values = {}
            step.read(request, body, values)
            inputs.append(values)
        last: Values = {}
        self._last.read(request, body, last)
        response = _blank_response() if self._responds else None
        solved: list[Any] = []
        opened: list[Any] = []
        made: list[Response] = []
        try:
            for step, values in zip(self._steps, inputs, strict=True):
                step.complete(values, request, response, solved)
                if step.generator:
                    manager = step.call(**values)
                    solved.append(await manager.__aenter__())
                    opened.append(manager)
                else:
                    solved.append(await step.call(**values))
            self._last.complete(last, request, response, solved)
            made.append(self._response(await self._last.call(**last), response))
            with CancelScope(shield=True) if self._shielded else nullcontext():
                while opened:
                    await opened.pop().__aexit__(None, None, None)
        except BaseException:
            if not opened:
                raise
            with CancelScope(shield=True):
                async with AsyncExitStack() as stack:
                    for manager in opened:
                        stack.push_async_exit(manager)
                    raise
        if not made:
            raise FastAPIError(
                "A dependency with yield caught an exception and did not raise it again."
            )
        return made[0]

    def _response(self, answered: Any, response: Any) -> Response:
        if isinstance(answered, Response):
            # A copy, because headers are added to it, and it may be answered again.
            return copy(answered)
        status = self._status
        if response is not None and response.status_code:
            status = response.status_code
        if self._field is None:
            made: Response = JSONResponse(jsonable_encoder(answered), status or 200)
        else:
            made = Response(self._serialized(answered), status or 200, media_type=JSON)
        if not is_body_allowed_for_status_code(made.status_code):
            made.body = b""
        if response is not None:
            made.raw_headers.extend(response.raw_headers)
        return made

    def _serialized(self, answered: Any) -> bytes:
        written = self._rows.write(answered)
        if written is not None:
            return written
        try:
            checked = self._field._type_adapter.validate_python(answered, from_attributes=True)
        except ValidationError:
            _, errors = self._field.validate(answered, {}, loc=("response",))
            raise ResponseValidationError(errors=errors, body=answered) from None
        return self._field.serialize_json(checked)

    def _call(self, dependant: Dependant) -> _Call:
        """The call of a dependant, after those of what it depends on."""
        places = tuple(
            (name, place)
            for name, place in [(each.name, self._place(each)) for each in dependant.dependencies]
            if name is not None
        )
        unknown = (
            dependant.cookie_params,
            dependant.websocket_param_name,
            dependant.background_tasks_param_name,
            dependant.security_scopes_param_name,
            dependant.own_oauth_scopes,
            dependant.parent_oauth_scopes,
            dependant.concurrency,
        )
        if any(unknown):
            raise NotPlanned
        generator = _is_generator(dependant)
        call = cast(Callable[..., Any], dependant.call)
        names = (dependant.request_param_name, dependant.http_connection_param_name)
        return _Call(
            manager_of(call) if generator else call,
            tuple(parameters_of(dependant, self.body)),
            places,
            tuple(name for name in names if name is not None),
            dependant.response_param_name,
            generator,
            shielded=generator and call is not READ,
        )

    def _place(self, dependant: Dependant) -> int:
        """Where the value of a dependency will stand, which is asked for once a request."""
        key = (dependant.call, dependant.scope)
        if not dependant.use_cache:
            raise NotPlanned
        if key in self._places:
            return self._places[key]
        self._steps.append(self._call(dependant))
        place = len(self._steps) - 1
        self._places.setdefault(key, place)
        return place


def _check(route: RouteContext) -> None:
    """Raise `NotPlanned` for what is not answered with one JSON document in the usual way."""
    if type(route.original_route) is not APIRoute:
        raise NotPlanned
    plain = (
        inspect.iscoroutinefunction(route.endpoint)
        and isinstance(route.response_class, DefaultPlaceholder)
        and not (route.is_sse_stream or route.is_json_stream or route.stream_item_field)
        and route.response_model_by_alias
    )
    # An empty set asks for something, too: for nothing.
    some = (route.response_model_include, route.response_model_exclude)
    without = (
        route.response_model_exclude_unset,
        route.response_model_exclude_defaults,
        route.response_model_exclude_none,
    )
    if not plain or some != (None, None) or any(without):
        raise NotPlanned


def _is_generator(dependant: Dependant) -> bool:
    """Whether a call is a generator that ends before the answer is sent, or a coroutine."""
    call = dependant.call
    if inspect.isclass(call) or hasattr(call, "__wrapped__"):
        raise NotPlanned
    function = call if inspect.isroutine(call) else cast(Any, type(call)).__call__
    if hasattr(function, "__wrapped__"):
        raise NotPlanned
    if inspect.iscoroutinefunction(function):
        return False
    if inspect.isasyncgenfunction(function) and dependant.scope == "function":
        return True
    raise NotPlanned


def _blank_response() -> Response:
    """What an endpoint's `response` parameter is: it takes headers and a status."""
    response = Response()
    response.raw_headers = []
    cast(Any, response).status_code = None
    return response
