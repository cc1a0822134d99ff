"""Prebuilt statements: the values of the ORM, without what it takes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import (
    Float,
    TypeDecorator,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    null,
    select,
    text,
    update,
)
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ferrule.db import Base, Database, ReadSession, Row, WriteSession, prebuilt, utcnow, uuid7
from ferrule.db import sqlite as sqlite_room
from ferrule.db.statements import Prebuilt, Rows
from ferrule.errors import ConfigurationError, Conflict
from tests.db.models import Author, Book, Colour, Sample

NEW_AUTHOR, NEW_BOOK = prebuilt(insert(Author)), prebuilt(insert(Book))
NEW_SAMPLE = prebuilt(insert(Sample))
AUTHORS = prebuilt(select(Author).order_by(Author.name))
SAMPLE = prebuilt(select(Sample).where(Sample.id == bindparam("id")))
AT = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=timezone(timedelta(hours=5, minutes=30)))

FULL: dict[str, Any] = {
    "text": "Ünï/%_\\'\"\u2028🦀",
    "number": 2**63 - 1,
    "small": -(2**31),
    "flag": True,
    "ratio": 0.1 + 0.2,
    "amount": Decimal("-123456789012.30"),
    "fine": Decimal("0.0001"),
    "at": AT,
    "day": date(2024, 2, 29),
    "hour": time(23, 59, 59, 999999),
    "span": timedelta(days=2, seconds=3),
    "key": UUID(int=7),
    "key_text": "00000000-0000-0000-0000-0000000000ff",
    "blob": b"\x00\xff",
    "colour": Colour.BLUE,
    "tree": {"a": [1, 1.5, None, {"b": "é"}], "": True},
    "tags_": ["x", "y"],
}
ZERO: dict[str, Any] = {
    "text": "",
    "number": 0,
    "small": 0,
    "flag": False,
    "ratio": 0.0,
    "amount": Decimal("0.00"),
    "fine": Decimal("0.0000"),
    "at": datetime(1970, 1, 1, tzinfo=UTC),
    "key": UUID(int=0),
    "blob": b"",
    "tree": {},
    "tags_": [],
}
NOTHING = dict.fromkeys(FULL)


@asynccontextmanager
async def _reading(database: Database) -> AsyncIterator[ReadSession]:
    async with database.read() as session:
        yield session


@asynccontextmanager
async def _writing(database: Database) -> AsyncIterator[ReadSession]:
    async with database.write() as session:
        yield session


Unit = Callable[[Database], Any]


@pytest.fixture(params=[_reading, _writing], ids=["read", "write"])
def unit(request: pytest.FixtureRequest) -> Unit:
    """A unit of work of either kind: what a statement answers is the same in both."""
    return request.param


@pytest_asyncio.fixture
async def samples(database: Database) -> Database:
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables=[Sample.__table__])
    return database


@pytest_asyncio.fixture
async def shelf(library: Database) -> Database:
    """Ann wrote One and Two, nobody wrote Three."""
    async with library.write() as session:
        ann = session.insert(NEW_AUTHOR, name="Ann")
        session.insert(NEW_AUTHOR, name="Bob")
        for title, price, author in (
            ("One", Decimal("1.00"), ann.id),
            ("Two", Decimal("2.00"), ann.id),
            ("Three", None, None),
        ):
            session.insert(NEW_BOOK, title=title, price=price, author_id=author)
    return library


def _same(row: Row, instance: Base) -> None:
    """The row has what the instance has, of the same types."""
    columns = type(instance).__mapper__.column_attrs
    expected = {column.key: getattr(instance, column.key) for column in columns}
    assert vars(row) == expected
    assert {name: _type(value) for name, value in vars(row).items()} == {
        name: _type(value) for name, value in expected.items()
    }


def _type(value: Any) -> type[Any]:
    # asyncpg has a class of its own for them.
    return UUID if isinstance(value, UUID) else type(value)


# What is read.


@pytest.mark.parametrize("values", [FULL, ZERO, NOTHING], ids=["full", "zero", "nothing"])
async def test_each_type_is_read_and_stored_as_the_orm_does(
    samples: Database, unit: Unit, values: dict[str, Any]
) -> None:
    async with samples.write() as session:
        session.add(by_orm := Sample(**values))
    async with samples.write() as session:
        prebuilt_row = session.insert(NEW_SAMPLE, **values)
    for id in (by_orm.id, prebuilt_row.id):
        async with samples.read() as session:
            instance = await session.get(Sample, id)
        async with unit(samples) as session:
            row = await session.fetch_one(SAMPLE, id=id)
        _same(row, instance)
        assert {name: getattr(row, name) for name in values} == values
    assert vars(prebuilt_row) == vars(row)


async def test_columns_labels_and_joins(shelf: Database, unit: Unit) -> None:
    statement = prebuilt(
        select(Book.title, Author.name.label("by"), func.length(Book.title).label("letters"))
        .join(Book.author)
        .where(Author.name == bindparam("name"))
        .order_by(Book.title)
    )
    async with unit(shelf) as session:
        rows = await session.fetch_all(statement, name="Ann")
    assert [vars(row) for row in rows] == [
        {"title": "One", "by": "Ann", "letters": 3},
        {"title": "Two", "by": "Ann", "letters": 3},
    ]


async def test_columns_of_one_name_are_not_mixed_up(shelf: Database, unit: Unit) -> None:
    async with unit(shelf) as session:
        columns = select(Book.id, Author.id.label("author"), Author.revision, Book.title, Book.id)
        row = await session.fetch_one(prebuilt(columns.join(Book.author).order_by(Book.title)))
        assert row.title == "One"
        models = select(Book, Author).join(Book.author).order_by(Book.title)
        row = await session.fetch_one(prebuilt(models))
        assert (row.title, row.name) == ("One", "Ann")


async def test_limits_constants_and_a_value_used_twice(shelf: Database, unit: Unit) -> None:
    statement = prebuilt(
        select(Book.title, literal_column("7").label("seven"))
        .where(
            Book.price >= Decimal("1.5"),
            Book.created_at > datetime(2020, 1, 1, tzinfo=UTC),
            (Book.title == bindparam("title")) | (Book.title.contains(bindparam("title"))),
            and_(Book.published.is_(None), Book.details != null()),
        )
        .order_by(Book.title)
        .limit(bindparam("limit"))
        .offset(bindparam("offset"))
    )
    async with unit(shelf) as session:
        for title, limit, offset, found in (
            ("Two", 5, 0, ["Two"]),
            ("T", 5, 0, ["Two"]),
            ("T", 0, 0, []),
            ("T", 5, 1, []),
            ("One", 5, 0, []),
        ):
            rows = await session.fetch_all(statement, title=title, limit=limit, offset=offset)
            assert [(row.title, row.seven) for row in rows] == [(name, 7) for name in found]


async def test_none_is_a_value(shelf: Database, unit: Unit) -> None:
    same = prebuilt(
        select(Book.title)
        .where(Book.price.is_not_distinct_from(bindparam("price")))
        .order_by(Book.title)
    )
    async with unit(shelf) as session:
        assert [row.title for row in await session.fetch_all(same, price=None)] == ["Three"]
        assert [row.title for row in await session.fetch_all(same, price=Decimal(2))] == ["Two"]


async def test_a_parameter_with_a_default_takes_the_value_that_is_given(
    shelf: Database, unit: Unit
) -> None:
    statement = prebuilt(select(Book.title).limit(bindparam("limit", 1)))
    async with unit(shelf) as session:
        assert len(await session.fetch_all(statement)) == 1
        assert len(await session.fetch_all(statement, limit=3)) == 3


async def test_a_parameter_that_is_computed_is_computed_each_time(
    shelf: Database, unit: Unit
) -> None:
    numbers = iter(range(1, 9))
    limit = bindparam("limit", callable_=lambda: next(numbers))
    statement = prebuilt(select(Book.title).limit(limit))
    async with unit(shelf) as session:
        lengths = [len(await session.fetch_all(statement)) for _ in range(3)]
    assert lengths[0] < lengths[2]


async def test_a_value_that_is_missing_is_named(shelf: Database, unit: Unit) -> None:
    async with unit(shelf) as session:
        with pytest.raises((KeyError, StatementError), match="id"):
            await session.fetch_one(SAMPLE)


async def test_rows_are_a_sequence(shelf: Database, unit: Unit) -> None:
    titles = prebuilt(select(Book.title).order_by(Book.title))
    async with unit(shelf) as session:
        rows = await session.fetch_all(titles)
        nothing = await session.fetch_all(prebuilt(select(Book.title).where(Book.title == "no")))
    assert [row.title for row in rows] == ["One", "Three", "Two"]
    assert (len(rows), bool(rows), bool(nothing), list(nothing)) == (3, True, False, [])
    assert (rows[0].title, rows[-1].title) == ("One", "Two")
    assert isinstance(rows[1:], Rows)
    assert [row.title for row in rows[1:]] == ["Three", "Two"]
    assert [row.title for row in rows[::-2]] == ["Two", "One"]
    for index in (3, -4):
        with pytest.raises(IndexError):
            rows[index]


async def test_a_row_names_what_was_not_selected(shelf: Database, unit: Unit) -> None:
    async with unit(shelf) as session:
        row = await session.fetch_one(prebuilt(select(Book.title).where(Book.title == "One")))
        assert await session.fetch_one(prebuilt(select(Book.id).where(Book.title == "no"))) is None
    with pytest.raises(AttributeError, match="The statement selects no 'price'"):
        _ = row.price
    assert repr(row) == "Row(title)"


@pytest.mark.parametrize("values", [["One"], [], bindparam("titles", expanding=True)])
async def test_in_with_a_list_is_refused(shelf: Database, values: Any) -> None:
    statement = prebuilt(select(Book).where(Book.title.in_(values)))
    async with shelf.read() as session:
        with pytest.raises(ConfigurationError, match=r"IN with a list.*session\.execute"):
            await session.fetch_all(statement, titles=["One"])


# What is stored.


@pytest.mark.parametrize("flush", [False, True], ids=["driver", "transaction"])
async def test_a_new_row_is_what_is_stored(library: Database, flush: bool) -> None:
    values = {"title": "One", "price": Decimal("1.2"), "published": AT}
    async with library.write() as session:
        row = session.insert(NEW_BOOK, **values)
        other = session.insert(NEW_BOOK, title="Two")
        if flush:
            await session.flush()
    async with library.read() as session:
        _same(row, await session.get(Book, row.id))
    assert (str(row.price), row.published) == ("1.20", AT)
    assert row.published.tzinfo is UTC
    assert (row.revision, row.details, row.author_id) == (1, {}, None)
    assert row.created_at == row.updated_at <= utcnow()
    assert row.id.version == 7
    assert other.id > row.id
    assert other.details is not row.details


async def test_setting_an_attribute_changes_nothing_that_is_stored(library: Database) -> None:
    async with library.write() as session:
        row = session.insert(NEW_AUTHOR, name="Ann")
        row.name = "Bob"
    assert await _names(library) == ["Ann"]


async def test_a_new_row_is_the_first_revision_of_an_instance(library: Database) -> None:
    async with library.write() as session:
        row = session.insert(NEW_AUTHOR, name="Ann")
    async with library.write() as session:
        author = await session.get(Author, row.id)
        author.name = "Bob"
        await session.flush()
        assert author.revision == 2
    assert await _names(library) == ["Bob"]


def _by_name(row: Row) -> Any:
    return select(Author).where(Author.id == row.id)


async def _scalars(session: WriteSession, row: Row) -> bool:
    return (await session.scalars(_by_name(row))).one_or_none() is not None


async def _stream(session: WriteSession, row: Row) -> bool:
    return len([each async for each in await session.stream(_by_name(row))]) == 1


async def _stream_scalars(session: WriteSession, row: Row) -> bool:
    return len([each async for each in await session.stream_scalars(_by_name(row))]) == 1


async def _connection(session: WriteSession, row: Row) -> bool:
    connection = await session.connection()
    return (await connection.execute(select(Author.id))).one_or_none() is not None


async def _execute(session: WriteSession, row: Row) -> bool:
    return (await session.execute(_by_name(row))).one_or_none() is not None


async def _merge(session: WriteSession, row: Row) -> bool:
    merged = await session.merge(Author(id=row.id, name="Ann", revision=1))
    return merged not in session.new


Ask = Callable[[WriteSession, Row], Awaitable[Any]]
ASKS: dict[str, Ask] = {
    "execute": _execute,
    "scalar": lambda session, row: session.scalar(_by_name(row)),
    "scalars": _scalars,
    "get": lambda session, row: session.get(Author, row.id),
    "get_one": lambda session, row: session.get_one(Author, row.id),
    "stream": _stream,
    "stream_scalars": _stream_scalars,
    "connection": _connection,
    "run_sync": lambda session, row: session.run_sync(lambda sync: sync.get(Author, row.id)),
    "merge": _merge,
    "fetch_one": lambda session, row: session.fetch_one(AUTHORS),
    "fetch_all": lambda session, row: session.fetch_all(AUTHORS),
}


@pytest.mark.parametrize("ask", ASKS)
async def test_what_was_inserted_is_there_for_the_next_statement(
    library: Database, ask: str
) -> None:
    async with library.write() as session:
        row = session.insert(NEW_AUTHOR, name="Ann")
        assert await ASKS[ask](session, row)
    assert await _names(library) == ["Ann"]


@pytest.mark.parametrize("flush", [False, True])
async def test_an_instance_may_refer_to_what_was_inserted(library: Database, flush: bool) -> None:
    async with library.write() as session:
        row = session.insert(NEW_AUTHOR, name="Ann")
        session.add(Book(title="One", author_id=row.id))
        if flush:
            await session.flush()
    assert await _names(library) == ["Ann"]


async def test_what_is_inserted_may_refer_to_an_instance(library: Database) -> None:
    async with library.write() as session:
        session.add(ann := Author(name="Ann", id=uuid7()))
        session.insert(NEW_BOOK, title="One", author_id=ann.id)
    assert await _names(library) == ["Ann"]


class _Failed(Exception):
    pass


@pytest.mark.parametrize("flush", [False, True], ids=["driver", "transaction"])
async def test_one_failure_leaves_nothing_of_the_unit(library: Database, flush: bool) -> None:
    ran: list[str] = []

    async def committed() -> None:
        ran.append("committed")

    with pytest.raises(Conflict):
        async with library.write() as session:
            session.after_commit(committed)
            session.insert(NEW_AUTHOR, name="Ann")
            session.insert(NEW_AUTHOR, name="Bob")
            session.insert(NEW_AUTHOR, name="Ann")
            if flush:
                await session.flush()
    with pytest.raises(_Failed):
        async with library.write() as session:
            session.after_commit(committed)
            session.insert(NEW_AUTHOR, name="Ann")
            if flush:
                await session.flush()
            raise _Failed
    assert (await _names(library), ran) == ([], [])


async def test_a_statement_that_fails_takes_the_insert_along(library: Database) -> None:
    with pytest.raises(Conflict):
        async with library.write() as session:
            session.insert(NEW_AUTHOR, name="Ann")
            await session.execute(insert(Author).values(name="Ann", id=uuid7(), revision=1))
    assert await _names(library) == []


async def test_a_savepoint_that_is_undone_takes_its_own_inserts_along_and_no_others(
    library: Database,
) -> None:
    async with library.write() as session:
        session.insert(NEW_AUTHOR, name="before")
        with pytest.raises(_Failed):
            async with session.begin_nested():
                session.insert(NEW_AUTHOR, name="inside, asked for")
                await session.execute(select(Author))
                raise _Failed
        session.insert(NEW_AUTHOR, name="after")
    assert await _names(library) == ["after", "before"]


async def test_an_insert_that_nothing_asked_for_ends_with_its_savepoint(library: Database) -> None:
    async with library.write() as session:
        with pytest.raises(_Failed):
            async with session.begin_nested():
                session.insert(NEW_AUTHOR, name="inside")
                raise _Failed
    assert await _names(library) == []


async def test_a_rollback_takes_what_waits_along(library: Database) -> None:
    async with library.write() as session:
        session.insert(NEW_AUTHOR, name="Ann")
        await session.rollback()
    assert await _names(library) == []


async def test_after_commit_follows_an_insert_alone(library: Database) -> None:
    seen: list[list[str]] = []

    async def look() -> None:
        seen.append(await _names(library))

    async with library.write() as session:
        session.insert(NEW_AUTHOR, name="Ann")
        session.after_commit(look)
    assert seen == [["Ann"]]


async def test_an_insert_alone_is_one_statement(
    library: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = await _traced(library, monkeypatch)
    async with library.write() as session:
        session.insert(NEW_AUTHOR, name="Ann")
        assert not session.opened
    await asyncio.sleep(0)  # asyncpg tells its loggers in the next turn
    around = ["BEGIN", "COMMIT"] if library.embedded else []
    assert [statement.split()[0] for statement in ran] == [*around[:1], "INSERT", *around[1:]]
    ran.clear()
    async with library.write() as session:
        pass
    assert ran == []


async def test_what_is_missing_or_unknown_is_named_at_once(library: Database) -> None:
    async with library.write() as session:
        with pytest.raises(TypeError, match=r"test_authors\.name has no default"):
            session.insert(NEW_AUTHOR)
    assert await _names(library) == []


async def test_a_name_that_the_model_lacks_is_refused(library: Database) -> None:
    async with library.write() as session:
        with pytest.raises(TypeError, match="titel"):
            session.insert(NEW_BOOK, titel="One")


async def test_a_time_without_zone_is_refused(library: Database) -> None:
    with pytest.raises((ValueError, StatementError), match="time zone"):
        async with library.write() as session:
            session.insert(NEW_BOOK, published=datetime(2026, 1, 1))


# What may not be done.


async def test_a_read_session_has_no_insert(library: Database) -> None:
    async with library.read() as session:
        with pytest.raises(AttributeError, match="insert"):
            session.insert(NEW_AUTHOR, name="Ann")  # type: ignore[attr-defined]


async def test_a_read_session_does_not_run_a_prebuilt_insert(library: Database) -> None:
    values = NEW_AUTHOR.values({"name": "Ann"})
    with pytest.raises(Exception, match=r"Write|readonly|write"):
        async with library.read() as session:
            await session.fetch_all(NEW_AUTHOR, **values)
    assert await _names(library) == []


@pytest.mark.parametrize("statement", [update(Author), text("SELECT 1")], ids=["update", "text"])
def test_only_select_and_insert_can_be_prebuilt(statement: Any) -> None:
    with pytest.raises((AttributeError, TypeError, ConfigurationError)):
        prebuilt(statement)


async def _names(database: Database) -> list[str]:
    async with database.read() as session:
        return [row.name for row in await session.fetch_all(AUTHORS)]


async def _traced(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What will run on the connection by which prebuilt statements write."""
    ran: list[str] = []
    if database.embedded:
        connecting = sqlite_room.connect

        def connect(*arguments: Any) -> Any:
            connection = connecting(*arguments)
            connection.set_trace_callback(ran.append)
            return connection

        monkeypatch.setattr(sqlite_room, "connect", connect)
        return ran
    pool: Any = database.engines.write.pool
    entry = await pool.lease()
    entry.driver_connection.add_query_logger(lambda record: ran.append(record.query))
    pool.give_back(entry)
    return ran


def test_a_statement_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.dialects import postgresql, sqlite

    statement = prebuilt(select(Author))
    assert isinstance(statement, Prebuilt)
    one = statement.compiled(sqlite.dialect())
    assert statement.compiled(sqlite.dialect()) is one
    assert statement.compiled(postgresql.dialect()) is not one


class _Apart(DeclarativeBase):
    """Models that no database of the tests has."""


class _Label(_Apart):
    __tablename__ = "labels"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(
        "short", default=lambda context: context.get_current_parameters()["long"].lower()
    )
    name: Mapped[str] = mapped_column("long")
    # As a column may be named, so may a parameter of ours.
    statement: Mapped[str | None]


class _Stamped(_Apart):
    __tablename__ = "stamped"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str | None] = mapped_column(server_default="now")


class _Ratio(TypeDecorator[float]):
    impl = Float
    cache_ok = True


def test_a_default_sees_what_was_given_by_the_names_of_the_columns() -> None:
    row = prebuilt(insert(_Label)).values({"id": 1, "name": "Milk", "statement": "x"})
    assert row == {"id": 1, "slug": "milk", "name": "Milk", "statement": "x"}


def test_a_default_that_the_server_knows_has_to_be_given() -> None:
    statement = prebuilt(insert(_Stamped))
    assert statement.values({"id": 1, "at": None})["at"] is None
    with pytest.raises(TypeError, match=r"stamped\.at has no default"):
        statement.values({"id": 1})


def test_a_decorated_float_is_read() -> None:
    from sqlalchemy.dialects.postgresql.asyncpg import dialect

    statement = prebuilt(select(literal_column("1.5", _Ratio).label("ratio")))
    assert statement.compiled(dialect()).values((1.5,)) == {"ratio": 1.5}
