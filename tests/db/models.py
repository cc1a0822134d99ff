"""Models of the database tests."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest_asyncio
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ferrule.db import Base, Database


class Author(Base):
    __tablename__ = "test_authors"

    name: Mapped[str] = mapped_column(String(100), unique=True)
    books: Mapped[list["Book"]] = relationship(lazy="raise", back_populates="author")


class Book(Base):
    __tablename__ = "test_books"

    title: Mapped[str | None] = mapped_column(String(100))
    price: Mapped[Decimal | None]
    published: Mapped[datetime | None]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    author_id: Mapped[Any] = mapped_column(ForeignKey("test_authors.id"), default=None, nullable=True)
    author: Mapped[Author | None] = relationship(lazy="raise", back_populates="books")


TABLES = [Author.__table__, Book.__table__]


@pytest_asyncio.fixture
async def library(database: Database) -> Database:
    """A database with the tables of these models."""
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables=TABLES)
    return database
