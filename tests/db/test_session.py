"""Units of work: one commit at the end, or none; connections only while SQL runs."""

import asyncio
import gc
import weakref
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.orm import defer, undefer

from ferrule.db import Database, WriteSession, prebuilt, uuid7
from ferrule.db.failures import OutcomeUnknown
from ferrule.db.settings import DatabaseSettings
from ferrule.errors import Conflict, Error, Unavailable
from ferrule.kit import Kit
from ferrule.testing import TestDatabases
from tests.db.models import Author, Book

NEW_AUTHOR = prebuilt(insert(Author))


class _Refused(Error):
    status, code, title = 400, "refused", "Refused"


class _RefusedWithTrace(_Refused):
    keeps_writes = True


async def _count(database: Database) -> int:
    async with database.read() as session:
        return await session.scalar(select(func.count()).select_from(Author))


async def test_a_write_is_committed_at_its_end(library: Database) -> None:
    async with library.write() as session:
        session.add(Author(name="Ann"))
        assert await _count(library) == 0
    assert await _count(library) == 1


@pytest.mark.parametrize(("error", "kept"), [(_Refused, 0), (_RefusedWithTrace, 1)])
async def test_what_was_raised_rolls_back_unless_it_keeps_writes(
    library: Database, error: type[Error], kept: int
) -> None:
    with pytest.raises(error):
        async with library.write() as session:
            session.add(Author(name="Ann"))
            await session.flush()
            raise error
    assert await _count(library) == kept


async def test_after_commit_runs_only_after_the_commit(library: Database) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(await _count(library))

    async with library.write() as session:
        session.add(Author(name="Ann"))
        session.after_commit(look)
    with pytest.raises(Conflict):
        async with library.write() as session:
            session.after_commit(look)
            session.add(Author(name="Ann"))
    assert seen == [1]


async def test_after_commit_forgets_what_a_savepoint_was_to_do(library: Database) -> None:
    ran: list[str] = []

    async def note(name: str) -> None:
        ran.append(name)

    async with library.write() as session:
        session.after_commit(partial(note, "before"))
        with pytest.raises(ZeroDivisionError):
            async with session.begin_nested():
                session.after_commit(partial(note, "undone"))
                raise ZeroDivisionError
        async with session.begin_nested():
            session.after_commit(partial(note, "kept"))
    assert ran == ["before", "kept"]


async def test_after_commit_forgets_what_was_rolled_back(library: Database) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append("after")

    async with library.write() as session:
        session.after_commit(look)
        await session.rollback()
    assert seen == []


@pytest.mark.parametrize("savepoint", [False, True])
@pytest.mark.parametrize("way", ["statement", "insert"])
async def test_a_swallowed_failure_does_not_pass_for_a_commit(
    library: Database, database_kind: str, way: str, savepoint: bool
) -> None:
    async def fail(session: WriteSession) -> None:
        if way == "statement":
            await session.execute(text("SELECT there_is_no_such_column"))
        else:
            session.insert(NEW_AUTHOR, name="Ann")
            await session.flush()

    undone = database_kind == "postgresql" and not savepoint
    # PostgreSQL answers such a COMMIT with ROLLBACK, and the driver says nothing.
    with pytest.raises(RuntimeError, match="begin_nested") if undone else nullcontext():
        async with library.write() as session:
            session.add(Author(name="Ann"))
            await session.flush()
            with suppress(DBAPIError):
                async with session.begin_nested() if savepoint else nullcontext():
                    await fail(session)
    assert await _count(library) == (0 if undone else 1)
    # The connection is fit for others.
    async with library.write() as session:
        session.add(Author(name="Bob"))
    assert await _count(library) == (1 if undone else 2)


async def test_services_cannot_commit(library: Database) -> None:
    async with library.write() as session:
        with pytest.raises(RuntimeError, match="never commit"):
            await session.commit()


async def test_a_read_session_cannot_write(library: Database) -> None:
    with pytest.raises(RuntimeError, match="Write"):
        async with library.read() as session:
            session.add(Author(name="Ann"))
    async with library.write() as session:
        session.add(Author(name="Ann"))
    with pytest.raises(RuntimeError, match="Write"):
        async with library.read() as session:
            author = await session.scalar(select(Author))
            author.name = "Bob"


async def test_a_read_holds_no_connection_between_statements(library: Database) -> None:
    async with library.read() as session:
        await session.scalar(select(func.count()).select_from(Author))
        (await session.execute(select(Author))).all()
        (await session.scalars(select(Author))).all()
        await session.get(Author, uuid7())
        assert library.engines.read.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_get_one_holds_no_connection_either(library: Database) -> None:
    async with library.write() as session:
        session.add(ann := Author(name="Ann"))
    async with library.read() as session:
        await session.get_one(Author, ann.id)
        assert library.engines.read.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_reads_need_no_transaction_on_postgresql(library: Database) -> None:
    if library.embedded:
        pytest.skip("about PostgreSQL")
    async with library.read() as session:
        first = await session.scalar(text("SELECT pg_current_xact_id()::text"))
        second = await session.scalar(text("SELECT pg_current_xact_id()::text"))
    assert first != second


async def test_a_sqlite_commit_is_on_the_disk_before_it_is_acknowledged(library: Database) -> None:
    if not library.embedded:
        pytest.skip("about SQLite")
    async with library.write() as session:
        assert await session.scalar(text("PRAGMA synchronous")) == 2
        assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await session.scalar(text("PRAGMA foreign_keys")) == 1
    async with library.read() as session:
        assert await session.scalar(text("PRAGMA query_only")) == 1


async def test_fifty_writers_at_once_all_succeed(library: Database) -> None:
    async def write(number: int) -> None:
        async with library.write() as session:
            await session.scalar(select(func.count()).select_from(Author))
            session.add(Author(name=f"author {number}"))

    await asyncio.gather(*(write(number) for number in range(50)))
    assert await _count(library) == 50


async def test_sqlite_writers_are_served_in_the_order_of_asking(library: Database) -> None:
    if not library.embedded:
        pytest.skip("about SQLite")
    order: list[int] = []

    async def write(number: int) -> None:
        async with library.write() as session:
            await session.execute(text("SELECT 1"))
            order.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(write(number))
            await asyncio.sleep(0)
    assert order == list(range(20))


async def test_a_writer_that_waits_too_long_is_told_to_retry(library: Database) -> None:
    if not library.embedded:
        pytest.skip("about SQLite")
    async with library.write() as holder:
        await holder.execute(text("SELECT 1"))
        with pytest.raises(Unavailable) as refused:
            async with library.write() as session:
                await session.execute(text("SELECT 1"))
    assert refused.value.headers == {"Retry-After": "1"}
    async with library.write() as session:
        await session.execute(text("SELECT 1"))


async def test_an_exhausted_pool_is_told_to_retry(library: Database) -> None:
    if library.embedded:
        pytest.skip("about PostgreSQL")
    sessions = [library.write() for _ in range(5)]
    opened = [await session.__aenter__() for session in sessions]
    for session in opened:
        await session.execute(text("SELECT 1"))
    with pytest.raises(Unavailable):
        async with library.read() as session:
            await session.execute(text("SELECT 1"))
    for session in sessions:
        await session.__aexit__(None, None, None)


async def test_cancelling_a_statement_leaves_a_healthy_pool(library: Database) -> None:
    async def slow() -> None:
        async with library.write() as session:
            session.add(Author(name="never"))
            await session.flush()
            if library.embedded:
                await session.execute(
                    text(
                        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n "
                        "WHERE i < 3000000) SELECT count(*) FROM n"
                    )
                )
            else:
                await session.execute(text("SELECT pg_sleep(5)"))

    for _ in range(3):
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with library.write() as session:
        session.add(Author(name="after"))
    assert await _count(library) == 1


async def test_relationships_refuse_to_load_lazily(library: Database) -> None:
    async with library.write() as session:
        session.add(Author(name="Ann", books=[Book(title="One")]))
    async with library.read() as session:
        author = await session.scalar(select(Author))
        with pytest.raises(InvalidRequestError, match="lazy='raise'"):
            _ = author.books


async def test_json_changes_are_saved_at_any_depth(library: Database) -> None:
    async with library.write() as session:
        session.add(Book(title="One", details={"a": [{"b": [1, {"c": 2}]}]}))
    async with library.write() as session:
        book = await session.scalar(select(Book))
        book.details["a"][0]["b"][1]["c"] = 3
        del book  # a row that nobody holds any more is saved, too
        gc.collect()
    async with library.write() as session:
        book = await session.scalar(select(Book))
        assert book.details == {"a": [{"b": [1, {"c": 3}]}]}
        assert book.revision == 2
        book.details["a"][0]["b"].append("x")
        await session.flush()
        book.details["a"].pop()
    async with library.read() as session:
        book = await session.scalar(select(Book))
        assert book.details == {"a": []}
        assert book.revision == 4


async def test_json_that_changed_is_saved_though_the_rest_is_loaded_later(
    library: Database,
) -> None:
    async with library.write() as session:
        session.add(Book(title="One", details={"a": 1}))
    async with library.write() as session:
        book = await session.scalar(select(Book).options(defer(Book.title)))
        book.details["a"] = 2
        with session.no_autoflush:
            await session.scalar(select(Book).options(undefer(Book.title)))
        assert book.title == "One"
    async with library.read() as session:
        assert (await session.scalar(select(Book))).details == {"a": 2}


async def test_json_that_did_not_change_is_not_written(library: Database) -> None:
    async with library.write() as session:
        session.add(Book(title="One", details={"a": 1, "b": [1.5, None, "é"]}))
    async with library.write() as session:
        book = await session.scalar(select(Book))
        book.details = {"b": [1.5, None, "é"], "a": 1}
    async with library.read() as session:
        assert (await session.scalar(select(Book))).revision <= 2
    async with library.write() as session:
        await session.scalar(select(Book))
    async with library.read() as session:
        assert (await session.scalar(select(Book))).revision <= 2


async def test_two_changes_of_one_revision_are_a_conflict(library: Database) -> None:
    async with library.write() as session:
        session.add(Author(name="Ann"))
    async with library.read() as session:
        stale = await session.scalar(select(Author))
    async with library.write() as session:
        (await session.scalar(select(Author))).name = "Bob"
    with pytest.raises(Conflict):
        async with library.write() as session:
            session.add(stale)
            stale.name = "Cyd"


async def test_locks_exclude_each_other(library: Database) -> None:
    inside = 0
    most = 0

    async def enter() -> None:
        nonlocal inside, most
        async with library.write() as session:
            await session.lock("the door")
            await session.execute(text("SELECT 1"))
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(10)))
    assert most == 1


@pytest.mark.parametrize(
    "statement",
    [insert(Author).values(name="x"), update(Author).values(name="x"), delete(Author)],
)
async def test_a_read_session_refuses_statements_that_write(
    library: Database, statement: Any
) -> None:
    for each in (statement, text(" Delete from test_authors")):
        with pytest.raises(RuntimeError, match="Write"):
            async with library.read() as session:
                await session.execute(each)


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_unit_of_work_is_gone_when_it_ends(library: Database, kind: str) -> None:
    """Each would else stay, with whatever it holds, until garbage is collected."""
    gc.collect()
    gc.disable()
    try:
        async with getattr(library, kind)() as session:
            if kind == "write":
                session.insert(prebuilt(insert(Author)), name="Ann")
            else:
                await session.fetch_all(prebuilt(select(Author)))
        ended = weakref.ref(session)
        del session
        assert ended() is None
    finally:
        gc.enable()


async def test_what_fails_after_the_commit_does_not_undo_it(library: Database) -> None:
    ran: list[int] = []

    async def fail() -> None:
        raise ZeroDivisionError

    async def run() -> None:
        ran.append(1)

    async with library.write() as session:
        session.add(Author(name="Ann"))
        session.after_commit(fail)
        session.after_commit(run)
    assert (ran, await _count(library)) == ([1], 1)


async def test_a_connection_that_is_lost_in_the_commit_leaves_the_outcome_open(
    library: Database,
) -> None:
    if library.embedded:
        pytest.skip("about PostgreSQL")
    async with library.write() as session:
        for statement in (
            "CREATE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'",
            "CREATE CONSTRAINT TRIGGER hang_up AFTER INSERT ON test_authors "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hang_up()",
        ):
            await session.execute(text(statement))
    with pytest.raises(OutcomeUnknown) as told:
        async with library.write() as session:
            session.add(Author(name="Ann"))
    assert told.value.code == "outcome_unknown"
    assert not told.value.headers
    async with library.read() as session:
        assert await session.scalar(text("SELECT 1")) == 1


async def test_a_null_where_none_may_be_is_a_defect_not_a_conflict(library: Database) -> None:
    with pytest.raises(IntegrityError):
        async with library.write() as session:
            await session.execute(text("UPDATE test_authors SET name = NULL"))
            session.add(Author(name="Ann"))
            await session.flush()
            await session.execute(text("UPDATE test_authors SET name = NULL"))


async def test_statements_are_not_prepared_behind_a_pooler(
    database_kind: str, databases: TestDatabases, tmp_path: Path
) -> None:
    if database_kind == "sqlite":
        pytest.skip("about PostgreSQL")
    url = await databases.create(database_kind, tmp_path)
    database = Database(url, DatabaseSettings(pooler=True), Kit())
    async with database.write() as session:
        for _ in range(3):
            await session.execute(text("SELECT 1"))
        prepared = text("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql")
        assert await session.scalar(prepared) <= 1
        assert await session.scalar(text("SHOW application_name")) == ""
    await database.close()
