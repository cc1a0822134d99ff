"""An application with a channel to play with; brokers for buses and nodes."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import structlog.testing
from redis.asyncio import Redis

from ferrule import Ferrule
from ferrule.security.tokens import Tokens
from ferrule.streams import ConnectionManager
from ferrule.testing import ActorClient, TestDatabases
from tests.streams.boards import Boards
from tests.streams.brokers import REDIS, Broker, answers, missing
from tests.streams.peer import served


@pytest.fixture
def boards() -> Boards:
    return Boards()


@pytest.fixture
def settings() -> dict[str, Any]:
    """Those of streams that are not as they come: see `boards.streams`."""
    return {}


@pytest.fixture
def application(boards: Boards, settings: dict[str, Any]) -> Ferrule:
    return boards.application(**settings)


@pytest.fixture
def manager(app: Ferrule) -> ConnectionManager:
    return app.kit[ConnectionManager]


@pytest_asyncio.fixture
async def port(app: Ferrule) -> AsyncIterator[int]:
    """Where the application listens, in this loop."""
    async with served(app) as server:
        yield server.port  # type: ignore[attr-defined]


@pytest.fixture(params=["memory", "redis", "postgresql"])
def kind(request: pytest.FixtureRequest, databases: TestDatabases) -> str:
    """The bus that a test runs on: each in turn."""
    kind: str = request.param
    parts = urlsplit(REDIS)
    if kind == "redis" and not answers(parts.hostname or "", parts.port or 6379):
        missing("Redis does not answer")
    if kind == "postgresql" and (why := databases.why_no_postgres()):
        missing(f"PostgreSQL does not answer {why}")
    return kind


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Ends what a test has begun."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def broker(kind: str, databases: TestDatabases, tmp_path: Path) -> AsyncIterator[Broker]:
    """Makes buses under a name that nobody else has."""
    url = await databases.create(kind, tmp_path) if kind == "postgresql" else REDIS
    async with AsyncExitStack() as stack:
        broker = Broker(kind, url, f"ferrule-test-{secrets.token_hex(4)}", stack)
        yield broker
    if kind == "redis":
        async with Redis.from_url(REDIS) as redis:
            await redis.delete(f"{broker.namespace}:bus", f"{broker.namespace}-2:bus")


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What is logged meanwhile."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def token(app: Ferrule) -> Callable[..., str]:
    """Issues tokens of the login of a client: `token(ann, ttl=2)`."""
    tokens = app.kit[Tokens]

    def token(who: ActorClient, *, kind: str = "access", ttl: float = 600) -> str:
        shown = who.headers["authorization"].partition(" ")[2]
        claims = tokens.verify(shown, "access")
        return tokens.issue(kind, subject=claims.subject, ttl=ttl, claims=claims.extra)

    return token
