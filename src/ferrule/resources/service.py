"""The generated service of a resource: what a hand-written one would do, from its declaration."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, literal, select

from ferrule.actor import Access, Actor, signed_in
from ferrule.db.base import Base, Owned, SoftDeleted
from ferrule.db.listing import (
    Listing,
    Order,
    Ordering,
    filtered,
    matching,
    page,
    search_pattern,
)
from ferrule.db.session import ReadSession, WriteSession
from ferrule.db.types import utcnow
from ferrule.errors import ConfigurationError, NotFound
from ferrule.http.etag import ANY_REVISION, IfMatch
from ferrule.resources.bounds import check_bounds
from ferrule.resources.query import ListQuery, query_type
from ferrule.schemas import Schema, patch_of
from ferrule.streams.channels import Channel

M = TypeVar("M", bound=Base)
Action = Literal["list", "get", "create", "replace", "update", "delete", "restore"]
EVENTS: Mapping[Action, str] = {
    "create": "created",
    "replace": "updated",
    "update": "updated",
    "delete": "deleted",
    "restore": "restored",
}
"""The types of the events that actions are told by."""


class Resource(Generic[M]):
    """A model that is listed, read, created, changed and deleted over HTTP.

    - `create`, `update`, `response`: its schemas; `update` is `create` with every field optional
      where it is not given
    - `filters`: fields that a list can be asked by, `"price__gte"` with an operator; `search`: text
      fields that `search=` looks in; `sort`: fields that `sort=` takes, `default_sort` else
    - `access`: who may use its routes
    - `events`: whether `created`, `updated`, `deleted` and `restored` are told live, to the owner
      of the row, on the personal channel that is named as the table

    Rows of an `Owned` model are seen by their owner alone. To do more, subclass it and override
    `visible`, `authorize`, `validate` or `react`; to do something else, write the route by hand and
    leave the generated one out: `resource_router(notes, without={"create"})`.
    """

    actions: ClassVar[tuple[Action, ...]] = (
        "list", "get", "create", "replace", "update", "delete", "restore",
    )  # fmt: skip

    def __init__(
        self,
        model: type[M],
        *,
        create: type[Schema],
        response: type[Schema],
        update: type[Schema] | None = None,
        filters: Sequence[str] = (),
        search: Sequence[str] = (),
        sort: Sequence[str] = ("created_at", "updated_at"),
        default_sort: str = "-id",
        access: Access = signed_in,
        events: bool = False,
    ) -> None:
        self.model = model
        self.name: str = model.__tablename__
        self.create_schema = create
        self.update_schema = update or patch_of(create)
        self.response_schema = response
        self.access = access
        self.search = tuple(search)
        self.sort = tuple(sort)
        self.default_sort = default_sort
        self.channel = self._channel() if events else None
        names = {*create.model_fields, *self.update_schema.model_fields}
        names |= {*self.search, *self.sort, *(name.partition("__")[0] for name in filters)}
        self.attribute = {name: self._attribute(name) for name in names}
        check_bounds(model, (create, self.update_schema), self.attribute)
        self.query_schema = query_type(
            model.__name__, response=response, filters=filters, search=search, sort=sort
        )

    # What a subclass may override.

    def visible(self, actor: Actor) -> ColumnElement[bool] | None:
        """The rows that exist for this actor; None for all."""
        if issubclass(self.model, Owned):
            return cast(Any, self.model).owner_id == actor.user_id
        return None

    async def authorize(
        self, session: ReadSession, actor: Actor, action: Action, row: M | None
    ) -> None:
        """Refuse an action by raising `Forbidden` or `NotFound`; `row` is what it is about."""

    async def validate(
        self, session: WriteSession, actor: Actor, data: BaseModel, row: M | None
    ) -> None:
        """Refuse data by raising `Invalid` or `Conflict`; `row` is what it would change.

        `data` may be a PATCH, whose left-out fields are None: use `changes(data)`.
        """

    async def react(self, session: WriteSession, actor: Actor, action: Action, row: M) -> None:
        """Do what belongs to a change, in its transaction."""

    def told(self, row: M) -> UUID | None:
        """Whose stream is told of a change of this row; None for nobody's."""
        return cast(Any, row).owner_id

    # The service.

    async def list(self, session: ReadSession, actor: Actor, query: ListQuery) -> Listing[M]:
        """One page of the rows that the query asks for."""
        await self.authorize(session, actor, "list", None)
        statement = self._select(actor).where(
            *filtered(self.model, query.filters(), self.attribute)
        )
        text: str | None = getattr(query, "search", None)
        if text is not None:
            columns = [getattr(self.model, self.attribute[name]) for name in self.search]
            dialect = session.get_bind().dialect.name
            pattern = literal(search_pattern(text))
            statement = statement.where(matching(columns, pattern, dialect))
        ordering = self.ordering(getattr(query, "sort", None))
        return await page(session, statement, ordering=ordering, window=query.window())

    async def get(self, session: ReadSession, actor: Actor, id: UUID) -> M:
        """The row; `NotFound` if it does not exist or is not the actor's."""
        row = await self._find(session, self._select(actor).where(self.model.id == id))
        await self.authorize(session, actor, "get", row)
        return row

    async def create(self, session: WriteSession, actor: Actor, data: BaseModel) -> M:
        """A new row, which belongs to the actor if its model has an owner."""
        await self.authorize(session, actor, "create", None)
        await self.validate(session, actor, data, None)
        row = self.model(**self._values(data, set(type(data).model_fields)))
        if issubclass(self.model, Owned):
            cast(Any, row).owner_id = actor.user_id
        session.add(row)
        await session.flush()
        await self._changed(session, actor, "create", row)
        return row

    async def replace(
        self,
        session: WriteSession,
        actor: Actor,
        id: UUID,
        data: BaseModel,
        if_match: IfMatch = ANY_REVISION,
    ) -> M:
        """Set every field; what the client left out gets its default."""
        values = self._values(data, set(type(data).model_fields))
        return await self._change(session, actor, "replace", id, data, values, if_match)

    async def update(
        self,
        session: WriteSession,
        actor: Actor,
        id: UUID,
        data: BaseModel,
        if_match: IfMatch = ANY_REVISION,
    ) -> M:
        """Set the fields that the client named."""
        values = self._values(data, data.model_fields_set)
        return await self._change(session, actor, "update", id, data, values, if_match)

    async def delete(
        self, session: WriteSession, actor: Actor, id: UUID, if_match: IfMatch = ANY_REVISION
    ) -> None:
        """Delete the row, softly if its model says so."""
        row = await self._locked(session, self._select(actor), id)
        await self.authorize(session, actor, "delete", row)
        if_match.check(row.revision)
        if isinstance(row, SoftDeleted):
            row.deleted_at = utcnow()
        else:
            await session.delete(row)
        await session.flush()
        await self._changed(session, actor, "delete", row)

    async def restore(self, session: WriteSession, actor: Actor, id: UUID) -> M:
        """Bring a softly deleted row back; one that is not deleted stays as it is."""
        row = await self._locked(session, self._select(actor, deleted=True), id)
        await self.authorize(session, actor, "restore", row)
        if cast(Any, row).deleted_at is not None:
            cast(Any, row).deleted_at = None
            await session.flush()
            await self._changed(session, actor, "restore", row)
        return row

    async def _change(
        self,
        session: WriteSession,
        actor: Actor,
        action: Action,
        id: UUID,
        data: BaseModel,
        values: Mapping[str, Any],
        if_match: IfMatch,
    ) -> M:
        row = await self._locked(session, self._select(actor), id)
        await self.authorize(session, actor, action, row)
        if_match.check(row.revision)
        await self.validate(session, actor, data, row)
        for name, value in values.items():
            setattr(row, name, value)
        await session.flush()
        await self._changed(session, actor, action, row)
        return row

    async def _changed(self, session: WriteSession, actor: Actor, action: Action, row: M) -> None:
        await self.react(session, actor, action, row)
        self.emit(session, actor, action, row)

    def emit(self, session: WriteSession, actor: Actor, action: Action, row: Any) -> None:
        """Tell of a change as the API answers the row, if the resource has events."""
        if self.channel is None:
            return
        user_id = self.told(row)
        if user_id is None:
            return
        if action == "delete":
            data: Any = {"id": str(row.id), "revision": row.revision}
        else:
            data = self.response_schema.model_validate(row)
        session.emit(f"{self.channel.kind}/{user_id}", EVENTS[action], data, by=actor)

    def _channel(self) -> Channel:
        if "told" not in overridden(type(self)) and not issubclass(self.model, Owned):
            raise ConfigurationError(
                f"{self.model.__name__} has no owner whose stream could tell of its changes: "
                f"derive it from Owned, or override told(row) in the resource."
            )
        return Channel(kind=self.name, personal=True)

    def _select(self, actor: Actor, *, deleted: bool = False) -> Select[M]:
        statement = select(self.model)
        visible = self.visible(actor)
        if visible is not None:
            statement = statement.where(visible)
        if issubclass(self.model, SoftDeleted) and not deleted:
            statement = statement.where(self.model.deleted_at.is_(None))
        return cast(Any, statement)

    async def _locked(self, session: WriteSession, statement: Select[M], id: UUID) -> M:
        # The lock makes changes of one row follow each other instead of failing.
        return await self._find(session, statement.where(self.model.id == id).with_for_update())

    async def _find(self, session: ReadSession, statement: Select[M]) -> M:
        row = await session.scalar(statement)
        if row is None:
            raise NotFound(f"There is no such {self.model.__name__.lower()}.")
        return row

    def _values(self, data: BaseModel, names: set[str]) -> dict[str, Any]:
        return {self.attribute[name]: getattr(data, name) for name in names}

    def ordering(self, sort: str | None) -> Ordering:
        """What `sort=` asks for, ended by the id so that it is total."""
        order: dict[str, Order] = {}
        for part in (sort or self.default_sort).split(","):
            name = part.removeprefix("-")
            attribute = self.attribute.get(name, name)
            column = getattr(self.model, attribute)
            order.setdefault(name, Order(name, column, part.startswith("-")))
        last = list(order.values())[-1]
        order.setdefault("id", Order("id", cast(Any, self.model).id, last.descending))
        return Ordering(list(order.values()), self.name)

    def _attribute(self, name: str) -> str:
        """The model's attribute of a field: its name, or `metadata_`, as SQLAlchemy holds that."""
        mapped = self.model.__mapper__.attrs
        for attribute in (name, f"{name}_"):
            if attribute in mapped:
                return attribute
        raise ConfigurationError(
            f"{self.model.__name__} has no attribute {name!r}, which its resource declares: add "
            f"the column, or take it out of the schema, filters, search or sort."
        )


def overridden(kind: type[Any]) -> set[str]:
    """The names of `Resource` that a subclass has its own way with."""
    above = kind.__mro__[: kind.__mro__.index(Resource)]
    return {name for each in above for name in vars(each) if hasattr(Resource, name)}
