import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ferrule.testing import TestDatabases
from tests.drills.server import Server

SETTINGS = {
    "LOG_LEVEL": "warning",
    "SECURITY__ARGON2_MEMORY_KIB": "8",
    "SECURITY__ARGON2_PASSES": "1",
    "DATABASE__MIGRATE_ON_START": "true",
}


@pytest_asyncio.fixture
async def url(database_kind: str, databases: TestDatabases, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return await databases.create(database_kind, tmp_path, "drill")


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that do not run yet, each on a port of its own; they share a data folder."""
    made: list[Server] = []

    def make(**settings: str) -> Server:
        made.append(Server(tmp_path, _free_port(), **SETTINGS | settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., Server], url: str) -> Server:
    """`ferrule serve` on an empty database; it does not run yet."""
    return make_server(DATABASE_URL=url)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number
