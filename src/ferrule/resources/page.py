"""The shape of every list's answer."""

from typing import Any, Generic, Self, TypeVar

from pydantic import Field

from ferrule.db.listing import Listing
from ferrule.schemas import Schema

T = TypeVar("T")


class Pagination(Schema):
    """Where a page stands. `offset` and `page` are null on a page that a cursor asked for."""

    limit: int
    offset: int | None
    page: int | None
    total: int | None = Field(description="All rows; null where they were not counted.")
    next: str | None = Field(description="Cursor of the next page; null on the last.")

    @classmethod
    def of(cls, listing: Listing[Any]) -> Self:
        window = listing.window
        by_offset = window.cursor is None
        return cls(
            limit=window.limit,
            offset=window.offset if by_offset else None,
            page=window.offset // window.limit + 1 if by_offset else None,
            total=listing.total,
            next=listing.next,
        )


class Page(Schema, Generic[T]):
    """One page of a list."""

    items: list[T]
    pagination: Pagination
