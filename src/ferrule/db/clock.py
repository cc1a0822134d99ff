"""The database's clock, which all processes share."""

from datetime import datetime
from typing import Any

from sqlalchemy import Float, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ferrule.db.types import UtcDateTime

# now() is when the transaction began; by clock_timestamp(), which changes from row to row, no index
# can be searched.
_POSTGRESQL = "statement_timestamp()"
# Written as SQLAlchemy writes times, so that they compare as text.
_SQLITE = "strftime('%Y-%m-%d %H:%M:%f000', 'now'{})"


class database_now(FunctionElement[datetime]):
    """The database's time when the statement begins, some seconds from then.

    `database_now()`, `database_now(30)`, `database_now(bindparam("lease"))`. SQLite's has
    milliseconds, PostgreSQL's microseconds.
    """

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: Any = None) -> None:
        if isinstance(seconds, int | float):
            seconds = bindparam(None, seconds, Float())
        super().__init__(*(() if seconds is None else (seconds,)))


@compiles(database_now)
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:  # pyright: ignore[reportUnusedFunction]
    seconds = compiler.process(element.clauses, **options)
    return f"({_POSTGRESQL} + make_interval(secs => {seconds}))" if seconds else _POSTGRESQL


@compiles(database_now, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:  # pyright: ignore[reportUnusedFunction]
    seconds = compiler.process(element.clauses, **options)
    return _SQLITE.format(f", ({seconds}) || ' seconds'" if seconds else "")
