"""The composition root: what is refused at the start, and what a module brings."""

import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, Query, WebSocket
from httpx import AsyncClient
from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ferrule import (
    Administrator,
    Anyone,
    ConfigurationError,
    Ferrule,
    Kit,
    Module,
    Schema,
    SignedIn,
    TextSchema,
    create_app,
    public,
    role,
)
from ferrule.db import Base, Database
from ferrule.modules import SHIPPED, auth
from ferrule.testing import Actors


class Answer(Schema):
    text: str


def module(router: APIRouter, **options: Any) -> Module:
    return Module(name="shop", router=router, **options)


def test_a_route_without_declared_access_is_refused() -> None:
    router = APIRouter()

    @router.get("/prices")
    async def prices() -> Answer:
        return Answer(text="")

    with pytest.raises(
        ConfigurationError, match=r"'shop': GET /api/v1/prices does not declare who.*SignedIn"
    ):
        create_app(modules=[module(router)])
    create_app(modules=[module(router, access=public)])


def test_a_route_without_response_type_is_refused() -> None:
    router = APIRouter(dependencies=[Depends(public)])

    @router.get("/prices")
    async def prices():  # type: ignore[no-untyped-def]
        return {}

    with pytest.raises(
        ConfigurationError,
        match=r"'shop': GET /api/v1/prices does not declare what.*response_model",
    ):
        create_app(modules=[module(router)])


async def test_a_route_added_later_is_refused_at_the_start(tmp_path: Path) -> None:
    app = create_app(modules=[auth.module])

    @app.get("/late")
    async def late() -> Answer:
        return Answer(text="")

    with pytest.raises(ConfigurationError, match="GET /late"):
        async with app.router.lifespan_context(app):
            pass


class Shelf(Base):
    __tablename__ = "test_shelves"

    name: Mapped[str]
    jars: Mapped[list["Jar"]] = relationship()


class Jar(Base):
    __tablename__ = "test_jars"

    shelf_id: Mapped[Any] = mapped_column(ForeignKey("test_shelves.id"))


def test_a_lazy_relationship_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'shop': Shelf.jars would load lazily.*raise"):
        create_app(modules=[Module(name="shop", models=(Shelf, Jar))])


class Till:
    """What a module offers to services."""

    opened = 0


router = APIRouter(tags=["till"])


@router.get("/till")
async def till(actor: SignedIn) -> Answer:
    return Answer(text="open")


@router.get("/till/keys")
async def keys(actor: Administrator) -> Answer:
    return Answer(text="keys")


@router.get("/till/drawer", dependencies=[Depends(role("cashier"))])
async def drawer(actor: Anyone) -> Answer:
    return Answer(text="drawer")


@asynccontextmanager
async def lifespan(kit: Kit) -> AsyncGenerator[None]:
    till = Till()
    till.opened = 1
    kit.provide(till)
    yield
    till.opened = 0


@pytest.fixture
def application() -> Ferrule:
    shop = Module(name="shop", requires=("auth",), router=router, lifespan=lifespan)
    return create_app(modules=[shop, *SHIPPED], title="The shop", version="7")


async def test_a_module_lives_as_long_as_the_application(app: Ferrule) -> None:
    assert app.kit[Till].opened == 1
    assert Database in app.kit


async def test_only_what_lives_as_long_as_the_process_is_frozen(app: Ferrule) -> None:
    before = gc.get_freeze_count()
    async with app.router.lifespan_context(app):
        assert gc.isenabled()
    # Less is no failure: what another test's application has frozen dies as its references go.
    assert gc.get_freeze_count() <= before


async def test_z2_access_is_what_the_route_declares(client: AsyncClient, actors: Actors) -> None:
    ann, root = await actors("ann"), await actors("root", admin=True)

    async def statuses(path: str) -> list[int]:
        return [(await each.get(f"/api/v1{path}")).status_code for each in (client, ann, root)]

    assert await statuses("/till") == [401, 200, 200]
    assert await statuses("/till/keys") == [401, 403, 200]
    assert await statuses("/till/drawer") == [401, 403, 403]


async def test_the_api_describes_itself(client: AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert (document["info"]["title"], document["info"]["version"]) == ("The shop", "7")
    operation = document["paths"]["/api/v1/till/keys"]["get"]
    assert operation["operationId"] == "till_keys"
    assert operation["security"] == [{"bearer": []}]
    problem = operation["responses"]["403"]["content"]["application/problem+json"]
    assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert problem["example"]["status"] == 403
    assert "security" not in document["paths"]["/api/v1/health"]["get"]
    ids = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(ids) == len(set(ids))


async def test_nothing_provides_what_no_module_brings() -> None:
    with pytest.raises(ConfigurationError, match="Nothing provides SimpleNamespace"):
        Kit()[SimpleNamespace]


async def test_the_docs_are_served_from_here(client: AsyncClient) -> None:
    home = await client.get("/")
    assert home.is_redirect
    for path in ("/docs", "/redoc"):
        page = await client.get(path)
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert "http://" not in page.text
        assert "https://" not in page.text


async def test_a_module_that_cannot_start_says_why_without_a_stack() -> None:
    @asynccontextmanager
    async def refuse(kit: Kit) -> AsyncGenerator[None]:
        raise ConfigurationError("FERRULE_SHOP__TILL: there is no such till; name another.")
        yield

    app = create_app(modules=[*SHIPPED, Module(name="shop", lifespan=refuse)])
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError):
        await app({"type": "lifespan", "asgi": {}, "state": {}}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": str(app.refusal)}]
    assert "till" in str(app.refusal)


async def test_sockets_declare_their_access_and_have_their_host_checked() -> None:
    router = APIRouter()

    @router.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()

    with pytest.raises(ConfigurationError, match=r"WebSocket /api/v1/socket does not declare"):
        create_app(modules=[module(router)])
    app = create_app(modules=[module(router, access=public)])
    app.configure(app.settings.model_copy(update={"allowed_hosts": ["api.example"]}))

    async def first_answer(host: str) -> Any:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/api/v1/socket",
            "query_string": b"",
            "headers": [(b"host", host.encode())],
        }
        await app(scope, receive, send)
        return sent[0]["type"]

    assert await first_answer("api.example") == "websocket.accept"
    assert await first_answer("evil.example") == "websocket.close"


@pytest.mark.parametrize(("base", "starts"), [(Schema, False), (TextSchema, True)])
def test_a_query_takes_text(base: type[Schema], starts: bool) -> None:
    class Window(base):  # type: ignore[misc, valid-type]
        count: int = 0

    router = APIRouter()

    @router.get("/prices")
    async def prices(window: Annotated[Window, Query()], actor: Anyone) -> Answer:
        return Answer(text="")

    if starts:
        create_app(modules=[module(router)])
    else:
        with pytest.raises(ConfigurationError, match=r"takes Window from a query.*TextSchema"):
            create_app(modules=[module(router)])
