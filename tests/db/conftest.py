import pytest_asyncio

from ferrule.db import Base, Database
from tests.db.models import Author, Book


@pytest_asyncio.fixture
async def library(database: Database) -> Database:
    """A database with the tables of the test models."""
    tables = [Author.__table__, Book.__table__]
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, tables=tables)
    return database
