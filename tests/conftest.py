"""What all tests share: the fixtures of the shipped plugin, and databases without application."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import pytest_asyncio
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

from ferrule import Ferrule, Module, create_app, public
from ferrule.db import Database
from ferrule.db.settings import DatabaseSettings
from ferrule.http.index import RouteIndex
from ferrule.http.parameters import NotPlanned
from ferrule.http.plan import Plan
from ferrule.kit import Kit
from ferrule.security.secrets import Secrets
from ferrule.testing import TestDatabases
from tests.server import Server, free_port

SERVER_SETTINGS = {
    "LOG_LEVEL": "warning",
    "SECURITY__ARGON2_MEMORY_KIB": "8",
    "SECURITY__ARGON2_PASSES": "1",
    "DATABASE__MIGRATE_ON_START": "true",
}
Headers = Sequence[tuple[str | bytes, str | bytes]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plain", action="store_true", help="leave every request to FastAPI: no route has a plan"
    )


@pytest.fixture(scope="session", autouse=True)
def _plain(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--plain"):
            patch.setattr(RouteIndex, "_find", lambda index, scope: None)
        yield


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run in a folder of their own, so that no `.env` or data folder of ours is touched."""
    monkeypatch.chdir(tmp_path)


@pytest_asyncio.fixture
async def database(
    database_kind: str, databases: TestDatabases, tmp_path: Path
) -> AsyncIterator[Database]:
    """A database without tables and without an application."""
    kit = Kit(Secrets(["a key that only the tests sign with, 0123456789"]))
    url = await databases.create(database_kind, tmp_path)
    database = Database(url, DatabaseSettings(pool_size=5, wait=2), kit)
    kit.provide(database)
    yield database
    await database.close()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that do not run yet, each on a port of its own; they share a data folder."""
    made: list[Server] = []

    def make(**settings: str) -> Server:
        made.append(Server(tmp_path, free_port(), **SERVER_SETTINGS | settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.close()


@dataclass(frozen=True)
class Answer:
    """What came back, to the byte; what endpoints noted meanwhile, and what was logged."""

    status: int
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    noted: tuple[Any, ...] = ()
    logged: tuple[Any, ...] = ()

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.raw_headers if key == name.lower().encode()]
        return b", ".join(found).decode("latin-1") if found else None


class Ways:
    """One application twice: as it is, and with every request left to FastAPI itself.

    A request is sent to both, and the answers must be equal to the byte. What endpoints and
    dependencies append to `notes` meanwhile must be equal, and what is logged, too.
    """

    def __init__(self, make: Callable[[], Ferrule], log: list[Any]) -> None:
        self.planned, self.plain = make(), left_to_fastapi(make())
        self.notes: list[Any] = []
        self._log = log

    async def __call__(self, method: str, target: str, **request: Any) -> Answer:
        planned, plain = [await self._ask(app, method, target, request) for app in self.both]
        assert planned == plain, f"{method} {target[:200]} {str(request)[:300]}"
        return planned

    async def get(self, target: str, **request: Any) -> Answer:
        return await self("GET", target, **request)

    async def post(self, target: str, **request: Any) -> Answer:
        return await self("POST", target, **request)

    @property
    def both(self) -> tuple[Ferrule, Ferrule]:
        return self.planned, self.plain

    @property
    def plans(self) -> set[str]:
        return plans(self.planned)

    async def _ask(self, app: Ferrule, method: str, target: str, request: Any) -> Answer:
        self.notes.clear()
        self._log.clear()
        answer = await ask(app, method, target, **request)
        # Fields of one name have an order, those of different names have none.
        headers = tuple(sorted(answer.raw_headers, key=lambda header: header[0]))
        noted, logged = tuple(self.notes), tuple(self._log)
        return Answer(answer.status, headers, answer.body, noted, logged)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ways]:
    """Makes applications without database of routers, open to anyone; `setup` adds to them."""
    log: list[Any] = []

    class Log:
        @staticmethod
        def error(event: str, exc_info: Exception) -> None:
            log.append(event)

    def log_request(**line: Any) -> None:
        log.append((line["status"], line["actor"]))

    monkeypatch.setattr("ferrule.http.problems.log", Log)
    monkeypatch.setattr("ferrule.http.edge.log_request", log_request)

    def make(
        *routers: APIRouter, setup: Callable[[Ferrule], object] | None = None, **http: Any
    ) -> Ways:
        def one() -> Ferrule:
            modules = [
                Module(name=f"probes{number}", router=router, access=public)
                for number, router in enumerate(routers)
            ]
            app = create_app(modules=modules)
            update = {"http": app.settings.http.model_copy(update=http)}
            app.configure(app.settings.model_copy(update=update))
            if setup is not None:
                setup(app)
            return app

        return Ways(one, log)

    return make


def left_to_fastapi(app: Ferrule) -> Ferrule:
    """The application without plans, however often it is configured."""
    build = app.build_middleware_stack

    def built() -> Any:
        stack = build()
        (index,) = (route for route in app.router.routes if isinstance(route, RouteIndex))
        index.__dict__["_find"] = lambda scope: None
        return stack

    app.__dict__["build_middleware_stack"] = built
    return app


def plans(app: Ferrule) -> set[str]:
    """The routes that have a plan, as `GET /api/v1/items`."""
    found: set[str] = set()
    for route in iter_route_contexts(app.router.routes):
        if isinstance(route.original_route, RouteIndex):
            continue
        try:
            Plan(route)
        except NotPlanned:
            continue
        found |= {f"{method} {route.path_format}" for method in route.methods or ()}
    return found


async def ask(
    app: Any,
    method: str,
    target: str,
    *,
    headers: Headers = (),
    json: Any = None,
    body: bytes | Sequence[bytes] = b"",
    disconnect: bool = False,
    **scope: Any,
) -> Answer:
    """A request as a server hands it on; a list of bytes is a body in chunks.

    With `disconnect` the client leaves before the body ends. Otherwise it waits for the answer.
    """
    path, _, query = target.partition("?")
    sent = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
    if json is not None:
        body = _json(json)
        sent.append((b"content-type", b"application/json"))
    chunks = [body] if isinstance(body, bytes) else list(body)
    if body and isinstance(body, bytes):
        sent.append((b"content-length", str(len(body)).encode()))
    said = {name for name, _ in sent} & {b"content-length"} or scope.get("http_version") == "2"
    if isinstance(body, list) and not said:
        sent.append((b"transfer-encoding", b"chunked"))
    messages = [
        {"type": "http.request", "body": chunk, "more_body": disconnect or number < len(chunks)}
        for number, chunk in enumerate(chunks, 1)
    ]
    received = iter([*messages, *([{"type": "http.disconnect"}] if disconnect else [])])
    answered: list[Any] = []

    async def receive() -> Any:
        for message in received:
            return message
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        answered.append(message)

    async with asyncio.timeout(2):
        await app(
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "method": method,
                "scheme": "http",
                "path": unquote(path),
                "raw_path": path.encode(),
                "query_string": query.encode(),
                "root_path": "",
                "headers": [(b"host", b"testserver"), (b"x-request-id", b"the-same-id"), *sent],
                "client": ("127.0.0.1", 1),
                "server": ("testserver", 80),
                **scope,
            },
            receive,
            send,
        )
    start, *parts = answered
    return Answer(
        start["status"],
        tuple((name.lower(), value) for name, value in start["headers"]),
        b"".join(part.get("body", b"") for part in parts),
    )


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
