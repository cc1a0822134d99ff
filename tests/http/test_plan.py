"""A plan does what FastAPI does for the same endpoint and the same dependencies."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import anyio
import pytest
import pytest_asyncio
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Response,
    Security,
)
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from httpx import AsyncClient
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    RootModel,
    field_serializer,
    model_validator,
)
from sqlalchemy import ForeignKey, String, func, insert, select
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ferrule import Anyone, Conflict, Ferrule, Module, Schema, TextSchema, create_app
from ferrule.db import Base, Database, Write, WriteSession, prebuilt
from ferrule.http.routes import api_routes
from ferrule.modules import auth
from tests.conftest import Answer, Ways, ask, plans

API = "/api/v1"
MakeWays = Callable[..., Ways]


class Planned:
    """A router whose one endpoint is under test; `note` is what it and its dependencies tell."""

    def __init__(self, ways: MakeWays) -> None:
        self.router = APIRouter()
        self._ways = ways
        self.both: Ways | None = None

    def note(self, what: Any) -> None:
        assert self.both is not None
        self.both.notes.append(what)

    def route(self, *, planned: bool | None, **options: Any) -> Callable[[Any], Any]:
        """Adds the endpoint at /x. It has a plan, or none, or that is not what matters."""

        def add(endpoint: Any) -> Any:
            methods = options.pop("methods", ["GET", "POST"])
            self.router.add_api_route("/x", endpoint, methods=methods, **options)
            self.both = self._ways(self.router)
            assert planned in (None, f"{methods[0]} {API}/x" in self.both.plans)
            return endpoint

        return add

    async def get(self, query: str = "", **request: Any) -> Answer:
        assert self.both is not None
        return await self.both.get(f"{API}/x{query}", **request)

    async def post(self, json: Any, query: str = "", **request: Any) -> Answer:
        assert self.both is not None
        return await self.both.post(f"{API}/x{query}", json=json, **request)


@pytest.fixture
def x(ways: MakeWays) -> Planned:
    return Planned(ways)


class Data(Schema):
    text: str = ""
    number: int = 0


# Dependencies


async def test_dependencies_are_called_once_a_request(x: Planned) -> None:
    async def one(a: int = 1) -> int:
        x.note(f"one {a}")
        return a

    async def two(b: Annotated[int, Depends(one)], c: int = 2) -> int:
        x.note("two")
        return b + c

    @x.route(planned=True, dependencies=[Depends(two), Depends(one)])
    async def endpoint(
        two: Annotated[int, Depends(two)], one: Annotated[int, Depends(one)]
    ) -> list[int]:
        x.note("endpoint")
        return [two, one]

    answer = await x.get("?a=5&c=6")
    assert answer.json() == [11, 5]
    assert answer.noted == ("one 5", "two", "endpoint")


async def test_what_is_not_cached_is_called_each_time(x: Planned) -> None:
    async def fresh() -> int:
        x.note("fresh")
        return 1

    async def cached(number: Annotated[int, Depends(fresh, use_cache=False)]) -> int:
        x.note("cached")
        return number

    async def other(number: Annotated[int, Depends(cached)]) -> int:
        return number

    @x.route(planned=None, dependencies=[Depends(fresh), Depends(fresh)])
    async def endpoint(
        a: Annotated[int, Depends(cached)],
        b: Annotated[int, Depends(other)],
        c: Annotated[int, Depends(fresh, use_cache=False)],
    ) -> list[int]:
        return [a, b, c]

    # Behind what is cached, too.
    assert (await x.get()).noted == ("fresh", "fresh", "cached", "fresh", "fresh")


async def test_a_dependency_has_a_value_for_each_scope(x: Planned) -> None:
    numbers = iter(range(100))

    async def number() -> int:
        x.note("called")
        return next(numbers) * 0

    @x.route(planned=True)
    async def endpoint(
        a: Annotated[int, Depends(number)],
        b: Annotated[int, Depends(number, scope="function")],
        c: Annotated[int, Depends(number, scope="function")],
    ) -> list[int]:
        return [a, b, c]

    assert len((await x.get()).noted) == 2


async def test_a_refusal_comes_before_what_is_wrong_with_later_input(x: Planned) -> None:
    async def refuse(key: Annotated[str, Query(max_length=3)] = "") -> None:
        x.note("asked")
        if key == "no":
            raise HTTPException(403, "no")

    @x.route(planned=True, dependencies=[Depends(refuse)])
    async def endpoint(number: int, data: Data | None = None) -> Data:
        x.note("endpoint")
        return Data()

    assert (await x.get("?key=no&number=a")).status == 403
    refused = await x.get("?key=long&number=a")
    assert (refused.status, refused.noted) == (422, ())
    refused = await x.post({"text": 1}, "?key=yes&number=1")
    assert (refused.status, refused.noted) == (422, ("asked",))


class Odd(Exception):
    pass


def yielding(x: Planned, name: str, **does: Any) -> Any:
    """A generator dependency that tells what happens to it."""

    async def generator() -> AsyncIterator[str]:
        x.note(f"{name} begins")
        if "raise_first" in does:
            raise does["raise_first"]
        try:
            yield name
            if "raise_at_end" in does:
                raise does["raise_at_end"]
        except Exception as error:
            x.note(f"{name} sees {type(error).__name__}")
            if "raise_instead" in does:
                raise does["raise_instead"] from None
            if "swallow" not in does:
                raise
        finally:
            await asyncio.sleep(0)
            x.note(f"{name} ends")
            if "raise_finally" in does:
                raise does["raise_finally"]

    return Depends(generator, scope=does.get("scope", "function"))


async def test_generators_end_before_the_answer_is_sent(x: Planned) -> None:
    class Noting(PlainTextResponse):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            x.note("sent")
            await super().__call__(scope, receive, send)

    @x.route(planned=True)
    async def endpoint(
        a: Annotated[str, yielding(x, "a")], b: Annotated[str, yielding(x, "b")]
    ) -> Noting:
        x.note("endpoint")
        return Noting(a + b)

    answer = await x.get()
    assert answer.noted == ("a begins", "b begins", "endpoint", "b ends", "a ends", "sent")


@pytest.mark.parametrize(
    "b",
    [
        {},
        {"swallow": True},
        {"raise_instead": Odd()},
        {"raise_instead": HTTPException(409)},
        {"raise_finally": HTTPException(410)},
        {"raise_first": HTTPException(411)},
        {"raise_first": Odd()},
        {"raise_at_end": Odd()},
        {"raise_at_end": HTTPException(412)},
        {"raise_finally": Conflict("taken")},
        {"raise_at_end": StopAsyncIteration()},
    ],
    ids=lambda does: " ".join(f"{name} {value!r}" for name, value in does.items()),
)
@pytest.mark.parametrize("raised", [None, Odd(), HTTPException(400)])
async def test_generators_see_exceptions(ways: MakeWays, b: dict[str, Any], raised: Any) -> None:
    for a in ({}, {"swallow": True}, {"raise_instead": HTTPException(418)}):
        if raised is None and "swallow" in a:
            continue
        x = Planned(ways)

        @x.route(planned=True)
        async def endpoint(
            a: Annotated[str, yielding(x, "a", **a)],
            b: Annotated[str, yielding(x, "b", **b)],
            c: Annotated[str, yielding(x, "c")],
        ) -> list[str]:
            if raised is not None:
                raise raised
            return [a, b, c]

        await x.get()


@pytest.mark.parametrize("at", ["raise_at_end", "raise_finally"])
async def test_the_end_of_a_dependency_may_fail_and_be_caught(x: Planned, at: str) -> None:
    @x.route(planned=True)
    async def endpoint(
        a: Annotated[str, yielding(x, "a", swallow=True)],
        b: Annotated[str, yielding(x, "b", **{at: Odd()})],
    ) -> str:
        return a + b

    assert "a sees Odd" in (await x.get()).noted


class Hasty:
    """ASGI: gives a request a moment."""

    def __init__(self, app: ASGIApp, way: str) -> None:
        self.app, self.way = app, way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.way == "anyio":
                with anyio.fail_after(0.02):
                    await self.app(scope, receive, send)
            else:
                await asyncio.wait_for(self.app(scope, receive, send), 0.02)
        except TimeoutError:
            await PlainTextResponse("too slow", 504)(scope, receive, send)


@pytest.mark.parametrize("way", ["anyio", "asyncio"])
async def test_generators_end_when_a_request_is_cancelled(ways: MakeWays, way: str) -> None:
    router = APIRouter()

    async def slowly() -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            both.notes.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0.01)
            both.notes.append("ended")

    @router.get("/x", dependencies=[Depends(slowly, scope="function")])
    async def endpoint() -> Data:
        await asyncio.sleep(1)
        return Data()

    both = ways(router, setup=lambda app: app.add_middleware(Hasty, way=way))
    answer = await both.get(f"{API}/x")
    assert (answer.status, answer.noted) == (504, ("CancelledError", "ended"))


async def test_generators_with_request_scope_have_no_plan(x: Planned) -> None:
    class Noting(PlainTextResponse):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            x.note("sent")
            await super().__call__(scope, receive, send)

    @x.route(planned=False)
    async def endpoint(a: Annotated[str, yielding(x, "a", scope="request")]) -> Noting:
        return Noting(a)

    assert (await x.get()).noted == ("a begins", "sent", "a ends")


async def async_function() -> str:
    return "async"


def function() -> str:
    return "sync"


def with_argument(name: str, argument: int = 0) -> str:
    return f"{name} {argument}"


async def async_with_argument(name: str, argument: int = 0) -> str:
    return f"{name} {argument}"


class AsyncInstance:
    async def __call__(self, name: str = "") -> str:
        return f"async instance {name}"

    async def method(self, name: str = "") -> str:
        return f"method {name}"

    @classmethod
    async def of_class(cls, name: str = "") -> str:
        return f"{cls.__name__} {name}"

    @staticmethod
    async def static(name: str = "") -> str:
        return f"static {name}"


class Instance:
    def __call__(self, name: str = "") -> str:
        return f"instance {name}"


class AsClass:
    def __init__(self, name: str = "") -> None:
        self.name = name

    def __str__(self) -> str:
        return f"class {self.name}"


class Yielding:
    async def __call__(self) -> AsyncIterator[str]:
        yield "yielding"


class Inheriting(AsyncInstance):
    pass


def generator() -> Iterator[str]:
    yield "generator"


async def async_generator() -> AsyncIterator[str]:
    yield "async generator"


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return f"decorated {await function(*args, **kwargs)}"

    return wrapper


def awaited_elsewhere(name: str = "") -> Awaitable[str]:
    return async_with_argument(name)


CALLABLES: dict[str, tuple[Any, bool]] = {
    "async function": (async_function, True),
    "async instance": (AsyncInstance(), True),
    "async method": (AsyncInstance().method, True),
    "async class method": (AsyncInstance.of_class, True),
    "async static method": (AsyncInstance.static, True),
    "inheriting instance": (Inheriting(), True),
    "function": (function, False),
    "lambda": (lambda name="": f"lambda {name}", False),
    "instance": (Instance(), False),
    "class": (AsClass, False),
    "partial": (functools.partial(with_argument, argument=3), False),
    "async partial": (functools.partial(async_with_argument, argument=3), False),
    "partial of an instance": (functools.partial(AsyncInstance()), False),
    "cached": (functools.lru_cache(function), False),
    "decorated": (decorated(async_with_argument), False),
}


@pytest.mark.parametrize("kind", CALLABLES)
async def test_kinds_of_dependencies(x: Planned, kind: str) -> None:
    call, planned = CALLABLES[kind]

    @x.route(planned=planned)
    async def endpoint(given: Annotated[Any, Depends(call)]) -> str:
        return str(given)

    answer = await x.get("?name=n")
    assert answer.status == 200
    await x.get()


@pytest.mark.parametrize(
    ("call", "planned"), [(generator, False), (async_generator, True), (Yielding(), True)]
)
async def test_kinds_of_generators(x: Planned, call: Any, planned: bool) -> None:
    @x.route(planned=planned)
    async def endpoint(given: Annotated[str, Depends(call, scope="function")]) -> str:
        return given

    assert (await x.get()).json().endswith(("generator", "yielding"))


@pytest.mark.parametrize("call", [with_argument, decorated(async_with_argument)])
async def test_kinds_of_endpoints(x: Planned, call: Any) -> None:
    x.route(planned=False, response_model=Any)(call)
    assert (await x.get("?name=n")).status == 200


async def test_the_same_endpoint_at_two_addresses(ways: MakeWays) -> None:
    router = APIRouter()

    @router.get("/one/{a}")
    @router.get("/two/{b}", status_code=202)
    async def endpoint(request: Request, a: str = "", b: str = "") -> str:
        return f"{a} {b} {request.scope['route'].path}"

    both = ways(router)
    assert (await both.get(f"{API}/one/1")).json() == "1  /one/{a}"
    answer = await both.get(f"{API}/two/2?a=3")
    assert (answer.status, answer.json()) == (202, "3 2 /two/{b}")


# What is handed to endpoints


async def test_the_response_parameter(x: Planned) -> None:
    async def first(response: Response) -> None:
        response.headers["X-Who"] = "dependency"
        response.headers["X-First"] = "1"
        response.set_cookie("a", "1", httponly=True)
        response.status_code = 207

    @x.route(planned=True, status_code=201, dependencies=[Depends(first)])
    async def endpoint(response: Response, status: int = 0, kind: str = "") -> Any:
        response.headers["X-Who"] = "endpoint"
        response.headers.append("X-Who", "again")
        response.headers["Content-Type"] = "text/x"
        response.delete_cookie("b")
        if status:
            response.status_code = status
        x.note((response.status_code, response.body, dict(response.headers)))
        if kind == "response":
            return PlainTextResponse("x", 203, {"X-Own": "1"})
        return {"a": 1}

    answer = await x.get()
    assert (answer.status, answer.header("X-Who")) == (207, "endpoint, again")
    for query in ("?status=418", "?status=204", "?status=304", "?status=205", "?kind=response"):
        await x.get(query)


async def test_the_request_and_the_connection(x: Planned) -> None:
    async def looked(connection: HTTPConnection, request: Request) -> Any:
        request.state.seen = [connection is request]
        return request

    @x.route(planned=True)
    async def endpoint(request: Request, before: Annotated[Any, Depends(looked)]) -> dict[str, Any]:
        scope = request.scope
        return {
            "same": before is request,
            "state": request.state.seen,
            "url": str(request.url),
            "url_for": str(request.url_for("endpoint")),
            "path": request.url.path,
            "params": request.path_params,
            "query": request.query_params.multi_items(),
            "headers": request.headers.items(),
            "cookies": request.cookies,
            "client": request.client,
            "app": type(request.app).__name__,
            "router": scope["router"] is request.app.router,
            "endpoint": scope["endpoint"].__name__,
            "route": [scope["route"].path, scope["route"].name],
            "disconnected": await request.is_disconnected(),
        }

    headers = [("Cookie", "a=1; b=2"), ("X-A", "1"), ("X-A", b"\xff")]
    answer = await x.get("?a=1&a=2&b=%C3%A9", headers=headers, body=b"x")
    assert answer.json()["same"] is True


async def test_background_tasks_have_no_plan(x: Planned) -> None:
    @x.route(planned=False)
    async def endpoint(tasks: BackgroundTasks) -> str:
        tasks.add_task(x.note, "in the background")
        return "a"

    answer = await x.get()
    assert (answer.json(), answer.noted) == ("a", ("in the background",))


scheme = OAuth2PasswordBearer("token", auto_error=False)


async def with_scopes(scopes: SecurityScopes) -> str:
    return scopes.scope_str


async def test_security(x: Planned) -> None:
    @x.route(planned=False)
    async def endpoint(
        token: Annotated[str | None, Depends(scheme)],
        scopes: Annotated[str, Security(with_scopes, scopes=["a", "b"])],
    ) -> list[str | None]:
        return [token, scopes]

    assert (await x.get(headers=[("Authorization", "Bearer t")])).json() == ["t", "a b"]


async def test_a_security_scheme_is_a_dependency(x: Planned) -> None:
    @x.route(planned=True)
    async def endpoint(token: Annotated[str | None, Depends(scheme)]) -> str | None:
        return token

    assert (await x.get(headers=[("Authorization", "Bearer t")])).json() == "t"
    assert (await x.get()).json() is None


# Parameters


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


Upper = Annotated[str, AfterValidator(str.upper)]

SCALARS: dict[str, tuple[Any, Any, bool]] = {
    "str": (str, ..., True),
    "str with default": (str, "é", True),
    "int": (int, ..., True),
    "int with bounds": (Annotated[int, Query(ge=0, lt=10)], 5, True),
    "int or None": (int | None, None, True),
    "float": (float, 0.5, True),
    "bool": (bool, False, True),
    "Decimal": (Decimal, Decimal("1.20"), True),
    "UUID": (UUID | None, None, True),
    "datetime": (datetime | None, None, True),
    "date": (date, date(2026, 1, 1), True),
    "time": (time | None, None, True),
    "timedelta": (timedelta, timedelta(1), True),
    "Literal": (Literal["a", "b", 3], "a", True),
    "Enum": (Colour, Colour.RED, True),
    "IntEnum": (Level | None, Level.LOW, True),
    "int or bool": (int | bool, 0, True),
    "with validator": (Upper, "x", True),
    "with function before": (Annotated[int, BeforeValidator(lambda v: v.strip("<>"))], 0, True),
    "alias": (Annotated[str, Query(alias="the-alias")], "", True),
    "validation alias": (Annotated[str, Query(validation_alias="v")], "", True),
    "pattern": (Annotated[str, Query(pattern="^[a-z]*$", max_length=3)], "", True),
    "required or None": (int | None, ..., True),
    "factory": (Annotated[int, Query(default_factory=lambda: 5)], ..., True),
    "factory of a list": (Annotated[list[str], Query(default_factory=list)], ..., False),
    "list": (Annotated[list[int], Query()], [], False),
    "list or None": (Annotated[list[str] | None, Query()], None, False),
    "JSON": (Annotated[Json[list[int]] | None, Query()], None, False),
    "deprecated": (Annotated[str, Query(deprecated=True, include_in_schema=False)], "", True),
}

VALUES = (
    *("", "0", "1", "-1", "5", "1.5", "x", "red", "a", "3", "true", "on", "None", "null", "NaN"),
    *("1e999", "9" * 400, "%20", "%C3%A9", "%FF", "+1", "1_0", "%D9%A1", "<7>", "[1]"),
    *("2026-01-01", "2026-01-01T00:00:00Z", "12:00", "P1D", "0198a3c2-0000-7000-8000-000000000000"),
)


@pytest.mark.parametrize("name", SCALARS)
async def test_query_parameters(x: Planned, name: str) -> None:
    annotation, default, planned = SCALARS[name]

    async def endpoint(value: Any) -> dict[str, Any]:
        return {"value": repr(value)}

    endpoint.__annotations__["value"] = annotation
    if default is not ...:
        endpoint.__defaults__ = (default,)
    x.route(planned=planned)(endpoint)
    await x.get()
    await x.get("?other=1")
    for key in ("value", "the-alias", "v"):
        for value in VALUES:
            await x.get(f"?{key}={value}")
        await x.get(f"?{key}=1&{key}=2")
        await x.get(f"?{key}=x&{key}=")
        await x.get(f"?{key}")


@pytest.mark.parametrize("name", ["str", "int", "bool", "UUID", "Enum", "Literal", "datetime"])
async def test_path_and_header_parameters(ways: MakeWays, name: str) -> None:
    annotation, _, _ = SCALARS[name]
    router = APIRouter()

    async def in_path(value: Any, x_key: Any, x_other: Any = None) -> list[str]:
        return [repr(value), repr(x_key), repr(x_other)]

    in_path.__annotations__ |= {
        "value": Annotated[annotation, Path()],
        "x_key": Annotated[annotation | None, Header()],
        "x_other": Annotated[str, Header(alias="Other_Name")],
    }
    in_path.__defaults__ = (None, "none")
    router.add_api_route("/{value}", in_path)
    both = ways(router)
    assert f"GET {API}/{{value}}" in both.plans
    for value in VALUES:
        sent = [("X-Key", value.encode()), ("Other_Name", "1"), ("x_key", "2")]
        await both.get(f"{API}/{value}", headers=sent)
        await both.get(f"{API}/{value}", headers=[*sent, ("X-Key", "x")])
    await both.get(f"{API}/x")


async def test_defaults_are_copied(x: Planned) -> None:
    class Holder(Enum):
        ONE = (1, 2)

    default = date(2026, 1, 1)

    @x.route(planned=True)
    async def endpoint(day: date = default, holder: Holder = Holder.ONE) -> list[bool]:
        return [day == default, holder is Holder.ONE]

    assert (await x.get()).json() == [True, True]


class Filters(TextSchema):
    limit: int = Field(10, ge=1, le=100)
    name: str | None = None
    colour: Colour = Colour.RED
    on: bool = False


class Ignoring(TextSchema):
    model_config = ConfigDict(extra="ignore")

    limit: int = 10
    name: str


class Allowing(TextSchema):
    model_config = ConfigDict(extra="allow")

    limit: int = 10


class WithAlias(TextSchema):
    limit: int = Field(10, alias="Limit")


class WithList(TextSchema):
    tags: list[str] = Field(default_factory=list)


class LookingAtExtras(BaseModel):
    name: str = ""
    others: str = ""

    @model_validator(mode="before")
    @classmethod
    def _count(cls, data: Any) -> Any:
        return {**data, "others": ",".join(sorted(data))}


MODELS = [(Filters, True), (Ignoring, True), (Allowing, False), (WithAlias, False),
          (WithList, False), (LookingAtExtras, True)]  # fmt: skip


@pytest.mark.parametrize(("model", "planned"), MODELS)
async def test_models_of_the_query(x: Planned, model: Any, planned: bool) -> None:
    async def endpoint(query: Any) -> dict[str, Any]:
        return {"query": repr(query), "set": sorted(query.model_fields_set)}

    endpoint.__annotations__["query"] = Annotated[model, Query()]
    x.route(planned=planned)(endpoint)
    for query in ("", "?limit=5", "?limit=5&limit=6", "?limit=x", "?limit=0", "?name=a&extra=1",
                  "?name=a&limit=7&on=yes&colour=blue", "?colour=green", "?Limit=3", "?name=",
                  "?tags=a&tags=b", "?extra=1&extra=2&name=x", "?name&limit",
                  "?NAME=x"):  # fmt: skip
        await x.get(query)


async def test_a_model_of_the_query_beside_scalars(x: Planned) -> None:
    async def paging(page: int = 1) -> int:
        return page

    @x.route(planned=True)
    async def endpoint(
        query: Annotated[Ignoring, Query()], page: Annotated[int, Depends(paging)]
    ) -> dict[str, Any]:
        return {"query": repr(query), "page": page}

    assert (await x.get("?name=a&page=4")).json()["page"] == 4
    await x.get("?page=4")


@pytest.mark.parametrize("kind", [Cookie, Form])
async def test_cookies_and_forms_have_no_plan(x: Planned, kind: Any) -> None:
    async def endpoint(a: str) -> str:
        return a

    endpoint.__annotations__["a"] = Annotated[str, kind()]
    x.route(planned=False, methods=["POST"])(endpoint)
    form = ("Content-Type", "application/x-www-form-urlencoded")
    assert x.both is not None
    sent = await x.both.post(f"{API}/x", body=b"a=1", headers=[form, ("Cookie", "a=1")])
    assert sent.json() == "1"


async def test_headers_as_a_model_have_no_plan(x: Planned) -> None:
    class Headers(BaseModel):
        x_key: str

    @x.route(planned=False)
    async def endpoint(headers: Annotated[Headers, Header()]) -> str:
        return headers.x_key

    assert (await x.get(headers=[("X-Key", "1")])).json() == "1"


# Bodies


class Nested(Schema):
    data: Data
    more: list[Data] = Field(default_factory=list)
    by_name: dict[str, Decimal] = Field(default_factory=dict)
    at: datetime | None = None


class Numbers(RootModel[list[int]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


ANNOTATIONS: dict[str, Any] = {
    "model": Data,
    "model or None": Data | None,
    "nested": Nested,
    "list of models": list[Data],
    "dict": Annotated[dict[str, Any], Body()],
    "dict of decimals": Annotated[dict[str, Decimal], Body()],
    "str": Annotated[str, Body()],
    "int or None": Annotated[int | None, Body()],
    "bool": Annotated[bool, Body()],
    "anything": Annotated[Any, Body()],
    "root model": Numbers,
    "union": Annotated[Cat | Dog, Body(discriminator="kind")],
    "set": Annotated[set[int], Body()],
    "with alias": Annotated[Data, Body(alias="renamed")],
    "with validator": Annotated[list[int], AfterValidator(sorted), Body()],
}

SENT: list[Any] = [
    *(None, True, 0, 1, -1, 1.0, 1.5, "", "x", "1", [], {}, [1, 2, 2.0], [3, 1], ["1"], [{}]),
    *({"text": "a"}, {"text": "a", "number": 2.0}, {"number": "1"}, {"number": True}),
    *({"more": 1}, {"text": None}, {"data": {}}, {"data": {"text": "é"}, "more": [{}, {"a": 1}]}),
    *({"data": {}, "by_name": {"a": "1.20", "b": 1.1, "c": "x"}}, {"a": 1.10, "b": "2"}),
    *({"data": {}, "at": "2026-01-01T00:00:00+05:00"}, {"kind": "cat", "lives": 9}),
    *({"kind": "dog"}, {"kind": "cow"}, [{"text": "a"}, {"number": 1}], {"renamed": {}}, "NaN"),
]


@pytest.mark.parametrize("name", ANNOTATIONS)
async def test_kinds_of_bodies(x: Planned, name: str) -> None:
    async def endpoint(data: Any) -> dict[str, Any]:
        return {"data": repr(data), "is": type(data).__name__}

    endpoint.__annotations__["data"] = ANNOTATIONS[name]
    x.route(planned=True, methods=["POST"])(endpoint)
    assert x.both is not None
    for sent in SENT:
        if sent is None:
            json = ("Content-Type", "application/json")
            await x.both.post(f"{API}/x", body=b"null", headers=[json])
        await x.post(sent)
    await x.both.post(f"{API}/x")


@pytest.mark.parametrize("name", ["model", "dict", "anything", "int or None"])
@pytest.mark.parametrize("default", [None, 5])
async def test_bodies_with_defaults(x: Planned, name: str, default: Any) -> None:
    async def endpoint(data: Any) -> dict[str, Any]:
        return {"data": repr(data)}

    endpoint.__annotations__["data"] = ANNOTATIONS[name]
    endpoint.__defaults__ = (default,)
    x.route(planned=True, methods=["POST"])(endpoint)
    assert x.both is not None
    json = ("Content-Type", "application/json")
    for body in (b"", b"null", b"{}", b"1"):
        await x.both.post(f"{API}/x", body=body, headers=[json])
        await x.both.post(f"{API}/x", body=body)


async def test_several_bodies_have_no_plan(x: Planned) -> None:
    @x.route(planned=False, methods=["POST"])
    async def endpoint(data: Data, more: Data, key: Annotated[int, Body()] = 0) -> list[Data]:
        return [data, more]

    assert (await x.post({"data": {}, "more": {"text": "a"}})).json()[1]["text"] == "a"


async def test_an_embedded_body_has_no_plan(x: Planned) -> None:
    @x.route(planned=False, methods=["POST"])
    async def endpoint(data: Annotated[Data, Body(embed=True)]) -> Data:
        return data

    assert (await x.post({"data": {"text": "a"}})).json()["text"] == "a"


async def test_a_body_in_a_dependency(x: Planned) -> None:
    async def read(data: Data) -> Data:
        data.text += "!"
        return data

    @x.route(planned=True, methods=["POST"])
    async def endpoint(read: Annotated[Data, Depends(read)], data: Data) -> list[str]:
        return [read.text, data.text, str(read is data)]

    assert (await x.post({"text": "a"})).json() == ["a!", "a", "False"]


async def test_a_dependency_may_take_the_body_as_another_type(x: Planned) -> None:
    async def audit(data: Annotated[dict[str, Any], Body()]) -> str:
        return f"{type(data).__name__} {data}"

    @x.route(planned=None, methods=["POST"])
    async def endpoint(data: Data, seen: Annotated[str, Depends(audit)]) -> list[str]:
        return [f"{type(data).__name__} {data}", seen]

    answer = await x.post({"text": "a"})
    assert answer.json() == ["Data text='a' number=0", "dict {'text': 'a'}"]


def _taken(value: str) -> str:
    if value == "taken":
        raise Conflict("It is taken.")
    if value == "odd":
        raise Odd
    return value


async def test_a_validator_that_raises_comes_after_who_is_refused(x: Planned) -> None:
    class Named(Schema):
        name: Annotated[str, AfterValidator(_taken)]

    async def refuse(key: str = "") -> None:
        x.note("asked")
        if not key:
            raise HTTPException(401, "who are you?")

    @x.route(planned=True, methods=["POST"], dependencies=[Depends(refuse)])
    async def endpoint(data: Named) -> Named:
        return data

    assert (await x.post({"name": "free"}, "?key=1")).status == 200
    assert (await x.post({"name": "taken"}, "?key=1")).status == 409
    assert (await x.post({"name": "odd"}, "?key=1")).status == 500
    assert (await x.post({"name": "taken"})).status == 401


# Answers


class WithSerializer(BaseModel):
    at: datetime = datetime(2026, 1, 1)
    price: Decimal = Decimal("1.20")
    ratio: float = float("nan")
    name: str = Field("é", serialization_alias="Name")
    maybe: int | None = None

    @field_serializer("price")
    def _price(self, price: Decimal) -> str:
        return f"{price} EUR"


class Wide(Data):
    secret: str = "s"


class Attributes:
    text = "from attributes"
    number = 7


ANSWERS: list[tuple[Any, Any]] = [
    (Data, Data(text="é\u2028", number=2**53)),
    (Data, {"text": "a"}),
    (Data, Wide(text="a")),
    (Data, Attributes()),
    (Data, {"text": 5}),
    (Data, {"text": "a", "more": 1}),
    (Data, None),
    (Data, "x"),
    (Data | None, None),
    (list[Data], [Data(), {"text": "b"}, Attributes()]),
    (list[Data], []),
    (list[Data], (Data(),)),
    (list[Any], [1, "a", None, [1.5, {"b": True}]]),
    (list[int | str], [1, "a"]),
    (dict[str, Any], {"a": [1, "b"], "c": {}}),
    (dict[str, list[Data]], {"a": [Data()]}),
    (dict[int, str], {1: "a"}),
    (WithSerializer, WithSerializer()),
    (Cat | Dog, Dog(kind="dog")),
    (Colour, Colour.RED),
    (bytes, b"abc"),
    (str, "a"),
    (int, True),
    (None, {"at": datetime(2026, 1, 1), "d": Decimal("1.20"), "data": Data(), "e": Colour.RED}),
    (None, None),
    (None, [1, {2}]),
    (None, object()),
    (Any, float("nan")),
    (Any, {"a": {1, 2}}),
    (float, float("inf")),
]


@pytest.mark.parametrize("number", range(len(ANSWERS)))
@pytest.mark.parametrize("status", [200, 204, 304, 201])
async def test_what_endpoints_answer(x: Planned, number: int, status: int) -> None:
    model, answered = ANSWERS[number]
    options = {"response_model": model} if model and status < 204 else {}

    @x.route(planned=True, status_code=status, **options)
    async def endpoint() -> Response:
        return answered

    await x.get()


@pytest.mark.parametrize(
    "options",
    [
        {"response_model_exclude_none": True},
        {"response_model_exclude_unset": True},
        {"response_model_exclude_defaults": True},
        {"response_model_include": {"name"}},
        {"response_model_exclude": {"name"}},
        {"response_model_by_alias": False},
        {"response_class": JSONResponse},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_options_of_response_models_have_no_plan(x: Planned, options: dict[str, Any]) -> None:
    @x.route(planned=False, response_model=WithSerializer, **options)
    async def endpoint() -> Any:
        return WithSerializer(ratio=1)

    assert (await x.get()).status == 200


async def test_a_router_can_choose_the_class_of_responses(ways: MakeWays) -> None:
    class Pretty(JSONResponse):
        media_type = "application/x-pretty"

    router = APIRouter(default_response_class=Pretty)

    @router.get("/x")
    async def endpoint() -> Data:
        return Data()

    both = ways(router)
    assert f"GET {API}/x" not in both.plans
    assert (await both.get(f"{API}/x")).header("Content-Type") == "application/x-pretty"


async def test_responses_are_sent_as_they_are(x: Planned) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"a", b"b"):
            await asyncio.sleep(0)
            yield part

    async def before(response: Response) -> None:
        response.headers["X-Before"] = "1"

    @x.route(planned=True, dependencies=[Depends(before)], status_code=201)
    async def endpoint(kind: str) -> Response:
        return {
            "plain": PlainTextResponse("é", 299, {"X-Own": "1"}),
            "json": JSONResponse({"a": 1}),
            "stream": StreamingResponse(parts(), media_type="text/x"),
            "redirect": RedirectResponse("/elsewhere"),
            "empty": Response(status_code=204),
            "not modified": Response(status_code=304, headers={"ETag": '"1"'}),
        }[kind]

    for kind in ("plain", "json", "stream", "redirect", "empty", "not%20modified"):
        answer = await x.get(f"?kind={kind}")
        assert answer.header("X-Before") is None
    assert (await x.get("?kind=plain")).status == 299
    assert (await x.get("?kind=other")).status == 500


async def test_what_is_not_as_declared_is_a_defect(x: Planned) -> None:
    @x.route(planned=True)
    async def endpoint(ended: Annotated[str, yielding(x, "a")]) -> Data:
        return {"text": 5}  # type: ignore[return-value]

    answer = await x.get()
    assert answer.status == 500
    assert answer.logged[0] == "unhandled exception"
    assert answer.noted == (
        "a begins",
        "a sees ResponseValidationError",
        "a ends",
    )


# What is promised of the modules


def test_the_routes_of_the_shipped_modules_have_plans() -> None:
    app = create_app()
    without = {
        f"{method} {route.path_format}"
        for route in api_routes(app)
        for method in route.methods or ()
    } - plans(app)
    # A form; answers without what is null; a path in the path.
    assert without == {
        f"GET {API}/streams/{{channel}}",
        f"POST {API}/auth/login",
        f"GET {API}/health",
        f"GET {API}/health/live",
        f"GET {API}/health/ready",
        "GET /setup",
    }


class Thing(Base):
    __tablename__ = "test_plan_things"

    name: Mapped[str] = mapped_column(String(20), unique=True)
    owner: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.id", deferrable=True, initially="DEFERRED")
    )


NEW = prebuilt(insert(Thing))
COUNT = prebuilt(select(func.count(Thing.id).label("count")))
NOBODY = UUID(int=7)


async def _twice_by_statement(session: WriteSession) -> None:
    session.insert(NEW, name="a")
    session.insert(NEW, name="a")


async def _again_by_statement(session: WriteSession) -> None:
    session.insert(NEW, name="first")


async def _twice_unflushed(session: WriteSession) -> None:
    session.add_all([Thing(name="a"), Thing(name="a")])


async def _of_nobody(session: WriteSession) -> None:
    session.add(Thing(name="a", owner=NOBODY))
    await session.flush()


async def _of_nobody_by_statement(session: WriteSession) -> None:
    session.insert(NEW, name="a", owner=NOBODY)


WRITES = {
    each.__name__.strip("_"): each
    for each in (_twice_by_statement, _again_by_statement, _twice_unflushed, _of_nobody,
                 _of_nobody_by_statement)
}  # fmt: skip

things = APIRouter(prefix="/things")


async def _written(write: str, session: Write) -> WriteSession:
    await WRITES[write](session)
    return session


Written = Annotated[WriteSession, Depends(_written)]


@things.post("/json/{write}", status_code=201)
async def as_json(written: Written, actor: Anyone, response: Response) -> Data:
    response.headers["Location"] = "/somewhere"
    return Data(text="stored")


@things.post("/response/{write}")
async def as_response(written: Written, actor: Anyone) -> PlainTextResponse:
    return PlainTextResponse("stored")


@things.post("/stream/{write}")
async def as_stream(written: Written, actor: Anyone) -> StreamingResponse:
    return StreamingResponse(iter(["stored"]))


@things.post("/nothing/{write}", status_code=204)
async def as_nothing(written: Written, actor: Anyone) -> None:
    pass


@things.post("/body/{write}")
async def with_body(data: Data, written: Written, actor: Anyone) -> Data:
    return data


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[auth.module, Module(name="probes", router=things)])


@pytest_asyncio.fixture
async def stored(app: Ferrule) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Counts what is stored in the table, in which one row stands."""
    database = app.kit[Database]
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables=[Thing.__table__])
    async with database.write() as session:
        session.add(Thing(name="first"))

    async def count() -> int:
        async with database.read() as session:
            row = await session.fetch_one(COUNT)
            assert row is not None
            return row.count

    yield count
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all, tables=[Thing.__table__])


@pytest.mark.parametrize("write", WRITES)
async def test_d1_a_commit_that_fails_is_no_success(
    app: Ferrule, client: AsyncClient, stored: Callable[[], Awaitable[int]], write: str
) -> None:
    assert {f"POST {API}/things/{name}/{{write}}" for name in ("json", "body")} <= plans(app)
    for name in ("json", "response", "stream", "nothing", "body"):
        for headers in ({}, {"Origin": "http://localhost:5173"}):
            answer = await client.post(
                f"{API}/things/{name}/{write}", json={"text": "stored"}, headers=headers
            )
            assert answer.status_code in (409, 500)
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert "Location" not in answer.headers
            assert await stored() == 1


async def test_d1_it_is_stored_before_the_answer_begins(
    app: Ferrule, stored: Callable[[], Awaitable[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100))

    async def store(session: WriteSession) -> None:
        session.insert(NEW, name=f"new {next(numbers)}")

    monkeypatch.setitem(WRITES, "one", store)
    seen: list[int] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append(await stored())
            await send(message)

        await app(scope, receive, sent)

    for name in ("json", "response", "stream", "nothing", "body"):
        answer = await ask(noting, "POST", f"{API}/things/{name}/one", json={})
        assert answer.status in (200, 201, 204)
    assert seen == [2, 3, 4, 5, 6]
