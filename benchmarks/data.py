"""What the contenders serve: 100 users, two logins each, 10,000 items."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import insert, make_url

from ferrule import create_app
from ferrule.db import Database, utcnow, uuid7
from ferrule.modules.auth import Login, User
from ferrule.modules.items import Item
from ferrule.security.secrets import Secrets
from ferrule.security.tokens import Tokens
from ferrule.settings import Settings

KEY = "a key that only the benchmarks sign with: 0123456789"
NAME = "ferrule_benchmark"
"""Of the database; PostgreSQL's backends have it in their command lines."""
NEW = "A new item"
"""What the name of every item that a benchmark makes begins with."""
USERS, LOGINS, ITEMS = 100, 2, 10_000


@dataclass(frozen=True)
class Client:
    """A login of a user, and one of the user's items."""

    token: str
    user: UUID
    item: UUID


@dataclass(frozen=True)
class Data:
    """The clients of a database, and tokens that must be refused, by what is wrong with them."""

    url: str
    clients: list[Client]
    refused: dict[str, str]

    @staticmethod
    def token_key() -> bytes:
        """The key that access tokens are signed with, for contenders that verify by themselves."""
        return Secrets([KEY]).signing_key("token:access")

    def tidy(self) -> int:
        """Delete what was made since `fill`, so that all find the same rows; how many it was."""
        deletion = f"DELETE FROM items WHERE name LIKE '{NEW}%'"
        if self.url.startswith("sqlite"):
            connection = sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)
            deleted = connection.execute(deletion).rowcount
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            return deleted
        statements = (deletion, "VACUUM ANALYZE", "CHECKPOINT")
        return int(asyncio.run(_administer(self.url, *statements)).split()[-1])


async def _administer(url: str, *statements: str) -> str:
    """Run these statements; what PostgreSQL says of the first."""
    connection = await asyncpg.connect(url)
    try:
        said = [await connection.execute(statement) for statement in statements]
        return said[0]
    finally:
        await connection.close()


@contextmanager
def database(kind: str, url: str) -> Iterator[str]:
    """A database of our own, dropped at the end."""
    if kind == "sqlite":
        yield url
        return
    drop = f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)"
    asyncio.run(_administer(url, drop, f"CREATE DATABASE {NAME}"))
    try:
        yield make_url(url).set(database=NAME).render_as_string(hide_password=False)
    finally:
        asyncio.run(_administer(url, drop))


def fill(url: str) -> Data:
    """Make the tables and the rows."""
    data = asyncio.run(_fill(url))
    data.tidy()
    return data


async def _fill(url: str) -> Data:
    settings = Settings(database_url=url, secret_key=[KEY], database={"migrate_on_start": True})  # type: ignore[arg-type]
    app = create_app(create_app().settings.model_copy(update=_same(settings)))
    users = [
        {
            "id": uuid7(),
            "email": f"user{number}@example.com",
            "verified": True,
            "disabled": number == USERS,
            "revision": 1,
        }
        for number in range(USERS + 1)
    ]
    logins = [_login(user["id"]) for user in users[:USERS] for _ in range(LOGINS)]
    revoked = {**_login(users[0]["id"]), "revoked_at": utcnow()}
    locked_out = _login(users[USERS]["id"])
    items = [
        {
            "id": uuid7(),
            "name": f"Item {number}",
            "description": "An item like any other",
            "status": "open",
            "quantity": number,
            "metadata_": {"tags": ["a", "b"]},
            "owner_id": users[number % USERS]["id"],
            "revision": 1,
        }
        for number in range(ITEMS)
    ]
    async with app.opened() as kit:
        tokens = kit[Tokens]
        async with kit[Database].write() as session:
            everyone = [*logins, revoked, locked_out]
            for model, rows in ((User, users), (Login, everyone), (Item, items)):
                await session.execute(insert(model), rows)
    clients = []
    for number, login in enumerate(logins):
        user, turn = divmod(number, LOGINS)
        item = items[user + turn * USERS]["id"]
        clients.append(Client(_token(tokens, login), login["user_id"], item))
    refused = {
        "expired": _token(tokens, logins[0], ttl=-60),
        "forged": _token(Tokens([KEY[::-1]]), logins[0]),
        "revoked": _token(tokens, revoked),
        "disabled": _token(tokens, locked_out),
    }
    return Data(url, clients, refused)


def _login(user: Any) -> dict[str, Any]:
    now = utcnow()
    return {
        "id": uuid7(),
        "user_id": user,
        "refresh_hash": "",
        "rotated_at": now,
        "expires_at": now + timedelta(days=1),
        "revoked_at": None,
        "revision": 1,
    }


def _token(tokens: Tokens, login: dict[str, Any], ttl: float = 86_400) -> str:
    claims = {"sid": str(login["id"])}
    return tokens.issue("access", subject=str(login["user_id"]), ttl=ttl, claims=claims)


def _same(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in ("database_url", "secret_key", "database")}
