"""Lists: filters, search, sorting from declared names; pages by offset, by number and by keyset.

Order and comparison are the same on both databases: text by code point, null as the greatest value.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from sqlalchemy import ColumnElement, Select, and_, collate, false, func, literal, or_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.operators import is_distinct_from
from sqlalchemy.types import String

from ferrule.db.session import ReadSession
from ferrule.errors import Invalid
from ferrule.kit import Kit
from ferrule.security.secrets import Secrets

M = TypeVar("M")

_OPERATORS: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "": operator.eq,
    "gte": operator.ge,
    "lte": operator.le,
    "gt": operator.gt,
    "lt": operator.lt,
    "ne": is_distinct_from,
}
OPERATORS = tuple(filter(None, _OPERATORS))
"""Suffixes of a declared filter: `filters=("status", "price__gte")`."""


@dataclass(frozen=True)
class Window:
    """Which part of a list is asked for: by `offset`, or after the row that `cursor` names."""

    limit: int = 50
    offset: int = 0
    cursor: str | None = None
    count: bool = True


@dataclass(frozen=True)
class Listing(Generic[M]):
    """Rows of one page; `total` is None where it was not counted, `next` None on the last page."""

    rows: Sequence[M]
    window: Window
    total: int | None
    next: str | None


@dataclass(frozen=True)
class Order:
    """One column of a sort order."""

    name: str
    column: InstrumentedAttribute[Any]
    descending: bool

    def clause(self, dialect: str) -> ColumnElement[Any]:
        column = _comparable(self.column, dialect)
        return column.desc().nulls_first() if self.descending else column.asc().nulls_last()

    def after(self, value: Any, dialect: str) -> ColumnElement[bool]:
        """Rows that stand behind `value`, null being the greatest."""
        column, value = _comparable(self.column, dialect), _operand(self.column, value)
        if self.descending:
            return self.column.is_not(None) if value is None else column < value
        if value is None:
            return false()
        return or_(column > value, self.column.is_(None))

    def equal(self, value: Any) -> ColumnElement[bool]:
        return self.column.is_(None) if value is None else self.column == value


def filtered(
    model: type[Any], filters: Mapping[str, Any], attribute: Mapping[str, str]
) -> list[ColumnElement[bool]]:
    """The WHERE of declared filters: `{"status": "open", "price__gte": Decimal(5)}`."""
    clauses: list[ColumnElement[bool]] = []
    for name, value in filters.items():
        field, _, suffix = name.partition("__")
        column = getattr(model, attribute[field])
        clauses.append(_OPERATORS[suffix](column, _operand(column, value)))
    return clauses


def search_pattern(text: str) -> str:
    """The pattern for `matching` that finds a text; `%` and `_` mean themselves."""
    escaped = text.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return f"%{escaped}%"


def matching(
    columns: Sequence[InstrumentedAttribute[Any]], pattern: ColumnElement[str], dialect: str
) -> ColumnElement[bool]:
    """Rows in which a column is like the `search_pattern`, whatever the case."""

    def lower(value: ColumnElement[str]) -> ColumnElement[str]:
        # Without ICU, lower() of a database in the C locale knows ASCII only.
        return func.lower(collate(value, "und-x-icu") if dialect == "postgresql" else value)

    return or_(*(lower(cast(Any, column)).like(lower(pattern), escape="/") for column in columns))


@dataclass(frozen=True)
class Ordering:
    """A total order of one list: what it is sorted by, and its cursors."""

    parts: Sequence[Order]
    purpose: str

    @property
    def context(self) -> str:
        """A cursor is worth something only for the list, and the order, that it was given for."""
        keys = "|".join(f"{'-' if part.descending else ''}{part.name}" for part in self.parts)
        return f"{self.purpose}:{keys}"

    def after(self, cursor: str | None, kit: Kit) -> list[Any] | None:
        """The values of the row that a cursor stands behind; `Invalid` if it is not this list's."""
        if cursor is None:
            return None
        return _decode(kit[Secrets].unsign("cursor", cursor), self.context, self.parts)

    def cursor(self, row: Mapping[str, Any], kit: Kit) -> str:
        """The cursor that leads behind a row, of which the values by attribute are given."""
        values = [row[part.column.key] for part in self.parts]
        return kit[Secrets].sign("cursor", to_json([self.context, *values]))

    def window(
        self,
        statement: Select[Any],
        dialect: str,
        *,
        limit: Any,
        offset: Any = None,
        after: Sequence[Any] | None = None,
    ) -> Select[Any]:
        """A part of a list, with one row more than is shown, to see whether it goes on."""
        clauses = (part.clause(dialect) for part in self.parts)
        statement = statement.order_by(*clauses).limit(limit + 1)
        if after is not None:
            return statement.where(_behind(self.parts, after, dialect))
        return statement if offset is None else statement.offset(offset)


async def page(
    session: ReadSession, statement: Select[Any], *, ordering: Ordering, window: Window
) -> Listing[Any]:
    """One page of `statement`, with a signed `next` where the list goes on.

    Raises `Invalid` for a cursor that is not this list's.
    """
    dialect = session.get_bind().dialect.name
    after = ordering.after(window.cursor, session.kit)
    total = None
    if window.count:
        counted = statement.with_only_columns(func.count(), maintain_column_froms=True)
        total = await session.scalar(counted)
    paged = ordering.window(
        statement, dialect, limit=window.limit, offset=window.offset or None, after=after
    )
    rows = list((await session.execute(paged)).scalars())
    following = None
    if len(rows) > window.limit:
        rows = rows[: window.limit]
        values = {part.column.key: getattr(rows[-1], part.column.key) for part in ordering.parts}
        following = ordering.cursor(values, session.kit)
    return Listing(rows, window, total, following)


def _behind(order: Sequence[Order], values: Sequence[Any], dialect: str) -> ColumnElement[bool]:
    """Rows behind the one with these values: behind in a column, equal in all before it."""
    alternatives: list[ColumnElement[bool]] = []
    for index, part in enumerate(order):
        equal = [order[before].equal(values[before]) for before in range(index)]
        alternatives.append(and_(*equal, part.after(values[index], dialect)))
    return or_(*alternatives)


def _decode(payload: bytes | None, context: str, order: Sequence[Order]) -> list[Any]:
    refused = Invalid.field(
        "query", "cursor", code="invalid_cursor", detail="Use the `next` of the page before."
    )
    given, *values = from_json(payload) if payload is not None else [None]
    if given != context:
        raise refused
    try:
        return [
            None
            if value is None
            else TypeAdapter(part.column.type.python_type).validate_python(value)
            for part, value in zip(order, values, strict=True)
        ]
    except (ValidationError, ValueError):
        raise refused from None


def _operand(column: Any, value: Any) -> Any:
    """A value to compare with: SQLAlchemy would take True and False for constants of SQL."""
    return literal(value, column.type) if isinstance(value, bool) else value


def _comparable(column: InstrumentedAttribute[Any], dialect: str) -> Any:
    if dialect == "postgresql" and isinstance(column.type, String):
        return collate(column, "C")
    return column
