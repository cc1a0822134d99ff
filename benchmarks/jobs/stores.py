"""Where jobs and the entries of their ledger are kept, looked at past the contenders."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

import asyncpg

LEDGER = """
CREATE TABLE IF NOT EXISTS ledger (
  id {id} PRIMARY KEY, created_at {time} NOT NULL, updated_at {time} NOT NULL,
  revision BIGINT NOT NULL, number BIGINT NOT NULL
)
"""
ENTRY = "INSERT INTO ledger VALUES (gen_random_uuid(), now(), now(), 1, %s)"
"""What a peer's job with an effect does, on a pool of its own, as it cannot use its queue's."""


class Store(Protocol):
    async def ready(self) -> None:
        """All tables are made: whoever comes to make them, too, may go on."""

    async def run(self, *statements: str) -> None: ...
    async def number(self, query: str) -> int: ...
    async def settle(self) -> None:
        """Do now what the database would do while the jobs run."""


class Postgresql:
    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def ready(self) -> None:
        await self.run("SELECT pg_advisory_unlock(1)")

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await self._connection.execute(statement)

    async def number(self, query: str) -> int:
        return await self._connection.fetchval(query)

    async def settle(self) -> None:
        await self.run("VACUUM ANALYZE", "CHECKPOINT")


class Sqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def ready(self) -> None:
        """Nobody else comes."""

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await asyncio.to_thread(self._connection.execute, statement)

    async def number(self, query: str) -> int:
        return self._connection.execute(query).fetchone()[0]

    async def settle(self) -> None:
        await self.run("ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)")


@asynccontextmanager
async def store() -> AsyncGenerator[Store]:
    """The database in the environment, with a ledger in it; one process at a time until `ready`."""
    url = os.environ["FERRULE_DATABASE_URL"]
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=30
        )
        try:
            connection.execute(LEDGER.format(id="CHAR(32)", time="DATETIME"))
            yield Sqlite(connection)
        finally:
            connection.close()
        return
    of_postgresql = await asyncpg.connect(url)
    try:
        await of_postgresql.execute("SELECT pg_advisory_lock(1)")
        await of_postgresql.execute(LEDGER.format(id="UUID", time="TIMESTAMPTZ"))
        yield Postgresql(of_postgresql)
    finally:
        await of_postgresql.close()
