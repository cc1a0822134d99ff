"""An application with jobs of every kind, which note what they did."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from ferrule import Ferrule, Module, Schema, create_app
from ferrule.db import Database
from ferrule.jobs import JobFailed, Retry, Run, job
from ferrule.jobs.models import Job
from ferrule.jobs.worker import Worker
from ferrule.modules import SHIPPED
from ferrule.modules.items import Item

Ask = Callable[..., Awaitable[UUID]]
Look = Callable[[UUID], Awaitable[Job]]


class Order(Schema):
    name: str
    number: int = 1


class Started:
    """Told by jobs that have begun; they go on when `go` is set."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.go = asyncio.Event()

    async def wait(self, number: int = 1) -> None:
        async with asyncio.timeout(10):
            while len(self.runs) < number:
                await asyncio.sleep(0.01)


@job
async def greet(run: Run, order: Order) -> str:
    return f"{order.number} x {order.name} for {run.actor.id}"


@job(max_attempts=3, backoff=0)
async def fail(run: Run) -> None:
    raise RuntimeError("a secret of the caller")


@job(backoff=0)
async def give_up(run: Run) -> None:
    raise JobFailed("There is no such order.")


@job(backoff=0)
async def once_more(run: Run) -> int:
    if run.attempt == 1:
        raise Retry("The other side is busy.", after=0)
    return run.attempt


@job(timeout=0.1, max_attempts=1)
async def slow(run: Run) -> None:
    await asyncio.sleep(30)


@job
def blocking(run: Run, seconds: float) -> str:
    time.sleep(seconds)
    run.progress(1)
    return "done"


@job
async def hold(run: Run) -> str:
    started = run.kit[Started]
    started.runs.append(run)
    run.progress(0.5, "half of it")
    await started.go.wait()
    return "held"


@job(backoff=0)
async def write_item(run: Run, name: str) -> None:
    """Stores an item with its end; the first attempts fail after it, as `name` says."""
    run.session.add(Item(name=name, status="", quantity=1, metadata_={}, owner_id=run.actor.id))
    await run.session.flush()
    if run.attempt <= name.count("!"):
        raise RuntimeError


@job(concurrency=2)
async def capped(run: Run) -> None:
    started = run.kit[Started]
    started.runs.append(run)
    await started.go.wait()


@job(every=timedelta(hours=1))
async def hourly(run: Run) -> None: ...


@job
async def undeclared(run: Run) -> None: ...


JOBS = (greet, fail, give_up, once_more, slow, blocking, hold, write_item, capped, hourly)


@pytest.fixture
def application() -> Ferrule:
    return create_app(modules=[*SHIPPED, Module(name="work", requires=("auth",), jobs=JOBS)])


@pytest.fixture
def started(app: Ferrule) -> Started:
    started = Started()
    app.kit.provide(started)
    return started


@pytest.fixture
def ask(app: Ferrule) -> Ask:
    """Enqueues one job in a unit of work of its own."""

    async def ask(*arguments: Any, **options: Any) -> UUID:
        async with app.kit[Database].write() as session:
            return await session.enqueue(*arguments, **options)

    return ask


@pytest.fixture
def look(app: Ferrule) -> Look:
    """The job as it is stored now."""

    async def look(id: UUID) -> Job:
        async with app.kit[Database].read() as session:
            return (await session.execute(select(Job).where(Job.id == id))).scalar_one()

    return look


@pytest.fixture
def another(app: Ferrule) -> Callable[[], Worker]:
    """Makes workers as other processes have them."""
    return lambda: Worker(app.kit)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)
