"""SAQ's worker, on Redis or on PostgreSQL, and a job's own pool on PostgreSQL."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from psycopg_pool import AsyncConnectionPool
from saq import Queue, Worker

from benchmarks.jobs import CONCURRENCY, EFFECT, EMPTY, JobContender
from benchmarks.jobs.notes import notes
from benchmarks.jobs.stores import ENTRY, Store

QUEUE = "ferrule_benchmark"
AT_ONCE = 20
STOP = 3.0
"""Seconds that a worker gets to stop."""


class SaqQueue:
    def __init__(self, url: str, queue: Queue, pool: AsyncConnectionPool, store: Store) -> None:
        self._url = url
        self._queue = queue
        self._store = store

        async def empty(context: Any, *, number: int) -> None:
            notes.begun(number)

        async def effect(context: Any, *, number: int) -> None:
            notes.begun(number)
            async with pool.connection() as connection:
                await connection.execute(ENTRY, (number,))

        self._functions: Any = [(EMPTY, empty), (EFFECT, effect)]

    async def clear(self) -> None:
        redis = getattr(self._queue, "redis", None)
        if redis is None:
            await self._store.run("DELETE FROM saq_jobs")
            return
        keys = [key async for key in redis.scan_iter(f"saq:*{QUEUE}*")]
        if keys:
            await redis.delete(*keys)

    async def ask(self, task: str, numbers: Sequence[int]) -> None:
        for first in range(0, len(numbers), AT_ONCE):
            some = numbers[first : first + AT_ONCE]
            await asyncio.gather(*(self._queue.enqueue(task, number=each) for each in some))

    async def left(self) -> int:
        return await self._queue.count("incomplete")

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        queue = Queue.from_url(self._url, name=QUEUE)
        await queue.connect()
        worker = Worker(queue, self._functions, concurrency=CONCURRENCY)
        worker.SIGNALS = []
        task = asyncio.create_task(worker.start())
        try:
            yield
        finally:
            # It may wait for what it has cancelled itself; its process would just end.
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP):
                    await worker.stop()
            task.cancel()
            await queue.disconnect()


@asynccontextmanager
async def opened(contender: JobContender, store: Store) -> AsyncGenerator[SaqQueue]:
    url = os.environ["FERRULE_DATABASE_URL"]
    at = os.environ["BENCHMARK_REDIS"] if contender.store == "redis" else url
    queue = Queue.from_url(at, name=QUEUE)
    pool = AsyncConnectionPool(url, min_size=4, max_size=10, open=False)
    await queue.connect()
    try:
        async with pool:
            opened = SaqQueue(at, queue, pool, store)
            yield opened
            await opened.clear()
    finally:
        await queue.disconnect()
