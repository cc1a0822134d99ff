"""The floor: Starlette and the driver, without users and checks; acknowledges after the COMMIT.

It asks the database what the others ask it; whose rows it lists, the request says by itself.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.contenders.ids import new_id

COLUMNS = (
    "id, name, description, status, price, quantity, metadata, owner_id, revision, created_at, "
    "updated_at"
)
ONE = f"SELECT {COLUMNS} FROM items WHERE id = $1"
LIST = f"SELECT {COLUMNS} FROM items WHERE owner_id = $1 ORDER BY id DESC LIMIT 50"
COUNT = "SELECT count(*) FROM items WHERE owner_id = $1"
INSERT = (
    f"INSERT INTO items ({COLUMNS}) VALUES ($1, $2, NULL, '', NULL, 1, '{{}}', $3, 1, "
    f"CURRENT_TIMESTAMP, CURRENT_TIMESTAMP) RETURNING {COLUMNS}"
)


class Driver(Protocol):
    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]: ...
    async def write(self, statement: str, *values: Any) -> Sequence[Any]: ...


class PostgreSQL:
    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        return await self.pool.fetch(statement, *values)

    write = fetch


class SQLite:
    """One thread that reads and one that writes, each with its connection."""

    def __init__(self, file: str) -> None:
        self.reader, self.writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.file = file
        self.reading = self.reader.submit(self._connect).result()
        self.writing = self.writer.submit(self._connect).result()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    async def fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        return await asyncio.get_running_loop().run_in_executor(
            self.reader, lambda: self.reading.execute(_numbered(statement), values).fetchall()
        )

    async def write(self, statement: str, *values: Any) -> Sequence[Any]:
        def run() -> Sequence[Any]:
            self.writing.execute("BEGIN IMMEDIATE")
            rows = self.writing.execute(_numbered(statement), values).fetchall()
            self.writing.execute("COMMIT")
            return rows

        return await asyncio.get_running_loop().run_in_executor(self.writer, run)


def _numbered(statement: str) -> str:
    return statement.replace("$", "?")


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value, default=str), status, media_type="application/json")


async def get(request: Request) -> Response:
    rows = await request.state.driver.fetch(ONE, _id(request.path_params["id"]))
    return _json(dict(rows[0]))


async def listing(request: Request) -> Response:
    owner = _owner(request)
    rows = await request.state.driver.fetch(LIST, owner)
    total = await request.state.driver.fetch(COUNT, owner)
    return _json({"items": [dict(row) for row in rows], "total": total[0][0]})


async def create(request: Request) -> Response:
    name = orjson.loads(await request.body())["name"]
    rows = await request.state.driver.write(INSERT, _id(str(new_id())), name, _owner(request))
    return _json(dict(rows[0]), 201)


def _owner(request: Request) -> str:
    return _id(request.headers["x-owner"])


def _id(text: str) -> str:
    return text if URL.startswith("postgresql") else text.replace("-", "")


URL = os.environ.get("FERRULE_DATABASE_URL", "")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, Driver]]:
    if URL.startswith("postgresql"):
        async with asyncpg.create_pool(URL, min_size=10, max_size=10) as pool:
            yield {"driver": PostgreSQL(pool)}
    else:
        yield {"driver": SQLite(URL.removeprefix("sqlite:///"))}


app = Starlette(
    routes=[
        Route("/api/v1/items", listing, methods=["GET"]),
        Route("/api/v1/items", create, methods=["POST"]),
        Route("/api/v1/items/{id}", get),
    ],
    lifespan=lifespan,
)
