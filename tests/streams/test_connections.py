"""Live connections of an author's own route, their manager, and who loses what."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from ferrule import Ferrule, Unavailable
from ferrule.db import Database
from ferrule.streams import ConnectionManager, connection, connections, recheck_channel
from ferrule.streams.connections import Counts
from ferrule.streams.node import Node
from ferrule.streams.presence import Presence
from ferrule.streams.room import Reader
from ferrule.testing import ActorClient, Actors, Disconnected, Refused, TestDatabases, TestSocket
from tests.streams.boards import (
    Boards,
    emit,
    eventually,
    silent,
    streams,
    subscribe,
    take_away,
    until,
)
from tests.streams.brokers import REDIS
from tests.streams.routes import heard, router

NOTHING = Counts(0, 0, 0)


@pytest.fixture
def application(boards: Boards, settings: dict[str, Any]) -> Ferrule:
    heard.clear()
    return boards.application(router, **settings)


@asynccontextmanager
async def _beside(app: Ferrule, boards: Boards) -> AsyncIterator[Ferrule]:
    """Another process of the application, as far as the application can tell."""
    other = boards.application(router)
    other.configure(app.settings)
    async with other.router.lifespan_context(other):
        yield other


def _at(app: Ferrule, who: ActorClient, path: str = "/ws") -> TestSocket:
    """A socket of somebody at this process."""
    return TestSocket(app, f"/api/v1{path}", {"authorization": who.headers["authorization"]})


async def _closed(socket: TestSocket, *, within: float = 10.0) -> int:
    with pytest.raises(Disconnected) as closed:
        async with asyncio.timeout(within):
            while True:
                await socket.receive()
    return closed.value.code


on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)

# An author's route


async def test_five_lines_of_an_author(actors: Actors, manager: ConnectionManager) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    sockets = (ann.socket("/api/v1/cursors/1"), ann.socket("/api/v1/cursors/1"))
    others = (bob.socket("/api/v1/cursors/1"), bob.socket("/api/v1/cursors/2"))
    async with sockets[0] as one, sockets[1] as two, others[0] as three, others[1] as elsewhere:
        await eventually(lambda: manager.in_room("cursors/1") == 3)
        assert manager.counts() == Counts(connections=4, users=2, rooms=2)
        await one.send({"x": 1, "text": "ä\u2028"})
        assert await two.receive() == {"x": 1, "text": "ä\u2028"}
        assert await three.receive() == {"x": 1, "text": "ä\u2028"}
        manager.send_to_user(UUID(bob.user["id"]), {"for": "bob"})
        assert [await each.receive() for each in (three, elsewhere)] == [{"for": "bob"}] * 2
        manager.broadcast("cursors/1", ["all"])
        assert [await each.receive() for each in (one, two, three)] == [["all"]] * 3
        # Nobody is there, and nobody minds.
        manager.broadcast("cursors/9", 1)
        manager.send_to_user(UUID(int=9), 1)
        await manager.kick(UUID(bob.user["id"]))
        assert [await _closed(each) for each in (three, elsewhere)] == [4503, 4503]
        await eventually(lambda: manager.counts() == Counts(2, 1, 1))
        for socket in (one, two):
            with pytest.raises(TimeoutError):
                await socket.receive(within=0.02)
    await eventually(lambda: manager.counts() == NOTHING)


async def test_a_tab_that_goes_leaves_the_other(actors: Actors, manager: ConnectionManager) -> None:
    ann = await actors("ann")
    async with ann.socket("/api/v1/cursors/1") as one:
        async with ann.socket("/api/v1/cursors/1"):
            await eventually(lambda: manager.in_room("cursors/1") == 2)
        await eventually(lambda: manager.in_room("cursors/1") == 1)
        manager.broadcast("cursors/1", 1)
        assert await one.receive() == 1
        assert manager.counts() == Counts(1, 1, 1)
    await eventually(lambda: manager.counts() == NOTHING)


@on_sqlite
async def test_nothing_is_left_whatever_happens(actors: Actors, manager: ConnectionManager) -> None:
    ann = await actors("ann")
    async with ann.socket("/api/v1/broken") as socket:
        await eventually(lambda: manager.in_room("broken") == 1)
        await socket.send({})
        assert await _closed(socket) == 1011
    assert manager.counts() == NOTHING
    async with ann.socket("/api/v1/clock") as socket:
        await socket.receive()
        assert socket._task is not None
        socket._task.cancel()
        await eventually(lambda: manager.counts() == NOTHING)
    for headers in ({}, {"authorization": "Bearer nonsense"}):
        with pytest.raises(Refused) as refused:
            async with ann.socket("/api/v1/clock", headers):
                pass
        assert refused.value.status == 401
    assert manager.counts() == NOTHING


@on_sqlite
@pytest.mark.parametrize("said", [0, 3, 40])
async def test_a_route_that_only_sends_notices_that_the_peer_went(
    actors: Actors, manager: ConnectionManager, said: int
) -> None:
    ann = await actors("ann")
    async with ann.socket("/api/v1/clock") as socket:
        for number in range(said):
            await socket.send({"n": number})
        assert await socket.receive() == {"tick": True}
        task = socket._task
        assert task is not None
        if said <= connection.UNREAD:
            socket._sent.put_nowait({"type": "websocket.disconnect", "code": 1001})
        else:
            # What nobody reads is not taken: the server finds out when it sends.
            await _fail(socket)
        async with asyncio.timeout(2):
            await task
        assert manager.counts() == NOTHING


async def _fail(socket: TestSocket) -> None:
    """Have the connection fail for who sends."""

    async def put(message: Any) -> None:
        raise OSError("the peer is gone")

    socket._received.put = put  # type: ignore[method-assign]


@on_sqlite
@pytest.mark.parametrize("said", [0, 40])
async def test_a_kick_ends_a_route_that_only_sends(
    actors: Actors, manager: ConnectionManager, said: int
) -> None:
    ann = await actors("ann")
    async with ann.socket("/api/v1/clock") as socket:
        for number in range(said):
            await socket.send({"n": number})
        await socket.receive()
        await asyncio.sleep(0)
        await manager.kick(UUID(ann.user["id"]))
        assert await _closed(socket) == 4503
        await eventually(lambda: manager.counts() == NOTHING)


@on_sqlite
async def test_what_was_said_before_the_peer_went_is_heard(
    actors: Actors, manager: ConnectionManager
) -> None:
    ann = await actors("ann")
    async with ann.socket("/api/v1/patient") as socket:
        for number in range(10):
            await socket.send({"n": number})
    await eventually(lambda: manager.counts() == NOTHING)
    assert heard == list(range(10))


@on_sqlite
async def test_who_went_is_not_thought_about_for_long(
    actors: Actors, manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER", 0.05)
    ann = await actors("ann")
    async with ann.socket("/api/v1/thinking") as socket:
        await socket.send({})
    assert manager.counts() == NOTHING


@streams(per_user=2, per_address=3)
@on_sqlite
async def test_w4_connections_are_limited_before_the_handshake(
    actors: Actors, manager: ConnectionManager
) -> None:
    ann, bob, cid = await actors("ann"), await actors("bob"), await actors("cid")
    for path in ("/api/v1/cursors/1", "/api/v1/ws"):
        async with ann.socket(path), ann.socket(path):
            for who, detail in ((ann, "You have too many"), (cid, None)):
                async with AsyncExitStack() as stack:
                    if who is cid:
                        await stack.enter_async_context(bob.socket(path))
                        detail = "from your address"
                    with pytest.raises(Refused) as refused:
                        await stack.enter_async_context(who.socket(path))
                    assert refused.value.status == 429
                    assert refused.value.body["code"] == "too_many_requests"
                    assert detail in refused.value.body["detail"]
        await eventually(lambda: manager.counts() == NOTHING)
        async with ann.socket(path):
            pass


@streams(rate=1, burst=2, max_message=1024)
@on_sqlite
async def test_w4_an_authors_route_has_the_same_limits(actors: Actors) -> None:
    ann = await actors("ann")
    for text, times, code in (
        ('{"a": 1}', 3, 4504),
        ('"' + "x" * 1024 + '"', 1, 1009),
        ("[]", 1, 4501),
    ):
        async with ann.socket("/api/v1/cursors/1") as socket:
            for _ in range(times):
                await socket.send(text)
            assert await _closed(socket) == code


# What is sent to those who are not there yet


@on_sqlite
async def test_a_handshake_that_takes_its_time(
    actors: Actors, manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is counted in and not accepted yet is in nobody's way, and can be sent away."""
    ann = await actors("ann")
    asked, go_on = asyncio.Event(), asyncio.Event()
    renew = manager.renew

    async def slowly(actor: Any) -> Any:
        now = await renew(actor)
        asked.set()
        await go_on.wait()
        return now

    monkeypatch.setattr(manager, "renew", slowly)
    socket = ann.socket("/api/v1/cursors/1")
    opening = asyncio.create_task(socket.__aenter__())
    await asked.wait()
    (peer,) = manager._peers.values()
    manager.send_to_user(UUID(ann.user["id"]), {"too": "early"})
    peer.tick(asyncio.get_running_loop().time())
    await manager.kick(UUID(ann.user["id"]))
    go_on.set()
    await opening
    assert await _closed(socket) == 4503
    await socket.__aexit__(None, None, None)
    await eventually(lambda: manager.counts() == NOTHING)


@on_sqlite
async def test_nobody_takes_over_a_connection(
    actors: Actors, manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A door that says it is somebody else now does not know any more whom it let in."""
    ann, bob = await actors("ann"), await actors("bob")
    (door,) = [door for door in manager._doors.values() if door.renew is not None]

    async def somebody_else(actor: Any, kit: Any) -> Any:
        return replace(actor, id=UUID(bob.user["id"]))

    async with ann.socket("/api/v1/cursors/1") as socket:
        monkeypatch.setitem(manager._doors, door.name, replace(door, renew=somebody_else))
        manager.recheck(UUID(ann.user["id"]))
        assert await _closed(socket) == 4502
    await eventually(lambda: manager.counts() == NOTHING)


@on_sqlite
async def test_w3_what_is_told_meanwhile_does_not_buy_time(
    actors: Actors, manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await actors("ann")
    id = UUID(ann.user["id"])
    looked: list[float] = []

    async def slowly(peer: Any) -> None:
        looked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.2)

    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(ann.socket("/api/v1/cursors/1")) for _ in range(3)
        ]
        monkeypatch.setattr(manager, "look_again", slowly)
        manager.recheck(id)
        await asyncio.sleep(0.05)
        told = asyncio.get_running_loop().time()
        manager.recheck(id)
        assert {await _closed(socket) for socket in sockets} == {4005}
        assert asyncio.get_running_loop().time() - told < connections.SOON + 0.2


@on_sqlite
async def test_presence_ends_with_a_look_that_takes_too_long(
    app: Ferrule, actors: Actors, boards: Boards, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await actors("ann")
    board = boards.new(ann)

    async def stop(reader: Any) -> None:
        await asyncio.sleep(3600)

    async with ann.socket() as socket:
        await subscribe(socket, board)
        await eventually(lambda: app.kit[Presence].present(board))
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "stop", stop)
            await take_away(app.kit, boards, board, ann)
            assert await _closed(socket) == 4005
    await eventually(lambda: not app.kit[Presence].present(board))


# Several processes


@pytest_asyncio.fixture(params=["postgresql", "redis"])
async def pair(
    request: pytest.FixtureRequest, databases: TestDatabases, boards: Boards, tmp_path: Path
) -> AsyncIterator[tuple[Ferrule, Ferrule]]:
    """Two processes on PostgreSQL, with its bus, or that of Redis."""
    if why := await asyncio.to_thread(databases.why_no_postgres):
        pytest.skip(f"PostgreSQL does not answer {why}")
    app = boards.application(router, namespace=f"ferrule-{tmp_path.name}")
    settings = await databases.empty(app, "postgresql", tmp_path)
    if request.param == "redis":
        settings = settings.model_copy(update={"redis_url": SecretStr(REDIS)})
    app.configure(settings)
    async with app.router.lifespan_context(app), _beside(app, boards) as other:
        for each in (app, other):
            await eventually(lambda each=each: each.kit[Node].nodes and not each.kit[Node].deaf)
        yield app, other


async def test_two_processes_are_one(pair: tuple[Ferrule, Ferrule], boards: Boards) -> None:
    here, there = pair
    managers = [app.kit[ConnectionManager] for app in pair]
    async with Actors(here) as actors:
        ann, bob = await actors("ann"), await actors("bob")
        board = boards.new(ann, bob)
        sockets = _at(here, ann, "/cursors/1"), _at(there, bob, "/cursors/1")
        async with sockets[0] as anns, sockets[1] as bobs:
            for manager in managers:
                await eventually(lambda manager=manager: manager.in_room("cursors/1") == 1)
            await anns.send({"x": 1})
            assert await bobs.receive() == {"x": 1}
            managers[0].send_to_user(UUID(bob.user["id"]), "for bob")
            assert await bobs.receive() == "for bob"
            managers[1].broadcast("cursors/1", "all")
            assert [await anns.receive(), await bobs.receive()] == ["all", "all"]
            await managers[0].kick(UUID(bob.user["id"]))
            assert await _closed(bobs) == 4503
        async with _at(here, ann) as anns, _at(there, bob) as bobs:
            await subscribe(anns, board)
            await subscribe(bobs, board)
            assert (await until(anns, "join", who=bob.user["id"]))["ch"] == board
            await bobs.send({"t": "signal", "ch": board, "data": 1})
            assert (await until(anns, "signal"))["who"] == bob.user["id"]
            await bobs.send({"t": "presence", "ch": board})
            who = sorted([ann.user["id"], bob.user["id"]])
            async with asyncio.timeout(5):
                while (await until(bobs, "presence"))["who"] != who:
                    await bobs.send({"t": "presence", "ch": board})
            await anns.send({"t": "pub", "ch": board, "data": "Hello"})
            assert (await until(bobs, "ev"))["data"] == "Hello"
        for manager in managers:
            await eventually(lambda manager=manager: manager.counts() == NOTHING)


async def test_w3_elsewhere_it_ends_within_a_second(
    pair: tuple[Ferrule, Ferrule], boards: Boards
) -> None:
    here, there = pair
    async with Actors(here) as actors:
        ann, bob = await actors("ann"), await actors("bob")
        board, other = boards.new(ann, bob), boards.new(ann, bob)
        for deaf in (False, True):
            if deaf:
                # The bus carries nothing any more, in either direction.
                for app in pair:
                    app.kit[Node].bus.publish = lambda message: None  # type: ignore[method-assign]
            boards.readers[UUID(board.partition("/")[2])].add(UUID(ann.user["id"]))
            async with _at(there, ann) as anns, _at(there, bob) as bobs:
                for socket in (anns, bobs):
                    await subscribe(socket, board)
                    await subscribe(socket, other)
                await take_away(here.kit, boards, board, ann)
                async with asyncio.timeout(1.5):
                    error = await until(anns, "err")
                assert (error["ch"], error["code"]) == (board, "not_found")
                for channel in (board, other):
                    await emit(here.kit, channel, "secret")
                assert (await until(anns, "ev"))["ch"] == other
                assert {(await until(bobs, "ev"))["ch"] for _ in range(2)} == {board, other}
                async with here.kit[Database].write() as session:
                    await _end_logins(session, ann)
                assert await _closed(anns, within=1.5) == 4502
            await _sign_in_again(here, ann)


async def _end_logins(session: Any, who: ActorClient) -> None:
    from ferrule.modules.auth.logins import end_logins

    await end_logins(session, UUID(who.user["id"]))


async def _sign_in_again(app: Ferrule, who: ActorClient) -> None:
    from ferrule.modules.auth.testing import sign_in

    _, token = await sign_in(app.kit, who.user["email"])
    who.headers["authorization"] = f"Bearer {token}"


async def test_w3_what_another_process_does_beside(
    app: Ferrule, boards: Boards, actors: Actors
) -> None:
    """As the command line does, on either database: nobody tells this process anything."""
    ann = await actors("ann")
    board = boards.new(ann)
    other = boards.application(router)
    other.configure(app.settings)
    async with other.opened() as kit, ann.socket() as socket:
        await subscribe(socket, board)
        await take_away(kit, boards, board, ann)
        async with asyncio.timeout(1.5):
            assert (await until(socket, "err"))["ch"] == board
        async with kit[Database].write() as session:
            await _end_logins(session, ann)
        assert await _closed(socket, within=1.5) == 4502


# Who loses what


async def test_w3_what_ends_a_login_ends_its_connections(app: Ferrule, actors: Actors) -> None:
    root, ann = await actors("root", admin=True), await actors("ann")
    other = await _another_login(app, ann)
    async with ann.socket() as socket, _at(app, other) as stays, _at(app, other, "/clock") as clock:
        assert (await ann.post("/api/v1/auth/logout")).status_code == 204
        assert await _closed(socket, within=1.5) == 4502
        assert await silent_but_hello(stays) == []
        assert await clock.receive() == {"tick": True}
        address = f"/api/v1/users/{ann.user['id']}"
        disabled = await root.patch(address, json={"disabled": True})
        assert disabled.status_code == 200, disabled.text
        assert await _closed(stays, within=1.5) == 4502
        assert await _closed(clock, within=1.5) == 4502
    await other.aclose()


async def silent_but_hello(socket: TestSocket) -> list[Any]:
    return [message for message in await silent(socket) if message["t"] != "hello"]


async def _another_login(app: Ferrule, who: ActorClient) -> ActorClient:
    """The same user with a login of its own."""
    from httpx import ASGITransport

    client = ActorClient(transport=ASGITransport(app), base_url="http://testserver")
    client.user, client.app = who.user, app
    await _sign_in_again(app, client)
    return client


async def test_s6_a_refresh_token_that_was_copied_ends_them(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    email, password = ann.user["email"], "correct horse battery staple"
    form = {"username": email, "password": password}
    pair = (await ann.post("/api/v1/auth/login", data=form)).json()
    first = pair["refresh_token"]
    for _ in range(2):
        answer = await ann.post(
            "/api/v1/auth/refresh", json={"refresh_token": pair["refresh_token"]}
        )
        pair = answer.json()
    headers = {"authorization": f"Bearer {pair['access_token']}"}
    async with ann.socket(headers=headers) as socket:
        reused = await ann.post("/api/v1/auth/refresh", json={"refresh_token": first})
        assert reused.status_code == 401
        assert await _closed(socket, within=1.5) == 4502


async def test_z5_who_loses_a_role_is_not_where_it_was_asked_for(
    app: Ferrule, actors: Actors
) -> None:
    root, eve = await actors("root", admin=True), await actors("eve", admin=True)
    ann = await actors("ann")
    with pytest.raises(Refused) as refused:
        async with ann.socket("/api/v1/administration"):
            pass
    assert refused.value.status == 403
    address = f"/api/v1/users/{eve.user['id']}"
    open = (each.socket("/api/v1/administration") for each in (eve, root))
    async with next(open) as eves, next(open) as roots, eve.socket() as everybodys:
        # What is no loss ends nothing.
        await root.patch(address, json={"name": "Eva"})
        await eves.send({"n": 1})
        assert await eves.receive() == {"n": 1}
        demoted = await root.patch(address, json={"roles": []})
        assert demoted.status_code == 200, demoted.text
        assert await _closed(eves, within=1.5) == 4503
        assert await silent_but_hello(everybodys) == []
        await roots.send({"n": 2})
        assert await roots.receive() == {"n": 2}


async def test_w5_taken_away_while_it_is_asked_for(
    app: Ferrule, boards: Boards, actors: Actors
) -> None:
    """Between the question whether ann may read and the answer, she may not any more."""
    ann = await actors("ann")
    board = boards.new(ann)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        asked.set()
        await go_on.wait()

    for again in (False, True):
        boards.readers[UUID(board.partition("/")[2])].add(UUID(ann.user["id"]))
        async with ann.socket() as socket:
            if again:
                await subscribe(socket, board)
            asked.clear()
            go_on.clear()
            boards.before_authorize = wait
            await socket.send({"id": 1, "t": "sub", "ch": board, "since": "0"})
            await asked.wait()
            boards.before_authorize = None
            await take_away(app.kit, boards, board, ann)
            await asyncio.sleep(0.05)
            go_on.set()
            assert (await until(socket, "err"))["code"] == "not_found"
            await emit(app.kit, board, "secret")
            assert [m for m in await silent(socket) if m["t"] == "ev"] == []


async def test_w5_a_channel_is_closed_while_it_is_asked_for(
    app: Ferrule, boards: Boards, actors: Actors
) -> None:
    """Nobody knows who reads it, and who is about to is among them."""
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        boards.before_authorize = None
        asked.set()
        await go_on.wait()

    async with ann.socket() as anns, bob.socket() as bobs:
        await subscribe(bobs, board)
        boards.before_authorize = wait
        await anns.send({"id": 1, "t": "sub", "ch": board, "since": "0"})
        await asked.wait()
        boards.readers[UUID(board.partition("/")[2])].clear()
        async with app.kit[Database].write() as session:
            recheck_channel(session, board)
        assert (await until(bobs, "err"))["ch"] == board
        go_on.set()
        assert (await until(anns, "err"))["code"] == "not_found"
        await emit(app.kit, board, "secret")
        for socket in (anns, bobs):
            assert [m for m in await silent(socket) if m["t"] == "ev"] == []


async def test_w5_taken_away_while_it_is_asked_for_again(
    app: Ferrule, boards: Boards, actors: Actors
) -> None:
    """The old reader ends, and the right with it, before the new one begins."""
    ann = await actors("ann")
    board = boards.new(ann)
    for _ in range(10):
        boards.readers[UUID(board.partition("/")[2])].add(UUID(ann.user["id"]))
        async with ann.socket() as socket:
            await subscribe(socket, board)
            await socket.send({"id": 1, "t": "sub", "ch": board, "since": "0"})
            await take_away(app.kit, boards, board, ann)
            assert (await until(socket, "err"))["code"] == "not_found"
            await emit(app.kit, board, "secret")
            assert [m for m in await silent(socket) if m["t"] == "ev"] == []


async def test_w3_nobody_stays_because_the_database_was_away(
    app: Ferrule, boards: Boards, actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferrule.streams.connections.AGAIN", 0.02)
    ann = await actors("ann")
    board, broken, fine = boards.new(ann), boards.new(ann), boards.new(ann)
    calls = 0

    async def away() -> None:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise Unavailable

    async with ann.socket() as socket, ann.socket() as other:
        for each in (socket, other):
            await subscribe(each, board)
        boards.before_authorize = away
        await take_away(app.kit, boards, board, ann)
        for each in (socket, other):
            assert (await until(each, "err"))["ch"] == board
        boards.before_authorize = None
        # Who cannot be asked about for a fault of the author does not stay, either.
        await subscribe(socket, broken)
        await subscribe(other, fine)

        async def fail() -> None:
            boards.before_authorize = None
            raise RuntimeError("a fault")

        boards.before_authorize = fail
        await take_away(app.kit, boards, broken, ann)
        assert await _closed(socket) == 4503
        assert await silent(other) == []


async def test_w3_a_login_that_ended_is_not_come_back_to(
    app: Ferrule, actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that was known a moment ago, of a login that has ended meanwhile, renews nothing."""
    ann = await actors("ann")
    other = await _another_login(app, ann)
    shown = ann.headers["authorization"].partition(" ")[2]
    async with _at(app, other) as socket:
        await ann.get("/api/v1/users/me")
        # Elsewhere, so that this process still believes the token for a moment.
        monkeypatch.setattr("ferrule.modules.auth.principals.Principals.forget", lambda *_: None)
        assert (await ann.post("/api/v1/auth/logout")).status_code == 204
        await asyncio.sleep(0.1)
        await socket.send({"t": "auth", "token": shown})
        assert await _closed(socket, within=1.5) == 4502
    await other.aclose()


# The database goes away


@on_postgresql
async def test_sockets_outlive_the_database(
    app: Ferrule, actors: Actors, boards: Boards, databases: TestDatabases
) -> None:
    """Nothing that was acknowledged is lost, nothing comes twice, and nobody is sent away."""
    ann, bob = await actors("ann"), await actors("bob")
    board = boards.new(ann, bob)
    name = app.settings.resolved_database_url.rpartition("/")[2]
    acknowledged: list[str] = []
    async with ann.socket() as anns, bob.socket() as bobs:
        await subscribe(bobs, board)
        administration: Any = await asyncpg.connect(databases.postgres_url)
        try:
            for number in range(60):
                if number == 20:
                    await administration.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                    await administration.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
                        name,
                    )
                if number == 40:
                    await administration.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
                await _say(anns, board, f"{number}", acknowledged, again=not 20 <= number < 40)
        finally:
            await administration.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await administration.close()
        assert 40 <= len(acknowledged) < 60
        got: list[str] = []
        while acknowledged[-1] not in got:
            got.append((await until(bobs, "ev"))["data"])
        assert [text for text in got if text in acknowledged] == acknowledged
        assert len(set(got)) == len(got)
        assert await silent_but_hello(bobs) == []


async def _say(
    socket: TestSocket, board: str, text: str, acknowledged: list[str], *, again: bool
) -> None:
    """Publish it, once or until that is acknowledged; each time it is another text."""
    while True:
        await socket.send({"id": text, "t": "pub", "ch": board, "data": text})
        answer = await socket.receive()
        while answer.get("id") != text:
            answer = await socket.receive()
        if answer["t"] == "ok":
            acknowledged.append(text)
            return
        assert answer["code"] in ("unavailable", "outcome_unknown")
        assert answer["retry"] is (answer["code"] == "unavailable")
        if not again:
            return
        text += "'"
        await asyncio.sleep(0.05)
