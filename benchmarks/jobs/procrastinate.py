"""procrastinate's worker, with what its command line would give it, and a job's own pool."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

from procrastinate import App, PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from benchmarks.jobs import CONCURRENCY, EFFECT, EMPTY, JobContender
from benchmarks.jobs.notes import notes
from benchmarks.jobs.stores import ENTRY, Store

MADE = "SELECT count(*) FROM pg_class WHERE relname = 'procrastinate_jobs'"


class ProcrastinateQueue:
    def __init__(self, app: App, pool: AsyncConnectionPool, store: Store) -> None:
        self._app = app
        self._store = store

        @app.task(name=EMPTY)
        async def empty(number: int) -> None:
            notes.begun(number)

        @app.task(name=EFFECT)
        async def effect(number: int) -> None:
            notes.begun(number)
            async with pool.connection() as connection:
                await connection.execute(ENTRY, (number,))

    async def clear(self) -> None:
        await self._store.run("TRUNCATE procrastinate_jobs CASCADE")

    async def ask(self, task: str, numbers: Sequence[int]) -> None:
        await self._app.tasks[task].batch_defer_async(*({"number": each} for each in numbers))

    async def left(self) -> int:
        return await self._store.number(
            "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"
        )

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        run = self._app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        worker = asyncio.create_task(run)
        try:
            yield
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker


@asynccontextmanager
async def opened(contender: JobContender, store: Store) -> AsyncGenerator[ProcrastinateQueue]:
    logging.basicConfig(level=logging.INFO)
    url = os.environ["FERRULE_DATABASE_URL"]
    # As many connections as Ferrule's pool has.
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=10))
    pool = AsyncConnectionPool(url, min_size=4, max_size=10, open=False)
    async with pool, app.open_async():
        if not await store.number(MADE):
            await app.schema_manager.apply_schema_async()
        yield ProcrastinateQueue(app, pool, store)
