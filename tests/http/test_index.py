"""The route index chooses what FastAPI would choose, and the answers are FastAPI's."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Query
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ferrule import Actor, Conflict, Ferrule, Schema, SignedIn, create_app, signed_in
from ferrule.http.index import RouteIndex
from ferrule.http.plan import Plan
from ferrule.testing import TestDatabases
from tests.conftest import Answer, Ways, ask

API = "/api/v1"
ORIGIN = ("Origin", "http://localhost:5173")
ENVELOPE = ("Accept", "application/vnd.ferrule.envelope+json")
JSON = ("Content-Type", "application/json")
MakeWays = Callable[..., Ways]

PATHS = (
    *("", "/a", "/a/", "/a/b", "/a/{x}", "/a/{number:int}", "/a/{y}/c", "/{z}/b", "/a/{v}.json"),
    *("/a/b/{tail:path}", "/a-{w}", "/a/{id:uuid}", "/a/b-c", "/{p}/{q}", "/a/{float:float}"),
)
TARGETS = (
    *("", "/", "/a", "/a/", "/a/b", "/a/b/", "/a/7", "/a/x", "/a/x/c", "/a/b/c", "/a/b/c/d"),
    *("/x/b", "/a-b", "/a/x.json", "/a/0198a3c2-0000-7000-8000-000000000000", "/x", "/x/"),
    *("/x/y", "//a", "/a//b", "/a//", "/a/b%2Fc", "/a%2Fb", "/a/%C3%A9"),
    *("/a/%FF", "/A/b", "/a/b;x=1", "/a/..", "/a/b%3Fx=1", "/a/b?x=1", "/a/-1", "/a/1.5", "/a/%20"),
    *("/a/b-c", "/a/b-c/", "/a/\u0661", "/a/" + "9" * 5_000),
)


def add(router: FastAPI | APIRouter, path: str, name: str = "", **options: Any) -> None:
    """A route that answers which it is, and what it was given."""

    async def endpoint(request: Request) -> dict[str, Any]:
        given = {name: repr(value) for name, value in request.path_params.items()}
        url = str(request.url_for("found", p="p", q="q")) if path == "/{p}/{q}" else None
        return {"route": path + name, "given": given, "scope": request.scope["path"], "url": url}

    named = "found" if path == "/{p}/{q}" else None
    router.add_api_route(path, endpoint, name=named, **options)


def router_of(*paths: str, **options: Any) -> APIRouter:
    router = APIRouter(**options)
    for path in paths:
        add(router, path)
    return router


class Data(Schema):
    text: str = ""
    number: int = 0


@pytest.mark.parametrize("seed", range(12))
async def test_routes_are_found_in_the_order_of_registration(ways: MakeWays, seed: int) -> None:
    paths = random.Random(seed).sample(PATHS, len(PATHS))
    # A path that matches everything hides whatever comes after it.
    paths.insert(random.Random(seed).randrange(len(paths), 2 * len(paths)), "/{all:path}")
    both = ways(router_of(*paths))
    assert both.plans >= {f"GET {API}/a/b", f"GET {API}/a/{{x}}"}
    for target in TARGETS:
        await both.get(API + target)


async def test_a_line_feed_ends_a_path_unseen(ways: MakeWays) -> None:
    """The `$` of Starlette's patterns matches before it."""
    both = ways(router_of("/a/b", "/a/{x}", "/{p}/{q}", "/c"))
    for target in ("/a/b%0A", "/c%0A", "/a/x%0A", "/a/b%0A%0A"):
        await both.get(API + target)


async def test_the_first_that_matches_answers(ways: MakeWays) -> None:
    both = ways(router_of("/a/b", "/a/{number:int}", "/a/{x}", "/a/c", "/{all:path}"))
    for target, route in (
        ("/a/b", "/a/b"),
        ("/a/7", "/a/{number:int}"),
        ("/a/c", "/a/{x}"),
        ("/a/b%2Fd", "/{all:path}"),
        ("/a/%C3%A9", "/a/{x}"),
    ):
        assert (await both.get(API + target)).json()["route"] == route
    assert (await both.get(f"{API}/a/%C3%A9")).json()["given"] == {"x": "'é'"}
    assert (await both.get(f"{API}/a/7")).json()["given"] == {"number": "7"}


@pytest.mark.parametrize("seed", range(6))
async def test_methods(ways: MakeWays, seed: int) -> None:
    router = APIRouter()
    routes = [("/a", ["GET"]), ("/a", ["POST", "PUT"]), ("/{x}", ["DELETE"]), ("/{y}", ["GET"]),
              ("/b", ["HEAD", "OPTIONS"]), ("/{z:path}", ["PATCH"])]  # fmt: skip
    for path, methods in random.Random(seed).sample(routes, len(routes)):
        add(router, path, " ".join(methods), methods=methods)
    both = ways(router)
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X"):
        for target in ("/a", "/b", "/c", "/a/", "/a/c"):
            answer = await both(method, API + target)
            assert answer.status in (200, 307, 404, 405)
    refused = await both("TRACE", f"{API}/a")
    assert refused.header("Allow") == "DELETE, GET, PATCH, POST, PUT"


@pytest.mark.parametrize("redirect", [True, False])
async def test_slashes_are_redirected(ways: MakeWays, redirect: bool) -> None:
    def setup(app: Ferrule) -> None:
        app.router.redirect_slashes = redirect

    both = ways(router_of("/a", "/b/", "/c/{x}"), setup=setup)
    for target in ("/a/?x=1", "/b", "/c/d/"):
        answer = await both.get(API + target)
        assert answer.status == (307 if redirect else 404)
    assert (await both.get(f"{API}/a")).status == 200


@pytest.mark.parametrize("first", ["mounts", "routes"])
async def test_mounts_routers_and_hosts(ways: MakeWays, first: str) -> None:
    def setup(app: Ferrule) -> None:
        inner = FastAPI()
        add(inner, "/x")
        add(inner, "/{rest:path}")

        def mount() -> None:
            app.mount(f"{API}/m", inner)
            app.host("other.example", inner)

        def routes() -> None:
            nested = router_of("/x", "/{x}", prefix="/n")
            nested.include_router(router_of("/x", "/{y:int}", prefix="/deep"))
            outer = APIRouter(prefix=API)
            outer.mount("/r", inner)
            outer.include_router(nested, prefix="/m")
            outer.include_router(nested, prefix="/o/{z}")
            app.include_router(outer)
            add(app, f"{API}/m/x")

        for step in (mount, routes) if first == "mounts" else (routes, mount):
            step()
        app.mount("", PlainTextResponse("the root's mount"))

    both = ways(setup=setup)
    for target in ("/m", "/m/", "/m/x", "/m/n/x", "/m/n/y", "/m/n/deep/x", "/m/n/deep/7",
                   "/o/1/n/x", "/o/1/n/deep/y", "/r/x", "/r/y/z", "/nowhere"):  # fmt: skip
        await both.get(API + target)
        await both.get(API + target, headers=[("host", "other.example")])
    assert (await both.get(f"{API}/o/1/n/deep/7")).json()["given"] == {"z": "'1'", "y": "7"}
    chosen = (await both.get(f"{API}/m/n/x")).json()["route"]
    assert chosen == ("/{rest:path}" if first == "mounts" else "/x")


@pytest.mark.parametrize("root", ["/base", "/base/", "/", "/api"])
@pytest.mark.parametrize("own", [True, False])
async def test_root_paths(ways: MakeWays, root: str, own: bool) -> None:
    def setup(app: Ferrule) -> None:
        app.root_path = root if own else ""

    both = ways(router_of("/a/{x}", "/{p}/{q}"), setup=setup)
    for path in (f"/base{API}/a/b", f"{API}/a/b", f"/basement{API}/a/b", "/base", "/base/",
                 f"/base/{API}/a/b", "/v1/a/b", f"/base{API}/b/c", f"/base{API}/a/b/"):  # fmt: skip
        await both.get(path, root_path="" if own else root)


async def test_routes_can_be_added_later(ways: MakeWays) -> None:
    router = router_of("/a/{x}")
    both = ways(router)
    assert (await both.get(f"{API}/late")).status == 404
    for app in both.both:
        add(app, f"{API}/late")
        add(app, f"{API}/a/b")
    assert (await both.get(f"{API}/late")).status == 200
    assert (await both.get(f"{API}/a/b")).json()["route"] == "/a/{x}"
    for app in both.both:
        add(app, f"{API}/a/b", "first")
        app.router.routes.insert(0, app.router.routes.pop())
    assert (await both.get(f"{API}/a/b")).json()["route"] == f"{API}/a/bfirst"


async def test_routes_can_be_replaced_in_place(ways: MakeWays) -> None:
    def setup(app: Ferrule) -> None:
        add(app, "/a", "old")

    both = ways(setup=setup)
    assert (await both.get("/a")).json()["route"] == "/aold"
    for app in both.both:
        app.router.routes.pop()
        add(app, "/a", "new")
    assert (await both.get("/a")).json()["route"] == "/anew"


async def test_an_included_router_takes_routes_later(ways: MakeWays) -> None:
    early = router_of("/b")
    both = ways(early, router_of("/a/{x}"))
    assert (await both.get(f"{API}/a/b")).json()["route"] == "/a/{x}"
    add(early, "/a/b")
    assert (await both.get(f"{API}/a/b")).json()["route"] == "/a/b"


async def test_routes_of_an_included_router_can_be_removed(ways: MakeWays) -> None:
    router = router_of("/a", "/b")
    both = ways(router)
    assert (await both.get(f"{API}/a")).status == 200
    router.routes.pop(0)
    router._mark_routes_changed()
    assert (await both.get(f"{API}/a")).status == 404


def everything(notes: Callable[[], list[Any]]) -> APIRouter:
    """Routes of many ways to answer."""
    router = APIRouter()

    @router.get("/fine")
    async def fine(response: Response) -> Data:
        notes().append("fine")
        response.headers.append("X-One", "1")
        response.headers.append("X-One", "2")
        return Data(text="é")

    @router.post("/data", status_code=201)
    async def data(data: Data, x: int = 0) -> Data:
        notes().append(data.text)
        return data

    @router.get("/broken")
    async def broken() -> Data:
        raise ZeroDivisionError

    @router.get("/refused")
    async def refused() -> Data:
        raise HTTPException(418, "a teapot", {"X-Pot": "tea"})

    @router.get("/nothing", status_code=204)
    async def nothing() -> None:
        pass

    @router.get("/text")
    async def text() -> PlainTextResponse:
        return PlainTextResponse("é", background=BackgroundTask(notes().append, "after"))

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]), 206, {"X-Kind": "parts"})

    @router.get("/numbers")
    async def numbers(limit: Annotated[int, Query(ge=1)], x_key: Annotated[str, Header()]) -> Data:
        return Data(text=x_key, number=limit)

    @router.get("/items/{id:uuid}")
    async def item(id: UUID) -> Data:
        return Data(text=str(id))

    return router


ASKED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "/fine", {}),
    ("POST", "/data?x=1", {"json": {"text": "x"}}),
    ("POST", "/data?x=a", {"json": {"text": 1, "more": None}}),
    ("POST", "/data", {"body": b"{", "headers": [JSON]}),
    ("POST", "/data", {"body": b"{}", "headers": [("Content-Type", "text/plain")]}),
    ("POST", "/data", {"body": b"{}"}),
    ("POST", "/data", {"headers": [JSON]}),
    ("POST", "/data", {"body": b" " * 2_000_000, "headers": [JSON]}),
    ("GET", "/broken", {}),
    ("GET", "/refused", {}),
    ("GET", "/nothing", {}),
    ("GET", "/text", {}),
    ("GET", "/stream", {}),
    ("GET", "/numbers?limit=7", {"headers": [("X-Key", "a"), ("X-Key", "b")]}),
    ("GET", "/numbers?limit=0", {}),
    ("GET", "/items/0198a3c2-0000-7000-8000-000000000000", {}),
    ("GET", "/items/1", {}),
    ("HEAD", "/fine", {}),
    ("OPTIONS", "/fine", {}),
    ("GET", "/nowhere", {}),
)


class Tagging:
    """ASGI: notes what it sees, and adds a header."""

    def __init__(self, app: ASGIApp, notes: Callable[[], list[Any]]) -> None:
        self.app, self.notes = app, notes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.notes().append(scope["path"])

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-tag", b"seen")]
            await send(message)

        await self.app({**scope, "state": {"copied": True}}, receive, tagged)


class Passing(BaseHTTPMiddleware):
    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        await request.body()
        answer = await call_next(request)
        answer.headers["X-Tag"] = f"{answer.status_code} {request.scope['route'].path}"
        return answer


@pytest.fixture(params=["none", "asgi", "function", "both"])
def middleware(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_middleware_sees_every_request(ways: MakeWays, middleware: str) -> None:
    both: Ways

    def setup(app: Ferrule) -> None:
        if middleware in ("asgi", "both"):
            app.add_middleware(Tagging, notes=lambda: both.notes)
        if middleware in ("function", "both"):

            @app.middleware("http")
            async def tag(request: Request, call_next: Any) -> Any:
                answer = await call_next(request)
                answer.headers["X-Outer"] = request.url.path
                return answer

    both = ways(everything(lambda: both.notes), setup=setup)
    for method, target, request in ASKED:
        answer = await both(method, API + target, **request)
        if middleware in ("asgi", "both"):
            assert answer.noted[0] == API + target.partition("?")[0]
        # The limit of bodies and the answer to defects are outside of it.
        if answer.status in (413, 500):
            continue
        if middleware in ("asgi", "both"):
            assert answer.header("X-Tag") == "seen"
        if middleware in ("function", "both"):
            assert answer.header("X-Outer") == API + target.partition("?")[0]


async def test_middleware_can_read_the_body_and_the_route(ways: MakeWays) -> None:
    both = ways(everything(lambda: both.notes), setup=lambda app: app.add_middleware(Passing))
    posted = await both.post(f"{API}/data", json={"text": "x"})
    assert (posted.status, posted.json()["text"]) == (201, "x")
    refused = await both.post(f"{API}/data", json={"text": 1})
    assert (refused.status, refused.header("X-Tag")) == (422, "422 /data")


async def test_middleware_can_change_the_address(ways: MakeWays) -> None:
    class Rewriting:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            scope["path"] = scope["path"].replace("/old/", "/items/")
            await self.app(scope, receive, send)

    both = ways(router_of("/items/{x}", "/old/{y}"), setup=lambda a: a.add_middleware(Rewriting))
    assert (await both.get(f"{API}/old/7")).json()["given"] == {"x": "'7'"}


@pytest.mark.parametrize("error", [HTTPException(402), ZeroDivisionError(), Conflict("taken")])
@pytest.mark.parametrize("after", [0, 1])
async def test_middleware_may_raise_while_the_body_is_read(
    ways: MakeWays, error: Exception, after: int
) -> None:
    class Raising:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            left = after

            async def read() -> Message:
                nonlocal left
                if not left:
                    raise error
                left -= 1
                return await receive()

            await self.app(scope, read, send)

    both = ways(everything(list), setup=lambda app: app.add_middleware(Raising))
    for body in (b"{}", [b"{", b"}"]):
        await both.post(f"{API}/data", body=body, headers=[JSON])
        await both.post(f"{API}/data", body=body)


@pytest.mark.parametrize("headers", [[], [ORIGIN], [ENVELOPE], [ORIGIN, ENVELOPE]])
@pytest.mark.parametrize("envelope", ["on_request", "always", "never"])
async def test_cors_and_envelope(ways: MakeWays, headers: list[Any], envelope: str) -> None:
    both = ways(everything(lambda: both.notes), envelope=envelope)
    for method, target, request in ASKED:
        sent = [*headers, *request.get("headers", ())]
        answer = await both(method, API + target, **{**request, "headers": sent})
        if headers[:1] == [ORIGIN]:
            assert answer.header("Access-Control-Allow-Origin") == ORIGIN[1]


async def test_caches_are_told_of_origins(ways: MakeWays) -> None:
    both = ways(everything(list))
    for method, target, request in ASKED:
        vary = [
            (await ask(app, method, API + target, **request)).header("Vary") for app in both.both
        ]
        assert vary[0] == vary[1] == "Origin"


async def test_a_response_can_be_sent_again(ways: MakeWays) -> None:
    router = APIRouter()
    same = PlainTextResponse("a", headers={"Vary": "Accept", "X-After": "1"})

    @router.get("/same")
    async def endpoint() -> PlainTextResponse:
        return same

    both = ways(router)
    for _ in range(3):
        assert (await both.get(f"{API}/same")).header("Vary") == "Accept, Origin"


async def test_metrics_count_the_same_routes(ways: MakeWays) -> None:
    both = ways(everything(list), router_of("/n/{x}", "/{p}/{q}"))
    for method, target, request in (*ASKED, ("GET", "/n/1", {}), ("GET", "/n/1/", {})):
        await both(method, API + target, **request)
    counted = [await _metrics(app) for app in both.both]
    assert counted[0] == counted[1]
    assert 'http_requests_total{method="GET",route="/api/v1/n/{x}",status="200"} 1.0' in counted[0]


async def test_metrics_count_routes_that_were_added_later(ways: MakeWays) -> None:
    both = ways(everything(list))
    await both.get(f"{API}/fine")
    for app in both.both:
        add(app, "/late")
    await both.get("/late")
    counted = [await _metrics(app) for app in both.both]
    assert counted[0] == counted[1]


async def _metrics(app: Ferrule) -> list[str]:
    lines = (await ask(app, "GET", "/metrics")).body.decode().splitlines()
    return [line for line in lines if line.startswith("http_requests_total{")]


async def test_plans_are_used(
    ways: MakeWays, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--plain"):
        pytest.skip("with --plain nothing has a plan")
    answered: list[str] = []
    answer = Plan.answer

    async def noted(plan: Plan, *args: Any, **options: Any) -> Response:
        answered.append(plan.template)
        return await answer(plan, *args, **options)

    monkeypatch.setattr(Plan, "answer", noted)
    both = ways(everything(lambda: both.notes))
    await both.get(f"{API}/fine")
    await both.get(f"{API}/fine", headers=[ORIGIN])
    await both.get(f"{API}/fine", headers=[ENVELOPE])
    assert answered == [f"{API}/fine"] * 3


async def given() -> str:
    return "given"


async def test_overrides_come_and_go_at_run_time(ways: MakeWays) -> None:
    router = APIRouter()

    @router.get("/who")
    async def who(name: Annotated[str, Depends(given)]) -> str:
        return name

    both = ways(router)
    assert f"GET {API}/who" in both.plans
    assert (await both.get(f"{API}/who")).json() == "given"
    for app in both.both:
        app.dependency_overrides[given] = lambda name: name
    assert (await both.get(f"{API}/who?name=overridden")).json() == "overridden"
    assert (await both.get(f"{API}/who")).status == 422
    for app in both.both:
        app.dependency_overrides.clear()
    assert (await both.get(f"{API}/who")).json() == "given"


def test_the_test_client_of_starlette(ways: MakeWays) -> None:
    both = ways(everything(lambda: both.notes))
    answers = []
    for app in both.both:
        client = TestClient(app, headers={"X-Request-ID": "the-same-id"})
        answers.append(
            [
                (answer.status_code, answer.headers.multi_items(), answer.content)
                for answer in (
                    client.get(f"{API}/fine"),
                    client.post(f"{API}/data", json={"text": "x"}),
                    client.post(f"{API}/data", json={"text": 1}),
                    client.get(f"{API}/broken"),
                    client.get(f"{API}/stream"),
                )
            ]
        )
    for _, headers, _ in (*answers[0], *answers[1]):
        headers.sort(key=lambda header: header[0])
    assert answers[0] == answers[1]
    assert [answer[0] for answer in answers[0]] == [200, 201, 422, 500, 206]


async def test_signed_in_can_be_overridden(ways: MakeWays) -> None:
    router = APIRouter()

    @router.get("/mine")
    async def mine(actor: SignedIn) -> str:
        return str(actor)

    both = ways(router)
    assert f"GET {API}/mine" in both.plans
    assert (await both.get(f"{API}/mine")).status == 401
    for app in both.both:
        app.dependency_overrides[signed_in] = lambda: Actor(kind="job", id=UUID(int=7))
    assert (await both.get(f"{API}/mine")).json() == f"job:{UUID(int=7)}"


@pytest.mark.parametrize("inside", ["starlette", "ferrule"])
async def test_an_application_can_be_mounted(ways: MakeWays, inside: str) -> None:
    both = ways(everything(lambda: both.notes), router_of("/n/{x}"))
    answers: list[list[Answer]] = []
    for app in both.both:
        if inside == "ferrule":
            outer: Any = ways(router_of("/fine")).planned
            outer.mount("/sub", app)
        else:
            outer = Starlette(routes=[Mount("/sub", app)])
        answers.append(
            [
                await ask(outer, method, f"/sub{API}{target}", **request)
                for method, target, request in (*ASKED, ("GET", "/n/1", {}), ("GET", "/n/1/", {}))
            ]
        )
    for planned, plain in zip(*answers, strict=True):
        assert (planned.status, planned.body) == (plain.status, plain.body)
    assert answers[0][0].status == 200


def test_the_test_client_opens_the_application(
    database_kind: str, databases: TestDatabases, tmp_path: Path
) -> None:
    app = create_app()
    app.configure(asyncio.run(databases.empty(app, database_kind, tmp_path)))
    with TestClient(app) as client:
        account = {"email": "ann@example.com", "password": "correct horse battery staple"}
        assert client.post(f"{API}/auth/register", json=account).status_code == 201
        form = {"username": account["email"], "password": account["password"]}
        token = client.post(f"{API}/auth/login", data=form).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        made = client.post(f"{API}/items", json={"name": "Milk"})
        assert client.get(made.headers["Location"]).json() == made.json()
        assert client.get(f"{API}/items").json()["pagination"]["total"] == 1
        assert client.get(f"{API}/nowhere").status_code == 404


class Odd(Exception):
    pass


class Odder(Odd):
    pass


async def odd() -> None:
    raise Odder


async def opened(request: Request) -> Any:
    try:
        yield
    finally:
        request.state.closed = True


def handled(notes: Callable[[], list[Any]]) -> tuple[APIRouter, Callable[[Ferrule], None]]:
    """Routes that raise, and handlers of what they raise, which look at the request."""
    router = APIRouter()

    @router.post("/endpoint/{x}", dependencies=[Depends(opened, scope="function")])
    async def endpoint(x: int, data: Annotated[dict[str, Any], Body()]) -> Data:
        raise Odd

    @router.post("/dependency/{x}", dependencies=[Depends(odd)])
    async def dependency(x: int, data: Annotated[dict[str, Any], Body()]) -> Data:
        raise AssertionError

    @router.post("/teapot/{x}")
    async def teapot(x: int) -> Data:
        raise HTTPException(418, {"x": x})

    @router.post("/broken/{x}")
    async def broken(x: int) -> Data:
        raise ZeroDivisionError

    async def look(request: Request, error: Exception) -> JSONResponse:
        closed = getattr(request.state, "closed", None)
        told = [type(error).__name__, str(error), request.path_params, request.url.path, closed]
        notes().append([*told, request.scope["endpoint"].__name__, request.scope["route"].path])
        return JSONResponse(told, 499)

    def look_in_thread(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(str(request.path_params), 498)

    def setup(app: Ferrule) -> None:
        app.add_exception_handler(Odd, look)
        app.add_exception_handler(418, look_in_thread)
        app.add_exception_handler(Exception, look)

    return router, setup


@pytest.mark.parametrize("headers", [[], [ORIGIN]])
async def test_exception_handlers_are_used(ways: MakeWays, headers: list[Any]) -> None:
    router, setup = handled(lambda: both.notes)
    both = ways(router, setup=setup)
    assert len(both.plans) == 5
    for name, status in (("endpoint", 499), ("dependency", 499), ("teapot", 498), ("broken", 499)):
        answer = await both.post(f"{API}/{name}/7", json={"a": 1}, headers=headers)
        assert (answer.status, b"7" in answer.body) == (status, True)
        assert len(answer.noted) == (status == 499)


@pytest.mark.parametrize("headers", [[], [ORIGIN]])
async def test_an_exception_handler_can_read_the_body(ways: MakeWays, headers: list[Any]) -> None:
    async def look(request: Request, error: Exception) -> Response:
        return Response(await request.body(), 499)

    router, _ = handled(list)
    both = ways(router, setup=lambda app: app.add_exception_handler(Odd, look))
    answer = await both.post(f"{API}/endpoint/7", json={"a": 1}, headers=headers)
    assert (answer.status, answer.body) == (499, b'{"a": 1}')


@pytest.mark.parametrize("headers", [[], [ORIGIN]])
@pytest.mark.parametrize("path", ["read", "raw", "dependency"])
async def test_an_exception_handler_can_read_the_body_again(
    ways: MakeWays, path: str, headers: list[Any]
) -> None:
    router = APIRouter()

    async def reading(request: Request) -> None:
        await request.body()
        assert not await request.is_disconnected()
        raise Odd

    @router.post("/read")
    async def read(data: Annotated[dict[str, Any], Body()], request: Request) -> Data:
        return await reading(request)  # type: ignore[return-value]

    @router.post("/raw")
    async def raw(request: Request) -> Data:
        return await reading(request)  # type: ignore[return-value]

    @router.post("/dependency", dependencies=[Depends(reading)])
    async def dependency(data: Annotated[dict[str, Any], Body()]) -> Data:
        raise AssertionError

    async def look(request: Request, error: Exception) -> Response:
        return Response(await request.body(), 499)

    both = ways(router, setup=lambda app: app.add_exception_handler(Odd, look))
    for body in (b'{"a": 1}', b"") if path == "raw" else (b'{"a": 1}',):
        async with asyncio.timeout(5):
            answer = await both.post(f"{API}/{path}", body=body, headers=[*headers, JSON])
        assert (answer.status, answer.body) == (499, body)


@pytest.mark.parametrize("headers", [[], [ORIGIN]])
async def test_a_limit_of_nothing_is_one(ways: MakeWays, headers: list[Any]) -> None:
    router = APIRouter()

    @router.post("/none", max_body_size=0)
    async def none(data: Annotated[dict[str, Any], Body()]) -> Data:
        raise AssertionError

    both = ways(router)
    assert (await both.post(f"{API}/none", json={"a": 1}, headers=headers)).status == 413


async def test_an_empty_set_of_fields_is_one(ways: MakeWays) -> None:
    router = APIRouter()

    @router.get("/fields", response_model_include=set())
    async def fields() -> Data:
        return Data(text="x")

    assert (await ways(router).get(f"{API}/fields")).body == b"{}"


BODIES: dict[str, Any] = {
    "fine": {"body": b'{"text": "x"}', "headers": [JSON]},
    "chunked": {"body": [b'{"te', b"", b'xt": "x"}', b""], "headers": [JSON]},
    "charset": {"body": b"{}", "headers": [("Content-Type", "application/json; charset=utf-8")]},
    "vendor": {"body": b"{}", "headers": [("Content-Type", "APPLICATION/vnd.x+json;a=b")]},
    "of two parts": {"body": b"{}", "headers": [("Content-Type", "application/a/b+json")]},
    "no subtype": {"body": b"{}", "headers": [("Content-Type", "application/+json")]},
    "listed": {"body": b"{}", "headers": [("Content-Type", "application/json, text/plain")]},
    "twice": {"body": b"{}", "headers": [("Content-Type", "text/plain"), JSON]},
    "twice, JSON first": {"body": b"{}", "headers": [JSON, ("Content-Type", "text/plain")]},
    "other type": {"body": b"{}", "headers": [("Content-Type", "text/json")]},
    "odd type": {"body": b"{}", "headers": [("Content-Type", b"application/\xff+json")]},
    "bare type": {"body": b"{}", "headers": [("Content-Type", "json")]},
    "no type": {"body": b"{}"},
    "empty type": {"body": b"{}", "headers": [("Content-Type", "")]},
    "form": {"body": b"text=x", "headers": [("Content-Type", "application/x-www-form-urlencoded")]},
    "nothing": {"headers": [JSON]},
    "nothing, chunked": {"body": [b"", b""], "headers": [JSON]},
    "blank": {"body": b" ", "headers": [JSON]},
    "null": {"body": b"null", "headers": [JSON]},
    "list": {"body": b"[]", "headers": [JSON]},
    "text": {"body": b'"x"', "headers": [JSON]},
    "cut": {"body": b'{"text": "x', "headers": [JSON]},
    "cut in chunks": {"body": [b'{"text', b'": "x'], "headers": [JSON]},
    "NaN": {"body": b'{"number": NaN}', "headers": [JSON]},
    "whole float": {"body": b'{"number": 5.0}', "headers": [JSON]},
    "minus zero": {"body": b'{"number": -0}', "headers": [JSON]},
    "duplicates": {"body": b'{"number": 1, "text": "a", "number": 2}', "headers": [JSON]},
    "surrogate": {"body": b'{"text": "\\ud800"}', "headers": [JSON]},
    "pair": {"body": b'{"text": "\\ud83d\\ude00"}', "headers": [JSON]},
    "deep": {"body": b"[" * 70 + b"]" * 70, "headers": [JSON]},
    "BOM": {"body": b"\xef\xbb\xbf{}", "headers": [JSON]},
    "UTF-16": {"body": '{"text": "x"}'.encode("utf-16"), "headers": [JSON]},
    "wrong fields": {"body": b'{"text": [], "number": "7", "more": 1}', "headers": [JSON]},
    "too large": {"body": b" " * 1_048_577, "headers": [JSON]},
    "too large, chunked": {"body": [b" " * 500_000] * 3, "headers": [JSON]},
    "large enough": {"body": b" " * 1_048_574 + b"{}", "headers": [JSON]},
    "said to be too large": {"body": [b"{}"], "headers": [JSON, ("Content-Length", "9999999")]},
    "left": {"body": b'{"text":', "headers": [JSON], "disconnect": True},
    "left before": {"body": [], "headers": [JSON], "disconnect": True},
    "left with all": {"body": b'{"text": "x"}', "headers": [JSON], "disconnect": True},
}


@pytest.fixture(params=BODIES.values(), ids=BODIES.keys())
def body(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("extra", [[], [ORIGIN]], ids=["edge", "router"])
async def test_bodies_are_refused_by_fastapi(ways: MakeWays, body: Any, extra: list[Any]) -> None:
    router = APIRouter()

    @router.post("/data")
    async def data(data: Data) -> Data:
        both.notes.append(data)
        return data

    @router.post("/optional")
    async def optional(data: Data | None = None) -> Any:
        return data

    @router.post("/any")
    async def anything(data: Annotated[Any, Body()]) -> Any:
        return data

    @router.post("/large", max_body_size=1_500_000)
    async def large(data: Data) -> Data:
        return data

    both = ways(router)
    assert len(both.plans) == 5
    for name in ("data", "optional", "any", "large"):
        sent = {**body, "headers": [*extra, *body.get("headers", ())]}
        answer = await both.post(f"{API}/{name}", **sent)
        assert answer.status != 500


@pytest.fixture
def reading(ways: MakeWays) -> Ways:
    """Endpoints that read the body themselves."""
    router = APIRouter()

    async def signature(request: Request) -> str:
        return (await request.body()).decode()[:100]

    @router.post("/signed")
    async def signed(data: Data, signature: Annotated[str, Depends(signature)]) -> list[str]:
        return [data.text, signature]

    @router.post("/again")
    async def again(data: Data, request: Request) -> dict[str, Any]:
        return {"length": len(await request.body()), "json": await request.json()}

    @router.post("/raw")
    async def raw(request: Request) -> dict[str, Any]:
        return {"length": len(await request.body()), "json": await request.json()}

    @router.post("/stream")
    async def stream(request: Request) -> list[int]:
        return [len(part) async for part in request.stream()]

    return ways(router)


@pytest.mark.parametrize("extra", [[], [ORIGIN]], ids=["edge", "router"])
@pytest.mark.parametrize("name", ["signed", "again", "raw", "stream"])
async def test_endpoints_can_read_the_body(reading: Ways, name: str, extra: list[Any]) -> None:
    sent = [*extra, JSON]
    answer = await reading.post(f"{API}/{name}", body=b'{"text": "x"}', headers=sent)
    assert answer.status == 200


@pytest.mark.parametrize("extra", [[], [ORIGIN]], ids=["edge", "router"])
@pytest.mark.parametrize("name", ["raw", "stream"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'"' + b"x" * 1_100_000 + b'"', 413),
        ([b'"', *[b"x" * 110_000] * 10, b'"'], 413),
        (b'{"a": NaN}', 422),
        (b"[" * 70 + b"]" * 70, 422),
        (b'"\\ud800"', 422),
    ],
)
async def test_i1_i2_bodies_that_an_endpoint_reads_have_limits(
    reading: Ways, name: str, extra: list[Any], body: Any, status: int
) -> None:
    for version in ("1.1", "2"):
        answer = await reading.post(
            f"{API}/{name}", body=body, headers=[*extra, JSON], http_version=version
        )
        assert answer.status == status


@pytest.mark.parametrize("extra", [[], [ORIGIN]], ids=["edge", "router"])
async def test_a_body_that_nobody_reads_may_be_too_large(ways: MakeWays, extra: list[Any]) -> None:
    both = ways(everything(list))
    for method, target, _ in ASKED[:1] + ASKED[8:12]:
        await both(method, API + target, body=b"x" * 1_100_000, headers=extra)
        await both(method, API + target, body=[b"x" * 600_000] * 2, headers=extra)


async def test_an_answer_of_413_is_a_problem(ways: MakeWays) -> None:
    router = APIRouter()

    @router.get("/response")
    async def response() -> PlainTextResponse:
        return PlainTextResponse("too much", 413)

    @router.get("/status")
    async def status(response: Response) -> Data:
        response.status_code = 413
        return Data()

    both = ways(router)
    for name in ("response", "status"):
        assert (await both.get(f"{API}/{name}")).json()["code"] == "body_too_large"


@pytest.mark.parametrize("extra", [[], [ORIGIN]], ids=["edge", "router"])
async def test_what_fails_while_the_answer_is_sent(ways: MakeWays, extra: list[Any]) -> None:
    router = APIRouter()

    async def parts() -> Any:
        yield b"a"
        raise ZeroDivisionError

    class Failing(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise Odd

    def fail() -> None:
        raise ZeroDivisionError

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    @router.get("/background")
    async def background() -> Response:
        return PlainTextResponse("a", background=BackgroundTask(fail))

    @router.get("/unsent")
    async def unsent() -> Response:
        return Failing()

    async def look(request: Request, error: Exception) -> Response:
        return PlainTextResponse("handled", 499)

    both = ways(router, setup=lambda app: app.add_exception_handler(Odd, look))
    for name in ("stream", "background"):
        answer = await both.get(f"{API}/{name}", headers=extra)
        assert answer.logged[0] == "unhandled exception"
    assert (await both.get(f"{API}/unsent", headers=extra)).body == b"handled"


async def test_the_request_can_send_early_hints(ways: MakeWays) -> None:
    router = APIRouter()

    @router.get("/hints")
    async def hints(request: Request) -> Data:
        await request.send_early_hints("</a.css>; rel=preload")
        return Data()

    both = ways(router)
    hints_of = {"extensions": {"http.response.early_hint": {}}}
    for app in both.both:
        sent: list[Any] = []
        await app(
            {"type": "http", "method": "GET", "path": f"{API}/hints", "query_string": b"",
             "headers": [(b"host", b"x")], **hints_of},
            _nothing, _append(sent),
        )  # fmt: skip
        assert [message["type"] for message in sent] == [
            "http.response.early_hint", "http.response.start", "http.response.body",
        ]  # fmt: skip


async def _nothing() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def _append(sent: list[Any]) -> Send:
    async def send(message: Message) -> None:
        sent.append(message)

    return send


def test_the_description_is_fastapis(ways: MakeWays) -> None:
    both = ways(everything(list), router_of("/n/{x}", "/{p}/{q}"))
    for app in both.both:
        app.middleware_stack = app.build_middleware_stack()
    assert both.planned.openapi() == both.plain.openapi()
    index, *routes = both.planned.routes
    assert isinstance(index, RouteIndex)
    described = [
        get_openapi(title="x", version="1", routes=of) for of in ([index, *routes], routes)
    ]
    assert described[0] == described[1]
