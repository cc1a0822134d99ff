"""A module with a channel whose rules a test makes up, and how tests speak on sockets."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter

from ferrule import Actor, Ferrule, Module, NotFound, create_app
from ferrule.db import Database, ReadSession, WriteSession
from ferrule.kit import Kit
from ferrule.modules import auth
from ferrule.streams import Channel, recheck
from ferrule.streams.settings import StreamsSettings
from ferrule.testing import ActorClient, TestSocket

DEADLINE = 10.0
SETTINGS = StreamsSettings(namespace="ferrule-tests")


class Boards:
    """Boards that live in memory: who may read them, and what was published with which key."""

    def __init__(self) -> None:
        self.readers: dict[UUID, set[UUID]] = defaultdict(set)
        self.published: dict[tuple[UUID, str], Any] = {}
        self.before_authorize: Callable[[], Any] | None = None
        """Awaited between the question whether somebody may read, and the answer."""

    def new(self, *readers: ActorClient) -> str:
        """A board for these readers; its channel."""
        id = uuid4()
        self.readers[id] = {UUID(each.user["id"]) for each in readers}
        return f"boards/{id}"

    def application(self, router: APIRouter | None = None, **streams: Any) -> Ferrule:
        channels = (
            Channel(
                **{"kind": "boards", "authorize": self.authorize, "publish": self.publish},
                **{"signals": True, "presence": True},
            ),
            Channel(kind="silent", authorize=self.authorize),
            Channel(kind="mine", personal=True),
        )
        boards = Module(name="boards", requires=("auth",), channels=channels, router=router)
        app = create_app(modules=[auth.module, boards])
        # Nobody waits for the rest of the world to send them away.
        update = {"streams": SETTINGS.model_copy(update={"drain": 0.0, **streams})}
        app.configure(app.settings.model_copy(update=update))
        return app

    async def authorize(self, session: ReadSession, actor: Actor, id: UUID) -> None:
        may = actor.user_id in self.readers.get(id, ())
        if self.before_authorize is not None:
            await self.before_authorize()
        if not may:
            raise NotFound("There is no such board.")

    async def publish(
        self, session: WriteSession, actor: Actor, id: UUID, data: Any, key: str | None
    ) -> Any:
        await self.authorize(session, actor, id)
        if data == "fail":
            raise RuntimeError("not for the client: canary7f3a")
        if key is not None and (id, key) in self.published:
            return self.published[id, key]
        session.emit(f"boards/{id}", "note", data, by=actor)
        answer = {"number": len(self.published)}

        async def committed() -> None:
            self.published[id, key or str(uuid4())] = answer

        session.after_commit(committed)
        return answer


async def emit(kit: Kit, channel: str, *data: Any) -> None:
    """Append an event for each of the data, in one commit."""
    async with kit[Database].write() as session:
        for each in data:
            session.emit(channel, "note", each)


async def take_away(kit: Kit, boards: Boards, channel: str, who: ActorClient) -> None:
    """Let somebody not read a board any more, as a module does it."""
    boards.readers[UUID(channel.partition("/")[2])].discard(UUID(who.user["id"]))
    async with kit[Database].write() as session:
        recheck(session, UUID(who.user["id"]))


async def until(socket: TestSocket, t: str, **fields: Any) -> Any:
    """The next message of a kind; those before it are left out."""
    async with asyncio.timeout(DEADLINE):
        while True:
            message = await socket.receive()
            if message["t"] == t and all(message.get(k) == v for k, v in fields.items()):
                return message


async def subscribe(socket: TestSocket, channel: str, since: Any = None) -> Any:
    """Subscribe, and read on until it is live; what `live` said."""
    await socket.send({"id": channel, "t": "sub", "ch": channel, "since": since})
    await until(socket, "ok", id=channel)
    return await until(socket, "live", ch=channel)


async def silent(socket: TestSocket) -> list[Any]:
    """What comes before the answer to a ping that is sent now, which is all there was."""
    mark = str(uuid4())
    await socket.send({"id": mark, "t": "ping"})
    said: list[Any] = []
    while (message := await socket.receive()) != {"t": "pong", "id": mark}:
        said.append(message)
    return said


async def eventually(holds: Callable[[], object], *, within: float = DEADLINE) -> None:
    """Return when it holds."""
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.005)


def streams(**settings: Any) -> pytest.MarkDecorator:
    """Start the application with these settings: `@streams(rate=1)`."""
    return pytest.mark.parametrize("settings", [settings], ids=[""])
