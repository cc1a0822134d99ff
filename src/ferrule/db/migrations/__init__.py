"""Migrations: one history of revisions, a branch for each module, on both databases alike.

The comparison at the start reads revision ids only; Alembic is imported when it has work to do.
"""

from ferrule.db.migrations.failures import MigrationError
from ferrule.db.migrations.migrations import Migrations
from ferrule.db.migrations.revisions import Revision, Revisions, Status
from ferrule.db.migrations.start import prepare

__all__ = ["MigrationError", "Migrations", "Revision", "Revisions", "Status", "prepare"]
