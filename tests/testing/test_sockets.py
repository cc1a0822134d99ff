"""The WebSockets of `ferrule.testing`, as the tests of a project use them."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, WebSocket
from starlette.responses import JSONResponse

from ferrule import Ferrule, Module, SignedIn, create_app
from ferrule.modules import auth
from ferrule.testing import Actors, Disconnected, Refused, TestSocket
from ferrule.testing import sockets as sockets_of_testing

router = APIRouter()
ended: list[str] = []


@router.websocket("/echo/{name}")
async def echo(websocket: WebSocket, name: str, actor: SignedIn) -> None:
    await websocket.accept()
    try:
        await websocket.send_json({"name": name, "query": str(websocket.query_params)})
        async for text in websocket.iter_text():
            if text == "leave":
                await websocket.close(4000)
                return
            await websocket.send_text(text)
    finally:
        ended.append(name)


@router.websocket("/bytes")
async def binary(websocket: WebSocket, actor: SignedIn) -> None:
    await websocket.accept()
    await websocket.send_bytes(b'{"as": "bytes"}')


@router.websocket("/refusing")
async def refusing(websocket: WebSocket, actor: SignedIn) -> None:
    await websocket.send_denial_response(JSONResponse({"because": "so"}, 418))


@router.websocket("/stubborn")
async def stubborn(websocket: WebSocket, actor: SignedIn) -> None:
    await websocket.accept()
    await asyncio.Event().wait()


pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@pytest.fixture
def application() -> Ferrule:
    ended.clear()
    return create_app(modules=[auth.module, Module(name="probes", router=router)])


async def test_json_goes_and_comes(actors: Actors) -> None:
    ann = await actors("ann")
    async with ann.socket("/api/v1/echo/a%20b?x=%C3%A4") as socket:
        assert await socket.receive() == {"name": "a b", "query": "x=%C3%A4"}
        for message in ({"a": [1, None]}, [], 7, "text"):
            await socket.send(message if not isinstance(message, str) else f'"{message}"')
            assert await socket.receive() == message
        assert ended == []
    assert ended == ["a b"]


async def test_bytes_are_json_too(actors: Actors) -> None:
    async with (await actors("ann")).socket("/api/v1/bytes") as socket:
        assert await socket.receive() == {"as": "bytes"}
        with pytest.raises(Disconnected) as closed:
            await socket.receive()
        assert closed.value.code == 1000


async def test_the_end_is_told_by_its_code(actors: Actors) -> None:
    async with (await actors("ann")).socket("/api/v1/echo/x") as socket:
        await socket.receive()
        await socket.send("leave")
        with pytest.raises(Disconnected, match="4000") as closed:
            await socket.receive()
        assert closed.value.code == 4000


@pytest.mark.parametrize(
    ("path", "headers", "status", "body"),
    [
        ("/api/v1/echo/x", {}, 401, {"code": "unauthenticated"}),
        ("/api/v1/nowhere", None, 404, {"code": "not_found"}),
        ("/api/v1/refusing", None, 418, {"because": "so"}),
        ("/api/v1/echo/x", {"origin": "https://evil.example"}, 403, {"code": "bad_origin"}),
    ],
)
async def test_what_is_refused_is_raised(
    actors: Actors, path: str, headers: dict[str, str] | None, status: int, body: Any
) -> None:
    ann = await actors("ann")
    with pytest.raises(Refused) as refused:
        async with ann.socket(path, headers):
            raise AssertionError("it was let in")
    assert refused.value.status == status
    assert body.items() <= refused.value.body.items()


async def test_what_does_not_come_is_not_waited_for(actors: Actors) -> None:
    async with (await actors("ann")).socket("/api/v1/echo/x") as socket:
        await socket.receive()
        with pytest.raises(TimeoutError):
            await socket.receive(within=0.01)


async def test_a_route_that_does_not_end_is_ended(
    actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets_of_testing, "DEADLINE", 0.1)
    socket: TestSocket = (await actors("ann")).socket("/api/v1/stubborn")
    await socket.__aenter__()
    task = socket._task
    assert task is not None
    with pytest.raises(asyncio.CancelledError):
        await socket.__aexit__(None, None, None)
    assert task.cancelled()
