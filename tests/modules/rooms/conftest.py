"""Rooms with members in them, and what their streams were told."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from ferrule.app import Ferrule, create_app
from ferrule.db import Database
from ferrule.modules import auth, rooms
from ferrule.streams.models import Stream, StreamEvent
from ferrule.testing import ActorClient

ROOMS = "/api/v1/rooms"

Make = Callable[..., Awaitable[str]]
Say = Callable[..., Awaitable[dict[str, Any]]]
Told = Callable[[str], Awaitable[list[dict[str, Any]]]]


def member(room: str, who: ActorClient) -> str:
    """The address of somebody's membership."""
    return f"{room}/members/{who.user['id']}"


def id_of(address: str) -> str:
    return address.rpartition("/")[2]


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[auth.module, rooms.module])


@pytest.fixture
def make() -> Make:
    """Makes a room: `await make(ann, bob, cid, admins=[dan], private=False)`; its address."""

    async def make(
        owner: ActorClient, *members: ActorClient, admins: Sequence[ActorClient] = (), **fields: Any
    ) -> str:
        made = await owner.post(ROOMS, json={"name": "Kitchen", **fields})
        assert made.status_code == 201, made.text
        address = made.headers["Location"]
        for role, group in (("member", members), ("admin", admins)):
            for each in group:
                body = {"user_id": each.user["id"], "role": role}
                added = await owner.post(f"{address}/members", json=body)
                assert added.status_code == 201, added.text
        return address

    return make


@pytest.fixture
def say() -> Say:
    """Posts a message: `await say(ann, room, "Hello", key="1")`; the message."""

    async def say(who: ActorClient, room: str, text: str, **fields: Any) -> dict[str, Any]:
        answer = await who.post(f"{room}/messages", json={"text": text, **fields})
        assert answer.status_code == 201, answer.text
        message: dict[str, Any] = answer.json()
        return message

    return say


@pytest.fixture
def told(app: Ferrule) -> Told:
    """The events of a stream so far: `await told("rooms/…")`."""

    async def told(stream: str) -> list[dict[str, Any]]:
        statement = (
            select(StreamEvent)
            .join(Stream, Stream.id == StreamEvent.stream_id)
            .where(Stream.name == stream)
            .order_by(StreamEvent.offset)
        )
        async with app.kit[Database].read() as session:
            found = (await session.execute(statement)).scalars().all()
        assert [each.offset for each in found] == list(range(1, len(found) + 1))
        return [
            {"type": each.type, "by": each.by and str(each.by), "data": json.loads(each.data)}
            for each in found
        ]

    return told
