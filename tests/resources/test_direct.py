"""The shortest way answers what the ORM would, and is not taken where somebody else has a say."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from pydantic import Field, computed_field, model_validator
from sqlalchemy import Integer, String, Text, UniqueConstraint, event, func, update
from sqlalchemy.orm import (
    Mapped,
    Session,
    declared_attr,
    mapped_column,
    reconstructor,
    validates,
    with_loader_criteria,
)

from ferrule import (
    Actor,
    Ferrule,
    OwnedStored,
    Price,
    Resource,
    Schema,
    Stored,
    create_app,
    resource_router,
)
from ferrule.db import Base, Database, Owned, SoftDeleted, utcnow, uuid7
from ferrule.modules import auth
from ferrule.resources import direct as direct_room
from ferrule.resources.direct import Direct
from ferrule.testing import ActorClient, Actors, TestDatabases

DIRECT, BY_ORM = "/api/v1/direct/test_things", "/api/v1/orm/test_things"


class Thing(Base, Owned, SoftDeleted):
    __tablename__ = "test_things"
    __table_args__ = (UniqueConstraint("code"),)

    name: Mapped[str] = mapped_column(String(50))
    note: Mapped[str | None] = mapped_column(Text)
    code: Mapped[str | None] = mapped_column(String(10))
    closed: Mapped[bool] = mapped_column(default=False)
    sure: Mapped[bool | None]
    points: Mapped[int] = mapped_column(Integer, default=0)
    weight: Mapped[float | None]
    price: Mapped[Decimal | None]
    due: Mapped[datetime | None]
    day: Mapped[date | None]
    key: Mapped[UUID | None]
    tags: Mapped[list[str]] = mapped_column(default=list)
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)


class ThingCreate(Schema):
    name: str = Field(min_length=1, max_length=50)
    note: str | None = None
    code: str | None = Field(default=None, max_length=10)
    closed: bool = False
    sure: bool | None = None
    points: int = Field(default=0, ge=-(10**9), le=10**9)
    weight: float | None = None
    price: Price | None = None
    due: datetime | None = None
    day: date | None = None
    key: UUID | None = None
    tags: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)


class ThingResponse(OwnedStored, ThingCreate):
    metadata: dict[str, Any] = Field(validation_alias="metadata_")


SORTED = ("name", "note", "closed", "sure", "points", "weight", "price", "due", "day", "key")
OPTIONS: dict[str, Any] = {
    "create": ThingCreate,
    "response": ThingResponse,
    "filters": (
        "name", "name__ne", "name__gte", "note", "note__ne", "closed", "closed__ne", "sure",
        "points", "points__gte", "points__lt", "points__ne", "weight__gt", "price", "price__gte",
        "price__lte", "price__ne", "due", "due__gte", "due__lt", "day", "day__lte", "key",
        "key__ne", "created_at__lte", "revision",
    ),
    "search": ("name", "note"),
    "sort": (*SORTED, "created_at", "updated_at"),
}  # fmt: skip


class ByOrm(Resource[Thing]):
    """The same, but the hook keeps it off the shortest way."""

    async def authorize(self, *_: Any) -> None:
        pass


things = Resource(Thing, **OPTIONS)
ROUTERS = {"direct": resource_router(things), "orm": resource_router(ByOrm(Thing, **OPTIONS))}
KEYS = [UUID(int=number) for number in (1, 2**64, 2**127)]


def _rows(owner: UUID) -> Iterator[Thing]:
    """Rows of which many are equal, or null, in each column."""
    names = ("apple", "Banana", "Éclair", "50% off_", "zebra", "ß/\\'")
    for number in range(24):
        half, third, fifth = number % 2 == 0, number % 3 == 0, number % 5 == 0
        yield Thing(
            owner_id=owner,
            name=names[number % 6],
            note=None if half else f"ÄPFEL {number % 4}",
            closed=third,
            sure=None if third else half,
            points=number % 4 - 2,
            weight=None if fifth else 0.1 * (number % 3),
            price=None if half else Decimal(number % 5) / 2,
            due=None if fifth else datetime(2026, 1, 1 + number % 3, 12, 30, number, tzinfo=UTC),
            day=None if third else date(2026, 1, 1 + number % 4),
            key=None if half else KEYS[number % 3],
            tags=["x"] * (number % 3),
            metadata_={"a": [number, {"b": None}], "é": 1.5},
            deleted_at=utcnow() if number == 11 else None,
        )


@pytest_asyncio.fixture
async def app(
    database_kind: str, databases: TestDatabases, tmp_path: Any
) -> AsyncIterator[Ferrule]:
    application = create_app(modules=[auth.module])
    application.configure(await databases.empty(application, database_kind, tmp_path))
    for name, router in ROUTERS.items():
        application.include_router(router, prefix=f"/api/v1/{name}")
    async with application.router.lifespan_context(application):
        engine = application.kit[Database].engines.write
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, tables=[Thing.__table__])
        yield application
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all, tables=[Thing.__table__])


@pytest_asyncio.fixture
async def ann(app: Ferrule, actors: Actors) -> ActorClient:
    """Ann has 23 things, and one that is deleted; Bob has as many."""
    people = [await actors(name) for name in ("bob", "ann")]
    for person in people:
        person.headers["X-Request-ID"] = "the-same-id"
    async with app.kit[Database].write() as session:
        for person in people:
            session.add_all(_rows(UUID(person.user["id"])))
    return people[1]


async def _alike(client: ActorClient, params: dict[str, Any]) -> Any:
    """The answer to a list, which is the same to the byte in both ways."""
    one, other = [await client.get(path, params=params) for path in (DIRECT, BY_ORM)]
    assert (one.status_code, one.text) == (other.status_code, other.text), params
    return one.json()


FILTERS: list[dict[str, Any]] = [
    {"name": "apple"},
    {"name__ne": "apple"},
    {"name__gte": "b"},
    {"name": "nothing is called so"},
    {"note": "ÄPFEL 1"},
    {"note__ne": "ÄPFEL 1"},
    {"closed": "true"},
    {"closed": "false"},
    {"closed__ne": "true"},
    {"sure": "true"},
    {"sure": "false"},
    {"points": 0},
    {"points__gte": 0, "points__lt": 1},
    {"points__ne": -2},
    {"weight__gt": 0.1},
    {"price": "1.5"},
    {"price": "1.50"},
    {"price__gte": "0.5", "price__lte": "1"},
    {"price__ne": "2"},
    {"due": "2026-01-02T12:30:01Z"},
    {"due__gte": "2026-01-02T12:30:01.5+05:00", "due__lt": "2026-01-03T12:30:05Z"},
    {"day": "2026-01-02"},
    {"day__lte": "2026-01-02"},
    {"key": str(KEYS[1])},
    {"key__ne": str(KEYS[1])},
    {"created_at__lte": "2020-01-01T00:00:00Z"},
    {"revision": 1, "closed": "false", "name": "zebra"},
    {"search": "APP"},
    {"search": "äpf"},
    {"search": "%"},
    {"search": "_"},
    {"search": "/\\'"},
    {"search": "e", "closed": "true", "sort": "-price,name"},
]


async def test_filters_and_search_answer_alike(ann: ActorClient) -> None:
    found = set[int]()
    for params in FILTERS:
        body = await _alike(ann, {**params, "limit": 5})
        found.add(body["pagination"]["total"])
        await _alike(ann, {**params, "sort": "due,-name"})
    assert {0, 23} < found | {23}
    assert len(found) > 8


async def test_sorts_and_offsets_answer_alike(ann: ActorClient) -> None:
    for column, sign in product(SORTED, ("", "-")):
        await _alike(ann, {"sort": f"{sign}{column}"})
    for params in (
        {},
        {"sort": "points,-name,points"},
        {"limit": 1},
        {"limit": 23},
        {"limit": 22, "offset": 1},
        {"offset": 22},
        {"offset": 23},
        {"offset": 10**12},
        {"page": 3, "limit": 10},
        {"page": 10**12, "limit": 100},
        {"offset": 23, "name": "apple"},
        {"offset": 5, "name": "nothing is called so"},
    ):
        for count in ({}, {"count": "true"}, {"count": "false"}):
            await _alike(ann, {**params, **count})


@pytest.mark.parametrize(
    "columns",
    [("name", "note"), ("closed", "sure"), ("points", "weight", "price"), ("due", "day", "key")],
    ids=["text", "bool", "numbers", "others"],
)
async def test_cursors_walk_alike(ann: ActorClient, columns: tuple[str, ...]) -> None:
    sorts = [sort for name in columns for sort in (name, f"-{name}", f"points,-{name}")]
    for sort, limit in product(sorts, (4, 7)):
        params: dict[str, Any] = {"sort": sort, "limit": limit}
        walked: list[str] = []
        while True:
            body = await _alike(ann, params)
            walked += [row["id"] for row in body["items"]]
            params["cursor"] = body["pagination"]["next"]
            if params["cursor"] is None:
                break
            params["count"] = "true" if len(walked) % 2 else "false"
        whole = await _alike(ann, {"sort": sort})
        assert walked == [row["id"] for row in whole["items"]]
        assert len(walked) == 23


async def test_a_cursor_behind_the_last_row_is_counted_alike(
    app: Ferrule, ann: ActorClient
) -> None:
    first = await _alike(ann, {"limit": 3, "sort": "name"})
    kept = [row["id"] for row in first["items"]]
    async with app.kit[Database].write() as session:
        await session.execute(
            update(Thing).where(Thing.id.not_in(map(UUID, kept))).values(deleted_at=utcnow())
        )
    cursor = {"cursor": first["pagination"]["next"], "sort": "name"}
    assert (await _alike(ann, cursor))["items"] == []
    assert (await _alike(ann, {**cursor, "count": "true"}))["pagination"]["total"] == 3


async def test_what_is_refused_is_refused_alike(ann: ActorClient) -> None:
    cursor = (await _alike(ann, {"limit": 1, "sort": "name"}))["pagination"]["next"]
    for params in (
        {"cursor": cursor},
        {"cursor": cursor, "sort": "-name"},
        {"cursor": f"{cursor}x", "sort": "name"},
        {"cursor": cursor, "sort": "name", "offset": 1},
        {"sort": "metadata"},
        {"points": "x"},
        {"search": ""},
    ):
        assert "errors" in await _alike(ann, params)


async def test_one_row_is_answered_alike(ann: ActorClient, actors: Actors) -> None:
    listed = (await _alike(ann, {}))["items"]
    bob = await actors("bob")
    for id in (listed[0]["id"], listed[-1]["id"], str(uuid7()), "x"):
        for client, headers in (
            (ann, {}),
            (ann, {"If-None-Match": '"1"'}),
            (ann, {"If-None-Match": '"2"'}),
            (bob, {}),
        ):
            answers = [
                await client.get(f"{path}/{id}", headers=headers) for path in (DIRECT, BY_ORM)
            ]
            one, other = [
                (answer.status_code, answer.text, answer.headers.get("ETag")) for answer in answers
            ]
            assert one == other
    assert (await ann.get(f"{DIRECT}/{listed[0]['id']}")).json() == listed[0]
    assert (await bob.get(f"{DIRECT}/{listed[0]['id']}")).status_code == 404


NEW: list[dict[str, Any]] = [
    {"name": "a"},
    {
        "name": "é🦀",
        "note": "",
        "closed": True,
        "sure": False,
        "points": -5,
        "weight": 1e-7,
        "price": "1.2",
        "due": "2026-02-03T04:05:06.000700+05:30",
        "day": "2024-02-29",
        "key": str(KEYS[2]),
        "tags": ["b", "a"],
        "metadata": {"z": 1, "a": {"n": None, "list": [1.0, 2]}},
    },
    {"name": "a", "price": 0, "weight": 0, "due": "2026-02-03T04:05:06Z"},
    {"name": ""},
    {"name": "a", "owner_id": str(KEYS[0])},
    {"name": "a", "price": "1.234"},
]


async def test_new_rows_are_answered_alike(ann: ActorClient) -> None:
    own = {"id", "created_at", "updated_at"}
    for data in NEW:
        answers = [await ann.post(path, json=data) for path in (DIRECT, BY_ORM)]
        bodies = [answer.json() for answer in answers]
        assert answers[0].status_code == answers[1].status_code
        if answers[0].is_error:
            assert bodies[0] == bodies[1]
            continue
        told = [{name: body[name] for name in body if name not in own} for body in bodies]
        assert told[0] == told[1]
        assert list(bodies[0]) == list(bodies[1])
        assert [answer.headers["ETag"] for answer in answers] == ['"1"', '"1"']
        for body, answer in zip(bodies, answers, strict=True):
            assert body["created_at"] == body["updated_at"]
            assert answer.headers["Location"].endswith(f"/test_things/{body['id']}")
            for path in (DIRECT, BY_ORM):
                assert (await ann.get(f"{path}/{body['id']}")).json() == body


async def test_a_conflict_is_told_alike(ann: ActorClient) -> None:
    assert (await ann.post(DIRECT, json={"name": "a", "code": "one"})).status_code == 201
    answers = [await ann.post(path, json={"name": "a", "code": "one"}) for path in (DIRECT, BY_ORM)]
    assert [answer.status_code for answer in answers] == [409, 409]
    bodies = [answer.json() for answer in answers]
    for body in bodies:
        for name in ("request_id", "instance"):
            body.pop(name, None)
    assert bodies[0] == bodies[1]


# Where somebody else has a say. From here on without HTTP.

NOBODY = Actor(kind="cli")


class NameCreate(Schema):
    name: str = Field(max_length=50)


class NameResponse(Stored, NameCreate):
    pass


class Named(Base):
    __tablename__ = "test_named"

    name: Mapped[str] = mapped_column(String(50))

    @property
    def shout(self) -> str:
        return f"{self.name}!".upper()


NAMED: dict[str, Any] = {
    "create": NameCreate, "response": NameResponse, "filters": ("name",), "sort": ("name",),
}  # fmt: skip


@pytest_asyncio.fixture
async def tables(database: Database) -> AsyncIterator[Callable[..., Any]]:
    """Creates the tables of models."""
    made: list[Any] = []

    async def create(*models: Any) -> None:
        tables = list(dict.fromkeys(model.__table__ for model in models))
        made.extend(tables)
        async with database.engines.write.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, tables=tables)

    yield create
    async with database.engines.write.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all, tables=made)


async def _create(database: Database, direct: Direct[Any], name: str) -> Any:
    """As the route does it, and answers it."""
    resource = direct.resource
    async with database.write() as session:
        data = resource.create_schema(name=name)
        row = direct.create(session, NOBODY, data) or await resource.create(session, NOBODY, data)
        return resource.response_schema.model_validate(row).model_dump()


async def _get(database: Database, direct: Direct[Any], id: UUID) -> Any:
    async with database.read() as session:
        row = await direct.get(session, NOBODY, id)
        return direct.resource.response_schema.model_validate(row).model_dump()


async def _list(database: Database, direct: Direct[Any], **query: Any) -> list[Any]:
    async with database.read() as session:
        listing = await direct.page(session, NOBODY, direct.resource.query_schema(**query))
        return [
            direct.resource.response_schema.model_validate(row).model_dump() for row in listing.rows
        ]


async def test_what_nobody_touches_takes_the_shortest_way(
    database: Database, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tables(Named)
    direct = Direct(Resource(Named, **NAMED))
    taken: list[str] = []
    for name in ("fetch", "write"):

        async def noted(*arguments: Any, _way: Any = (name, database.engines.driver)) -> Any:
            taken.append(_way[0])
            return await getattr(type(_way[1]), _way[0])(_way[1], *arguments)

        monkeypatch.setattr(database.engines.driver, name, noted)
    made = await _create(database, direct, "a")
    assert await _get(database, direct, made["id"]) == made
    assert await _list(database, direct) == [made]
    assert taken == ["write", "fetch", "fetch"]


CALLED_BY = {
    "visible": {"get", "list"},
    "authorize": {"create", "get", "list"},
    "validate": {"create"},
    "react": {"create"},
    "create": {"create"},
    "get": {"get"},
    "list": {"list"},
    "ordering": {"list"},
    "_select": {"get", "list"},
    "_find": {"get"},
    "_values": {"create"},
}


@pytest.mark.parametrize("name", CALLED_BY)
async def test_each_method_that_is_overridden_is_called(
    database: Database, tables: Any, name: str
) -> None:
    await tables(Named)
    called: list[str] = []
    inherited = getattr(Resource, name)

    def override(self: Any, *arguments: Any, **named: Any) -> Any:
        called.append(name)
        return inherited(self, *arguments, **named)

    class Above(Resource[Named]):
        pass

    setattr(Above, name, override)

    class Below(Above):
        pass

    direct = Direct(Below(Named, **NAMED))
    for number in range(2):
        called.clear()
        seen = set[str]()
        made = await _create(database, direct, "a")
        seen |= {"create"} if called else set()
        called.clear()
        assert await _get(database, direct, made["id"]) == made
        seen |= {"get"} if called else set()
        called.clear()
        assert len(await _list(database, direct)) == number + 1
        seen |= {"list"} if called else set()
        if name == "ordering" and number:
            # What it gave for an order is kept.
            continue
        assert CALLED_BY[name] <= seen


class Validated(Base):
    __tablename__ = "test_validated"
    name: Mapped[str] = mapped_column(String(50))

    @validates("name")
    def _loud(self, _: str, name: str) -> str:
        return name.upper()


class Initialised(Base):
    __tablename__ = "test_initialised"
    name: Mapped[str] = mapped_column(String(50))

    def __init__(self, *, name: str, **values: Any) -> None:
        super().__init__(name=name.upper(), **values)


class Prepared(Base):
    __tablename__ = "test_prepared"
    name: Mapped[str] = mapped_column(String(50))


@event.listens_for(Prepared, "init")
def _prepare(target: Prepared, arguments: Any, values: dict[str, Any]) -> None:
    values["name"] = values["name"].upper()


class Inserted(Base):
    __tablename__ = "test_inserted"
    name: Mapped[str] = mapped_column(String(50))


@event.listens_for(Inserted, "before_insert")
def _before_insert(mapper: Any, connection: Any, target: Inserted) -> None:
    target.name = target.name.upper()


class Watched(Base):
    __tablename__ = "test_watched"
    name: Mapped[str] = mapped_column(String(50))


@event.listens_for(Watched.name, "set", retval=True)
def _set(target: Watched, value: str, *_: Any) -> str:
    return value.upper()


class ByServer(Base):
    __tablename__ = "test_by_server"
    name: Mapped[str] = mapped_column(String(50))
    mark: Mapped[str] = mapped_column(String(50), server_default="LOUD")


class ByExpression(Base):
    __tablename__ = "test_by_expression"
    name: Mapped[str] = mapped_column(String(50))
    mark: Mapped[str] = mapped_column(String(50), default=func.upper("loud"))


class Loaded(Base):
    __tablename__ = "test_loaded"
    name: Mapped[str] = mapped_column(String(50))


@event.listens_for(Loaded, "load")
def _load(target: Loaded, _: Any) -> None:
    target.__dict__["name"] = target.name.upper()


class Reconstructed(Base):
    __tablename__ = "test_reconstructed"
    name: Mapped[str] = mapped_column(String(50))

    @reconstructor
    def _loud(self) -> None:
        self.__dict__["name"] = self.name.upper()


class Animal(Base):
    """Its own rows, and those of its kinds."""

    __tablename__ = "test_animals"
    name: Mapped[str] = mapped_column(String(50))
    kind: Mapped[str] = mapped_column(String(50))

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        named = {"polymorphic_identity": cls.__name__.upper()}
        own = {"version_id_col": cls.revision, "polymorphic_on": "kind"}
        return named if cls.__name__ != "Animal" else named | own


class Dog(Animal):
    pass


class MarkResponse(NameResponse):
    mark: str


class KindResponse(NameResponse):
    kind: str


class ShoutResponse(NameResponse):
    shout: str


class ComputedResponse(NameResponse):
    @computed_field
    @property
    def loud(self) -> str:
        return self.name.upper()


class FlattenedResponse(NameResponse):
    loud: str

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, row: Any) -> Any:
        values = {name: getattr(row, name) for name in NameResponse.model_fields}
        return {**values, "loud": row.shout}


class CheckedResponse(NameResponse):
    """Its validator asks for more of the row than its fields say."""

    @model_validator(mode="before")
    @classmethod
    def _loud(cls, row: Any) -> Any:
        values = {name: getattr(row, name) for name in NameResponse.model_fields}
        return {**values, "name": row.shout}


VARIANTS = [
    pytest.param(Validated, NameResponse, id="validates"),
    pytest.param(Initialised, NameResponse, id="own init"),
    pytest.param(Prepared, NameResponse, id="init listener"),
    pytest.param(Inserted, NameResponse, id="before_insert"),
    pytest.param(Watched, NameResponse, id="attribute listener"),
    pytest.param(ByServer, MarkResponse, id="server default"),
    pytest.param(ByExpression, MarkResponse, id="default of SQL"),
    pytest.param(Loaded, NameResponse, id="load listener"),
    pytest.param(Reconstructed, NameResponse, id="reconstructor"),
    pytest.param(Animal, KindResponse, id="base of others"),
    pytest.param(Dog, KindResponse, id="inherits"),
    pytest.param(Named, ShoutResponse, id="property"),
    pytest.param(Named, ComputedResponse, id="computed field"),
    pytest.param(Named, FlattenedResponse, id="field that the model lacks"),
    pytest.param(Named, CheckedResponse, id="response validator"),
]


def _both(model: Any, response: Any) -> tuple[Direct[Any], Direct[Any]]:
    """The resource as it is served, and kept off the shortest way."""

    class Kept(Resource[Any]):
        async def authorize(self, *_: Any) -> None:
            pass

    options = {**NAMED, "response": response}
    return Direct(Resource(model, **options)), Direct(Kept(model, **options))


@pytest.mark.parametrize(("model", "response"), VARIANTS)
async def test_models_and_responses_with_ways_of_their_own_keep_them(
    database: Database, tables: Any, model: Any, response: Any
) -> None:
    await tables(model)
    direct, by_orm = _both(model, response)
    own = {"id", "created_at", "updated_at"}
    made = [await _create(database, each, "loud") for each in (direct, by_orm)]
    told = [{name: row[name] for name in row if name not in own} for row in made]
    assert told[0] == told[1]
    for row in made:
        answers = [await _get(database, each, row["id"]) for each in (direct, by_orm)]
        assert answers[0] == answers[1]
        # All variants make something loud.
        assert any(isinstance(v, str) and v.isupper() for v in answers[0].values())
    assert await _list(database, direct) == await _list(database, by_orm)


async def test_rows_of_other_kinds_are_answered_alike(database: Database, tables: Any) -> None:
    await tables(Animal)
    async with database.write() as session:
        session.add_all([Animal(name="a"), Dog(name="b"), Dog(name="c")])
    for model, names in ((Animal, ["a", "b", "c"]), (Dog, ["b", "c"])):
        for direct in _both(model, KindResponse):
            rows = await _list(database, direct, sort="name")
            assert [row["name"] for row in rows] == names


@contextmanager
def _listening(target: Any, name: str, listener: Any) -> Iterator[None]:
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


async def test_listeners_of_all_sessions_see_new_rows(database: Database, tables: Any) -> None:
    seen: list[str] = []

    def before_flush(session: Session, *_: Any) -> None:
        seen.extend(row.name for row in session.new if isinstance(row, Named))

    await tables(Named)
    direct, by_orm = _both(Named, NameResponse)
    with _listening(Session, "before_flush", before_flush):
        await _create(database, by_orm, "by orm")
        await _create(database, direct, "direct")
    assert seen == ["by orm", "direct"]


async def test_criteria_that_are_added_to_all_selects_hide_rows(
    database: Database, tables: Any
) -> None:
    """As SQLAlchemy's documentation has it for rows of other tenants."""

    def criteria(state: Any) -> None:
        if state.is_select:
            own = with_loader_criteria(Named, lambda model: model.name != "theirs")
            state.statement = state.statement.options(own)

    await tables(Named)
    direct, by_orm = _both(Named, NameResponse)
    for name in ("ours", "theirs"):
        await _create(database, by_orm, name)
    with _listening(Session, "do_orm_execute", criteria):
        for each in (by_orm, direct):
            assert [row["name"] for row in await _list(database, each)] == ["ours"]


async def test_the_number_of_shapes_is_bounded(
    database: Database, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_room, "MAX_SHAPES", 4)
    await tables(Named)
    direct = Direct(Resource(Named, **NAMED))
    for name in ("b", "a"):
        await _create(database, direct, name)
    for repeated in range(1, 12):
        sort = ",".join(["name"] * repeated)
        assert [row["name"] for row in await _list(database, direct, sort=sort)] == ["a", "b"]
        assert [row["name"] for row in await _list(database, direct, name="a")] == ["a"]
        assert len(direct._shapes) <= 4
