"""What a failed migration means, in words for whoever runs it."""

import sqlite3
import traceback
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ferrule.db.settings import DatabaseSettings
from ferrule.errors import Unavailable

LOCK_NOT_AVAILABLE = "55P03"
FAILURES = (SQLAlchemyError, OSError, Unavailable)
"""What the database, its driver and our connecting raise."""


class MigrationError(Exception):
    """A migration did not succeed. The text says which, why, and what is changed; exit status 1."""


def unreachable(failure: Exception) -> MigrationError:
    """What to tell when there is no answer at all."""
    return MigrationError(f"The database cannot be read: {failure.__cause__ or failure}")


def explain(
    failure: Exception,
    *,
    folders: Iterable[Path],
    settings: DatabaseSettings,
    partly: bool,
) -> MigrationError:
    """Name the migration that failed, and say why; `partly` if a part of the run was committed."""
    which = _failing_file(failure, set(folders))
    where = f"The migration {which}" if which else "The migrations"
    outcome = (
        "What ran up to an autocommit_block is kept; `ferrule db current` tells how far it came."
        if partly
        else "Nothing was changed."
    )
    if isinstance(failure, DBAPIError):
        return MigrationError(f"{where} {_reason(failure, settings)}\n{outcome}")
    return MigrationError(f"{where} failed: {failure}\n{outcome}")


def _reason(failure: DBAPIError, settings: DatabaseSettings) -> str:
    statement = " ".join((failure.statement or "").split())
    if getattr(failure.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
        return (
            f"waited {settings.lock_timeout:g} s for a lock that another session holds "
            f"(lock_timeout), at: {statement}\n"
            f"Try again when long transactions have ended, or raise FERRULE_DATABASE__LOCK_TIMEOUT."
        )
    if getattr(failure.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return (
            f"waited {settings.migration_wait:g} s for another process that writes "
            f"(FERRULE_DATABASE__MIGRATION_WAIT)."
        )
    reason = str(failure.orig).removeprefix(f"{type(failure.orig)}: ")
    if "NOT NULL column with default value NULL" in reason or "contains null values" in reason:
        reason += "\nGive the column server_default=…, delete this migration and write it again."
    return f"failed: {reason}" + (f"\nat: {statement}" if statement else "")


def _failing_file(failure: BaseException, folders: set[Path]) -> str | None:
    for frame in reversed(traceback.extract_tb(failure.__traceback__)):
        path = Path(frame.filename)
        if path.parent in folders:
            return f"{path.parent.parent.name}/{path.name}"
    return None
