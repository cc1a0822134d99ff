"""Ferrule's tables for contenders that know nothing of Ferrule, nor load it."""

import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, Numeric, Uuid, make_url
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from benchmarks.contenders.ids import new_id

DRIVERS = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
_url = make_url(os.environ["FERRULE_DATABASE_URL"])
URL = _url.set(drivername=DRIVERS[_url.get_backend_name()])
KEY = bytes.fromhex(os.environ["BENCHMARK_TOKEN_KEY"])


def now() -> datetime:
    return datetime.now(UTC)


class Money(TypeDecorator[Decimal]):
    """On SQLite, which has no decimals, the column holds hundredths."""

    impl = Numeric(14, 2)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else self.impl)

    def process_bind_param(self, value: Decimal | None, dialect: Any) -> Any:
        return int(value * 100) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Any) -> Decimal | None:
        return Decimal(value) / 100 if value is not None and dialect.name == "sqlite" else value


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        UUID: Uuid(),
        Decimal: Money(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSON().with_variant(JSONB(), "postgresql"),
        list[str]: JSON().with_variant(JSONB(), "postgresql"),
    }

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    revision: Mapped[int] = mapped_column(BigInteger, default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class User(Base):
    __tablename__ = "users"

    email: Mapped[str]
    name: Mapped[str] = mapped_column(default="")
    password_hash: Mapped[str | None]
    roles: Mapped[list[str]] = mapped_column(default=list)
    disabled: Mapped[bool] = mapped_column(default=False)
    verified: Mapped[bool] = mapped_column(default=False)


class Item(Base):
    __tablename__ = "items"

    name: Mapped[str]
    description: Mapped[str | None]
    status: Mapped[str]
    price: Mapped[Decimal | None]
    quantity: Mapped[int]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    deleted_at: Mapped[datetime | None]
