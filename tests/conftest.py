"""What all tests share: the fixtures of the shipped plugin, and databases without application."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ferrule.db import Database
from ferrule.db.settings import DatabaseSettings
from ferrule.kit import Kit
from ferrule.security.secrets import Secrets
from ferrule.testing import TestDatabases
from tests.server import Server, free_port

SERVER_SETTINGS = {
    "LOG_LEVEL": "warning",
    "SECURITY__ARGON2_MEMORY_KIB": "8",
    "SECURITY__ARGON2_PASSES": "1",
    "DATABASE__MIGRATE_ON_START": "true",
}


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


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that do not run yet, each on a port of its own; they share a data folder."""
    made: list[Server] = []

    def make(**settings: str) -> Server:
        made.append(Server(tmp_path, free_port(), **SERVER_SETTINGS | settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.close()
