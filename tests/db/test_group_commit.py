"""SQLite's writer: what waits is committed together, fails alone, and is acknowledged after it."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any

import pytest
from sqlalchemy import bindparam, func, insert, select, text
from sqlalchemy.exc import DBAPIError

from ferrule.db import Database, prebuilt, uuid7
from ferrule.db import sqlite as sqlite_room
from ferrule.db.failures import StorageFull
from ferrule.errors import Conflict, Unavailable
from tests.db.models import LONG, Author, Book

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

NEW_AUTHOR, NEW_BOOK = prebuilt(insert(Author)), prebuilt(insert(Book))
NAMES = prebuilt(select(Author.name).order_by(Author.name))
OF_REVISION = prebuilt(select(Author.name).where(Author.revision == bindparam("revision")))
Outcome = BaseException | None


class Connections:
    """The connections of prebuilt statements: what runs on them, and a gate before it.

    A statement that begins with what is `shut` waits until it is opened again.
    """

    def __init__(self) -> None:
        self.writer: Any = None
        self.readers: list[Any] = []
        self.ran: list[str] = []
        self._shut: str | None = None
        self._places = 0
        self._gate = threading.Event()
        self._reached = threading.Event()

    def connect(self, connecting: Callable[..., Any], url: Any, pragmas: Sequence[str]) -> Any:
        connection = connecting(url, pragmas)
        if pragmas[-1] == sqlite_room.READING[-1]:
            self.readers.append(connection)
        else:
            self.writer = connection
        connection.set_trace_callback(self._trace)
        return connection

    def deny(self, transaction: str | None) -> None:
        """Let no more `COMMIT`s, or whatever is named, happen; None lets all."""

        def authorize(action: int, argument: str | None, *_: Any) -> int:
            denied = action == sqlite3.SQLITE_TRANSACTION and argument == transaction
            return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

        self.writer.set_authorizer(authorize if transaction else None)

    @property
    def commits(self) -> int:
        return self.ran.count("COMMIT")

    def _trace(self, statement: str) -> None:
        self.ran.append(statement)
        if self._shut is not None and self._places and statement.startswith(self._shut):
            self._places -= 1
            if not self._places:
                self._reached.set()
            self._gate.wait(10)

    @contextmanager
    def shut(self, statement: str, places: int = 1) -> Iterator[None]:
        """Hold the next statements that begin so, as many as there are places."""
        self._gate.clear()
        self._reached.clear()
        self._shut, self._places = statement, places
        try:
            yield
        finally:
            self._shut = None
            self._gate.set()

    async def reached(self) -> None:
        """Wait until all places before the gate are taken."""
        assert await asyncio.to_thread(self._reached.wait, 5)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    """Ask for it before the database is used."""
    connections = Connections()
    connecting = sqlite_room.connect
    monkeypatch.setattr(
        sqlite_room,
        "connect",
        lambda url, pragmas: connections.connect(connecting, url, pragmas),
    )
    return connections


async def _store(database: Database, *names: str) -> None:
    """One unit that inserts an author for each name."""
    async with database.write() as session:
        for name in names:
            session.insert(NEW_AUTHOR, name=name)


async def _store_author(database: Database, **values: Any) -> None:
    async with database.write() as session:
        session.insert(NEW_AUTHOR, **values)


async def _store_book(database: Database, **values: Any) -> None:
    async with database.write() as session:
        session.insert(NEW_BOOK, **values)


async def _names(database: Database) -> list[str]:
    async with database.read() as session:
        return [row.name for row in await session.fetch_all(NAMES)]


async def _outcomes(*units: Any) -> list[Outcome]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*units, return_exceptions=True)


def _tasks(*units: Any) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(unit) for unit in units]


def _numbered(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number:04d}" for number in range(count)]


# Together.


async def test_what_comes_at_once_ends_in_few_commits(
    connections: Connections, library: Database
) -> None:
    await asyncio.gather(*(_store(library, name) for name in _numbered(50)))
    assert connections.commits <= 3
    assert await _names(library) == _numbered(50)


async def test_what_waits_for_a_commit_is_the_next_group(
    connections: Connections, library: Database
) -> None:
    with connections.shut("COMMIT"):
        tasks = _tasks(_store(library, "first"))
        await connections.reached()
        tasks += _tasks(*(_store(library, name) for name in _numbered(30)))
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    assert connections.commits == 2


async def test_each_is_acknowledged_only_after_its_commit(
    connections: Connections, library: Database
) -> None:
    for names in (["lonely"], _numbered(20)):
        with connections.shut("COMMIT"):
            tasks = _tasks(*(_store(library, name) for name in names))
            await connections.reached()
            await asyncio.sleep(0.02)
            assert not any(task.done() for task in tasks)
            assert not set(names) & set(await _names(library))
        await asyncio.gather(*tasks)
        assert set(names) <= set(await _names(library))


async def test_the_connection_that_writes_writes_through_to_the_disk(
    connections: Connections, library: Database
) -> None:
    await _store(library, "Ann")
    await _names(library)

    def pragma(connection: Any, name: str) -> Any:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert pragma(connections.writer, "synchronous") == 2
    assert pragma(connections.writer, "journal_mode") == "wal"
    (reader,) = connections.readers
    for connection in (connections.writer, reader):
        assert pragma(connection, "foreign_keys") == 1
        assert pragma(connection, "busy_timeout") == 2000
    assert pragma(reader, "query_only") == 1
    assert any(statement.startswith("INSERT INTO test_authors") for statement in connections.ran)


# Alone.

REFUSED = [
    pytest.param(_store_author, {"name": "taken"}, Conflict, id="unique"),
    pytest.param(_store_book, {"author_id": uuid7()}, Conflict, id="reference"),
    pytest.param(_store_author, {"name": None}, DBAPIError, id="null"),
    pytest.param(_store_author, {"name": object()}, DBAPIError, id="type"),
    pytest.param(_store_author, {"name": "x", "revision": 2**70}, Exception, id="too large"),
    pytest.param(_store_author, {"name": "\ud800"}, Exception, id="surrogate"),
]


@pytest.mark.parametrize(("store", "values", "told"), REFUSED)
async def test_one_that_fails_fails_alone(
    connections: Connections, library: Database, store: Any, values: dict[str, Any], told: Any
) -> None:
    await _store(library, "taken")
    units = [_store(library, name) for name in _numbered(6)]
    units.insert(3, store(library, **values))
    before = connections.commits
    outcomes = await _outcomes(*units)
    assert isinstance(outcomes.pop(3), told)
    assert outcomes == [None] * 6
    assert connections.commits == before + 1
    assert await _names(library) == [*_numbered(6), "taken"]


async def test_a_unit_of_several_is_stored_whole_or_not_at_all(
    connections: Connections, library: Database
) -> None:
    await _store(library, "taken")
    before = connections.commits
    outcomes = await _outcomes(
        _store(library, "a1", "a2", "a3"),
        _store(library, "b1", "taken", "b3"),
        _store(library, "c1"),
        _store(library, "d1", "d2", "d1"),
        _store(library, "b1", "b3"),
    )
    assert [type(outcome) for outcome in outcomes] == [
        type(None), Conflict, type(None), Conflict, type(None),
    ]  # fmt: skip
    assert connections.commits == before + 1
    assert await _names(library) == ["a1", "a2", "a3", "b1", "b3", "c1", "taken"]


async def test_a_read_that_fails_fails_alone(library: Database) -> None:
    await _store(library, "Ann")

    async def read(revision: Any) -> list[str]:
        async with library.read() as session:
            return [row.name for row in await session.fetch_all(OF_REVISION, revision=revision)]

    outcomes: Any = await _outcomes(*(read(revision) for revision in (1, 2, 2**70, object(), 1)))
    assert outcomes[:2] == [["Ann"], []]
    assert isinstance(outcomes[2], Exception)
    assert isinstance(outcomes[3], Exception)
    assert outcomes[4] == ["Ann"]


# A commit that fails.


async def test_a_commit_that_is_refused_stores_nothing_of_the_group(
    connections: Connections, library: Database
) -> None:
    await _store(library, "before")
    connections.deny("COMMIT")
    outcomes = await _outcomes(
        *(_store(library, name) for name in _numbered(5)), _store(library, "before")
    )
    assert all(isinstance(outcome, DBAPIError) for outcome in outcomes[:5]), outcomes
    # This one would have failed anyway, and is told so.
    assert isinstance(outcomes[5], Conflict)
    assert await _names(library) == ["before"]
    connections.deny(None)
    await _store(library, "after")
    assert await _names(library) == ["after", "before"]


async def test_a_reference_that_is_checked_by_the_commit(
    connections: Connections, library: Database
) -> None:
    async with library.write() as session:
        for statement in (
            "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
            "CREATE TABLE children (id INTEGER PRIMARY KEY, "
            "parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)",
            "CREATE TRIGGER dangle AFTER INSERT ON test_authors WHEN new.name = 'orphan' "
            "BEGIN INSERT INTO children (parent) VALUES (1); END",
        ):
            await session.execute(text(statement))
    outcomes = await _outcomes(*(_store(library, name) for name in ("a", "orphan", "b")))
    assert [type(outcome) for outcome in outcomes] == [NoneType, Conflict, NoneType]
    assert await _names(library) == ["a", "b"]


async def test_a_full_disk_is_told_and_heals(connections: Connections, library: Database) -> None:
    await _store(library, "before")
    pages = connections.writer.execute("PRAGMA page_count").fetchone()[0]
    connections.writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    large = {"details": {"text": "x" * 100_000}}
    outcomes = await _outcomes(
        _store(library, "one"),
        _store_book(library, **large),
        _store(library, "two"),
        _store_book(library, **large),
    )
    assert isinstance(outcomes[1], StorageFull)
    assert isinstance(outcomes[3], StorageFull)
    assert outcomes[1].status_code == 507
    # Whether a small one fits beside them is SQLite's to decide; what was told is true.
    assert {type(outcome) for outcome in outcomes} <= {StorageFull, type(None)}
    told = {
        name for name, outcome in zip(("one", "", "two"), outcomes, strict=False) if not outcome
    }
    assert set(await _names(library)) == {"before", *told}
    connections.writer.execute("PRAGMA max_page_count = 1000000")
    await asyncio.gather(_store(library, "after"), _store_book(library, **large))
    assert "after" in await _names(library)
    assert connections.writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# Beside others.


@contextmanager
def _locked(database: Database) -> Iterator[None]:
    """The file is locked for writing, as by another program."""
    other = sqlite3.connect(str(database.url.database), isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


async def test_another_programs_lock_is_waited_for_until_the_deadline(
    connections: Connections, opened: Callable[..., Database]
) -> None:
    database = opened(wait=0.2)
    await _store(database, "before")
    with _locked(database):
        started = time.monotonic()
        outcomes = await _outcomes(*(_store(database, name) for name in _numbered(5)))
        assert 0.15 < time.monotonic() - started < 1
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
        assert await _names(database) == ["before"]
    await _store(database, "after")
    assert await _names(database) == ["after", "before"]


async def test_each_waits_for_the_writer_as_long_as_it_may(
    opened: Callable[..., Database],
) -> None:
    database = opened(wait=0.3)
    async with database.write() as holder:
        await holder.execute(text("SELECT 1"))
        early = asyncio.create_task(_store(database, "early"))
        await asyncio.sleep(0.2)
        late = asyncio.create_task(_store(database, "late"))
        await asyncio.sleep(0.2)
    assert [type(outcome) for outcome in await _outcomes(early, late)] == [
        Unavailable, type(None),
    ]  # fmt: skip


async def test_sessions_of_the_orm_take_turns_with_the_group(
    connections: Connections, library: Database
) -> None:
    order: list[str] = []

    async def by_orm(name: str) -> None:
        async with library.write() as session:
            await session.scalar(select(func.count()).select_from(Author))
            session.add(Author(name=name))
        order.append(name)

    async def by_driver(name: str) -> None:
        await _store(library, name)
        order.append(name)

    async with library.write() as holder:
        await holder.execute(text("SELECT 1"))
        tasks: list[asyncio.Task[None]] = []
        for number in range(6):
            tasks += _tasks(by_orm(f"o{number}"), by_driver(f"d{number}"))
            await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    # Sessions keep their order; whoever waits for the driver goes with the first of them.
    assert [name for name in order if name[0] == "o"] == [f"o{number}" for number in range(6)]
    assert order[0] == "o0"
    assert order[1:7] == [f"d{number}" for number in range(6)]


async def test_neither_starves_where_hundreds_write_at_once(
    connections: Connections, library: Database
) -> None:
    order: list[str] = []

    async def by_orm(name: str) -> None:
        for number in range(10):
            async with library.write() as session:
                session.add(Author(name=f"{name} {number}"))
            order.append("orm")

    async def by_driver(name: str) -> None:
        for number in range(10):
            await _store(library, f"{name} {number}")
            order.append("driver")

    async with asyncio.timeout(15):
        await asyncio.gather(
            *(by_orm(f"orm {number}") for number in range(10)),
            *(by_driver(f"driver {number}") for number in range(20)),
        )
    assert len(await _names(library)) == len(order) == 300
    # As long as both have something to do, both get on with it.
    both = order[: min(_last(order, "orm"), _last(order, "driver"))]
    runs = "".join(name[0] for name in both).split("o")
    assert max(map(len, runs)) <= 2 * 20
    assert len(both) - both.count("driver") >= 5


def _last(order: list[str], name: str) -> int:
    return len(order) - order[::-1].index(name)


async def test_cancelled_writers_do_not_disturb_the_group(
    connections: Connections, library: Database
) -> None:
    with connections.shut("COMMIT"):
        under_way = _tasks(*(_store(library, name) for name in _numbered(6, "a")))
        await connections.reached()
        waiting = _tasks(*(_store(library, name) for name in _numbered(6, "b")))
        await asyncio.sleep(0.01)
        cancelled = [*under_way[::3], *waiting[::3]]
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
    outcomes = await _outcomes(*under_way, *waiting)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 4
    assert outcomes.count(None) == 8
    stored = await _names(library)
    assert {"a0001", "a0002", "a0004", "a0005", "b0001", "b0002", "b0004", "b0005"} <= {*stored}
    await _store(library, "after")


# Reads.


@pytest.mark.parametrize("later", [0.1, 0.0], ids=["later", "right behind"])
async def test_a_slow_read_holds_up_nobody(
    connections: Connections, opened: Callable[..., Database], later: float
) -> None:
    database = opened(wait=2, readers=2)
    await _store(database, "Ann")
    with connections.shut("SELECT"):
        slow = asyncio.create_task(_names(database))
        await connections.reached()
        await asyncio.sleep(later)
        async with asyncio.timeout(1):
            for names in await asyncio.gather(*(_names(database) for _ in range(20))):
                assert names == ["Ann"]
            await _store(database, "Bob")
            async with database.read() as session:
                assert len((await session.execute(select(Author))).all()) == 2
        assert not slow.done()
    assert await slow == ["Ann", "Bob"]


async def test_a_read_behind_slow_ones_is_told_at_the_deadline(
    connections: Connections, opened: Callable[..., Database]
) -> None:
    database = opened(wait=0.3, readers=2)
    with connections.shut("SELECT", places=2):
        slow = [asyncio.create_task(_names(database))]
        await asyncio.sleep(0.1)
        slow.append(asyncio.create_task(_names(database)))
        await connections.reached()
        started = time.monotonic()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(2):
                await _names(database)
        assert 0.2 < time.monotonic() - started < 1
        assert len(connections.readers) == 2
    # Those that were begun are not ended by it.
    assert await asyncio.gather(*slow) == [[], []]
    assert await _names(database) == []


async def test_the_queue_of_reads_has_an_end(
    connections: Connections, opened: Callable[..., Database], three_may_wait: None
) -> None:
    database = opened(wait=2, readers=1)
    with connections.shut("SELECT"):
        tasks = [asyncio.create_task(_names(database))]
        await connections.reached()
        for _ in range(6):
            tasks.append(asyncio.create_task(_names(database)))
            await asyncio.sleep(0.005)
        refused = [task for task in tasks if task.done()]
        assert [type(task.exception()) for task in refused] == [Unavailable] * 3
    await asyncio.wait(tasks)
    assert await asyncio.gather(*(_names(database) for _ in range(3))) == [[]] * 3


async def test_a_read_that_is_given_up_takes_no_other_along(library: Database) -> None:
    await _store(library, "Ann")

    async def long() -> None:
        async with library.read() as session:
            await session.fetch_one(LONG)

    await _names(library)
    for _ in range(20):
        given_up = [asyncio.create_task(long()) for _ in range(2)]
        others = [asyncio.create_task(_names(library)) for _ in range(3)]
        given_up.append(asyncio.create_task(long()))
        await asyncio.sleep(0.002)
        for task in given_up:
            task.cancel()
        async with asyncio.timeout(1):
            assert await asyncio.gather(*others) == [["Ann"]] * 3


# The end.


async def test_closing_waits_for_what_is_written(
    connections: Connections, opened: Callable[..., Database], library: Database
) -> None:
    database = opened(wait=1)
    with connections.shut("COMMIT"):
        tasks = _tasks(_store(database, "first"))
        await connections.reached()
        tasks += _tasks(*(_store(database, name) for name in _numbered(5)))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
    async with asyncio.timeout(3):
        await closing
        assert await _outcomes(*tasks) == [None] * 6
    assert await _names(library) == [*_numbered(5), "first"]


async def test_closing_does_not_wait_for_ever(opened: Callable[..., Database]) -> None:
    database = opened(wait=0.2)
    with _locked(database):
        tasks = _tasks(*(_store(database, name) for name in _numbered(5)))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(2):
            await database.close()
            outcomes = await _outcomes(*tasks)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5


async def test_closing_answers_reads_that_were_asked_before(
    opened: Callable[..., Database],
) -> None:
    database = opened(wait=0.2)
    await _names(database)
    reads = [asyncio.create_task(_names(database)) for _ in range(5)]
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await database.close()
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert all(outcome == [] or isinstance(outcome, Unavailable) for outcome in outcomes)


async def test_closing_leaves_no_thread_behind(opened: Callable[..., Database]) -> None:
    before = set(threading.enumerate())
    database = opened(wait=0.2)
    await _store(database, "Ann")
    reads = [asyncio.create_task(_names(database)) for _ in range(5)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*reads, return_exceptions=True)
    left = {thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()}
    assert not {name for name in left if name.startswith("ferrule-")}
