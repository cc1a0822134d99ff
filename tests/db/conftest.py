import sys
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from ferrule.db import Base, Database
from ferrule.db.settings import DatabaseSettings
from ferrule.kit import Kit
from tests.db.models import Author, Book


@pytest_asyncio.fixture
async def library(database: Database) -> Database:
    """A database with the tables of the test models."""
    tables = [Author.__table__, Book.__table__]
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables=tables)
    return database


@pytest_asyncio.fixture
async def opened(library: Database) -> AsyncIterator[Callable[..., Database]]:
    """Opens the library once more, with settings of its own."""
    made: list[Database] = []

    def open_(**settings: float) -> Database:
        url = library.url.render_as_string(hide_password=False)
        made.append(Database(url, DatabaseSettings(**settings), Kit()))
        return made[-1]

    yield open_
    for database in made:
        await database.close()


@pytest.fixture
def three_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue is full when three wait in it."""
    for name, room in list(sys.modules.items()):
        if name.startswith("ferrule.db.") and hasattr(room, "MAX_WAITING"):
            monkeypatch.setattr(room, "MAX_WAITING", 3)
