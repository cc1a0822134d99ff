"""Databases for tests: migrated once a run, handed out empty to each test."""

import asyncio
import os
import shutil
import zlib
from pathlib import Path
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
from pydantic import SecretStr
from sqlalchemy import make_url

from ferrule.app import Ferrule
from ferrule.settings import Settings

DEFAULT_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"


class TestDatabases:
    """The databases of one test process. `folder` holds the SQLite files, `worker` names it."""

    __test__ = False

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder = folder
        self.postgres_url = os.environ.get("FERRULE_TEST_POSTGRES_URL", DEFAULT_POSTGRES)
        self._prefix = f"ferrule_test_{worker}_{os.getpid()}"
        self._created: list[str] = []
        self._migrated: dict[str, str] = {}

    def why_no_postgres(self) -> str | None:
        """Why PostgreSQL cannot be tested; None if it answers."""
        try:
            asyncio.run(self._administer("SELECT 1"))
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            return f"at {_without_password(self.postgres_url)}: {error}"
        return None

    async def empty(self, app: Ferrule, kind: str, folder: Path) -> Settings:
        """Settings with which the application starts on an empty database of this kind."""
        settings = app.settings.model_copy(
            update={
                "environment": "development",
                "data_dir": folder,
                "secret_key": [SecretStr("a key that only the tests sign with, 0123456789")],
                # The cheapest hashes: tests sign in often, and prove nothing about Argon2.
                "security": app.settings.security.model_copy(
                    update={"argon2_memory_kib": 8, "argon2_passes": 1}
                ),
                # A test says itself when jobs run.
                "jobs": app.settings.jobs.model_copy(update={"embedded": False}),
            }
        )
        if kind == "sqlite":
            return await self._sqlite(app, settings, folder)
        return await self._postgres(app, settings)

    async def create(self, kind: str, folder: Path, name: str = "scratch") -> str:
        """The URL of a new database without any table."""
        if kind == "sqlite":
            return f"sqlite:///{folder / f'{name}.db'}"
        name = f"{self._prefix}_{name}"
        url = make_url(self.postgres_url).set(database=name).render_as_string(hide_password=False)
        if name not in self._created:
            await self._administer(f'CREATE DATABASE "{name}"')
            self._created.append(name)
        else:
            # Much faster than another database.
            await _execute(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return url

    def drop(self) -> None:
        """Remove what was made on the server."""
        for name in self._created:
            asyncio.run(self._administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    async def _sqlite(self, app: Ferrule, settings: Settings, folder: Path) -> Settings:
        template = self.folder / f"{_schema(app)}.db"
        if not template.exists():
            url = f"sqlite:///{template}"
            await _migrate(app, settings.model_copy(update={"database_url": url}))
        file = folder / "test.db"
        shutil.copyfile(template, file)
        return settings.model_copy(update={"database_url": f"sqlite:///{file}"})

    async def _postgres(self, app: Ferrule, settings: Settings) -> Settings:
        schema = _schema(app)
        migrate = settings.database.model_copy(update={"migrate_on_start": True})
        if schema not in self._migrated:
            url = await self.create("postgresql", self.folder, schema)
            settings = settings.model_copy(update={"database_url": url, "database": migrate})
            await _migrate(app, settings)
            self._migrated[schema] = url
        settings = settings.model_copy(update={"database_url": self._migrated[schema]})
        tables = ", ".join(f'"{table}"' for module in app.modules for table in module.tables)
        if tables:
            await _execute(self._migrated[schema], f"TRUNCATE {tables} CASCADE")
        return settings

    async def _administer(self, statement: str) -> None:
        await _execute(self.postgres_url, statement)


async def _execute(url: str, statement: str) -> None:
    connection = await cast(Any, asyncpg).connect(url, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _migrate(app: Ferrule, settings: Settings) -> None:
    app.configure(settings)
    async with app.opened():
        pass


def _schema(app: Ferrule) -> str:
    """Names the schema of the application: another set of modules needs another database."""
    names = ",".join(module.name for module in app.modules)
    return f"{zlib.crc32(names.encode()):08x}"


def _without_password(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)
