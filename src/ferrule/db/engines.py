"""Engines: one that reads and one that writes, for SQLite and for PostgreSQL."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, NullPool
from sqlalchemy.util import await_only

from ferrule.db.settings import DatabaseSettings
from ferrule.db.types import to_json
from ferrule.errors import ConfigurationError, Unavailable

MAX_WAITING = 1000
"""Writers that may queue on SQLite; one more is answered 503 at once."""


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
    """An engine that migrations use: one connection, foreign keys not enforced on SQLite."""
    if url.get_backend_name() == "sqlite":
        engine = _sqlite_engine(url, poolclass=NullPool)
        wait = int(settings.migration_wait * 1000)
        pragmas = (f"busy_timeout={wait}", "journal_mode=WAL", "foreign_keys=OFF")
        _on_connect(engine, *pragmas, "synchronous=FULL")
        _begin_immediate(engine)
        return engine
    return create_async_engine(
        url, poolclass=NullPool, connect_args=_asyncpg_arguments(settings, statement_timeout=0)
    )


class _WriterPool(AsyncAdaptedQueuePool):
    """One connection, handed on in the order of asking, with a deadline.

    SQLAlchemy's own queue lets a newcomer overtake those who wait; `asyncio.Lock` does not.
    """

    def __init__(self, *args: Any, timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, timeout=timeout, **kwargs)
        self._deadline = timeout
        self._turn = asyncio.Lock()
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
            raise Unavailable("Too many writes are waiting. Try again shortly.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable("The database is busy with other writes. Try again shortly.") from None
        finally:
            self._waiting -= 1


def _sqlite(url: URL, settings: DatabaseSettings) -> Engines:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    common = (f"busy_timeout={int(settings.wait * 1000)}", "foreign_keys=ON", "cache_size=-16384")
    write = _sqlite_engine(
        url, poolclass=_WriterPool, pool_size=1, max_overflow=0, pool_timeout=settings.wait
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
    return create_async_engine(
        url, json_serializer=to_json, connect_args={"isolation_level": None}, **options
    )


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
    # A transaction that reads first and writes later fails at once when another one wrote meanwhile,
    # whatever the busy timeout; one that begins as a writer waits.
    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: URL, settings: DatabaseSettings) -> Engines:
    write = create_async_engine(
        url,
        json_serializer=to_json,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.wait,
        pool_use_lifo=True,
        connect_args=_asyncpg_arguments(
            settings, statement_timeout=int(settings.statement_timeout * 1000)
        ),
    )
    # The same pool; a statement that reads needs no BEGIN and no ROLLBACK.
    return Engines(write.execution_options(isolation_level="AUTOCOMMIT"), write)


def _asyncpg_arguments(settings: DatabaseSettings, *, statement_timeout: int) -> dict[str, Any]:
    return {
        "timeout": settings.wait,
        "server_settings": {
            "application_name": "ferrule",
            "timezone": "UTC",
            "statement_timeout": str(statement_timeout),
            # asyncpg's own look-ups of types would each be compiled.
            "jit": "off",
        },
    }
