"""The database of an application: its units of work, and its health."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated

from fastapi import Depends
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import HTTPConnection

from ferrule.db.engines import open_engines, parse_url
from ferrule.db.failures import told
from ferrule.db.session import READ_ONLY, ReadSession, WriteSession
from ferrule.db.settings import DatabaseSettings
from ferrule.dependencies import managed
from ferrule.errors import Error
from ferrule.kit import Kit


class Database:
    """Hands out units of work. Requests get theirs as `Read` and `Write` parameters; elsewhere:

    async with kit[Database].write() as session: ...
    """

    def __init__(self, url: str, settings: DatabaseSettings, kit: Kit) -> None:
        self.url = parse_url(url)
        self.settings = settings
        self.engines = open_engines(self.url, settings)
        self._kit = kit

    @property
    def embedded(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[ReadSession]:
        """A unit of work that reads. Failures of the database are raised as `Error`."""
        session = ReadSession(self.engines, self._kit)
        try:
            yield session
            if session.opened and (session.dirty or session.new or session.deleted):
                raise RuntimeError(READ_ONLY)
        except SQLAlchemyError as failure:
            raise told(failure) from failure
        finally:
            await session.close()

    @asynccontextmanager
    async def write(self, session: WriteSession | None = None) -> AsyncGenerator[WriteSession]:
        """A unit of work that writes: commits at its end, or rolls back whatever was raised."""
        session = session or WriteSession(self.engines, self._kit)
        try:
            try:
                yield session
            except Error as error:
                if error.keeps_writes:
                    await session.finish()
                raise
            await session.finish()
        except SQLAlchemyError as failure:
            raise told(failure) from failure
        finally:
            # Rolls back what was not committed.
            await session.close()

    async def check(self) -> None:
        """Ask the database for an answer, as the health routes do."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engines.dispose()


def _read(connection: HTTPConnection) -> AbstractAsyncContextManager[ReadSession]:
    return connection.scope["ferrule.kit"][Database].read()


def _write(connection: HTTPConnection) -> AbstractAsyncContextManager[WriteSession]:
    return connection.scope["ferrule.kit"][Database].write()


# The scope makes FastAPI end the unit of work before it sends the response.
READ = managed(_read)
Read = Annotated[ReadSession, Depends(READ, scope="function")]
Write = Annotated[WriteSession, Depends(managed(_write), scope="function")]
