"""What a server acknowledged, the clients that ask it to, and the audit of its database."""

import asyncio
import itertools
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
from sqlalchemy import make_url

from tests.drills.client import LOST, Answer, Client

_numbers = itertools.count()


@dataclass
class Ledger:
    """What clients wrote, and what they were told about it."""

    acknowledged: dict[UUID, str] = field(default_factory=dict[UUID, str])
    """The names of items by id."""
    refused: set[str] = field(default_factory=set[str])
    unanswered: set[str] = field(default_factory=set[str])
    answers: Counter[int] = field(default_factory=Counter[int])
    unexpected: list[Answer] = field(default_factory=list[Answer])
    """Whatever is neither 201 nor a refusal that says when, or whether, to try again."""
    slowest: float = 0.0
    times: list[float] = field(default_factory=list[float])
    """When something was acknowledged, on the clock of `time.monotonic`."""

    def record(self, name: str, answer: Answer) -> None:
        self.answers[answer.status] += 1
        if answer.status == 201:
            self.acknowledged[UUID(answer.json()["id"])] = name
            self.times.append(time.monotonic())
            return
        self.refused.add(name)
        problem = answer.headers.get("content-type") == "application/problem+json"
        unknown = problem and answer.json()["code"] == "outcome_unknown"
        told = unknown or "retry-after" in answer.headers
        if answer.status not in (503, 507) or not problem or not told:
            self.unexpected.append(answer)

    @property
    def rate(self) -> float:
        """Acknowledged writes a second."""
        span = self.times[-1] - self.times[0] if len(self.times) > 1 else 0
        return len(self.times) / span if span else 0.0


async def write_items(
    ledger: Ledger, port: int, token: str, *, clients: int = 25, rate: float | None = None
) -> None:
    """Write until cancelled; at `rate` a second all together, or as fast as they are answered."""
    pause = clients / rate if rate else 0.0
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(_write(ledger, port, token, pause, pause * number / clients))


@asynccontextmanager
async def writing(
    ledger: Ledger, port: int, token: str, *, clients: int = 25, rate: float | None = None
) -> AsyncIterator[None]:
    """Write in the background; at the end requests under way are given up."""
    task = asyncio.create_task(write_items(ledger, port, token, clients=clients, rate=rate))
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _write(ledger: Ledger, port: int, token: str, pause: float, delay: float) -> None:
    due = time.monotonic() + delay
    async with Client(port, token) as client:
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + pause, time.monotonic() - pause)
            name = f"item {next(_numbers)}"
            data = {"name": name, "price": "1.20", "metadata": {"a": [1, 2, 3]}}
            ledger.unanswered.add(name)
            started = time.monotonic()
            try:
                answer = await client.request("POST", "/items", data)
            except LOST:
                await asyncio.sleep(0.05)
                continue
            ledger.unanswered.discard(name)
            ledger.slowest = max(ledger.slowest, time.monotonic() - started)
            ledger.record(name, answer)
            if answer.status != 201:
                await asyncio.sleep(0.05)


async def audit(url: str, ledger: Ledger, *, refused_may_be_stored: bool = False) -> None:
    """Compare the database with the ledger; whoever was given up may or may not be stored."""
    stored = await stored_items(url)
    lost = {id: name for id, name in ledger.acknowledged.items() if stored.get(id) != name}
    assert not lost, f"{len(lost)} of {len(ledger.acknowledged)} acknowledged items are lost"
    names = Counter(stored.values())
    assert not [name for name, times in names.items() if times > 1], "stored twice"
    explained = {*ledger.acknowledged.values(), *ledger.unanswered}
    if refused_may_be_stored:
        explained |= ledger.refused
    assert not names.keys() - explained, "stored, and answered otherwise"
    await check_integrity(url)


async def stored_items(url: str) -> dict[UUID, str]:
    """Names of items by id, read past the application."""
    if url.startswith("sqlite"):
        with _sqlite(url) as connection:
            rows = connection.execute("SELECT id, name FROM items").fetchall()
        return {UUID(id): name for id, name in rows}
    connection = await asyncpg.connect(url)
    try:
        return dict(await connection.fetch("SELECT id, name FROM items"))
    finally:
        await connection.close()


async def check_integrity(url: str) -> None:
    """The database's own checks: of the file on SQLite; of references and indexes on PostgreSQL."""
    if url.startswith("sqlite"):
        with _sqlite(url) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return
    orphans = "SELECT count(*) FROM items LEFT JOIN users u ON u.id = owner_id WHERE u.id IS NULL"
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval(orphans) == 0
        if await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name='amcheck'"):
            await connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
            await connection.execute(
                "SELECT bt_index_check(indexrelid, true) FROM pg_stat_user_indexes"
            )
    finally:
        await connection.close()


@asynccontextmanager
async def held(url: str) -> AsyncIterator[None]:
    """Hold what each write of an item waits for, as another program would."""
    if url.startswith("sqlite"):
        with _sqlite(url) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        return
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE items IN SHARE MODE")
            yield
    finally:
        await other.close()


def _sqlite(url: str) -> "closing[sqlite3.Connection]":
    # The connection's own `with` ends a transaction and leaves it open.
    return closing(sqlite3.connect(make_url(url).database or "", isolation_level=None, timeout=10))
