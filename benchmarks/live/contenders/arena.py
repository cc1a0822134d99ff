"""Ferrule beside everything that ships: a channel that is open to all, and items told as events."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from benchmarks.contenders.ferrule_prebuilt import add_item
from benchmarks.contenders.ferrule_prebuilt import module as prebuilt_items
from benchmarks.contenders.schemas import ItemCreate, ItemResponse
from ferrule import Actor, Module, SignedIn, create_app, etag
from ferrule.db import ReadSession, Row, Write, WriteSession
from ferrule.modules import SHIPPED
from ferrule.streams import Channel


async def everybody(session: ReadSession, actor: Actor, id: UUID) -> None:
    """May read it."""


async def shout(session: WriteSession, actor: Actor, id: UUID, data: Any, key: str | None) -> None:
    """An event for all readers, kept in the log."""
    session.emit(f"arena/{id}", "shout", data, by=actor)


router = APIRouter(prefix="/told-items", tags=["told-items"])


@router.post("", response_model=ItemResponse, status_code=201)
async def create(
    data: ItemCreate, session: Write, actor: SignedIn, request: Request, response: Response
) -> Row:
    item = await add_item(session, actor, data)
    told = {"id": str(item.id), "name": item.name, "revision": item.revision}
    session.emit(f"told_items/{actor.user_id}", "created", told, by=actor)
    response.headers["Location"] = f"{request.url.path}/{item.id}"
    response.headers["ETag"] = etag(item.revision)
    return item


arena = Module(
    name="arena",
    requires=["auth"],
    channels=(Channel(kind="arena", authorize=everybody, publish=shout, signals=True),),
)
told_items = Module(
    name="told_items",
    requires=["auth", "items"],
    router=router,
    channels=(Channel(kind="told_items", personal=True),),
)
app = create_app(modules=[*SHIPPED, prebuilt_items, arena, told_items])
