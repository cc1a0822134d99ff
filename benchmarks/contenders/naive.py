"""FastAPI as tutorials write it: async ORM, a session by `yield`, the user looked up, refresh."""

from collections.abc import AsyncGenerator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contenders.tables import KEY, URL, Item, User

engine = create_async_engine(URL)
sessions = async_sessionmaker(engine, expire_on_commit=False)
oauth2 = OAuth2PasswordBearer("login")
app = FastAPI()


class ItemIn(BaseModel):
    name: str = Field(min_length=1, max_length=100)
    description: str | None = Field(None, max_length=10_000)
    status: str = Field("", max_length=50)
    price: Decimal | None = Field(None, ge=0, max_digits=14, decimal_places=2)
    quantity: int = Field(1, ge=0, le=2**31 - 1)
    metadata: dict[str, Any] = {}


class ItemOut(ItemIn):
    model_config = ConfigDict(from_attributes=True)

    metadata: dict[str, Any] = Field(validation_alias="metadata_")
    id: UUID
    owner_id: UUID
    revision: int
    created_at: datetime
    updated_at: datetime


class ItemsOut(BaseModel):
    items: list[ItemOut]
    total: int


async def get_session() -> AsyncGenerator[AsyncSession]:
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


async def get_user(session: Session, token: Annotated[str, Depends(oauth2)]) -> User:
    try:
        claims = jwt.decode(token, KEY, algorithms=["HS256"], audience="ferrule")
    except jwt.PyJWTError:
        raise HTTPException(401) from None
    user = await session.get(User, UUID(claims["sub"]))
    if user is None or user.disabled:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[User, Depends(get_user)]


@app.get("/api/v1/items/{id}", response_model=ItemOut)
async def read(id: UUID, session: Session, user: CurrentUser) -> Any:
    item = await session.get(Item, id)
    if item is None or item.owner_id != user.id:
        raise HTTPException(404)
    return item


@app.get("/api/v1/items", response_model=ItemsOut)
async def listing(session: Session, user: CurrentUser, limit: int = 50, offset: int = 0) -> Any:
    mine = select(Item).where(Item.owner_id == user.id)
    total = await session.scalar(select(func.count()).select_from(mine.subquery()))
    rows = await session.scalars(mine.order_by(Item.id.desc()).limit(limit).offset(offset))
    return {"items": rows.all(), "total": total}


@app.post("/api/v1/items", response_model=ItemOut, status_code=201)
async def create(data: ItemIn, session: Session, user: CurrentUser) -> Any:
    values = data.model_dump()
    values["metadata_"] = values.pop("metadata")
    item = Item(**values, owner_id=user.id)
    session.add(item)
    await session.commit()
    await session.refresh(item)
    return item
