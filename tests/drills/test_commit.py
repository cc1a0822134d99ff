"""A commit that fails is never answered 2xx, and leaves nothing behind."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import event, text

from ferrule.app import Ferrule
from ferrule.db import Database, sqlite
from ferrule.testing import Actors

ITEMS = "/api/v1/items"
REQUESTS = {
    "POST": ("POST", "", {"name": "new"}),
    "PUT": ("PUT", "/{kept}", {"name": "replaced"}),
    "PATCH": ("PATCH", "/{kept}", {"name": "changed"}),
    "DELETE": ("DELETE", "/{kept}", None),
    "restore": ("POST", "/{deleted}/restore", None),
}
# SQLite refuses a commit by a foreign key that is only checked then, or by an authorizer that
# denies it; PostgreSQL by a deferred trigger that raises what it is told.
FAILURES = [
    pytest.param("sqlite", "foreign key", 409),
    pytest.param("sqlite", "denied", 500),
    pytest.param("postgresql", "23503", 409),  # foreign_key_violation
    pytest.param("postgresql", "40001", 503),  # serialization_failure
    pytest.param("postgresql", "53100", 507),  # disk_full
    pytest.param("postgresql", "P0001", 500),  # raise_exception
]


@pytest.mark.parametrize(
    ("database_kind", "failure", "status"), FAILURES, indirect=["database_kind"]
)
async def test_a_failed_commit_is_told_and_leaves_nothing(
    app: Ferrule, actors: Actors, failure: str, status: int
) -> None:
    ann = await actors("ann")
    rows = {
        name: (await ann.post(ITEMS, json={"name": name})).json() for name in ("kept", "deleted")
    }
    ids = {name: row["id"] for name, row in rows.items()}
    assert (await ann.delete(f"{ITEMS}/{ids['deleted']}")).status_code == 204
    before = await _rows(app)
    async with _failing(app, failure):
        for name, (method, path, data) in REQUESTS.items():
            answer = await ann.request(method, ITEMS + path.format(**ids), json=data)
            assert answer.status_code == status, (name, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == status
            assert ("retry-after" in answer.headers) == (status in (503, 507))
            assert await _rows(app) == before, name
    # The connection that failed serves the next ones.
    for name, (method, path, data) in REQUESTS.items():
        answer = await ann.request(method, ITEMS + path.format(**ids), json=data)
        assert answer.is_success, (name, answer.text)


async def _rows(app: Ferrule) -> list[Any]:
    async with app.kit[Database].read() as session:
        rows = await session.execute(text("SELECT * FROM items ORDER BY id"))
        return [tuple(row) for row in rows]


@asynccontextmanager
async def _failing(app: Ferrule, failure: str) -> AsyncIterator[None]:
    """Let each commit fail that changed an item."""
    database = app.kit[Database]
    if failure == "denied":
        async with _denied(database):
            yield
        return
    made, removed = _foreign_key() if database.embedded else _trigger(failure)
    for statement in made:
        await _run(database, statement)
    try:
        yield
    finally:
        for statement in removed:
            await _run(database, statement)


async def _run(database: Database, statement: str) -> None:
    async with database.write() as session:
        await session.execute(text(statement))


def _foreign_key() -> tuple[list[str], list[str]]:
    made = [
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE children (id INTEGER PRIMARY KEY, "
        "parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)",
        *(
            f"CREATE TRIGGER fail_{change} AFTER {change} ON items BEGIN "
            f"INSERT INTO children (parent) VALUES (1); END"
            for change in ("INSERT", "UPDATE")
        ),
    ]
    removed = [
        "DROP TRIGGER fail_INSERT",
        "DROP TRIGGER fail_UPDATE",
        "DROP TABLE children",
        "DROP TABLE parents",
    ]
    return made, removed


def _trigger(code: str) -> tuple[list[str], list[str]]:
    made = [
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION 'told to fail' USING ERRCODE = '{code}'; END $$",
        "CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE ON items "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()",
    ]
    return made, ["DROP FUNCTION fail() CASCADE"]


@asynccontextmanager
async def _denied(database: Database) -> AsyncIterator[None]:
    def deny(action: int, argument: str | None, *_: Any) -> int:
        commit = action == sqlite3.SQLITE_TRANSACTION and argument == "COMMIT"
        return sqlite3.SQLITE_DENY if commit else sqlite3.SQLITE_OK

    def connected(connection: Any, *_: Any) -> None:
        driver = connection.driver_connection
        connection.await_(driver.set_authorizer(deny))

    connecting = sqlite.connect

    def connect(*arguments: Any) -> sqlite3.Connection:
        connection = connecting(*arguments)
        connection.set_authorizer(deny)
        return connection

    # Both connections that write: that of the ORM, and that of prebuilt statements.
    engine = database.engines.write.sync_engine
    await database.engines.dispose()
    event.listen(engine, "connect", connected)
    try:
        with patch.object(sqlite, "connect", connect):
            yield
    finally:
        event.remove(engine, "connect", connected)
        await database.engines.dispose()
