"""PostgreSQL: one pool, through SQLAlchemy for the ORM and past it for prebuilt statements."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog
from pydantic_core import from_json
from sqlalchemy import URL, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from ferrule.db.failures import of_driver
from ferrule.db.pool import FairPool
from ferrule.db.settings import DatabaseSettings
from ferrule.db.statements import Prebuilt, Rows
from ferrule.db.types import to_json
from ferrule.errors import Unavailable

log = structlog.get_logger("ferrule.db")

DEADLOCK = "40P01"
FAILED = "failed"
"""Where the record of a connection says that a statement failed since it was last looked at."""
SWALLOWED = (
    "A statement of this unit of work failed and its error was swallowed: PostgreSQL has undone "
    "all of it. Run what may fail in a savepoint: async with session.begin_nested(): …"
)


class PostgreSQLDriver:
    """Runs prebuilt statements on connections of the engine's pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._dialect = engine.dialect
        self._engine = engine.sync_engine

    async def fetch(self, statement: Prebuilt, values: Mapping[str, Any]) -> Rows:
        statement.check_reading()
        compiled = statement.compiled(self._dialect)
        arguments = compiled.arguments(values)
        pool = cast(FairPool, self._engine.pool)
        entry = await pool.lease()
        try:
            records = await entry.driver_connection.fetch(compiled.text, *arguments)
        except BaseException as error:
            raise _ended(entry, error) from error
        finally:
            pool.give_back(entry)
        return Rows(records, statement.row, compiled.values, compiled.writing)

    async def write(
        self, writes: Sequence[tuple[Prebuilt, Mapping[str, Any]]]
    ) -> list[Sequence[Any]]:
        """Run the statements in one transaction; a single one is one without BEGIN and COMMIT."""
        statements: list[tuple[str, Sequence[Any]]] = []
        for statement, values in writes:
            compiled = statement.compiled(self._dialect)
            statements.append((compiled.text, compiled.arguments(values)))
        pool = cast(FairPool, self._engine.pool)
        entry = await pool.lease()
        connection, several = entry.driver_connection, len(statements) > 1
        try:
            if not several:
                text, arguments = statements[0]
                try:
                    return [await connection.fetch(text, *arguments)]
                except Exception as error:
                    if getattr(error, "sqlstate", None) != DEADLOCK:
                        raise
                    # All of it was undone, and whom it waited for goes on.
                    return [await connection.fetch(text, *arguments)]
            async with connection.transaction():
                return [await connection.fetch(text, *args) for text, args in statements]
        except BaseException as error:
            if several and not isinstance(error, Exception):
                # Cancelled in BEGIN: whether a transaction is open is known to the server alone.
                entry.invalidate(error)
            raise _ended(entry, error) from error
        finally:
            pool.give_back(entry)

    async def close(self) -> None:
        """The engine closes the connections."""


def _read_json_at_once(connection: Any, _: Any) -> None:
    # SQLAlchemy's decoder goes by way of text, which takes as long again.
    codec = {"schema": "pg_catalog", "format": "binary", "encoder": _to_jsonb, "decoder": _of_jsonb}
    await_only(connection.driver_connection.set_type_codec("jsonb", **codec))


def _failed(context: Any) -> None:
    if context.connection is not None and not context.connection.invalidated:
        context.connection.info[FAILED] = True


def _refuse_aborted(connection: Any) -> None:
    """Raise before a COMMIT that PostgreSQL would take for a ROLLBACK; the driver is silent of it.

    It undoes a transaction in which a statement failed, unless that was in a savepoint.
    """
    if connection.info.pop(FAILED, False):
        try:
            connection.exec_driver_sql("SELECT 1")
        except DBAPIError as error:
            raise RuntimeError(SWALLOWED) from error


def _to_jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


def _of_jsonb(binary: bytes) -> Any:
    return from_json(binary[1:])


def _ended(entry: Any, error: BaseException) -> BaseException:
    """What to raise. What was cancelled is ended by the driver before its next statement."""
    connection = entry.driver_connection
    lost = connection is None or connection.is_closed()
    # Who is cancelled twice does not come to the end of the ROLLBACK.
    if connection is not None and (lost or connection.is_in_transaction()):
        entry.invalidate(error)
    return of_driver(error, lost=lost) if isinstance(error, Exception) else error


def open_postgresql(url: URL, settings: DatabaseSettings) -> tuple[AsyncEngine, AsyncEngine, Any]:
    """The engine that reads, the one that writes, and the driver; the pool is the same."""
    write = create_async_engine(
        url,
        json_serializer=to_json,
        json_deserializer=from_json,
        poolclass=FairPool,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.wait,
        pool_use_lifo=True,
        skip_autocommit_rollback=True,
        connect_args=_connecting(
            settings,
            statement_timeout=settings.statement_timeout,
            idle_timeout=settings.idle_timeout,
        ),
    )
    event.listen(write.sync_engine, "connect", _read_json_at_once)
    event.listen(write.sync_engine, "handle_error", _failed)
    event.listen(write.sync_engine, "commit", _refuse_aborted)
    # A statement that reads needs no BEGIN and no ROLLBACK.
    return write.execution_options(isolation_level="AUTOCOMMIT"), write, PostgreSQLDriver(write)


def postgresql_migration_engine(url: URL, settings: DatabaseSettings) -> AsyncEngine:
    """An engine for migrations, which take as long as they take; a lock is waited for less."""
    return create_async_engine(
        url,
        poolclass=NullPool,
        connect_args=_connecting(
            settings, statement_timeout=0, idle_timeout=0, lock_timeout=settings.lock_timeout
        ),
    )


def _connecting(
    settings: DatabaseSettings,
    *,
    statement_timeout: float,
    idle_timeout: float,
    lock_timeout: float = 0,
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
            "idle_in_transaction_session_timeout": str(int(idle_timeout * 1000)),
            # Of a host that vanished without a word: its locks are gone after 25 s, not two hours.
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
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
