"""The database's clock, which all processes share."""

from datetime import datetime
from typing import Any

from sqlalchemy import Float, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ferrule.db.types import UtcDateTime

NOW = {
    # now() is the time at which the transaction began.
    "postgresql": "clock_timestamp()",
    # Written as SQLAlchemy writes times, so that they compare as text.
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
}
"""The same in SQL, for statements that are text."""


class database_now(FunctionElement[datetime]):
    """The database's time when the statement runs, some seconds from then.

    `database_now()`, `database_now(30)`, `database_now(bindparam("lease"))`. SQLite's has
    milliseconds, PostgreSQL's microseconds.
    """

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: Any = 0.0) -> None:
        value = bindparam(None, seconds, Float()) if isinstance(seconds, int | float) else seconds
        super().__init__(value)


@compiles(database_now)
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:  # pyright: ignore[reportUnusedFunction]
    seconds = compiler.process(element.clauses, **options)
    return f"({NOW['postgresql']} + make_interval(secs => {seconds}))"


@compiles(database_now, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:  # pyright: ignore[reportUnusedFunction]
    seconds = compiler.process(element.clauses, **options)
    return f"{NOW['sqlite'][:-1]}, ({seconds}) || ' seconds')"
