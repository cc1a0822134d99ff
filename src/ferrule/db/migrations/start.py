"""What the start of an application does about its database."""

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, inspect, text

from ferrule.db.database import Database
from ferrule.db.migrations.failures import FAILURES, MigrationError
from ferrule.db.migrations.migrations import Migrations
from ferrule.db.migrations.revisions import Revisions, Status
from ferrule.errors import ConfigurationError
from ferrule.module import Module

logger = logging.getLogger("ferrule.db")


async def prepare(database: Database, modules: Sequence[Module], *, embedded: bool) -> Status:
    """Compare revision ids; upgrade an embedded database, refuse a server that is behind.

    Raises `ConfigurationError` with the command to run, or when the database holds revisions that
    the code does not know; `MigrationError` when the upgrade fails or the database is out of reach.
    """
    revisions = Revisions(modules)
    for module in modules:
        if module.models and not revisions.of(module.name):
            logger.warning(
                "Module %s has models and no migrations: "
                'run `ferrule db revision -m "Create the tables" --module %s`.',
                module.name,
                module.name,
            )
    try:
        async with database.engines.read.connect() as connection:
            current = await connection.run_sync(current_revisions)
    except FAILURES as failure:
        raise MigrationError(f"The database cannot be reached: {failure}") from failure
    status = revisions.status(current)
    refuse_unknown(status)
    if status.pending:
        if not embedded and not database.settings.migrate_on_start:
            raise ConfigurationError(_behind(status))
        logger.info("Upgrading the database: %s", ", ".join(status.pending))
        await Migrations(database.url, database.settings, modules).upgrade()
    return status


def current_revisions(connection: Connection) -> list[str]:
    """The revision ids that stand in the database; none in an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return []
    return list(connection.scalars(text("SELECT version_num FROM alembic_version")))


def refuse_unknown(status: Status) -> None:
    """Refuse a database that a newer version has upgraded."""
    if status.unknown:
        raise ConfigurationError(
            f"The database holds revisions that this code does not know: "
            f"{', '.join(status.unknown)}. A newer version has upgraded it: start that version, or "
            f"add the module that is missing. To go back, run `ferrule db downgrade` with the newer "
            f"version first, or restore a backup."
        )


def _behind(status: Status) -> str:
    state = f"stands at {', '.join(status.current)}" if status.current else "is empty"
    return (
        f"The database {state}; the code needs {', '.join(status.pending)}. "
        f"Run `ferrule db upgrade` first, or set FERRULE_DATABASE__MIGRATE_ON_START=true."
    )
