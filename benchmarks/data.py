"""What the contenders serve: 100 users, two logins each, 10,000 items."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

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
USERS, LOGINS, ITEMS = 100, 2, 10_000


@dataclass(frozen=True)
class Data:
    """Pairs of an access token and the id of an item that its user owns."""

    pairs: list[tuple[str, str]]

    @staticmethod
    def token_key() -> bytes:
        """The key that access tokens are signed with, for contenders that verify by themselves."""
        return Secrets([KEY]).signing_key("token:access")

    @staticmethod
    @contextmanager
    def database(kind: str, url: str) -> Iterator[str]:
        """A database of our own, dropped at the end."""
        if kind == "sqlite":
            yield url
            return
        name = "ferrule_benchmark"

        async def administer(*statements: str) -> None:
            connection = await asyncpg.connect(url)
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
        asyncio.run(administer(drop, f"CREATE DATABASE {name}"))
        try:
            yield make_url(url).set(database=name).render_as_string(hide_password=False)
        finally:
            asyncio.run(administer(drop))


async def fill(url: str) -> Data:
    """Make the tables and the rows."""
    settings = Settings(database_url=url, secret_key=[KEY], database={"migrate_on_start": True})  # type: ignore[arg-type]
    app = create_app(create_app().settings.model_copy(update=_same(settings)))
    users = [
        {"id": uuid7(), "email": f"user{number}@example.com", "revision": 1}
        for number in range(USERS)
    ]
    now = utcnow()
    logins = [
        {
            "id": uuid7(),
            "user_id": user["id"],
            "refresh_hash": "",
            "rotated_at": now,
            "expires_at": now + timedelta(days=1),
            "revision": 1,
        }
        for user in users
        for _ in range(LOGINS)
    ]
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
        async with kit[Database].write() as session:
            for model, rows in ((User, users), (Login, logins), (Item, items)):
                await session.execute(insert(model), rows)
        tokens = kit[Tokens]
        pairs = [
            (
                tokens.issue(
                    "access",
                    subject=str(login["user_id"]),
                    ttl=86_400,
                    claims={"sid": str(login["id"])},
                ),
                str(items[number % USERS + USERS * (number // USERS)]["id"]),
            )
            for number, login in ((index // LOGINS, login) for index, login in enumerate(logins))
        ]
    return Data(pairs)


def _same(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in ("database_url", "secret_key", "database")}
