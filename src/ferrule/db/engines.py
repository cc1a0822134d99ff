"""The engines of a database: one that reads, one that writes, and the driver past them."""

from dataclasses import dataclass

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from ferrule.db.settings import DatabaseSettings
from ferrule.db.statements import Driver
from ferrule.errors import ConfigurationError


@dataclass(frozen=True)
class Engines:
    """`read` runs each statement by itself; `write` runs transactions; `driver` prebuilt ones."""

    read: AsyncEngine
    write: AsyncEngine
    driver: Driver

    async def dispose(self) -> None:
        await self.driver.close()
        await self.read.dispose()
        await self.write.dispose()


def parse_url(text: str) -> URL:
    """The URL with the driver we use; `ConfigurationError` for a database that we do not know."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "FERRULE_DATABASE_URL is not a database URL: write postgresql://user@host/name or "
            "sqlite:///path/to/file.db."
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigurationError("FERRULE_DATABASE_URL: name a file, as in sqlite:///data.db.")
        return url.set(drivername="sqlite+aiosqlite")
    if backend in ("postgresql", "postgres"):
        query = dict(url.query)
        if "sslmode" in query:  # libpq's name for what asyncpg calls ssl
            query["ssl"] = query.pop("sslmode")
        return url.set(drivername="postgresql+asyncpg", query=query)
    raise ConfigurationError(
        f"FERRULE_DATABASE_URL: {backend} is not supported; use postgresql:// or sqlite:///."
    )


def open_engines(url: URL, settings: DatabaseSettings) -> Engines:
    """Engines for the application. They connect when first used."""
    if url.get_backend_name() == "sqlite":
        from ferrule.db.sqlite import open_sqlite

        return Engines(*open_sqlite(url, settings))
    from ferrule.db.postgresql import open_postgresql

    return Engines(*open_postgresql(url, settings))


def migration_engine(url: URL, settings: DatabaseSettings) -> AsyncEngine:
    """An unpooled engine that migrations use."""
    if url.get_backend_name() == "sqlite":
        from ferrule.db.sqlite import sqlite_migration_engine

        return sqlite_migration_engine(url, settings)
    from ferrule.db.postgresql import postgresql_migration_engine

    return postgresql_migration_engine(url, settings)
