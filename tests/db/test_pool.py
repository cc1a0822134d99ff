"""The pool under trouble: whatever happens to those who hold or wait, it serves all its size again.

A connection is had in two ways, by a prebuilt statement and by SQLAlchemy; they share the turns.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import bindparam, func, insert, select, text

from ferrule.db import Database, prebuilt
from ferrule.db.failures import OutcomeUnknown
from ferrule.errors import Error, Unavailable
from tests.db.models import LONG, Author

on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
SIZE = 5
NEW = prebuilt(insert(Author))
NAMES = prebuilt(select(Author.name))
SLEEP = prebuilt(select(func.pg_sleep(bindparam("seconds"))))

Ask = Callable[[Database], Awaitable[Any]]


async def _read(database: Database) -> None:
    async with database.read() as session:
        await session.fetch_all(NAMES)


async def _read_by_orm(database: Database) -> None:
    async with database.read() as session:
        await session.execute(select(Author.name))


async def _write(database: Database) -> None:
    async with database.write() as session:
        session.insert(NEW, name=str(random.random()))


async def _write_by_orm(database: Database) -> None:
    async with database.write() as session:
        await session.scalar(select(func.count()).select_from(Author))
        session.add(Author(name=str(random.random())))


async def _sleep(database: Database, seconds: float = 3) -> None:
    async with database.read() as session:
        await session.fetch_one(SLEEP, seconds=seconds)


async def _sleep_by_orm(database: Database) -> None:
    async with database.write() as session:
        await session.execute(select(func.pg_sleep(3)))


WAYS = [_read, _read_by_orm, _write, _write_by_orm]


def _pools(database: Database) -> list[Any]:
    return [database.engines.write.pool, database.engines.read.pool]


def _idle(database: Database) -> bool:
    """Nobody holds a connection."""
    return not any(pool.checkedout() for pool in _pools(database))


async def _until(condition: Callable[[], bool], seconds: float = 2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def _all_serve(database: Database) -> None:
    """As many sessions as there are connections hold one at the same time, and no more."""
    size = 1 if database.embedded else SIZE
    together, done = asyncio.Barrier(size + 1), asyncio.Event()

    async def hold() -> None:
        async with database.write() as session:
            await session.execute(text("SELECT 1"))
            await together.wait()
            await done.wait()

    async with asyncio.timeout(2):
        holders = [asyncio.create_task(hold()) for _ in range(size)]
        await together.wait()
        more = [asyncio.create_task(way(database)) for way in (_write, _write_by_orm)]  # type: ignore[arg-type]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in more)
        done.set()
        await asyncio.gather(*holders, *more)
        if not database.embedded:
            started = time.monotonic()
            await asyncio.gather(*(_sleep(database, 0.1) for _ in range(size)))
            assert time.monotonic() - started < 0.1 * size
        await asyncio.gather(*(way(database) for way in WAYS * 2))
    assert _idle(database)


@on_postgresql
async def test_the_order_of_asking_is_kept_whatever_way_is_taken(
    opened: Callable[..., Database],
) -> None:
    database = opened(pool_size=1, wait=5)
    ways = [random.Random(1).choice(WAYS) for _ in range(40)]
    order: list[int] = []

    async def ask(number: int) -> None:
        await ways[number](database)
        order.append(number)

    async with database.write() as holder:
        await holder.execute(text("SELECT 1"))
        tasks: list[asyncio.Task[None]] = []
        for number in range(len(ways)):
            tasks.append(asyncio.create_task(ask(number)))
            await asyncio.sleep(0)
        assert order == []
    # One who comes now is behind them, though the connection is free at this moment.
    ways.append(_read)
    tasks.append(asyncio.create_task(ask(len(tasks))))
    await asyncio.gather(*tasks)
    assert order == list(range(len(tasks)))


@on_postgresql
@pytest.mark.parametrize("way", WAYS)
async def test_the_deadline_is_told(opened: Callable[..., Database], way: Ask) -> None:
    database = opened(pool_size=1, wait=0.15)
    async with database.write() as holder:
        await holder.execute(text("SELECT 1"))
        started = time.monotonic()
        with pytest.raises(Unavailable, match="busy"):
            await way(database)
        assert 0.1 < time.monotonic() - started < 0.6
    await way(database)


@pytest.mark.parametrize("way", [_write, _write_by_orm])
async def test_one_too_many_is_refused_at_once(
    opened: Callable[..., Database], three_may_wait: None, way: Ask
) -> None:
    database = opened(pool_size=1, wait=5)
    async with database.write() as holder:
        await holder.execute(text("SELECT 1"))
        waiting = [asyncio.create_task(way(database)) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable, match="Too many"):
            async with asyncio.timeout(1):
                await way(database)
    await asyncio.gather(*waiting)
    await way(database)


@pytest.mark.parametrize("way", [_write, _write_by_orm])
async def test_who_was_cancelled_takes_no_place_in_the_queue(
    opened: Callable[..., Database], three_may_wait: None, way: Ask
) -> None:
    database = opened(pool_size=1, wait=5)
    async with database.write() as holder:
        await holder.execute(text("SELECT 1"))
        for _ in range(3):
            gone = [asyncio.create_task(way(database)) for _ in range(3)]  # type: ignore[arg-type]
            await asyncio.sleep(0.005)
            await _cancelled(*gone)
            assert all(task.cancelled() for task in gone)
        waiting = [asyncio.create_task(way(database)) for _ in range(3)]  # type: ignore[arg-type]
        await asyncio.sleep(0.005)
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)


@on_postgresql
async def test_who_cannot_connect_gives_the_turn_back(
    opened: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened(pool_size=1, wait=0.5)
    connecting = asyncpg.connect

    async def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("told to fail")

    monkeypatch.setattr(asyncpg, "connect", refuse)
    for way in WAYS * 2:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await way(database)
    monkeypatch.setattr(asyncpg, "connect", connecting)
    await asyncio.gather(*(way(database) for way in WAYS))
    assert database.engines.write.pool.checkedout() == 0  # type: ignore[attr-defined]


@on_postgresql
async def test_who_is_cancelled_while_connecting_gives_the_turn_back(
    opened: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened(pool_size=1, wait=1)
    connecting = asyncpg.connect

    async def hang(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(60)

    for way in WAYS:
        monkeypatch.setattr(asyncpg, "connect", hang)
        task = asyncio.create_task(way(database))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        await _cancelled(task)
        monkeypatch.setattr(asyncpg, "connect", connecting)
        await way(database)
        database.engines.write.pool._invalidate_time = time.time()  # connect anew
        await asyncio.sleep(0.001)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


# Connections that end.


async def _terminate(database: Database, where: str = "true") -> None:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    other = await asyncpg.connect(url)
    try:
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            f"AND datname = current_database() AND application_name = 'ferrule' AND {where}"
        )
    finally:
        await other.close()


async def _connected(database: Database) -> list[Any]:
    """The driver's connections, all of them."""
    pool = _pools(database)[0]
    entries = [await pool.lease() for _ in range(SIZE)]
    for entry in entries:
        pool.give_back(entry)
    return [entry.driver_connection for entry in entries]


@on_postgresql
async def test_terminated_connections_heal(library: Database) -> None:
    for _ in range(3):
        await _connected(library)
        await _terminate(library)
        results = await asyncio.gather(
            *(way(library) for way in WAYS * SIZE), return_exceptions=True
        )
        failures = [result for result in results if result is not None]
        assert all(isinstance(failure, Error) for failure in failures), failures
        assert {failure.status_code for failure in failures} <= {503}
        await asyncio.gather(*(way(library) for way in WAYS * SIZE))
        await _all_serve(library)


@on_postgresql
async def test_a_connection_that_is_known_to_be_gone_is_not_handed_out(library: Database) -> None:
    connections = await _connected(library)
    await _terminate(library)
    await _until(lambda: all(connection.is_closed() for connection in connections))
    results = await asyncio.gather(*(_write(library) for _ in range(SIZE)), return_exceptions=True)
    # Nothing was sent, so nothing is unknown about what is stored.
    assert not [result for result in results if isinstance(result, OutcomeUnknown)]


@on_postgresql
@pytest.mark.parametrize("way", [_sleep, _sleep_by_orm])
async def test_a_connection_that_ends_in_a_statement_is_replaced(
    library: Database, way: Ask
) -> None:
    tasks = [asyncio.create_task(way(library)) for _ in range(SIZE)]  # type: ignore[arg-type]
    await _sleeping(library, SIZE)
    await _terminate(library, "query ILIKE '%pg_sleep%'")
    for task in tasks:
        with pytest.raises(Unavailable):
            await task
    await _all_serve(library)


async def _sleeping(database: Database, count: int, seconds: float = 2) -> None:
    """Wait until as many statements sleep on the server."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    other = await asyncpg.connect(url)
    deadline = time.monotonic() + seconds
    try:
        while True:
            found = await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND datname = current_database() AND state <> 'idle'"
            )
            if found == count:
                return
            assert time.monotonic() < deadline, f"{found} are at work, not {count}"
            await asyncio.sleep(0.01)
    finally:
        await other.close()


# Requests that are given up.


@on_postgresql
@pytest.mark.parametrize("way", [_sleep, _sleep_by_orm])
async def test_cancelling_in_mid_query_leaves_a_pool_that_serves_all_its_size(
    library: Database, way: Ask
) -> None:
    for _ in range(3):
        tasks = [asyncio.create_task(way(library)) for _ in range(SIZE)]  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        await _cancelled(*tasks)
        assert all(task.cancelled() for task in tasks)
        await _all_serve(library)


@on_postgresql
@pytest.mark.parametrize("way", [_sleep, _sleep_by_orm])
async def test_what_was_cancelled_does_not_run_on_at_the_server(
    library: Database, way: Ask
) -> None:
    await _terminate(library, "query ILIKE '%pg_sleep%'")
    tasks = [asyncio.create_task(way(library)) for _ in range(SIZE)]  # type: ignore[arg-type]
    await _sleeping(library, SIZE)
    await _cancelled(*tasks)
    await _sleeping(library, 0, seconds=1)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_a_cancelled_read_does_not_keep_the_next_one_waiting(library: Database) -> None:
    async def long() -> None:
        async with library.read() as session:
            await session.fetch_one(LONG)

    task = asyncio.create_task(long())
    await asyncio.sleep(0.05)
    await _cancelled(task)
    started = time.monotonic()
    await _read(library)
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_who_is_cancelled_between_two_steps_of_a_select_lets_the_next_one_write(
    library: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a traceback may, until garbage is collected; with its cursor, a closed connection lives on.
    kept: list[Any] = []

    async def hang(cursor: Any) -> Any:
        kept.append(cursor)
        await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr("ferrule.db.sqlite_cursor._Executed.fetchall", hang)
        task = asyncio.create_task(_write_by_orm(library))  # type: ignore[arg-type]
        await _until(lambda: bool(kept))
        await _cancelled(task)
    for way in (_write_by_orm, _write):
        await way(library)


@on_postgresql
async def test_who_is_cancelled_in_begin_leaves_no_transaction_to_others(
    library: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(transaction: Any) -> None:
        # What asyncpg leaves behind when its BEGIN is on the way.
        transaction._connection._top_xact = transaction
        raise asyncio.CancelledError

    async def two(*names: str) -> None:
        async with library.write() as session:
            for name in names:
                session.insert(NEW, name=name)

    await two("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr("asyncpg.transaction.Transaction.start", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await two("c", "d")
    await two("e", "f")
    async with library.read() as session:
        rows = await session.fetch_all(NAMES)
    assert sorted(row.name for row in rows) == ["a", "b", "e", "f"]


@on_postgresql
async def test_cancelling_twice_leaves_no_transaction_open(library: Database) -> None:
    for pause in (0, 0, 0.001, 0.002, 0.005, 0.01):
        async with library.write() as holder:
            await holder.execute(text("LOCK TABLE test_authors"))
            tasks = [asyncio.create_task(_write_two(library)) for _ in range(SIZE - 1)]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.sleep(pause)
            await _cancelled(*tasks)
        await _sleeping(library, 0)
        assert not any(connection.is_in_transaction() for connection in await _connected(library))
        await _all_serve(library)


async def _write_two(database: Database) -> None:
    async with database.write() as session:
        for _ in range(2):
            session.insert(NEW, name=str(random.random()))


@pytest.mark.parametrize("way", [_write, _write_by_orm])
async def test_who_is_cancelled_while_waiting_leaves_the_queue(library: Database, way: Ask) -> None:
    size = 1 if library.embedded else SIZE
    held, release = asyncio.Barrier(size + 1), asyncio.Event()

    async def hold() -> None:
        async with library.write() as session:
            await session.execute(text("SELECT 1"))
            await held.wait()
            await release.wait()

    holders = [asyncio.create_task(hold()) for _ in range(size)]
    await held.wait()
    waiting = [asyncio.create_task(way(library)) for _ in range(9)]  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    await _cancelled(*waiting[::3])
    release.set()
    # One that is called up and cancelled at the same moment hands the turn on.
    await asyncio.sleep(0)
    waiting[1].cancel()
    async with asyncio.timeout(1):
        await asyncio.wait([*holders, *waiting])
    stayed = [task for number, task in enumerate(waiting) if number % 3 and number != 1]
    assert [task.exception() for task in stayed] == [None] * len(stayed)
    await _all_serve(library)


@pytest.mark.parametrize("way", [_write, _write_by_orm])
async def test_what_is_cancelled_while_it_waits_is_not_stored(library: Database, way: Ask) -> None:
    size = 1 if library.embedded else SIZE
    holders = [library.write() for _ in range(size)]
    for holder in holders:
        await (await holder.__aenter__()).execute(text("SELECT 1"))
    task = asyncio.create_task(way(library))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    await _cancelled(task)
    for holder in holders:
        await holder.__aexit__(None, None, None)
    await _write(library)
    async with library.read() as session:
        assert len(await session.fetch_all(NAMES)) == 1


async def test_fifty_are_cancelled_at_any_moment(library: Database) -> None:
    chance = random.Random(7)

    async def give_up(way: Ask, after: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after):
                await way(library)

    for _ in range(2):
        await asyncio.gather(
            *(give_up(chance.choice(WAYS), chance.uniform(0, 0.03)) for _ in range(50))
        )
        await _until(lambda: _idle(library))
        await _all_serve(library)


@on_postgresql
async def test_who_stands_still_in_a_transaction_loses_its_locks(
    library: Database, opened: Callable[..., Database]
) -> None:
    async with library.write() as session:
        session.insert(NEW, name="Ann")
    lock = select(Author.id).with_for_update()
    with pytest.raises(Unavailable):
        async with opened(idle_timeout=0.3).write() as frozen:
            await frozen.execute(lock)
            began = time.monotonic()
            async with library.write() as session:
                await session.execute(lock)
            assert time.monotonic() - began < 3
            await frozen.execute(lock)


@on_postgresql
async def test_a_host_that_vanishes_is_found_out(library: Database) -> None:
    async with library.read() as session:
        shown = [
            await session.scalar(text(f"SELECT current_setting('tcp_keepalives_{name}')"))
            for name in ("idle", "interval", "count")
        ]
    # What the system says where the connection is a socket of the machine itself.
    assert shown in (["10", "5", "3"], ["0", "0", "0"])
