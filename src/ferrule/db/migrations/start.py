"""What the start of an application does about its database."""

import logging
from collections.abc import Sequence

from ferrule.db.database import Database
from ferrule.db.migrations.failures import FAILURES, unreachable
from ferrule.db.migrations.migrations import Migrations, current_revisions
from ferrule.db.migrations.revisions import Revisions, Status
from ferrule.errors import ConfigurationError
from ferrule.module import Module

logger = logging.getLogger("ferrule.db")


async def prepare(database: Database, modules: Sequence[Module]) -> Status:
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
        raise unreachable(failure) from failure
    status = revisions.status(current)
    status.refuse_unknown()
    if status.pending:
        if not database.embedded and not database.settings.migrate_on_start:
            raise ConfigurationError(_behind(status))
        logger.info("Upgrading the database: %s", ", ".join(status.pending))
        await Migrations(database.url, database.settings, modules).upgrade()
    return status


def _behind(status: Status) -> str:
    state = f"stands at {', '.join(status.current)}" if status.current else "is empty"
    return (
        f"The database {state}; the code needs {', '.join(status.pending)}. "
        f"Run `ferrule db upgrade` first, or set FERRULE_DATABASE__MIGRATE_ON_START=true."
    )
