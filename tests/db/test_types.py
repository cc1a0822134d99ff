"""Base types answer alike on both databases."""

import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import StatementError

from ferrule.db import Database, uuid7
from ferrule.db.types import json_problem
from tests.db.models import Book


def test_uuid7_sorts_by_creation_and_tells_the_time() -> None:
    ids = [uuid7() for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {id.version for id in ids} == {7}
    assert {id.variant for id in ids} == {"specified in RFC 4122"}
    assert abs((uuid7().int >> 80) - time.time() * 1000) < 5000


async def test_values_come_back_as_they_went(library: Database) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    async with library.write() as session:
        session.add(Book(title="ünï\U0001f600", price=Decimal("123456789012.34"), published=at))
    async with library.read() as session:
        book = await session.scalar(select(Book))
    assert (book.title, book.price, book.published) == (
        "ünï\U0001f600", Decimal("123456789012.34"), at.astimezone(UTC),
    )  # fmt: skip
    assert book.published.tzinfo is UTC or book.published.utcoffset() == timedelta()
    assert book.created_at.utcoffset() == timedelta()


async def test_decimals_compare_as_numbers(library: Database) -> None:
    async with library.write() as session:
        session.add_all([Book(price=Decimal(price)) for price in ("9.90", "10.00", "0.05")])
    async with library.read() as session:
        rows = await session.scalars(
            select(Book.price).where(Book.price > Decimal("0.05")).order_by(Book.price)
        )
    assert list(rows) == [Decimal("9.90"), Decimal("10.00")]


async def test_a_time_without_zone_is_refused(library: Database) -> None:
    with pytest.raises(StatementError, match="time zone"):
        async with library.write() as session:
            session.add(Book(published=datetime(2026, 1, 1)))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a\x00", ()),
        ({"a": ["\ud800"]}, ("a", 0)),
        ({"a\x00": 1}, ()),
        ({"a": {"b": [1, 2**53 + 1]}}, ("a", "b", 1)),
        ([float("nan")], (0,)),
        ([float("inf")], (0,)),
        ({"a": object()}, ("a",)),
    ],
)
def test_json_that_a_database_cannot_hold_is_found(value: Any, path: tuple[Any, ...]) -> None:
    problem = json_problem(value, depth=10)
    assert problem is not None
    assert problem[0] == path


def test_json_depth_is_counted() -> None:
    nested: Any = 1
    for _ in range(10):
        nested = [nested]
    assert json_problem(nested, depth=10) is None
    assert json_problem([nested], depth=10) is not None


def test_a_model_holds_what_its_column_will_give_back() -> None:
    at = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    book = Book(price=Decimal("1.2"), published=at)
    assert str(book.price) == "1.20"
    assert book.published == at
    assert book.published.utcoffset() == timedelta()
    book.price = None
    assert book.price is None
