"""Compare asyncpg and psycopg 3, raw and through SQLAlchemy, in one process.

    python -m benchmarks.drivers --url postgresql://user@host/database

Works in a schema of its own, which it drops when done, and needs 70 free connections. Rounds
of the two drivers alternate; the table gives medians. CPU is the time of this process, not of
the server. "raw" is the driver alone; "core" a prebuilt statement on a held AUTOCOMMIT
connection; "orm" a new AsyncSession for each operation, in a transaction.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import uvloop
from sqlalchemy import DateTime, Numeric, bindparam, delete, insert, make_url, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateSchema

SCHEMA, ROWS, PAGE = "driver_bench", 10_000, 50
DRIVERS = ("asyncpg", "psycopg")

Op = Callable[[], Awaitable[object]]
Ops = tuple[Op, Op, Op]  # get, list, insert


class Base(DeclarativeBase):
    __table_args__ = {"schema": SCHEMA}  # noqa: RUF012 (SQLAlchemy reads it as it is)


class Item(Base):
    __tablename__ = "item"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    active: Mapped[bool]
    visits: Mapped[int]
    score: Mapped[float]
    balance: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


NAMES, ADD = [column.name for column in Item.__table__.columns], insert(Item)


def new_row(active: bool = False) -> dict[str, Any]:
    now, number = datetime.now(UTC), random.randrange(1_000_000)
    settings = {"theme": "dark", "tags": ["a", "b"], "limit": number}
    values = (uuid.uuid4(), f"Item {number}", f"{number}@example.com", active, number, number / 7)
    return dict(zip(NAMES, (*values, Decimal(number) / 100, settings, now, now), strict=True))


async def raw_ops(driver: str, url: str, ids: list[uuid.UUID], stack: AsyncExitStack) -> Ops:
    mark = "${}" if driver == "asyncpg" else "%s"
    columns, marks = ", ".join(NAMES), ", ".join(mark.format(n + 1) for n in range(len(NAMES)))
    read = f"SELECT {columns} FROM {SCHEMA}.item WHERE id"
    get, page = f"{read} = {mark.format(1)}", f"{read} > {mark.format(1)} ORDER BY id LIMIT {PAGE}"
    add = f"INSERT INTO {SCHEMA}.item ({columns}) VALUES ({marks})"
    if driver == "asyncpg":
        connection = await cast(Any, asyncpg).connect(url)
        codec: dict[str, Any] = {"encoder": json.dumps, "decoder": json.loads}
        await connection.set_type_codec("jsonb", schema="pg_catalog", **codec)
        run: Callable[..., Awaitable[object]] = connection.fetch
    else:
        import psycopg
        from psycopg.types.json import JsonbDumper

        connection = opened = await psycopg.AsyncConnection.connect(url, autocommit=True)
        opened.adapters.register_dumper(dict, JsonbDumper)

        async def execute(sql: str, *values: object) -> object:
            cursor = await opened.execute(sql.encode(), values)
            return await cursor.fetchall() if cursor.description else None

        run = execute
    stack.push_async_callback(connection.close)
    return (
        lambda: run(get, random.choice(ids)),
        lambda: run(page, random.choice(ids)),
        lambda: run(add, *new_row().values()),
    )


def core_ops(connection: AsyncConnection, ids: list[uuid.UUID]) -> Ops:
    get = select(Item.__table__).where(Item.id == bindparam("key"))
    page = select(Item.__table__).where(Item.id > bindparam("key")).order_by(Item.id).limit(PAGE)

    async def read(statement: Any) -> None:
        (await connection.execute(statement, {"key": random.choice(ids)})).all()

    return lambda: read(get), lambda: read(page), lambda: connection.execute(ADD, new_row())


def orm_ops(session: Callable[[], AsyncSession], ids: list[uuid.UUID]) -> Ops:
    page = select(Item).where(Item.id > bindparam("key")).order_by(Item.id).limit(PAGE)

    async def get_one() -> None:
        async with session() as opened:
            await opened.get(Item, random.choice(ids))

    async def get_page() -> None:
        async with session() as opened:
            (await opened.scalars(page, {"key": random.choice(ids)})).all()

    async def add() -> None:
        async with session() as opened, opened.begin():
            opened.add(Item(**new_row()))

    return get_one, get_page, add


async def prepare(
    layer: str, driver: str, url: str, ids: list[uuid.UUID], tasks: int, stack: AsyncExitStack
) -> list[Ops]:
    if layer == "raw":
        return [await raw_ops(driver, url, ids, stack) for _ in range(tasks)]
    full = make_url(url).set(drivername=f"postgresql+{driver}")
    engine = create_async_engine(full, pool_size=tasks, max_overflow=0)
    stack.push_async_callback(engine.dispose)
    if layer == "orm":
        return [orm_ops(lambda: AsyncSession(engine), ids)] * tasks
    reads = engine.execution_options(isolation_level="AUTOCOMMIT")
    held = [await stack.enter_async_context(reads.connect()) for _ in range(tasks)]
    return [core_ops(connection, ids) for connection in held]


async def measure(op_per_task: list[Op], operations: int) -> tuple[float, float]:  # wall and CPU µs
    async def work(op: Op, count: int) -> None:
        for _ in range(count):
            await op()

    each = max(1, operations // len(op_per_task))
    await asyncio.gather(*(work(op, 8) for op in op_per_task))  # both drivers have prepared now
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(op, each) for op in op_per_task))
    total = each * len(op_per_task) / 1e6
    return (time.perf_counter() - wall) / total, (time.process_time() - cpu) / total


async def compare(url: str, rounds: int, operations: int) -> None:
    admin = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    rows = [new_row(active=True) for _ in range(ROWS)]
    ids = [row["id"] for row in rows]
    drop = text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    async with admin.begin() as connection:
        await connection.execute(drop)
        await connection.execute(CreateSchema(SCHEMA))
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(ADD, rows)
    print(f"{'':27}wall µs/operation{'CPU µs/operation':>27}")
    print(f"{'operation':12}{'tasks':>6}" + f"{'asyncpg':>9}{'psycopg':>9}{'ratio':>8} " * 2)
    for layer, tasks in ((layer, n) for layer in ("raw", "core", "orm") for n in (1, 32)):
        async with AsyncExitStack() as stack:
            ops = {d: await prepare(layer, d, url, ids, tasks, stack) for d in DRIVERS}
            for which, name in enumerate(("get", "list", "insert")):
                seen: dict[str, list[tuple[float, float]]] = {d: [] for d in DRIVERS}
                for driver in (*DRIVERS, *DRIVERS[::-1]) * rounds:
                    chosen = [each[which] for each in ops[driver]]
                    seen[driver].append(await measure(chosen, operations))
                line = f"{layer + ' ' + name:12}{tasks:6}"
                for index in (0, 1):
                    a, p = (statistics.median(s[index] for s in seen[d]) for d in DRIVERS)
                    line += f"{a:9.0f}{p:9.0f}{p / a:7.2f}x "
                print(line, flush=True)
        async with admin.begin() as connection:
            await connection.execute(delete(Item).where(Item.active.is_(False)))
    async with admin.begin() as connection:
        await connection.execute(drop)
    await admin.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drivers")
    parser.add_argument("--url", required=True, help="postgresql://user@host/database")
    parser.add_argument("--rounds", type=int, default=4, help="each runs a driver twice")
    parser.add_argument("--operations", type=int, default=640, help="in each round")
    arguments = parser.parse_args()
    if find_spec("psycopg") is None:
        parser.exit(2, "This benchmark also needs psycopg: pip install 'psycopg[binary]'\n")
    uvloop.run(compare(arguments.url, arguments.rounds, arguments.operations))


if __name__ == "__main__":
    main()
