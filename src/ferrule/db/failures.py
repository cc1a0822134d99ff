"""What a failure of the database means for the caller: 409, 422, 503, 507, or a defect of ours."""

import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError, IntegrityError, NotSupportedError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from ferrule.errors import Conflict, Error, Invalid, Unavailable

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


def as_error(failure: SQLAlchemyError) -> Error | None:
    """The `Error` that the caller is told; None where it is a defect (a 500)."""
    if isinstance(failure, PoolTimeout):
        return Unavailable("The database is busy. Try again shortly.")
    if isinstance(failure, StaleDataError):
        return Conflict("Somebody else changed it at the same time. Read it again, and retry.")
    if isinstance(failure, IntegrityError):
        return Conflict(
            "It contradicts what is stored: something with these values exists, or is used."
        )
    if isinstance(failure, DBAPIError):
        return _by_code(failure)
    return None


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
