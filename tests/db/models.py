"""Models of the database tests."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ferrule.db import Base


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
    author_id: Mapped[UUID | None] = mapped_column(ForeignKey("test_authors.id"))
    author: Mapped[Author | None] = relationship(lazy="raise", back_populates="books")
