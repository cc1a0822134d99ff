"""Servers, with a bus between them or none, and what a writer was told by them."""

import asyncio
import itertools
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import make_url

from tests.drills.client import LOST, Client, sign_in
from tests.drills.streams.readers import EventSource, Reader
from tests.server import Server
from tests.streams.brokers import RedisServer

COMPLETE = 60.0
"""Seconds on a busy machine until everybody has everything."""


class Stage:
    """Servers, with a bus between them or none, and what a writer was told by them."""

    def __init__(self, url: str, servers: list[Server], redis: RedisServer | None) -> None:
        self.url = url
        self.servers = servers
        self.redis = redis
        self.token = ""
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.answers: Counter[int] = Counter()
        self.lost: list[float] = []
        """Of each request that was not answered the seconds that its connection had been idle."""
        self._numbers = itertools.count()

    async def start(self) -> None:
        # One after the other: both would migrate an empty database.
        for server in self.servers:
            await asyncio.to_thread(server.start)
        self.token = await sign_in(self.servers[0].port)

    def forget(self) -> None:
        """Begin anew with another stream."""
        self.acknowledged.clear()
        self.refused.clear()
        self.answers.clear()

    def port(self) -> int:
        """That of a server, which may be down; so are the addresses that clients know."""
        return random.choice(self.servers).port

    def readers(self, id: UUID, number: int, *, sse: int = 0) -> list[Reader]:
        kinds = [EventSource] * sse + [Reader] * (number - sse)
        return [kind(self.port, self.token, f"drill/{id}") for kind in kinds]

    async def write(self, client: Client, id: UUID, **batch: Any) -> None:
        """Write events of one transaction, each with a number that nobody else has."""
        numbers = [next(self._numbers) for _ in range(random.choice([1, 1, 2, 5]))]
        data = {"numbers": numbers, "at": time.time(), **batch}
        idle = client.idle
        try:
            answer = await client.request("POST", f"/drill/{id}", data)
        except LOST:
            self.answers[0] += 1
            self.lost.append(idle)
            await asyncio.sleep(0.05)
            return
        self.answers[answer.status] += 1
        if answer.status == 204:
            self.acknowledged |= set(numbers)
        elif answer.status == 422:
            self.refused |= set(numbers)
        else:
            await asyncio.sleep(0.05)

    async def keep_writing(
        self, id: UUID, done: asyncio.Event, *, pause: float = 0.02, padding: int = 8000
    ) -> None:
        """Write until it is done; some is rolled back."""
        while not done.is_set():
            async with Client(self.port()) as client:
                for _ in range(20):
                    if done.is_set():
                        break
                    await self.write(
                        client,
                        id,
                        padding="x" * padding,
                        refuse=random.random() < 0.1,
                        pause=random.choice([0, 0, 0.01]),
                    )
                    await asyncio.sleep(random.uniform(0, 2 * pause))

    @asynccontextmanager
    async def writing(self, id: UUID, writers: int = 3, **how: Any) -> AsyncIterator[None]:
        """At the end no request is under way, unless its server was killed with it."""
        done = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(writers):
                tasks.create_task(self.keep_writing(id, done, **how))
            try:
                yield
            finally:
                done.set()

    async def complete(self, id: UUID, readers: list[Reader]) -> float:
        """Wait until everybody has everything; the seconds."""
        began = time.monotonic()
        stored = await stored_numbers(self.url, id)
        while not all(reader.offset == len(stored) and reader.is_live for reader in readers):
            late = [reader for reader in readers if reader.offset != len(stored)]
            assert time.monotonic() < began + COMPLETE, [
                (reader.since, reader.is_live, reader.connected) for reader in late
            ]
            await asyncio.sleep(0.05)
            stored = await stored_numbers(self.url, id)
        return time.monotonic() - began

    async def audit(self, id: UUID, readers: list[Reader]) -> int:
        """Everybody got what is in the log; how many events that are."""
        stored = await stored_numbers(self.url, id)
        for reader in readers:
            assert [got.offset for got in reader.got] == list(range(1, len(stored) + 1))
            assert [got.number for got in reader.got] == stored
            assert reader.resets == 0
        assert len(set(stored)) == len(stored)
        lost = self.acknowledged - set(stored)
        assert not lost, f"{len(lost)} acknowledged events are lost"
        assert not self.refused & set(stored)
        return len(stored)


async def stored_numbers(url: str, id: UUID) -> list[int]:
    """What the log has, read past the application; its offsets have no gap."""
    query = (
        'SELECT e."offset", e.data FROM streams s JOIN stream_events e ON e.stream_id = s.id '
        f"WHERE s.name = 'drill/{id}' ORDER BY 1"
    )
    if url.startswith("sqlite"):
        file = make_url(url).database or ""
        with closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as connection:
            rows = connection.execute(query).fetchall()
    else:
        other = await asyncpg.connect(url)
        try:
            rows = await other.fetch(query)
        finally:
            await other.close()
    assert [offset for offset, _ in rows] == list(range(1, len(rows) + 1))
    return [json.loads(data)["number"] for _, data in rows]
