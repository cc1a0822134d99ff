"""The same hostile requests to an application with plans, and to one without: all is equal."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

import pytest
from fastapi import APIRouter, Body, Depends, Header, Query
from fastapi.responses import PlainTextResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import bindparam, insert, select, text
from starlette.requests import Request
from starlette.responses import Response

from ferrule import (
    Anyone,
    Conflict,
    Ferrule,
    JsonObject,
    Module,
    Price,
    Schema,
    SignedIn,
    TextSchema,
    create_app,
)
from ferrule.db import Database, Read, Write, prebuilt
from ferrule.modules import SHIPPED
from ferrule.modules.auth.testing import sign_in
from ferrule.modules.items import Item
from ferrule.modules.items.schemas import ItemResponse
from ferrule.testing import TestDatabases
from tests.conftest import Answer, ask, left_to_fastapi

API = "/api/v1"
JSON_TYPE = "application/json"
EXAMPLES = int(os.environ.get("FERRULE_TEST_EXAMPLES", "500"))

# A module with parameters, bodies and answers of many kinds


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(Schema):
    name: str = Field(max_length=5)
    weight: Decimal = Decimal("1.50")


class Thing(Schema):
    text: str = ""
    number: int = Field(default=0, le=100)
    ratio: float | None = None
    flag: bool = False
    price: Price | None = None
    at: datetime | None = None
    day: date | None = None
    colour: Colour = Colour.RED
    kind: Literal["a", "b", 3] = "a"
    parts: list[Part] = Field(default_factory=list, max_length=3)
    data: JsonObject = Field(default_factory=dict)
    key: UUID | None = None


class Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    number: int = 0
    text: str | None = None
    anything: Any = None


class Filters(TextSchema):
    limit: int = Field(10, ge=1, le=100)
    text: str | None = None
    on: bool = False
    colour: Colour | None = None


class Ignoring(BaseModel):
    limit: int = 10
    number: float = 0
    at: datetime | None = None


BY_NAME = prebuilt(
    select(Item).where(Item.owner_id == bindparam("owner"), Item.name == bindparam("name"))
)
NEW = prebuilt(insert(Item))
router = APIRouter(prefix="/kinds")


async def _key(x_key: Annotated[int | None, Header(ge=0)] = None) -> int | None:
    if x_key == 13:
        raise Conflict("Not that one.")
    return x_key


async def _opened(response: Response, key: Annotated[Any, Depends(_key)]) -> AsyncIterator[str]:
    response.headers["X-Opened"] = str(key)
    try:
        yield f"opened {key}"
    except ZeroDivisionError as error:
        raise Conflict("Not by zero.") from error


Opened = Annotated[str, Depends(_opened, scope="function")]


@router.get("/query")
async def query(
    actor: Anyone,
    opened: Opened,
    number: int = 0,
    text: Annotated[str, Query(max_length=5, pattern="^[^0-9]*$")] = "",
    flag: bool | None = None,
    colour: Colour = Colour.RED,
    kind: Literal["a", "b"] | None = None,
    ratio: float = 0.5,
    at: datetime | None = None,
    price: Decimal = Decimal(1),
    renamed: Annotated[str | None, Query(alias="other-name")] = None,
) -> dict[str, str]:
    return {name: repr(value) for name, value in sorted(locals().items()) if name != "actor"}


@router.get("/filters")
async def filters(query: Annotated[Filters, Query()], actor: Anyone) -> list[str]:
    return [repr(query), repr(sorted(query.model_fields_set))]


@router.get("/ignoring")
async def ignoring(query: Annotated[Ignoring, Query()], actor: Anyone) -> list[str]:
    return [repr(query), repr(sorted(query.model_fields_set))]


@router.get("/headers")
async def headers(
    actor: Anyone,
    x_text: Annotated[str, Header(min_length=2)],
    x_flag: Annotated[bool, Header()] = False,
    if_match: Annotated[str | None, Header()] = None,
    user_agent: Annotated[str | None, Header()] = None,
) -> dict[str, str]:
    return {name: repr(value) for name, value in sorted(locals().items()) if name != "actor"}


@router.get("/at/{number:int}")
async def at_number(number: int, actor: Anyone) -> int:
    return number


@router.get("/at/{key}")
async def at_key(key: UUID | date, actor: Anyone, opened: Opened) -> list[str]:
    return [repr(key), opened]


@router.get("/at/{text}/{rest:path}")
async def at_rest(text: str, rest: str, request: Request, actor: Anyone) -> list[str]:
    return [text, rest, repr(request.path_params), request.url.path]


@router.post("/thing", status_code=201)
async def thing(data: Thing, actor: Anyone, opened: Opened, response: Response) -> Thing:
    response.status_code = 200 + data.number if 0 < data.number < 5 else None
    return data


@router.put("/thing/{number}")
async def replaced(number: int, data: Thing, actor: Anyone, factor: int = 1) -> list[Thing]:
    return [data] * min(number, 3)


@router.post("/loose")
async def loose(data: Loose, actor: Anyone) -> dict[str, Any]:
    return {"data": repr(data), "set": sorted(data.model_fields_set)}


@router.post("/optional")
async def optional(actor: Anyone, data: Thing | None = None) -> Thing | None:
    return data


@router.post("/any")
async def anything(data: Annotated[Any, Body()], actor: Anyone) -> Any:
    return {"data": data, "repr": repr(data)}


@router.post("/object")
async def an_object(data: JsonObject, actor: Anyone) -> dict[str, Any]:
    return data


@router.post("/list")
async def a_list(data: Annotated[list[int], Body()], actor: Anyone) -> dict[str, list[int]]:
    return {"sorted": sorted(data)}


@router.post("/divide")
async def divide(
    data: Annotated[dict[str, Decimal], Body()], actor: Anyone, opened: Opened
) -> dict[str, Decimal]:
    return {name: 1 / value for name, value in data.items()}


@router.post("/stored", status_code=201)
async def stored(data: Part, actor: SignedIn, session: Write, twice: bool = False) -> ItemResponse:
    values = {"description": None, "status": "", "price": data.weight, "metadata_": {}}
    for _ in range(1 + twice):
        row = session.insert(NEW, name=data.name, quantity=1, owner_id=actor.user_id, **values)
    if data.weight == 0:
        raise Conflict("It weighs nothing.")
    return row  # type: ignore[return-value]


@router.get("/named", response_model=list[ItemResponse])
async def named(name: str, actor: SignedIn, session: Read) -> Any:
    return await session.fetch_all(BY_NAME, owner=actor.user_id, name=name)


@router.get("/text")
async def as_text(actor: Anyone, status: int = 200) -> PlainTextResponse:
    return PlainTextResponse(str(actor)[:5], status if 200 <= status < 400 else 200)


@router.delete("/nothing", status_code=204)
async def nothing(actor: SignedIn, opened: Opened) -> None:
    pass


# Requests

TEXTS = st.sampled_from(
    [*("", " ", "a", "abc", "Milk", "é😀", "0", "1", "-1", "7", "1.5", "5.0", "true", "on", "null"),
     *("None", "NaN", "Infinity", "1e5", "1e999", "9" * 30, str(2**53), str(2**63), "red", "b"),
     *("2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "x" * 300, "a,b", "-name"),
     *("name", "name,-price", "+1", "1_0", "\u0661", "{item}", "{theirs}", "{cursor}", "\x7f"),
     *("00000000-0000-7000-8000-000000000000", "../x", "<a>", "'--", "%", "\u202e", "a\tb")]
) | st.text(max_size=8)  # fmt: skip

FIELDS = st.sampled_from(["name", "text", "number", "extra", "id", "limit", "a", "__proto__", ""])
JUNK = ("/nowhere", "/items/", "//items", "/items/{id}/", "/kinds", "", "/", "/at/x/y/")
NUMBERS = st.sampled_from(
    ["0", "1", "2", "-1", "-0", "5.0", "1.5", "1.10", "0.1", "100", "101", "1e2", "1E-7", "-0.0",
     "1e999", "NaN", "Infinity", "-Infinity", "01", "1.", "9007199254740993", "9007199254740992.0",
     "9223372036854775808", "0.1000000000000000055511151231257827", "123456789.123456789", "1e-400",
     "2.5e-8", "4.35", "1e16", "12345678901234567890"]
) | st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers().map(str)  # fmt: skip
CODES = st.text(st.characters(codec=None), max_size=6)
SCALARS = (
    NUMBERS
    | TEXTS.map(json.dumps)
    | CODES.map(json.dumps)
    | CODES.map(lambda code: json.dumps(code, ensure_ascii=False))
    | st.sampled_from(["null", "true", "false", '""', '"\\u0000"', '"\\ud83d"', '"\\/"', "", "'a'"])
)


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}"


def _list(values: list[str]) -> str:
    return "[" + ", ".join(values) + "]"


JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(_list)
        | st.lists(st.tuples(FIELDS | TEXTS, inner), max_size=4).map(_object)
    ),
    max_leaves=8,
)
LIKELY: dict[str, list[str]] = {
    "name": ['"Milk"', '"é"', '""'],
    "email": ['"new@example.com"', '"ANN@example.com"', '"x"'],
    "password": ['"correct horse battery staple"', '"short"'],
    "refresh_token": ['"{refresh}"', '"x"'],
    "price": ['"1.2"', "1.10", "null", '"1.234"'],
    "weight": ["0", '"2.5"', "1.005"],
    "quantity": ["3", "2.0", "-1"],
    "number": ["3", "7.0", "101"],
    "metadata": ['{"a": [1.0, {"b": null}], "é": 1e2}', "{}"],
    "data": ['{"a": [1.50, -0], "c": "d"}'],
    "roles": ['["admin"]', "[]"],
    "parts": ['[{"name": "a"}, {"name": "b", "weight": 1}]', "[{}]"],
    "at": ['"2026-01-01T05:00:00+05:00"', "1700000000"],
    "day": ['"2026-01-01"'],
    "key": ['"0198A3C2-0000-7000-8000-000000000000"'],
    "colour": ['"blue"'],
    "kind": ['"b"', "3"],
    "disabled": ["true", "false"],
    "verified": ["true", "false"],
}
"""Values that pass, or nearly."""

SHAPED = st.sampled_from(
    ["[3, 1, 2]", '{"a": 0}', '{"a": 3, "b": "0.7"}', '{"name": "a", "name": "b"}', '"x"', "null"]
)
BROKEN = st.sampled_from(
    ["", " ", "{", '{"name": "x"', "[" * 70 + "]" * 70, '{"a":' * 70 + "1" + "}" * 70, "\ufeff{}",
     '{"name": "x"} {}', "name=x&password=y", "username=ann%40example.com&password=x", "\x00",
     "username=ann%40example.com&password=correct+horse+battery+staple"]
)  # fmt: skip
TAILS = st.sampled_from(
    ["", "&", "&&a", "&=b", "&%", "&%FF=%FF", "&text", "&limit=%31", "&limit=1;page=2", "&text=a+b",
     "&number=%2B7", "#x", "&" + "a=1&" * 50, "&text=%F0%9F%98%80", "&on=1&on=0", "?limit=2"]
)  # fmt: skip
"""What follows in the query, as it is sent."""
RAW = st.sampled_from([b'{"name": "\xff"}', b"\xed\xa0\x80", '{"name": "x"}'.encode("utf-16")])

HEADERS = st.sampled_from(
    [("If-Match", value) for value in ('"1"', '"2"', "*", 'W/"1"', '"1", "2"', "", '"', "x" * 1001)]
    + [("If-None-Match", value) for value in ('"1"', "*", 'W/"2"', '"é"', "x" * 1001)]
    + [("Accept", value) for value in ("*/*", "text/html", "application/vnd.ferrule.envelope+json")]
    + [("Origin", value) for value in ("http://localhost:5173", "http://evil.example", "", "null")]
    + [("X-Key", value) for value in ("1", "13", "-1", "x", "")]
    + [("X-Text", value) for value in ("ab", "a", "", b"\xff\xfe")]
    + [("X-Flag", value) for value in ("1", "yes", "maybe")]
    + [("User-Agent", b"\xc3\xa9"), ("Cookie", "a=1; b"), ("X-Request-ID", "another-request-id")]
    + [("Content-Encoding", "gzip"), ("Host", "other.example"), ("Range", "bytes=0-1")]
    + [("Access-Control-Request-Method", "PATCH"), ("Authorization", "Basic x"), ("Vary", "x")]
)
TYPES = st.sampled_from(
    ["application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "application/xml", "",
     "application/x-www-form-urlencoded", "application/merge-patch+json", "multipart/form-data",
     "json", None, "application/json, text/plain", "application/jsonx"]
)  # fmt: skip


@dataclass(frozen=True)
class Route:
    """An operation as it is described: what a request to it may hold."""

    method: str
    path: str
    query: tuple[str, ...]
    headers: tuple[str, ...]
    fields: tuple[str, ...]


def routes(app: Ferrule) -> list[Route]:
    document = app.openapi()
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = {
                place: tuple(
                    parameter["name"]
                    for parameter in operation.get("parameters", ())
                    if parameter["in"] == place
                )
                for place in ("query", "header")
            }
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            names = [schema.get("$ref", ""), *(s.get("$ref", "") for s in schema.get("anyOf", ()))]
            fields = tuple(
                field
                for name in names
                for field in document["components"]["schemas"]
                .get(name.rpartition("/")[2], {})
                .get("properties", {})
            )
            if path.startswith(API) and not path.endswith(("/health", "/ready")):
                path_of = re.sub(r"\{\w+\}", "{id}", path.removeprefix(API))
                found.append(
                    Route(method.upper(), path_of, named["query"], named["header"], fields)
                )
    return found


@dataclass(frozen=True)
class Asked:
    """A request; `{item}` and the like stand for what each world has in their place."""

    who: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str | bytes], ...] = ()
    tail: str = ""
    body: bytes = b""
    chunks: int = 0


@st.composite
def requests(draw: st.DrawFn, known: list[Route]) -> Asked:
    route = draw(st.sampled_from(known))
    if not draw(st.integers(0, 15)):
        method = draw(st.sampled_from(["HEAD", "OPTIONS", "TRACE", "POST", "GET"]))
        route = replace(route, method=method, path=draw(st.sampled_from([*JUNK, route.path])))
    path, odd = route.path, not draw(st.integers(0, 3))
    ids = st.sampled_from(["{item}", "{item}", "{theirs}", "{bobs_id}"])
    while "{id}" in path:
        path = path.replace("{id}", draw((ids | TEXTS if odd else ids).map(_quoted)), 1)
    names = st.sampled_from(route.query or ("extra",)) | (FIELDS if odd else st.nothing())
    headers = draw(st.lists(HEADERS, max_size=2 if odd else 1))
    headers += [(name, draw(TEXTS).encode()) for name in route.headers if draw(st.booleans())]
    asked = Asked(
        draw(st.sampled_from(["ann", "ann", "root", "nobody"])),
        route.method,
        path,
        tuple(draw(st.lists(st.tuples(names, TEXTS), max_size=3 if route.query or odd else 0))),
        tuple(headers),
        draw(TAILS) if odd else "",
    )
    if route.method in ("GET", "HEAD") and not odd:
        return asked
    kind = draw(TYPES) if odd else JSON_TYPE
    sent = headers if kind is None else [*headers, ("Content-Type", kind)]
    chunks = draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
    return replace(asked, headers=tuple(sent), body=draw(bodies(route, odd)), chunks=chunks)


@st.composite
def bodies(draw: st.DrawFn, route: Route, odd: bool) -> bytes:
    if odd and not draw(st.integers(0, 7)):
        return draw(RAW | st.just(b" " * 1_100_000)) if route.fields else draw(RAW)
    if odd or not route.fields:
        text = draw(SHAPED | JSON | BROKEN) if odd else draw(SHAPED | JSON)
        return text.encode("utf-8", "surrogatepass")
    left_out = draw(st.sets(st.sampled_from(route.fields), max_size=len(route.fields)))
    left_out -= {"name", "email", "password"} if draw(st.integers(0, 7)) else set()
    values = {name: st.sampled_from(LIKELY.get(name, ['"x"'])) for name in route.fields}
    if not draw(st.integers(0, 2)):
        values[draw(st.sampled_from(route.fields))] = JSON
    pairs = [(name, draw(values[name])) for name in route.fields if name not in left_out]
    return _object(pairs).encode("utf-8", "surrogatepass")


def _quoted(part: str) -> str:
    """As a part of a path; a line feed at its end has a test of its own, in test_index.py."""
    return part if part[:1] == "{" else quote(part.rstrip("\n"), safe="/", errors="replace")


# Worlds


@dataclass
class World:
    """An application with its database, and the names that ids have in its answers."""

    app: Ferrule
    values: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    async def ask(self, asked: Asked) -> Any:
        query = "&".join(
            f"{name}={quote(self._filled(value), errors='replace')}" for name, value in asked.query
        )
        headers = list(asked.headers)
        if asked.who != "nobody":
            headers.insert(0, ("Authorization", f"Bearer {self.values[asked.who]}"))
        body = asked.body
        for name in ("refresh", "item"):
            body = body.replace(f"{{{name}}}".encode(), self.values.get(name, "x").encode())
        answer = await ask(
            self.app,
            asked.method,
            f"{API}{self._filled(asked.path)}?{query}{asked.tail}",
            headers=headers,
            body=_chunked(body, asked.chunks) if asked.chunks else body,
        )
        self._remember(answer)
        return self._told(answer)

    async def sign_in(self, who: str) -> None:
        """Sign in anew: a request may have signed out, or shown what it should not."""
        if who != "nobody":
            email = f"{who}@example.com"
            user, self.values[who] = await sign_in(self.app.kit, email, admin=who == "root")
            self.values[f"{who}s_id"] = user["id"]

    async def rows(self) -> dict[str, list[str]]:
        """All that is stored, told in the names of this world."""
        tables = sorted(table for module in self.app.modules for table in module.tables)
        rows: dict[str, list[str]] = {}
        async with self.app.kit[Database].read() as session:
            for table in tables:
                order = _ORDER.get(table, "id")
                found = await session.execute(text(f'SELECT * FROM "{table}" ORDER BY {order}'))
                rows[table] = [self._normal(repr(_stored(row))) for row in found.mappings()]
        # Two that begin in one millisecond have no order.
        rows["streams"].sort()
        return rows

    def _filled(self, text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: self.values.get(found[1], found[0]), text)

    def _remember(self, answer: Answer) -> None:
        location = answer.header("Location") or ""
        if "/items/" in location:
            self.values["item"] = location.rpartition("/")[2]
        found = re.search(rb'"(next|refresh_token)":"([^"]+)"', answer.body)
        if found:
            self.values[{b"next": "cursor"}.get(found[1], "refresh")] = found[2].decode()

    def _told(self, answer: Answer) -> Any:
        headers = [
            (name.decode(), self._normal(value.decode("latin-1")))
            for name, value in answer.raw_headers
        ]
        headers.sort(key=lambda header: header[0])
        return answer.status, headers, self._normal(answer.body.decode())

    def _normal(self, text: str) -> str:
        text = re.sub(_GENERATED, r'"\1":"…"', text)
        return re.sub(_UUID, lambda found: self._name(found[0]), text)

    def _name(self, id: str) -> str:
        plain = id.replace("-", "").lower()
        return self.names.setdefault(plain, f"<id {len(self.names)}>")


_GENERATED = r'"(created_at|updated_at|access_token|refresh_token|next|ticket|epoch|at)":"[^"]*"'
_UUID = r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?7[0-9a-fA-F]{3}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"
_OF_THE_MOMENT = {"password_hash", "refresh_hash", "previous_refresh_hash", "hash", "epoch", "at",
                  "stream_id"}  # fmt: skip


_ORDER = {"stream_events": '"by", "at", "offset"', "stream_tickets": "created_at"}


def _stored(row: Mapping[str, Any]) -> dict[str, Any]:
    def told(name: str, value: Any) -> Any:
        # Times; and the ids of streams, which are no UUIDs: those have names here.
        of_the_moment = name in _OF_THE_MOMENT or name.endswith("_at")
        return (
            value is None if of_the_moment or (name == "id" and type(value) is int) else str(value)
        )

    return {name: told(name, value) for name, value in row.items()}


def _chunked(body: bytes, chunks: int) -> list[bytes]:
    size = max(1, len(body) // chunks)
    return [body[start : start + size] for start in range(0, len(body), size)] or [b""]


async def opened(
    stack: AsyncExitStack, kind: str, databases: TestDatabases, folder: Path, *, planned: bool
) -> World:
    # Databases are shared by applications of the same modules.
    name = "planned" if planned else "plain"
    app = create_app(modules=[*SHIPPED, Module(name=name, requires=("auth",), router=router)])
    (folder / name).mkdir()
    app.configure(await databases.empty(app, kind, folder / name))
    await stack.enter_async_context(app.router.lifespan_context(app))
    world = World(app if planned else left_to_fastapi(app))
    for who in ("ann", "root", "bob"):
        await world.sign_in(who)
        for number in range(3):
            name = {"name": f"Milk {number}", "metadata": {"number": number}}
            body = json.dumps(name).encode()
            asked = Asked(who, "POST", "/items", headers=(("Content-Type", JSON_TYPE),), body=body)
            assert (await world.ask(asked))[0] == 201
            world.values.setdefault("theirs", world.values["item"])
    world.values["item"], world.values["theirs"] = world.values["theirs"], world.values["item"]
    return world


def test_hostile_requests_are_answered_alike(
    database_kind: str,
    databases: TestDatabases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ferrule.http.edge.log_request", lambda **_: None)
    monkeypatch.setattr("ferrule.http.problems.log", type("Log", (), {"error": lambda *_, **__: 0}))
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        worlds = [
            runner.run(opened(stack, database_kind, databases, tmp_path, planned=planned))
            for planned in (True, False)
        ]

        async def alike(asked: list[Asked]) -> None:
            for each in asked:
                planned, plain = [await world.ask(each) for world in worlds]
                assert planned == plain, each
                if planned[0] == 401:
                    for world in worlds:
                        await world.sign_in(each.who)

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(requests(routes(worlds[0].app)), min_size=1, max_size=8))
        def ask_all(asked: list[Asked]) -> None:
            runner.run(alike(asked))

        try:
            ask_all()
            planned, plain = [runner.run(world.rows()) for world in worlds]
        finally:
            runner.run(stack.aclose())
    assert planned == plain
    # More than there were at the beginning.
    assert len(planned["items"]) > 9
