"""The reads and the insert of a resource as prebuilt statements: what its generated routes call.

A resource whose hooks are overridden, or whose response model does more than name columns, is
served by its service through the ORM. The answers are the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import BigInteger, Integer, Select, String, bindparam, func, insert, inspect, select
from sqlalchemy.orm import Mapper

from ferrule.actor import Actor
from ferrule.db.base import Base, Owned, SoftDeleted
from ferrule.db.listing import Listing, Ordering, filtered, matching, search_pattern
from ferrule.db.session import ReadOnly, ReadSession, WriteSession, Writing
from ferrule.db.statements import Prebuilt, PrebuiltInsert, Row, Values, prebuilt
from ferrule.errors import NotFound
from ferrule.resources.query import ListQuery
from ferrule.resources.service import Resource, overridden

M = TypeVar("M", bound=Base)
MAX_SHAPES = 256
"""Combinations of filters, search and order whose statements are kept."""
TOTAL = " total"
"""The count beside the rows, named as no attribute can be."""


@dataclass(frozen=True)
class _Shape:
    """A list that is asked for in one way, whatever the values."""

    ordering: Ordering
    rows: Prebuilt
    count: Prebuilt


class Direct(Generic[M]):
    """A resource by the shortest way: `get`, `page` and `create` as its service has them.

    They give rows of prebuilt statements; where the shortest way does not lead, what the service
    gives, or None from `create`.
    """

    def __init__(self, resource: Resource[M]) -> None:
        self.resource = resource
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._own = overridden(type(resource))

    async def get(self, session: ReadSession, actor: Actor, id: UUID) -> M | Row:
        """The row; `NotFound` if it does not exist or is not the actor's."""
        if not self._names or self._own & {"visible", "authorize", "get", "_select", "_find"}:
            return await self.resource.get(session, actor, id)
        rows = await session.fetch(self._one, {**self._visible(actor), "id": id})
        if not rows:
            raise NotFound(f"There is no such {self.resource.model.__name__.lower()}.")
        return rows[0]

    async def page(
        self, session: ReadSession, actor: Actor, query: ListQuery
    ) -> Listing[M] | Listing[Row]:
        """One page of the rows that the query asks for."""
        if not self._names or self._own & {"visible", "authorize", "list", "_select"}:
            return await self.resource.list(session, actor, query)
        return await self._list(session, actor, query)

    def create(self, session: WriteSession, actor: Actor, data: BaseModel) -> Row | None:
        """A new row, which is stored with the commit."""
        hooks = {"authorize", "validate", "react", "create", "_values", "_changed"}
        if not self._names or self._insert is None or self._own & hooks:
            return None
        attribute = self.resource.attribute
        values = {attribute[name]: getattr(data, name) for name in type(data).model_fields}
        row = session.insert(self._insert, **{**values, **self._visible(actor)})
        self.resource.emit(session, actor, "create", row)
        return row

    @cached_property
    def _names(self) -> list[str]:
        """The attributes that are answered, in that order, and the ETag's; none if more is asked.

        A response that tells more than columns, or instances whose loading somebody listens to,
        need the ORM.
        """
        mapper: Mapper[Any] = inspect(self.resource.model)
        if mapper.inherits is not None or mapper.polymorphic_on is not None:
            return []
        decorators = self.resource.response_schema.__pydantic_decorators__
        if decorators.model_validators or decorators.root_validators or not _untouched(mapper):
            return []
        names: list[str] = []
        for name, field in self.resource.response_schema.model_fields.items():
            alias = field.validation_alias or name
            if not isinstance(alias, str) or alias not in mapper.columns:
                return []
            names.append(alias)
        return [*names, *({"revision"} - {*names})]

    @cached_property
    def _one(self) -> Prebuilt:
        model = self.resource.model
        statement = self._select(self._names)
        return prebuilt(statement.where(cast(Any, model).id == bindparam("id")))

    @cached_property
    def _insert(self) -> PrebuiltInsert | None:
        mapper: Mapper[Any] = inspect(self.resource.model)
        table: Any = mapper.local_table
        for column in table.columns:
            if column.server_default is not None or column.computed is not None:
                return None
            default = column.default
            if default is not None and (default.is_clause_element or default.is_sequence):
                return None
        return prebuilt(insert(self.resource.model)) if _made_of_values(mapper) else None

    def _visible(self, actor: Actor) -> Values:
        return {"owner_id": actor.user_id} if issubclass(self.resource.model, Owned) else {}

    def _select(self, names: Iterable[str]) -> Select[Any]:
        model: Any = self.resource.model
        statement: Any = select(*(getattr(model, name) for name in names))
        if issubclass(model, Owned):
            statement = statement.where(cast(Any, model).owner_id == bindparam("owner_id"))
        if issubclass(model, SoftDeleted):
            statement = statement.where(model.deleted_at.is_(None))
        return statement

    async def _list(self, session: ReadSession, actor: Actor, query: ListQuery) -> Listing[Row]:
        window, filters = query.window(), query.filters()
        sort: str | None = getattr(query, "sort", None)
        text: str | None = getattr(query, "search", None)
        after = None
        if window.cursor is not None:
            after = self.resource.ordering(sort).after(window.cursor, session.kit)
        nulls = None if after is None else tuple(value is None for value in after)
        shape = self._shape(
            session.dialect, tuple(filters), text is not None, sort, nulls,
            window.offset > 0, window.count,
        )  # fmt: skip
        values = {
            **self._visible(actor),
            **{f"filter {name}": value for name, value in filters.items()},
            **{f"after {index}": value for index, value in enumerate(after or ())},
            "pattern": text and search_pattern(text),
            "limit": window.limit,
            "offset": window.offset,
        }
        rows = await session.fetch(shape.rows, values)
        total = None
        if window.count:
            counted = rows
            if not rows and (window.offset or window.cursor):
                # Behind the last row there is none that the count could stand beside.
                counted = await session.fetch(shape.count, values)
            total = getattr(counted[0], TOTAL) if counted else 0
        following = None
        if len(rows) > window.limit:
            rows = rows[: window.limit]
            following = shape.ordering.cursor(vars(rows[-1]), session.kit)
        return Listing(rows, window, total, following)

    def _shape(self, *key: Any) -> _Shape:
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            shape = self._shapes[key] = self._built(*key)
        return shape

    def _built(
        self,
        dialect: str,
        filters: tuple[str, ...],
        searched: bool,
        sort: str | None,
        nulls: tuple[bool, ...] | None,
        offset: bool,
        count: bool,
    ) -> _Shape:
        resource, model = self.resource, cast(Any, self.resource.model)
        columns = model.__mapper__.columns
        named = {
            name: bindparam(
                f"filter {name}", type_=columns[resource.attribute[name.partition("__")[0]]].type
            )
            for name in filters
        }
        ordering = resource.ordering(sort)
        # A dict, because it keeps the order: that of the answer, then what the cursor needs.
        keys: list[str] = [cast(str, part.column.key) for part in ordering.parts]
        names = dict.fromkeys((*self._names, *keys))
        statement = self._select(names).where(*filtered(model, named, resource.attribute))
        if searched:
            fields = [getattr(model, resource.attribute[name]) for name in resource.search]
            pattern = bindparam("pattern", type_=String())
            statement = statement.where(matching(fields, pattern, dialect))
        after = None
        if nulls is not None:
            after = [
                None if null else bindparam(f"after {index}", type_=part.column.type)
                for index, (null, part) in enumerate(zip(nulls, ordering.parts, strict=True))
            ]
        counted = statement.with_only_columns(func.count().label(TOTAL), maintain_column_froms=True)
        if count:
            statement = statement.add_columns(counted.scalar_subquery().label(TOTAL))
        windowed = ordering.window(
            statement,
            dialect,
            limit=bindparam("limit", type_=Integer()),
            offset=bindparam("offset", type_=BigInteger()) if offset else None,
            after=after,
        )
        return _Shape(ordering, prebuilt(windowed), prebuilt(counted))


def _untouched(mapper: Mapper[Any]) -> bool:
    """Whether nobody but SQLAlchemy and `ferrule.db` listens to statements, or to instances."""
    if len(list(cast(Any, ReadOnly()).dispatch.do_orm_execute)) > 1:
        return False
    events: Any = mapper.class_manager.dispatch
    return not list(events.load) and len(list(events.refresh)) == 1


def _made_of_values(mapper: Mapper[Any]) -> bool:
    """Whether a new instance is no more than the values it is made of."""
    events: Any = mapper.class_manager.dispatch
    if list(cast(Any, Writing()).dispatch.before_flush):
        return False
    if mapper.validators or mapper.class_manager.original_init is not Base.__init__:
        return False
    if len(list(events.init)) > 1 or list(mapper.dispatch.before_insert):
        return False
    if list(mapper.dispatch.after_insert):
        return False
    return all(
        len(list(getattr(mapper.class_, attribute.key).dispatch.set))
        == hasattr(attribute.columns[0].type, "normal")
        for attribute in mapper.column_attrs
    )
