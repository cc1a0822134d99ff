"""What a resource can be made to do, and what it refuses at the start."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel, Field
from sqlalchemy import Integer, String, select
from sqlalchemy.orm import Mapped, mapped_column

from ferrule import (
    Actor,
    ConfigurationError,
    Ferrule,
    Forbidden,
    Invalid,
    Module,
    Resource,
    Schema,
    SignedIn,
    Stored,
    create_app,
    resource_router,
)
from ferrule.db import Base, Database, Owned, Read, ReadSession, SoftDeleted, Write, WriteSession
from ferrule.modules import auth
from ferrule.resources import Action
from ferrule.testing import Actors, TestDatabases


class Task(Base, Owned, SoftDeleted):
    __tablename__ = "test_tasks"

    title: Mapped[str] = mapped_column(String(20))
    points: Mapped[int] = mapped_column(Integer, default=0)
    due: Mapped[datetime | None]
    closed: Mapped[bool] = mapped_column(default=False)


class TaskCreate(Schema):
    title: str = Field(min_length=1, max_length=20)
    points: int = Field(default=0, le=100, ge=-100)
    due: datetime | None = None
    closed: bool = False


class TaskResponse(TaskCreate, Stored):
    pass


class Tasks(Resource[Task]):
    """A resource that uses each hook."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            Task,
            create=TaskCreate,
            response=TaskResponse,
            filters=("closed", "due__lt", "points__ne"),
            search=("title",),
            sort=("due", "title"),
            default_sort="title",
            **options,
        )
        self.seen: list[tuple[Action, str]] = []

    async def authorize(
        self, session: ReadSession, actor: Actor, action: Action, row: Task | None
    ) -> None:
        if action == "delete" and row is not None and row.closed:
            raise Forbidden("A closed task stays.")

    async def validate(
        self, session: WriteSession, actor: Actor, data: BaseModel, row: Task | None
    ) -> None:
        if "title" in data.model_fields_set and data.title == "bad":  # type: ignore[attr-defined]
            raise Invalid.field("body", "title", code="bad_title", detail="Another, please.")

    async def react(self, session: WriteSession, actor: Actor, action: Action, row: Task) -> None:
        self.seen.append((action, row.title))
        if action == "create" and row.title == "echo":
            session.add(Task(title="echoed", owner_id=row.owner_id))


tasks = Tasks()
router = resource_router(tasks, without={"replace"})


@router.put("/{id}")
async def close(id: str, session: Write, actor: SignedIn) -> dict[str, str]:
    return {"by": "hand"}


@pytest_asyncio.fixture
async def app(
    database_kind: str, databases: TestDatabases, tmp_path: Any
) -> AsyncIterator[Ferrule]:
    """The application of this file; its table has no migrations, so it is created."""
    application = create_app(modules=[auth.module])
    application.configure(await databases.empty(application, database_kind, tmp_path))
    application.include_router(router, prefix="/api/v1")
    async with application.router.lifespan_context(application):
        engine = application.kit[Database].engines.write
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, tables=[Task.__table__])
        yield application
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all, tables=[Task.__table__])


async def test_hooks_authorize_validate_and_react(actors: Actors) -> None:
    ann = await actors("ann")
    tasks.seen.clear()
    made = await ann.post(
        "/api/v1/test_tasks", json={"title": "echo", "due": "2026-01-01T00:00:00+05:00"}
    )
    assert made.json()["due"] == "2025-12-31T19:00:00Z"
    address = made.headers["Location"]
    refused = await ann.patch(address, json={"title": "bad"})
    assert refused.json()["errors"][0]["code"] == "bad_title"
    await ann.patch(address, json={"closed": True})
    assert (await ann.delete(address)).status_code == 403
    listed = (await ann.get("/api/v1/test_tasks")).json()
    assert [task["title"] for task in listed["items"]] == ["echo", "echoed"]
    assert tasks.seen == [("create", "echo"), ("update", "echo")]
    assert (await ann.put(address, json={"title": "x"})).json() == {"by": "hand"}


async def test_filters_take_the_types_of_their_fields(actors: Actors) -> None:
    ann = await actors("ann")
    for title, due in (("a", None), ("b", "2026-01-01T00:00:00Z"), ("c", "2027-01-01T00:00:00Z")):
        await ann.post(
            "/api/v1/test_tasks", json={"title": title, "due": due, "closed": title == "a"}
        )

    async def titles(**params: Any) -> list[str]:
        answer = await ann.get("/api/v1/test_tasks", params=params)
        return [task["title"] for task in answer.json()["items"]]

    assert await titles(closed="true") == ["a"]
    assert await titles(due__lt="2026-06-01T00:00:00Z") == ["b"]
    assert await titles(points__ne=5) == ["a", "b", "c"]
    assert await titles(sort="-due") == ["a", "c", "b"]
    assert (
        await ann.get("/api/v1/test_tasks", params={"due__lt": "2026-06-01T00:00:00"})
    ).status_code == 422


@pytest.mark.parametrize("due", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", 1e300])
async def test_i3_times_at_the_ends_of_the_calendar_are_refused(actors: Actors, due: Any) -> None:
    ann = await actors("ann")
    answer = await ann.post("/api/v1/test_tasks", json={"title": "a", "due": due})
    assert answer.status_code == 422


class _TooLong(Schema):
    title: str


class _TooWide(Schema):
    title: str = Field(max_length=20)
    points: int = 0


class _Unknown(Schema):
    title: str = Field(max_length=20)
    colour: str = ""


@pytest.mark.parametrize(
    ("create", "says"),
    [
        (_TooLong, "_TooLong.title allows more than the column Task.title holds: .*max_length=20"),
        (_TooWide, "points .*le=2147483647"),
        (_Unknown, "Task has no attribute 'colour'"),
    ],
)
def test_a_schema_that_lets_in_too_much_is_refused(create: type[Schema], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Resource(Task, create=create, response=TaskResponse)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"filters": ("colour",)}, "colour"),
        ({"filters": ("points__like",)}, "points__like"),
        ({"sort": ("colour",)}, "colour"),
        ({"search": ("colour",)}, "colour"),
    ],
)
def test_names_that_do_not_exist_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Resource(Task, create=TaskCreate, response=TaskResponse, **options)


def test_an_unknown_route_cannot_be_left_out() -> None:
    with pytest.raises(ConfigurationError, match="creat"):
        resource_router(tasks, without={"creat"})  # type: ignore[arg-type]


def test_a_route_that_stays_hidden_is_refused() -> None:
    hidden = resource_router(tasks)

    @hidden.post("")
    async def create(session: Read, actor: SignedIn) -> dict[str, str]:
        return {}

    with pytest.raises(ConfigurationError, match=r"POST .*declared twice .*without="):
        create_app(modules=[auth.module, Module(name="tasks", router=hidden)])


async def test_services_can_be_called_without_http(app: Ferrule, actors: Actors) -> None:
    ann = await actors("ann")
    actor = Actor(kind="user", id=__import__("uuid").UUID(ann.user["id"]))
    async with app.kit[Database].write() as session:
        row = await tasks.create(session, actor, TaskCreate(title="by service"))
    async with app.kit[Database].read() as session:
        assert (await tasks.get(session, actor, row.id)).title == "by service"
        assert await session.scalar(select(Task.title)) == "by service"
        async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
            assert (await client.get(f"/api/v1/test_tasks/{row.id}")).status_code == 401
