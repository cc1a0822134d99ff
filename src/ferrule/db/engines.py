"""Engines: one that reads and one that writes, for SQLite and for PostgreSQL."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, NullPool
from sqlalchemy.util import await_only

from ferrule.db.settings import DatabaseSettings
from ferrule.db.types import to_json
from ferrule.errors import ConfigurationError, Unavailable

log = structlog.get_logger("ferrule.db")
# A pool logs under the name of its class, which SQLAlchemy's own level does not reach.
logging.getLogger(f"{__name__}._FairPool").setLevel(logging.WARNING)

MAX_WAITING = 1000
"""Requests that may queue for a connection; one more is answered 503 at once."""


@dataclass(frozen=True)
class Engines:
    """`read` runs each statement by itself; `write` runs transactions."""

    read: AsyncEngine
    write: AsyncEngine

    async def dispose(self) -> None:
        await self.read.dispose()
        await self.write.dispose()


def parse_url(text: str) -> URL:
    """The URL with the driver we use; `ConfigurationError` for a database that we do not know."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "FERRULE_DATABASE_URL is not a database URL: write postgresql://user@host/name or "
            "sqlite:///path/to/file.db."
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigurationError("FERRULE_DATABASE_URL: name a file, as in sqlite:///data.db.")
        return url.set(drivername="sqlite+aiosqlite")
    if backend in ("postgresql", "postgres"):
        query = dict(url.query)
        if "sslmode" in query:  # libpq's name for what asyncpg calls ssl
            query["ssl"] = query.pop("sslmode")
        return url.set(drivername="postgresql+asyncpg", query=query)
    raise ConfigurationError(
        f"FERRULE_DATABASE_URL: {backend} is not supported; use postgresql:// or sqlite:///."
    )


def open_engines(url: URL, settings: DatabaseSettings) -> Engines:
    """Engines for the application. They connect when first used."""
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, settings)
    return _postgresql(url, settings)


def migration_engine(url: URL, settings: DatabaseSettings) -> AsyncEngine:
    """An engine that migrations use: unpooled, foreign keys not enforced on SQLite.

    On PostgreSQL a statement may run as long as it takes, but waits `lock_timeout` for a lock.
    """
    if url.get_backend_name() == "sqlite":
        engine = _sqlite_engine(url, poolclass=NullPool)
        wait = int(settings.migration_wait * 1000)
        pragmas = (f"busy_timeout={wait}", "journal_mode=WAL", "foreign_keys=OFF")
        _on_connect(engine, *pragmas, "synchronous=FULL")
        _begin_immediate(engine)
        return engine
    return create_async_engine(
        url,
        poolclass=NullPool,
        connect_args=_connecting(settings, statement_timeout=0, lock_timeout=settings.lock_timeout),
    )


class _FairPool(AsyncAdaptedQueuePool):
    """Connections, handed on in the order of asking, with a deadline.

    SQLAlchemy's own queue lets a newcomer overtake those who wait; `asyncio.Semaphore` does not.
    """

    def __init__(self, *args: Any, pool_size: int, timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, pool_size=pool_size, timeout=timeout, **kwargs)
        self._deadline = timeout
        self._turn = asyncio.Semaphore(pool_size)
        self._waiting = 0

    def _do_get(self) -> ConnectionPoolEntry:
        await_only(self._await_turn())
        try:
            return super()._do_get()
        except BaseException:
            self._turn.release()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self._turn.release()

    async def _await_turn(self) -> None:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("Too many requests are waiting. Try again shortly.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable("The database is busy. Try again shortly.") from None
        finally:
            self._waiting -= 1


def _sqlite(url: URL, settings: DatabaseSettings) -> Engines:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    common = (f"busy_timeout={int(settings.wait * 1000)}", "foreign_keys=ON", "cache_size=-16384")
    write = _sqlite_engine(
        url, poolclass=_FairPool, pool_size=1, max_overflow=0, pool_timeout=settings.wait
    )
    # FULL: a commit is on the disk before it is acknowledged, also if the machine loses power.
    _on_connect(write, *common, "journal_mode=WAL", "synchronous=FULL")
    _begin_immediate(write)
    read = _sqlite_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=settings.readers,
        max_overflow=0,
        pool_timeout=settings.wait,
    )
    _on_connect(read, *common, "query_only=ON")
    return Engines(read, write)


def _sqlite_engine(url: URL, **options: Any) -> AsyncEngine:
    # Without an isolation level Python leaves BEGIN to us.
    engine = create_async_engine(
        url, json_serializer=to_json, connect_args={"isolation_level": None}, **options
    )
    event.listen(engine.sync_engine, "invalidate", _interrupt)
    return engine


def _interrupt(connection: Any, *_: Any) -> None:
    # A cancelled request gives its connection up. Its statement would run on and hold the writer's
    # lock, and closing does not release it while a traceback holds the cursor.
    driver = connection.driver_connection
    if driver._connection is not None:
        driver._connection.interrupt()
        driver._tx.put_nowait((None, driver._connection.rollback))


def _on_connect(engine: AsyncEngine, *pragmas: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: Any) -> None:  # pyright: ignore[reportUnusedFunction]
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


def _postgresql(url: URL, settings: DatabaseSettings) -> Engines:
    write = create_async_engine(
        url,
        json_serializer=to_json,
        poolclass=_FairPool,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.wait,
        pool_use_lifo=True,
        connect_args=_connecting(settings, statement_timeout=settings.statement_timeout),
    )
    # The same pool; a statement that reads needs no BEGIN and no ROLLBACK.
    return Engines(write.execution_options(isolation_level="AUTOCOMMIT"), write)


def _connecting(
    settings: DatabaseSettings, *, statement_timeout: float, lock_timeout: float = 0
) -> dict[str, Any]:
    """How to connect to PostgreSQL; what hinders it is `Unavailable`, logged with its reason."""
    import asyncpg  # pyright: ignore[reportMissingTypeStubs]

    driver = cast(Any, asyncpg)
    options: dict[str, Any] = {"timeout": settings.wait}
    if settings.pooler:
        # A pooler hands each transaction another session: what is prepared in one is not there,
        # or is another statement, in the next.
        options |= {"prepared_statement_cache_size": 0, "statement_cache_size": 0}
    else:
        options["server_settings"] = {
            "application_name": "ferrule",
            "timezone": "UTC",
            "statement_timeout": str(int(statement_timeout * 1000)),
            "lock_timeout": str(int(lock_timeout * 1000)),
            # asyncpg's own look-ups of types would each be compiled.
            "jit": "off",
        }

    async def connect(*arguments: Any, **named: Any) -> Any:
        try:
            return await driver.connect(*arguments, **named)
        except (OSError, TimeoutError, driver.PostgresError) as error:
            log.error("database unreachable", reason=str(error) or type(error).__name__)
            raise Unavailable("The database cannot be reached. Try again shortly.") from error

    return options | {"async_creator_fn": connect}
