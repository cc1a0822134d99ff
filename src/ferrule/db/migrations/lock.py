"""One process migrates at a time, whatever starts at once."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ferrule.db.migrations.failures import MigrationError
from ferrule.db.settings import DatabaseSettings

KEY = 0x_F3_22_01_E5
"""The advisory lock's number; PostgreSQL keeps such locks apart by database."""
POLL = 0.2
"""Seconds between two attempts."""


@asynccontextmanager
async def migration_lock(engine: AsyncEngine, settings: DatabaseSettings) -> AsyncGenerator[None]:
    """Hold the database's lock for migrations; `MigrationError` after `migration_wait` seconds.

    On PostgreSQL it belongs to a connection of its own, so that it outlives the commits of an
    `autocommit_block`. On SQLite the transaction itself, begun IMMEDIATE, is the lock.
    """
    if engine.dialect.name == "sqlite":
        yield
        return
    # Without a transaction: an open one would stop CREATE INDEX CONCURRENTLY for ever.
    idle = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with idle.connect() as connection:
        deadline = time.monotonic() + settings.migration_wait
        while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": KEY}):
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"Another process has been migrating this database for "
                    f"{settings.migration_wait:g} s (FERRULE_DATABASE__MIGRATION_WAIT). "
                    f"Nothing was changed."
                )
            await asyncio.sleep(POLL)
        # Its end with the connection releases the lock.
        yield
