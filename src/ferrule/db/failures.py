"""What a failure of the database means for the caller: 409, 422, 503, 507, or a defect of ours."""

import sqlite3
from collections.abc import Iterator

import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError, NotSupportedError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from ferrule.errors import Conflict, Error, Invalid, Unavailable

log = structlog.get_logger("ferrule.db")

RETRY = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "57014",  # query_canceled, by statement_timeout
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "25006",  # read_only_sql_transaction, during a failover
}
DISK_FULL = "53100"
RETRY_CLASSES = ("08", "53")
"""SQLSTATE classes: connection exceptions, insufficient resources."""

OTHER_ROWS = {"23503", "23505", "23P01"}
"""SQLSTATEs: foreign key, unique, exclusion."""
SQLITE_OTHER_ROWS = {
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
}

SQLITE_RETRY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
}
REFUSED_VALUE = ("22",)
"""SQLSTATE class: data exceptions, which are values that a column cannot hold."""


class StorageFull(Unavailable):
    """The disk of the database is full: nothing was written."""

    status, code, title = 507, "storage_full", "Insufficient Storage"


class OutcomeUnknown(Error):
    """The connection was lost during the COMMIT: it may be stored or not."""

    status, code, title = 503, "outcome_unknown", "Service Unavailable"

    def __init__(self) -> None:
        # Without Retry-After: a blind retry could do it twice.
        super().__init__(
            "The connection to the database was lost while it stored this. Look whether it is "
            "there before you try again."
        )


def of_driver(error: Exception, *, lost: bool = False) -> DBAPIError:
    """The driver's failure as SQLAlchemy would wrap it; `lost` if the connection is gone."""
    state: str = getattr(error, "sqlstate", None) or ""
    of_rows = state.startswith("23") or isinstance(error, sqlite3.IntegrityError)
    kind = IntegrityError if of_rows else DBAPIError
    return kind(None, None, error, connection_invalidated=lost)


def told(failure: SQLAlchemyError) -> Exception:
    """What to raise for a failure of the database; its cause is logged, as nobody is told it."""
    error = as_error(failure)
    if error is None:
        return failure
    original = getattr(failure, "orig", None)
    log.warning(
        "database failure",
        answered=error.code,
        kind=type(failure).__name__,
        state=getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None),
    )
    return error


def as_error(failure: SQLAlchemyError) -> Error | None:
    """The `Error` that the caller is told; None where it is a defect (a 500)."""
    if isinstance(failure, PoolTimeout):
        return Unavailable("The database is busy. Try again shortly.")
    if isinstance(failure, StaleDataError):
        return Conflict("Somebody else changed it at the same time. Read it again, and retry.")
    if isinstance(failure, IntegrityError) and _of_others(failure):
        return Conflict(
            "It contradicts what is stored: something with these values exists, or is used."
        )
    if isinstance(failure, DBAPIError):
        return _by_code(failure)
    return None


def _of_others(failure: IntegrityError) -> bool:
    """Whether other rows are in the way; a null or a check that fails is a defect of ours."""
    for cause in _causes(failure):
        state = getattr(cause, "sqlstate", None)
        number = getattr(cause, "sqlite_errorcode", None)
        if state is not None or number is not None:
            return state in OTHER_ROWS or number in SQLITE_OTHER_ROWS
    return True


def _by_code(failure: DBAPIError) -> Error | None:
    if failure.connection_invalidated:
        return Unavailable("The connection to the database was lost. Try again shortly.")
    if isinstance(failure, NotSupportedError) and "cached statement" in str(failure.orig):
        # A migration changed a table under prepared statements; the next attempt prepares anew.
        return Unavailable("The schema was just changed. Try again.")
    for cause in _causes(failure):
        state: str = getattr(cause, "sqlstate", None) or ""
        if state == DISK_FULL:
            return StorageFull("The storage is full. Nothing was written.")
        if state in RETRY or state[:2] in RETRY_CLASSES:
            return Unavailable("The database could not do it now. Try again shortly.")
        if state[:2] in REFUSED_VALUE:
            return Invalid("A value cannot be stored.")
        number = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if number == sqlite3.SQLITE_FULL:
            return StorageFull("The storage is full. Nothing was written.")
        if number in SQLITE_RETRY:
            return Unavailable("The database is busy. Try again shortly.")
    return None


def _causes(failure: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = failure
    while seen is not None:
        yield seen
        original = getattr(seen, "orig", None)
        seen = original if isinstance(original, BaseException) else seen.__cause__
