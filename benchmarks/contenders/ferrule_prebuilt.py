"""Ferrule with a module written by hand over prebuilt statements, beside everything that ships."""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from sqlalchemy import bindparam, func, insert, select

from benchmarks.contenders.schemas import ItemCreate, ItemPage, ItemResponse
from ferrule import Actor, Module, NotFound, SignedIn, create_app, etag
from ferrule.db import Read, ReadSession, Row, Rows, Write, WriteSession, prebuilt
from ferrule.modules import SHIPPED
from ferrule.modules.items import Item

MINE = (Item.owner_id == bindparam("owner"), Item.deleted_at.is_(None))
ONE = prebuilt(select(Item).where(Item.id == bindparam("id"), *MINE))
TOTAL = select(func.count()).select_from(Item).where(*MINE).scalar_subquery()
LATEST = prebuilt(
    select(Item, TOTAL.label("total"))
    .where(*MINE)
    .order_by(Item.id.desc())
    .limit(bindparam("limit"))
)
NEW = prebuilt(insert(Item))


async def find_item(session: ReadSession, actor: Actor, id: UUID) -> Row:
    """The actor's item."""
    item = await session.fetch_one(ONE, id=id, owner=actor.user_id)
    if item is None:
        raise NotFound("There is no such item.")
    return item


async def list_items(session: ReadSession, actor: Actor, limit: int) -> tuple[Rows, int]:
    """The actor's latest items, and how many there are."""
    rows = await session.fetch_all(LATEST, owner=actor.user_id, limit=limit)
    return rows, rows[0].total if rows else 0


async def add_item(session: WriteSession, actor: Actor, data: ItemCreate) -> Row:
    """A new item of the actor's."""
    values = data.model_dump(exclude={"metadata"})
    return session.insert(NEW, owner_id=actor.user_id, metadata_=data.metadata, **values)


router = APIRouter(prefix="/prebuilt-items", tags=["prebuilt-items"])


@router.get("/{id:uuid}", response_model=ItemResponse)
async def read(id: UUID, session: Read, actor: SignedIn, response: Response) -> Row:
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
) -> Row:
    item = await add_item(session, actor, data)
    response.headers["Location"] = f"{request.url.path}/{item.id}"
    response.headers["ETag"] = etag(item.revision)
    return item


module = Module(name="prebuilt_items", requires=["auth", "items"], router=router)
app = create_app(modules=[*SHIPPED, module])
