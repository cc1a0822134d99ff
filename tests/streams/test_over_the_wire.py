"""The same routes over the wire: peers that go without a word, and what they leave behind."""

import asyncio
import sys
from typing import Any
from uuid import UUID

import pytest

from ferrule import Ferrule
from ferrule.streams import ConnectionManager
from ferrule.streams.connections import Counts
from ferrule.testing import ActorClient, Actors
from tests.streams.boards import Boards, eventually, streams
from tests.streams.peer import CLOSE, PING, PONG, Peer
from tests.streams.routes import heard, router

NOTHING = Counts(0, 0, 0)
pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@pytest.fixture
def application(boards: Boards, settings: dict[str, Any]) -> Ferrule:
    heard.clear()
    return boards.application(router, **settings)


def shown(who: ActorClient) -> dict[str, str]:
    """The header by which somebody is known."""
    return {"Authorization": who.headers["authorization"]}


SILENT = """
import os, socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
peer.sendall(sys.argv[2].encode())
while b"tick" not in peer.recv(65536):
    pass
os.kill(os.getpid(), 9)
"""


async def test_a_client_that_is_killed_is_noticed_where_nothing_is_received(
    port: int, actors: Actors, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    head = (
        "GET /api/v1/clock HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n"
        f"Authorization: {ann.headers['authorization']}\r\n\r\n"
    )
    arguments = (sys.executable, "-c", SILENT, str(port), head)
    client = await asyncio.create_subprocess_exec(*arguments)
    # It was sent something before.
    assert await client.wait() == -9
    await eventually(lambda: manager.counts() == NOTHING)


@streams(ping=0.2)
async def test_who_talks_to_a_route_that_does_not_listen_is_not_gone(
    port: int, actors: Actors, manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferrule.streams.connections.TICK", 0.05)
    async with Peer(port, "/api/v1/clock", **shown(await actors("ann"))) as peer:
        for _ in range(40):
            peer.send_text("{}")
        pings = 0
        while pings < 5:
            received = await peer.receive()
            assert received is not None
            assert received[0] != CLOSE
            pings += received == (PING, b"")
    await eventually(lambda: manager.counts() == NOTHING)


@streams(ping=0.2)
async def test_a_peer_that_shows_no_sign_of_life_is_gone(
    port: int,
    actors: Actors,
    manager: ConnectionManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ferrule.streams.connections.TICK", 0.05)
    ann = await actors("ann")
    paths = "/api/v1/ws", "/api/v1/clock"
    for path in paths:
        async with Peer(port, path, **shown(ann)) as peer:
            # It reads, and answers nothing.
            assert await peer.closed() == (4012, "No sign of life.")
    async with Peer(port, "/api/v1/cursors/1", **shown(ann)) as peer:
        for _ in range(4):
            assert await peer.receive() == (PING, b"")
            peer.send(PONG)
        assert manager.counts().connections == 1
    await eventually(lambda: manager.counts() == NOTHING)


@pytest.mark.parametrize("said", [0, 40])
async def test_w3_a_route_that_only_sends_ends(
    port: int, actors: Actors, manager: ConnectionManager, said: int
) -> None:
    ann = await actors("ann")
    async with Peer(port, "/api/v1/clock", **shown(ann)) as peer:
        for _ in range(said):
            peer.send_text("{}")
        await peer.receive_text()
        assert (await ann.post("/api/v1/auth/logout")).status_code == 204
        assert await peer.closed() == (4502, "Sign in again.")
        await eventually(lambda: manager.counts() == NOTHING)


async def test_what_was_said_before_the_peer_went_is_heard(
    port: int, actors: Actors, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    async with Peer(port, "/api/v1/patient", **shown(ann)) as peer:
        for number in range(10):
            peer.send_text(f'{{"n": {number}}}')
        peer.send(CLOSE, (1001).to_bytes(2, "big"))
    await eventually(lambda: len(heard) == 10)
    await eventually(lambda: manager.counts() == NOTHING)


async def test_nothing_is_taken_of_whoever_was_sent_away(
    port: int, actors: Actors, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    async with Peer(port, "/api/v1/patient", **shown(ann)) as peer:
        for number in range(30):
            peer.send_text(f'{{"n": {number}}}')
        await eventually(lambda: len(heard) == 1)
        await manager.kick(UUID(ann.user["id"]))
        # It does not answer the close frame.
        await eventually(lambda: manager.counts() == NOTHING)
    assert heard in ([0], [0, 1])


async def test_what_is_no_message_ends_it_quietly(
    port: int, actors: Actors, manager: ConnectionManager, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await actors("ann")
    async with Peer(port, "/api/v1/tidy", **shown(ann)) as peer:
        peer.send_text('{"a":1')
        assert await peer.closed() == (4501, "Send a JSON object.")
    # The route goes on, though the peer is gone by now.
    await eventually(lambda: heard == [1])
    await eventually(lambda: manager.counts() == NOTHING)
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []


async def test_a_code_of_the_peer_is_no_defect_of_ours(
    port: int, actors: Actors, manager: ConnectionManager, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await actors("ann")
    async with Peer(port, "/api/v1/cursors/1", **shown(ann)) as peer:
        peer.send(CLOSE, (1011).to_bytes(2, "big"))
        await peer.closed()
    await eventually(lambda: manager.counts() == NOTHING)
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []
