"""Read and Write: the two units of work that a request can have.

Services take one of them and never commit. A `Write` is committed once, before any byte of the
response is sent; a `Read` holds a connection only while a statement runs.
"""

import re
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Never

import structlog
from sqlalchemy import TextClause, event, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session

from ferrule.db.changes import JsonChanges
from ferrule.db.failures import OutcomeUnknown
from ferrule.kit import Kit

READ_ONLY = "A Read session cannot write: ask for `session: Write` instead."
_WRITES = re.compile(
    r"\s*(insert|update|delete|merge|replace|truncate|create|alter|drop)\b", re.IGNORECASE
)

log = structlog.get_logger("ferrule.db")


class _ReadOnly(Session):
    """A session that refuses to write."""


def _refuse_flush(session: Session, *_: Any) -> None:
    raise RuntimeError(READ_ONLY)


def _refuse_writing(state: ORMExecuteState) -> None:
    # SQLite's reading connections refuse by themselves; PostgreSQL would commit at once.
    written = isinstance(state.statement, TextClause) and _WRITES.match(state.statement.text)
    if state.is_insert or state.is_update or state.is_delete or written:
        raise RuntimeError(READ_ONLY)


event.listen(_ReadOnly, "before_flush", _refuse_flush)
event.listen(_ReadOnly, "do_orm_execute", _refuse_writing)


class ReadSession(AsyncSession):
    """Reads. `kit` offers settings and what modules provide.

    Each statement sees what is committed when it starts, and gives its connection back at its end.
    """

    sync_session_class = _ReadOnly

    def __init__(self, engine: AsyncEngine, kit: Kit) -> None:
        super().__init__(engine, expire_on_commit=False, autoflush=False)
        self.kit = kit

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute(*args, **kwargs)
        finally:
            await self._release()

    async def scalar(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().scalar(*args, **kwargs)
        finally:
            await self._release()

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().get(*args, **kwargs)
        finally:
            await self._release()

    async def refresh(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().refresh(*args, **kwargs)
        finally:
            await self._release()

    async def commit(self) -> Never:
        """Services never commit: the unit of work does, once, when they are done."""
        raise RuntimeError(
            "Services never commit: the unit of work does when the endpoint returns."
        )

    async def _release(self) -> None:
        try:
            await super().commit()
        except PendingRollbackError:
            # The connection was lost during the statement, whose own failure is the one to tell.
            await super().rollback()


class WriteSession(ReadSession):
    """Reads and writes in one transaction, which begins with the first statement.

    On SQLite that statement waits for the single writer: do what takes long before it.
    """

    sync_session_class = JsonChanges

    def __init__(self, engine: AsyncEngine, kit: Kit) -> None:
        super().__init__(engine, kit)
        self.sync_session.autoflush = True
        self._after_commit: list[Callable[[], Awaitable[None]]] = []

    def after_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Run `callback` once the transaction is committed, and not at all if it is not."""
        self._after_commit.append(callback)

    async def lock(self, key: str) -> None:
        """Wait until no other transaction holds `key`; it is held until this one ends."""
        if self.get_bind().dialect.name == "postgresql":
            number = zlib.crc32(key.encode())
            await self.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": number})
        # On SQLite the transaction is the only one that writes.

    async def finish(self) -> None:
        """Commit, then run what was registered to follow; the unit of work calls it."""
        await self.flush()
        try:
            await AsyncSession.commit(self)
        except DBAPIError as failure:
            if failure.connection_invalidated:
                raise OutcomeUnknown from failure
            raise
        for callback in self._after_commit:
            try:
                await callback()
            except Exception as error:
                # What was committed is not undone by it, so it is no failure of the request.
                log.error("after_commit failed", exc_info=error)

    async def _release(self) -> None:
        """The connection is kept until the transaction ends."""
