"""Tickets: what they open, for whom, how often, and for how long."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import func, select, update

from ferrule import Ferrule
from ferrule.db import Database
from ferrule.db.types import utcnow
from ferrule.streams import ConnectionManager
from ferrule.streams.tickets import TICKETS
from ferrule.testing import ActorClient, Actors, Refused, TestSocket
from tests.streams.boards import Boards, eventually, streams, subscribe, until

WS = "/api/v1/ws"


async def _ticket(who: ActorClient) -> str:
    answer = await who.post(f"{WS}/ticket")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert told.keys() == {"ticket", "expires_in"}
    assert (len(told["ticket"]), told["expires_in"]) == (43, 30)
    ticket: str = told["ticket"]
    return ticket


def _socket(app: Ferrule, query: str) -> TestSocket:
    return TestSocket(app, f"{WS}?{query}", {})


async def _refused(socket: TestSocket) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        await socket.__aenter__()
    assert refused.value.body["status"] == refused.value.status
    return refused.value.status, refused.value.body["code"]


async def _kept(app: Ferrule) -> int:
    async with app.kit[Database].read() as session:
        number: int = await session.scalar(select(func.count()).select_from(TICKETS))
        return number


async def test_a_ticket_opens_one_connection(app: Ferrule, actors: Actors, boards: Boards) -> None:
    ann = await actors("ann")
    board = boards.new(ann)
    ticket = await _ticket(ann)
    async with app.kit[Database].read() as session:
        (row,) = (await session.execute(select(TICKETS))).all()
    assert ticket not in str(row)
    async with _socket(app, f"ticket={ticket}") as socket:
        await subscribe(socket, board)
        await socket.send({"id": 1, "t": "pub", "ch": board, "data": 1})
        assert (await until(socket, "ev"))["by"] == ann.user["id"]
        again = await _refused(_socket(app, f"ticket={ticket}"))
    assert again == (401, "invalid_token")
    assert await _kept(app) == 0


async def test_w2_of_fifty_who_show_it_one_comes_in(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    ticket = await _ticket(ann)
    come_in: list[TestSocket] = []

    async def open() -> str:
        socket = _socket(app, f"ticket={ticket}")
        try:
            await socket.__aenter__()
        except Refused as refused:
            return f"{refused.status} {refused.body['code']}"
        come_in.append(socket)
        return "open"

    told = await asyncio.gather(*(open() for _ in range(50)))
    for socket in come_in:
        await socket.__aexit__(None, None, None)
    assert sorted(told) == ["401 invalid_token"] * 49 + ["open"]


async def test_w2_what_is_no_ticket(
    app: Ferrule, actors: Actors, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await actors("ann")
    wrote: list[str] = []
    write = Database.write

    def noted(database: Database, *arguments: Any) -> Any:
        wrote.append("write")
        return write(database, *arguments)

    monkeypatch.setattr(Database, "write", noted)
    bearer = token(ann)
    for query, code in (
        ("", "unauthenticated"),
        ("ticket=", "invalid_token"),
        ("ticket=nonsense", "invalid_token"),
        (f"ticket={'x' * 101}", "invalid_token"),
        ("ticket=%F0%9F%98%80", "invalid_token"),
        ("ticket=a&ticket=b", "invalid_token"),
        # A token that lives on never stands in an address.
        (f"ticket={bearer[:100]}", "invalid_token"),
        (f"token={bearer}", "unauthenticated"),
        (f"access_token={bearer}", "unauthenticated"),
        (f"authorization=Bearer%20{bearer}", "unauthenticated"),
    ):
        assert await _refused(_socket(app, query)) == (401, code), query
    stream = await ann.get("/api/v1/streams/mine?ticket=nonsense", headers={"authorization": ""})
    assert "Get another" in stream.json()["detail"]
    # Guessing costs nobody else the database.
    assert wrote == []


async def test_w2_two_tickets_are_none(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    one, two = await _ticket(ann), await _ticket(ann)
    assert await _refused(_socket(app, f"ticket={one}&ticket={two}")) == (401, "invalid_token")
    async with _socket(app, f"ticket={one}") as socket:
        await socket.receive()


@streams(ticket_ttl=5)
async def test_w2_tickets_expire_and_are_cleared_away(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    answer = (await ann.post(f"{WS}/ticket")).json()
    assert answer["expires_in"] == 5
    async with app.kit[Database].write() as session:
        (row,) = (await session.execute(select(TICKETS))).all()
        assert 4 < (row.expires_at - utcnow()).total_seconds() <= 5
        await session.execute(update(TICKETS).values(expires_at=utcnow() - timedelta(seconds=1)))
    socket = _socket(app, f"ticket={answer['ticket']}")
    assert await _refused(socket) == (401, "invalid_token")
    assert await _kept(app) == 1
    await ann.post(f"{WS}/ticket")
    assert await _kept(app) == 1


async def test_w2_a_ticket_opens_nothing_but_what_is_live(
    app: Ferrule, actors: Actors, boards: Boards, client: AsyncClient
) -> None:
    root = await actors("root", admin=True)
    board = boards.new(root)
    ticket = await _ticket(root)

    async def ask(method: str, path: str) -> Response:
        return await client.request(method, f"/api/v1{path}", params={"ticket": ticket})

    for method, path in (
        *(("GET", "/users/me"), ("GET", "/users"), ("PATCH", "/users/me"), ("GET", "/jobs")),
        *(("POST", "/ws/ticket"), ("POST", "/auth/logout"), ("GET", "/rooms")),
        ("GET", f"/users/{root.user['id']}/streams/x"),
    ):
        assert (await ask(method, path)).status_code in (401, 404, 405), path
    # A page of a stream is as good as its events.
    assert (await ask("GET", f"/streams/{board}")).status_code == 200
    assert (await ask("GET", f"/streams/{board}")).status_code == 401


async def test_w3_a_ticket_is_worth_what_its_login_is(app: Ferrule, actors: Actors) -> None:
    root, ann, bob = await actors("root", admin=True), await actors("ann"), await actors("bob")
    anns, bobs = await _ticket(ann), await _ticket(bob)
    assert (await ann.post("/api/v1/auth/logout")).status_code == 204
    await root.patch(f"/api/v1/users/{bob.user['id']}", json={"disabled": True})
    for ticket in (anns, bobs):
        assert await _refused(_socket(app, f"ticket={ticket}")) == (401, "invalid_token")


async def test_w3_what_a_ticket_has_opened_ends_with_the_token_behind_it(
    app: Ferrule, actors: Actors, token: Callable[..., str]
) -> None:
    ann = await actors("ann")
    ann.headers["authorization"] = f"Bearer {token(ann, ttl=60)}"
    ticket = await _ticket(ann)
    async with _socket(app, f"ticket={ticket}") as socket:
        await socket.receive()
        (peer,) = app.kit[ConnectionManager]._peers.values()
        expires = peer.actor.expires_at
        assert expires is not None
        assert 0 < expires - utcnow().timestamp() <= 60
        assert (await ann.post("/api/v1/auth/logout")).status_code == 204
        await eventually(lambda: app.kit[ConnectionManager].counts().connections == 0)
    # One of a token that has expired before it is shown.
    bob = await actors("bob")
    ticket = await _ticket(bob)
    async with app.kit[Database].write() as session:
        await session.execute(update(TICKETS).values(actor_expires_at=utcnow()))
    assert await _refused(_socket(app, f"ticket={ticket}")) == (401, "invalid_token")


async def test_a_ticket_in_the_address_comes_before_a_header(app: Ferrule, actors: Actors) -> None:
    ann, bob = await actors("ann"), await actors("bob")
    target = f"{WS}?ticket={await _ticket(bob)}"
    async with ann.socket(target):
        (peer,) = app.kit[ConnectionManager]._peers.values()
        assert str(peer.actor.id) == bob.user["id"]
    # It is not as if it had not been shown.
    assert await _refused(ann.socket(target)) == (401, "invalid_token")


async def test_a_ticket_of_a_door_that_is_gone(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    ticket = await _ticket(ann)
    async with app.kit[Database].write() as session:
        await session.execute(update(TICKETS).values(door="window"))
    assert await _refused(_socket(app, f"ticket={ticket}")) == (401, "invalid_token")
