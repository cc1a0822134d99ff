"""What all tests share: the fixtures of the shipped plugin, and databases without application."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ferrule.db import Database
from ferrule.db.settings import DatabaseSettings
from ferrule.kit import Kit
from ferrule.security.secrets import Secrets
from ferrule.testing import TestDatabases


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run in a folder of their own, so that no `.env` or data folder of ours is touched."""
    monkeypatch.chdir(tmp_path)


@pytest_asyncio.fixture
async def database(
    database_kind: str, databases: TestDatabases, tmp_path: Path
) -> AsyncIterator[Database]:
    """A database without tables and without an application."""
    kit = Kit(Secrets(["a key that only the tests sign with, 0123456789"]))
    url = await databases.create(database_kind, tmp_path)
    database = Database(url, DatabaseSettings(pool_size=5, wait=2), kit)
    kit.provide(database)
    yield database
    await database.close()
