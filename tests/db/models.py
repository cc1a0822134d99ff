"""Models and a slow statement of the database tests."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Enum, ForeignKey, Integer, String, Uuid, literal_column, select
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ferrule.db import Base, Money, prebuilt


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


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Sample(Base):
    """A column of each type."""

    __tablename__ = "test_samples"

    text: Mapped[str | None] = mapped_column(String(50))
    number: Mapped[int | None]
    small: Mapped[int | None] = mapped_column(Integer)
    flag: Mapped[bool | None]
    ratio: Mapped[float | None]
    amount: Mapped[Decimal | None]
    fine: Mapped[Decimal | None] = mapped_column(Money(18, 4))
    at: Mapped[datetime | None]
    day: Mapped[date | None]
    hour: Mapped[time | None]
    span: Mapped[timedelta | None]
    key: Mapped[UUID | None]
    key_text: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    blob: Mapped[bytes | None]
    colour: Mapped[Colour | None] = mapped_column(Enum(Colour, native_enum=False))
    tree: Mapped[dict[str, Any] | None]
    # The attribute has another name than its column.
    tags_: Mapped[list[str] | None] = mapped_column("tags")


# Some seconds of work, if nobody ends it.
LONG = prebuilt(
    select(
        literal_column(
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 12000000) "
            "SELECT count(*) FROM n)"
        ).label("n")
    )
)
