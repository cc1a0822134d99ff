"""SQLite: engines for the ORM; threads that read and one that writes for prebuilt statements.

A thread gets what came up in one turn of the event loop in one piece, and answers in one piece: the
hand-over between threads costs more than most statements.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, cast

from pydantic_core import from_json
from sqlalchemy import URL, event
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from ferrule.db.failures import of_driver
from ferrule.db.pool import FairPool
from ferrule.db.settings import DatabaseSettings
from ferrule.db.sqlite_cursor import dbapi
from ferrule.db.statements import Prebuilt, Rows
from ferrule.db.turns import MAX_WAITING
from ferrule.db.types import to_json
from ferrule.errors import Unavailable

# FULL: a commit is on the disk before it is acknowledged, also if the machine loses power.
WRITING = ("journal_mode=WAL", "synchronous=FULL")
READING = ("query_only=ON",)
STOP = "stop"
"""Where the record of a connection holds what stops its statement."""
STEPS = 10_000
"""Steps of SQLite's machine between two looks at it."""
SLOW = 0.05
"""Seconds after which a read is slow: what stands behind it is read by a thread beside it."""


@dataclass(eq=False)
class _Work:
    """Statements of one unit of work, and what became of them."""

    statements: Sequence[tuple[str, Sequence[Any]]]
    answered: asyncio.Future[list[Sequence[Any]]]
    deadline: float
    records: list[Sequence[Any]] = field(default_factory=list[Sequence[Any]])
    failure: Exception | None = None

    def answer(self) -> None:
        if self.answered.done():
            return
        if self.failure is not None:
            self.answered.set_exception(self.failure)
        else:
            self.answered.set_result(self.records)

    def refuse(self) -> None:
        if not self.answered.done():
            self.answered.set_exception(Unavailable("The database is busy. Try again shortly."))


class SQLiteDriver:
    """Runs prebuilt statements on threads of its own."""

    def __init__(self, url: URL, settings: DatabaseSettings, writing: AsyncEngine) -> None:
        self._dialect = SQLiteDialect_pysqlite(json_serializer=to_json, json_deserializer=from_json)
        self._engine = writing
        self._wait = settings.wait
        self._reads: list[_Work] = []
        self._reading = 0
        self._handed: list[deque[_Work]] = []
        self._writes: list[_Work] = []
        self._writing: asyncio.Task[None] | None = None
        common = _pragmas(settings)
        self._readers = _Threads(url, (*common, *READING), _read, most=settings.readers)
        self._writer = _Threads(url, (*common, *WRITING), _write, most=1)

    async def fetch(self, statement: Prebuilt, values: Mapping[str, Any]) -> Rows:
        statement.check_reading()
        compiled = statement.compiled(self._dialect)
        arguments = compiled.arguments(values)
        loop = asyncio.get_running_loop()
        if self._reading >= MAX_WAITING and self._waiting() >= MAX_WAITING:
            raise Unavailable("Too many requests are waiting. Try again shortly.")
        work = _Work([(compiled.text, arguments)], loop.create_future(), loop.time() + self._wait)
        if not self._reads:
            loop.call_soon(self._hand_over)
        self._reads.append(work)
        self._reading += 1
        try:
            (records,) = await work.answered
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._reads.remove(work)
            self._readers.interrupt(work)
            raise
        finally:
            self._reading -= 1
        return Rows(records, statement.row, compiled.values, compiled.writing)

    async def write(
        self, writes: Sequence[tuple[Prebuilt, Mapping[str, Any]]]
    ) -> list[Sequence[Any]]:
        """Write in a group: whatever waits for the writer is committed together.

        A unit that fails, fails alone. Each is answered after the COMMIT.
        """
        if len(self._writes) >= MAX_WAITING:
            raise Unavailable("Too many requests are waiting. Try again shortly.")
        statements: list[tuple[str, Sequence[Any]]] = []
        for statement, values in writes:
            compiled = statement.compiled(self._dialect)
            statements.append((compiled.text, compiled.arguments(values)))
        loop = asyncio.get_running_loop()
        work = _Work(statements, loop.create_future(), loop.time() + self._wait)
        self._writes.append(work)
        if self._writing is None:
            self._writing = loop.create_task(self._write_groups())
        try:
            return await work.answered
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._writes.remove(work)
            raise

    def _waiting(self) -> int:
        """Reads that no thread has begun."""
        return len(self._reads) + sum(map(len, self._handed))

    def _hand_over(self) -> None:
        reads, self._reads = deque(self._reads), []
        if reads:
            self._read(reads, asyncio.get_running_loop())

    def _read(self, batch: deque[_Work], loop: asyncio.AbstractEventLoop) -> None:
        self._handed.append(batch)
        timer = loop.call_later(SLOW, self._look_after, batch, loop)

        def done(_: asyncio.Future[None]) -> None:
            timer.cancel()
            self._handed.remove(batch)

        self._readers.submit(batch, loop).add_done_callback(done)

    def _look_after(self, batch: deque[_Work], loop: asyncio.AbstractEventLoop) -> None:
        """Take what a slow read holds up elsewhere; who waited too long is told."""
        behind: deque[_Work] = deque()
        while True:
            try:
                work = batch.popleft()
            except IndexError:
                # Empty, or the thread took the last one in this moment.
                break
            if work.deadline <= loop.time():
                work.refuse()
            else:
                behind.append(work)
        if behind:
            self._read(behind, loop)

    async def _write_groups(self) -> None:
        """Take turns with the sessions of the ORM, whose connection is another."""
        loop = asyncio.get_running_loop()
        try:
            while self._writes:
                turns = cast(FairPool, self._engine.pool).turns
                try:
                    await turns.take(self._writes[0].deadline - loop.time())
                except Unavailable:
                    now = loop.time()
                    self._writes, late = _split(self._writes, now)
                    for work in late:
                        work.refuse()
                    continue
                try:
                    writes, self._writes = self._writes, []
                    # Who was cancelled meanwhile does not want it any more.
                    wanted = deque(work for work in writes if not work.answered.done())
                    if wanted:
                        await self._writer.submit(wanted, loop)
                finally:
                    turns.give()
        finally:
            self._writing = None

    async def close(self) -> None:
        """Finish what was begun, and let the threads end."""
        if self._writing is not None:
            await self._writing
        self._hand_over()
        self._readers.close()
        self._writer.close()


def _split(writes: list[_Work], now: float) -> tuple[list[_Work], list[_Work]]:
    """Those that may wait on, and those whose time is over: the first at least."""
    late = [work for work in writes if work.deadline <= now] or writes[:1]
    return [work for work in writes if work not in late], late


class _Threads:
    """Threads with a connection of their own each, which work off batches.

    There is one, until a batch keeps it for longer than `SLOW`.
    """

    def __init__(
        self,
        url: URL,
        pragmas: Sequence[str],
        work_off: "Callable[[_Worker, deque[_Work]], None]",
        *,
        most: int,
    ) -> None:
        self.url = url
        self.pragmas = pragmas
        self.work_off = work_off
        self.inbox: SimpleQueue[tuple[deque[_Work], Any, Any] | None] = SimpleQueue()
        self._most = most
        self._workers: list[_Worker] = []

    def submit(self, batch: deque[_Work], loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Have a batch worked off; what is returned is done when its work was answered."""
        # A thread ends with the event loop that it answered to.
        self._workers = [worker for worker in self._workers if worker.is_alive()]
        if len(self._workers) < self._most:
            slow = time.monotonic() - SLOW
            if all(worker.since is not None and worker.since < slow for worker in self._workers):
                self._workers.append(_Worker(self))
        done = loop.create_future()
        self.inbox.put((batch, loop, done))
        return done

    def interrupt(self, work: _Work) -> None:
        """End the statement of a work that nobody waits for any more."""
        for worker in self._workers:
            if worker.work is work and worker.connection is not None:
                worker.connection.interrupt()

    def close(self) -> None:
        """Let the threads end, and wait for them."""
        for _ in self._workers:
            self.inbox.put(None)
        for worker in self._workers:
            worker.join()
        self._workers.clear()


class _Worker(Thread):
    """One thread; `work` is what it does, `taken` what it took of a batch, `since` when."""

    def __init__(self, threads: _Threads) -> None:
        super().__init__(name=f"ferrule-{threads.work_off.__name__}", daemon=True)
        self.connection: sqlite3.Connection | None = None
        self.work: _Work | None = None
        self.since: float | None = None
        self.taken: list[_Work] = []
        self._threads = threads
        self.start()

    def run(self) -> None:
        threads = self._threads
        while (item := threads.inbox.get()) is not None:
            batch, loop, done = item
            self.since = time.monotonic()
            self.taken = []
            try:
                if self.connection is None:
                    self.connection = connect(threads.url, threads.pragmas)
                threads.work_off(self, batch)
            except Exception as error:
                self.taken += batch
                batch.clear()
                for work in self.taken:
                    work.failure = work.failure or _told(error)
            self.since = None
            try:
                loop.call_soon_threadsafe(_answer, self.taken, done)
            except RuntimeError:
                # The loop was closed while this ran: nobody waits any more.
                break
        if self.connection is not None:
            self.connection.close()

    def works(self, batch: deque[_Work]) -> Iterator[_Work]:
        """Take one after another, as long as nobody else took the rest."""
        while batch:
            try:
                work = batch.popleft()
            except IndexError:
                return
            self.taken.append(work)
            yield work

    def run_one(self, work: _Work) -> None:
        """Run the statements of one work, which fails alone."""
        connection = cast(sqlite3.Connection, self.connection)
        self.work = work
        try:
            # From the beginning: after an interruption, or in a group of its own, it runs again.
            work.records = [
                connection.execute(text, arguments).fetchall()
                for text, arguments in work.statements
            ]
        finally:
            self.work = None


def _answer(batch: list[_Work], done: asyncio.Future[None]) -> None:
    for work in batch:
        work.answer()
    if not done.done():
        done.set_result(None)


def _read(worker: _Worker, batch: deque[_Work]) -> None:
    for work in worker.works(batch):
        if work.answered.done():
            continue
        for attempt in (1, 2):
            try:
                worker.run_one(work)
            except Exception as error:
                # The interruption may have been meant for the one before.
                interrupted = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
                if interrupted and attempt == 1 and not work.answered.done():
                    continue
                work.failure = _told(error)
            break


def _write(worker: _Worker, batch: deque[_Work]) -> None:
    works = list(worker.works(batch))
    try:
        _write_group(worker, works)
    except sqlite3.IntegrityError:
        if len(works) == 1:
            raise
        # What the COMMIT refuses it does not name: each by itself is told of its own.
        for work in works:
            work.failure = None
            try:
                _write_group(worker, [work])
            except Exception as error:
                work.failure = _told(error)


def _write_group(worker: _Worker, works: Sequence[_Work]) -> None:
    connection = cast(sqlite3.Connection, worker.connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for work in works:
            _write_one(worker, connection, work)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


def _write_one(worker: _Worker, connection: sqlite3.Connection, work: _Work) -> None:
    # A single statement that fails undoes itself, and needs no savepoint.
    several = len(work.statements) > 1
    try:
        if several:
            connection.execute("SAVEPOINT work")
        worker.run_one(work)
        if several:
            connection.execute("RELEASE work")
    except Exception as error:
        if not connection.in_transaction:
            # A full disk rolls everything back: the whole group failed.
            raise
        if several:
            connection.execute("ROLLBACK TO work")
            connection.execute("RELEASE work")
        work.failure = _told(error)


def _told(error: Exception) -> Exception:
    return of_driver(error) if isinstance(error, sqlite3.Error) else error


def open_sqlite(url: URL, settings: DatabaseSettings) -> tuple[AsyncEngine, AsyncEngine, Any]:
    """The engine that reads, the one that writes, and the driver beside them."""
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    wait = settings.wait
    write = _engine(url, poolclass=FairPool, pool_size=1, max_overflow=0, pool_timeout=wait)
    _on_connect(write, *_pragmas(settings), *WRITING)
    _begin_immediate(write)
    read = _engine(
        url,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_size=settings.readers,
        max_overflow=0,
        pool_timeout=wait,
    )
    _on_connect(read, *_pragmas(settings), *READING)
    return read, write, SQLiteDriver(url, settings, write)


def sqlite_migration_engine(url: URL, settings: DatabaseSettings) -> AsyncEngine:
    """An engine for migrations: unpooled, foreign keys not enforced."""
    engine = _engine(url, poolclass=NullPool)
    wait = int(settings.migration_wait * 1000)
    _on_connect(engine, f"busy_timeout={wait}", "foreign_keys=OFF", *WRITING)
    _begin_immediate(engine)
    return engine


def connect(url: URL, pragmas: Sequence[str]) -> sqlite3.Connection:
    """A connection past SQLAlchemy, set up as its own are."""
    arguments, options = SQLiteDialect_pysqlite().create_connect_args(url)
    options["isolation_level"] = None
    connection: sqlite3.Connection = cast(Any, sqlite3.connect)(*arguments, **options)
    _set_up(connection, pragmas)
    return connection


def _pragmas(settings: DatabaseSettings) -> tuple[str, ...]:
    wait = int(settings.wait * 1000)
    return (f"busy_timeout={wait}", "foreign_keys=ON", "cache_size=-16384")


def _engine(url: URL, **options: Any) -> AsyncEngine:
    # Without an isolation level Python leaves BEGIN to us.
    engine = create_async_engine(
        url,
        json_serializer=to_json,
        json_deserializer=from_json,
        connect_args={"isolation_level": None},
        module=dbapi(),
        **options,
    )
    event.listen(engine.sync_engine, "connect", _stoppable)
    event.listen(engine.sync_engine, "invalidate", _stop)
    return engine


def _stoppable(connection: Any, record: Any) -> None:
    """Let the statement that runs on a connection be stopped from another thread.

    An interrupt would stop the ROLLBACK, too, as long as rows are left to be read.
    """
    record.info[STOP] = stop = Event()
    await_only(connection.driver_connection.set_progress_handler(stop.is_set, STEPS))


def _stop(connection: Any, record: Any, *_: Any) -> None:
    # A cancelled request gives its connection up. Its statement would run on and hold the writer's
    # lock, and closing does not release it while a traceback holds the cursor.
    driver = connection.driver_connection
    if driver._connection is not None:
        record.info[STOP].set()
        driver._tx.put_nowait((None, driver._connection.rollback))


def _on_connect(engine: AsyncEngine, *pragmas: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        _set_up(connection, pragmas)


def _set_up(connection: Any, pragmas: Sequence[str]) -> None:
    # SQLite's own lower() knows ASCII only.
    connection.create_function("lower", 1, _lower, deterministic=True)
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _begin_immediate(engine: AsyncEngine) -> None:
    # A transaction that reads first and writes later fails at once when another one wrote
    # meanwhile, whatever the busy timeout; one that begins as a writer waits.
    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # A COMMIT that fails leaves SQLite's transaction open, which SQLAlchemy takes for ended.
    @event.listens_for(engine.sync_engine, "reset")
    def reset(connection: Any, _: Any, state: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        if state.asyncio_safe and connection.driver_connection.in_transaction:
            connection.rollback()
