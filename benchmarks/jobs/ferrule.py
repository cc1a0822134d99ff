"""Ferrule's worker beside everything that ships, as `ferrule worker` runs it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sqlalchemy import insert
from sqlalchemy.orm import Mapped

from benchmarks.jobs import CONCURRENCY, EFFECT, EMPTY, JobContender
from benchmarks.jobs.notes import notes
from benchmarks.jobs.stores import Store
from ferrule import Module, create_app
from ferrule.db import Base, Database, prebuilt
from ferrule.jobs import Run, job
from ferrule.jobs.worker import Worker
from ferrule.kit import Kit
from ferrule.modules import SHIPPED
from ferrule.observability import logs


class Entry(Base):
    __tablename__ = "ledger"

    number: Mapped[int]


ENTRY = prebuilt(insert(Entry))


@job
async def empty(run: Run, number: int) -> None:
    notes.begun(number)


@job
async def effect(run: Run, number: int) -> None:
    notes.begun(number)
    run.session.insert(ENTRY, number=number)


JOBS = {EMPTY: empty, EFFECT: effect}


class FerruleQueue:
    def __init__(self, kit: Kit, store: Store) -> None:
        self._kit = kit
        self._store = store

    async def clear(self) -> None:
        await self._store.run("DELETE FROM jobs")

    async def ask(self, task: str, numbers: Sequence[int]) -> None:
        async with self._kit[Database].write() as session:
            for number in numbers:
                await session.enqueue(JOBS[task], number)

    async def left(self) -> int:
        return await self._store.number("SELECT count(*) FROM jobs WHERE status <> 'completed'")

    def working(self) -> AbstractAsyncContextManager[None]:
        return Worker(self._kit, concurrency=CONCURRENCY).running()


@asynccontextmanager
async def opened(contender: JobContender, store: Store) -> AsyncGenerator[FerruleQueue]:
    app = create_app(modules=[*SHIPPED, Module(name="ledger", jobs=tuple(JOBS.values()))])
    logs.configure(app.settings.log_level, app.settings.log_format)
    async with app.running() as kit:
        yield FerruleQueue(kit, store)
