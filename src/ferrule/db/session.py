"""Read and Write: the two units of work that a request can have.

Services take one of them and never commit. A `Write` is committed once, before any byte of the
response is sent; a `Read` holds a connection only while a statement runs.
"""

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Never

from fastapi import Depends
from sqlalchemy import event, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from ferrule.db.changes import JsonChanges
from ferrule.kit import Kit


class _ReadOnly(Session):
    """A session whose flush is an error."""


def _refuse_flush(session: Session, *_: Any) -> None:
    raise RuntimeError("A Read session cannot write: ask for `session: Write` instead.")


event.listen(_ReadOnly, "before_flush", _refuse_flush)


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
        await AsyncSession.commit(self)
        for callback in self._after_commit:
            await callback()

    async def _release(self) -> None:
        """The connection is kept until the transaction ends."""


async def _read(connection: HTTPConnection) -> AsyncIterator[ReadSession]:
    from ferrule.db.database import Database

    async with connection.scope["ferrule.kit"][Database].read() as session:
        yield session


async def _write(connection: HTTPConnection) -> AsyncIterator[WriteSession]:
    from ferrule.db.database import Database

    async with connection.scope["ferrule.kit"][Database].write() as session:
        yield session


# The scope makes FastAPI end the unit of work before it sends the response.
Read = Annotated[ReadSession, Depends(_read, scope="function")]
Write = Annotated[WriteSession, Depends(_write, scope="function")]
