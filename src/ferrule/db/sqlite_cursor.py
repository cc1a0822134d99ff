"""SQLAlchemy's way to aiosqlite with one hand-over to the connection's thread for a statement.

SQLAlchemy asks that thread four times: for a cursor, the execution, the rows, and the end. Each
time costs more than most statements.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
)


def dbapi() -> Any:
    """The module of the database API, as `create_async_engine(module=…)` takes it."""
    return _Module(aiosqlite, sqlite3)


class _Executed:
    """A cursor, as SQLAlchemy's adapter asks for one: rows are there as soon as it has executed."""

    arraysize = 1

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection: Any = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def execute(self, operation: str, parameters: Any = ()) -> "_Executed":
        await self._connection._execute(self._run, "execute", operation, parameters)
        return self

    async def executemany(self, operation: str, parameters: Sequence[Any]) -> "_Executed":
        await self._connection._execute(self._run, "executemany", operation, parameters)
        return self

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        """It is closed already."""

    def _run(self, method: str, operation: str, parameters: Any) -> None:
        """In the connection's thread."""
        cursor = self._connection._conn.cursor()
        try:
            getattr(cursor, method)(operation, parameters)
            self.description = cursor.description
            self._rows = cursor.fetchall() if cursor.description else []
            self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
        finally:
            cursor.close()


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    __slots__ = ()

    def _make_new_cursor(self, connection: Any) -> Any:
        return _Executed(connection)

    def _aenter_cursor(self, cursor: Any) -> Any:
        return cursor


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()

    _cursor_cls = _Cursor


class _Module(AsyncAdapt_aiosqlite_dbapi):
    def connect(self, *args: Any, **options: Any) -> Any:
        made: Any = super().connect(*args, **options)
        return _Connection(self, made._connection)
