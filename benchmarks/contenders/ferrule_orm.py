"""Ferrule with a module written by hand over the ORM, beside everything that ships."""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from sqlalchemy import func, select

from benchmarks.contenders.schemas import ItemCreate, ItemPage, ItemResponse
from ferrule import Actor, Module, NotFound, SignedIn, create_app, etag
from ferrule.db import Read, ReadSession, Write, WriteSession
from ferrule.modules import SHIPPED
from ferrule.modules.items import Item


async def find_item(session: ReadSession, actor: Actor, id: UUID) -> Item:
    """The actor's item."""
    mine = select(Item).where(
        Item.id == id, Item.owner_id == actor.user_id, Item.deleted_at.is_(None)
    )
    item = await session.scalar(mine)
    if item is None:
        raise NotFound("There is no such item.")
    return item


async def list_items(session: ReadSession, actor: Actor, limit: int) -> tuple[list[Item], int]:
    """The actor's latest items, and how many there are."""
    mine = (Item.owner_id == actor.user_id, Item.deleted_at.is_(None))
    total = select(func.count()).select_from(Item).where(*mine).scalar_subquery()
    latest = select(Item, total).where(*mine).order_by(Item.id.desc()).limit(limit)
    rows = (await session.execute(latest)).all()
    return [item for item, _ in rows], rows[0][1] if rows else 0


async def add_item(session: WriteSession, actor: Actor, data: ItemCreate) -> Item:
    """A new item of the actor's."""
    item = Item(
        owner_id=actor.user_id,
        metadata_=data.metadata,
        **data.model_dump(exclude={"metadata"}),
    )
    session.add(item)
    await session.flush()
    return item


router = APIRouter(prefix="/orm-items", tags=["orm-items"])


@router.get("/{id:uuid}", response_model=ItemResponse)
async def read(id: UUID, session: Read, actor: SignedIn, response: Response) -> Item:
    item = await find_item(session, actor, id)
    response.headers["ETag"] = etag(item.revision)
    return item


@router.get("", response_model=ItemPage)
async def listing(session: Read, actor: SignedIn, limit: int = 50) -> dict[str, object]:
    items, total = await list_items(session, actor, limit)
    return {"items": items, "total": total}


@router.post("", response_model=ItemResponse, status_code=201)
async def create(
    data: ItemCreate, session: Write, actor: SignedIn, request: Request, response: Response
) -> Item:
    item = await add_item(session, actor, data)
    response.headers["Location"] = f"{request.url.path}/{item.id}"
    response.headers["ETag"] = etag(item.revision)
    return item


module = Module(name="orm_items", requires=["auth", "items"], router=router)
app = create_app(modules=[*SHIPPED, module])
