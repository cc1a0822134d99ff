import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from ferrule.testing import TestDatabases
from tests.drills.streams.stage import Stage
from tests.server import Server
from tests.streams.brokers import RedisServer, missing, own_redis

ROOT = Path(__file__).parents[3]
MakeProcess = Callable[..., Server]


@pytest.fixture
def make(make_server: MakeProcess, monkeypatch: pytest.MonkeyPatch) -> MakeProcess:
    """Makes servers of the drills' application that do not run yet."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)

    def process(url: str, **settings: str) -> Server:
        ours = {
            "APP": "tests.drills.streams.app:app",
            "STREAMS__PER_USER": "10000",
            "STREAMS__PER_ADDRESS": "10000",
            "STREAMS__STALLED": "2",
            "STREAMS__BACKLOG": "16384",
            "STREAMS__DRAIN": "2",
        }
        return make_server(DATABASE_URL=url, **ours | settings)

    return process


@pytest.fixture(params=["redis", "postgresql", "sqlite"])
def kind(request: pytest.FixtureRequest, databases: TestDatabases) -> str:
    """Two servers over Redis or PostgreSQL's notifications, or one on SQLite."""
    kind: str = request.param
    if kind != "sqlite" and (why := databases.why_no_postgres()):
        missing(f"PostgreSQL does not answer {why}")
    return kind


@pytest_asyncio.fixture
async def stage(
    kind: str, make: MakeProcess, databases: TestDatabases, tmp_path: Path
) -> AsyncIterator[Stage]:
    database = "sqlite" if kind == "sqlite" else "postgresql"
    url = await databases.create(database, tmp_path, "streams")
    with _redis(kind, tmp_path) as redis:
        settings = {"REDIS_URL": redis.url} if redis else {}
        number = 1 if kind == "sqlite" else 2
        stage = Stage(url, [make(url, **settings) for _ in range(number)], redis)
        await stage.start()
        yield stage
        for server in stage.servers:
            server.close()


@contextmanager
def _redis(kind: str, folder: Path) -> Iterator[RedisServer | None]:
    if kind != "redis":
        yield None
        return
    with own_redis(folder) as redis:
        yield redis
