"""Ferrule with everything that ships, and a channel that is open to all."""

from typing import Any
from uuid import UUID

from ferrule import Actor, Module, create_app
from ferrule.db import ReadSession, WriteSession
from ferrule.modules import SHIPPED
from ferrule.streams import Channel


async def everybody(session: ReadSession, actor: Actor, id: UUID) -> None:
    """May read it."""


async def shout(session: WriteSession, actor: Actor, id: UUID, data: Any, key: str | None) -> None:
    """An event for all readers, kept in the log."""
    session.emit(f"arena/{id}", "shout", data, by=actor)


arena = Module(
    name="arena",
    requires=["auth"],
    channels=(Channel(kind="arena", authorize=everybody, publish=shout, signals=True),),
)
app = create_app(modules=[*SHIPPED, arena])
