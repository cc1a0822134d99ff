"""A job exists exactly if the transaction that asked for it is committed."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from ferrule import Actor, ConfigurationError, Ferrule, Invalid
from ferrule.db import Database, utcnow, uuid7
from ferrule.jobs.models import Job
from ferrule.jobs.worker import Worker
from ferrule.observability.rendering import request_id
from tests.jobs.conftest import Ask, Look, Order, blocking, capped, fail, greet, hold, undeclared


async def number(app: Ferrule) -> int:
    async with app.kit[Database].read() as session:
        return await session.scalar(select(func.count()).select_from(Job))


async def test_it_runs_with_its_data_and_is_remembered(
    ask: Ask, look: Look, worker: Worker
) -> None:
    actor = Actor(kind="user", id=uuid7())
    token = request_id.set("request-7")
    id = await ask(greet, Order(name="tea", number=3), actor=actor)
    request_id.reset(token)
    job = await look(id)
    assert (job.status, job.attempts, job.request_id) == ("queued", 0, "request-7")
    assert await worker.drain() == 1
    due, job = job.run_after, await look(id)
    assert (job.status, job.attempts, job.error) == ("completed", 1, None)
    assert job.run_after == due
    assert job.result == f"3 x tea for {actor.id}"
    assert job.started_at is not None
    assert job.finished_at is not None
    assert (job.owner, job.lease_until) == (None, None)


async def test_a_rollback_leaves_none(app: Ferrule, worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.kit[Database].write() as session:
            await session.enqueue(greet, Order(name="tea"))
            await session.enqueue(fail, key="once")
            raise ZeroDivisionError
    assert await number(app) == 0
    assert await worker.drain() == 0


@pytest.mark.parametrize("bad", [{"name": 1}, {"number": 2}, None, "tea"])
async def test_data_of_another_type_is_refused(app: Ferrule, ask: Ask, bad: Any) -> None:
    with pytest.raises(Invalid):
        await ask(greet, bad)
    assert await number(app) == 0


@pytest.mark.parametrize("bad", ["a\x00b", "x" * 300_000, "\ud800"])
async def test_data_that_cannot_be_stored_is_refused(app: Ferrule, ask: Ask, bad: str) -> None:
    with pytest.raises(Invalid):
        await ask(greet, Order.model_construct(name=bad, number=1))
    assert await number(app) == 0


async def test_what_nobody_would_run_is_refused(ask: Ask) -> None:
    with pytest.raises(ConfigurationError, match="No module declares the job 'undeclared'"):
        await ask(undeclared)


async def test_options_that_make_no_sense_are_refused(ask: Ask) -> None:
    with pytest.raises(TypeError, match="has no cap"):
        await ask(fail, concurrency_key="ann")
    with pytest.raises(TypeError, match="takes no data"):
        await ask(fail, 7)
    for key in ("", "x" * 201):
        with pytest.raises(Invalid, match="1 to 200"):
            await ask(fail, key=key)
        with pytest.raises(Invalid, match="1 to 200"):
            await ask(capped, concurrency_key=key)
    with pytest.raises(Invalid, match="priority"):
        await ask(fail, priority=100_000)


async def test_one_job_for_a_key(app: Ferrule, ask: Ask, worker: Worker) -> None:
    first = await ask(greet, Order(name="tea"), key="order 7")
    assert await ask(greet, Order(name="tea"), key="order 7") == first
    assert await ask(greet, Order(name="tea"), key="order 8") != first
    # A key belongs to the jobs of one name.
    assert await ask(blocking, 0.0, key="order 7") != first
    await worker.drain()
    assert await ask(greet, Order(name="tea"), key="order 7") == first
    assert await number(app) == 3


async def test_one_job_for_a_key_among_many_who_ask_at_once(app: Ferrule, ask: Ask) -> None:
    ids = await asyncio.gather(*(ask(greet, Order(name="tea"), key="k") for _ in range(50)))
    assert len(set(ids)) == await number(app) == 1


async def test_a_delay_is_waited_for(ask: Ask, look: Look, worker: Worker) -> None:
    later = await ask(greet, Order(name="tea"), delay=timedelta(hours=1))
    soon = await ask(greet, Order(name="tea"), delay=0.3)
    assert await worker.drain() == 0
    assert (await look(later)).run_after - utcnow() > timedelta(minutes=59)
    await asyncio.sleep(0.35)
    assert await worker.drain() == 1
    assert (await look(soon)).status == "completed"
    assert (await look(later)).status == "queued"


async def test_a_higher_priority_runs_sooner_and_the_older_first(
    app: Ferrule, ask: Ask, look: Look
) -> None:
    async def name(priority: int) -> UUID:
        return await ask(greet, Order(name="tea"), priority=priority)

    ids = [await name(each) for each in (0, -5, 10, 0, 10)]
    await Worker(app.kit, concurrency=1).drain()
    begun = sorted([await look(id) for id in ids], key=lambda job: job.started_at or utcnow())
    assert [ids.index(job.id) for job in begun] == [2, 4, 0, 3, 1]


async def test_other_work_does_not_wait_behind_delayed_jobs(ask: Ask, worker: Worker) -> None:
    for _ in range(20):
        await ask(greet, Order(name="tea"), priority=100, delay=3600)
    await ask(greet, Order(name="tea"))
    assert await worker.drain() == 1


async def test_it_is_stored_with_what_the_service_did(app: Ferrule, actors: Any) -> None:
    """One unit of work with an instance, a prebuilt row and a job."""
    from ferrule.modules.items import Item

    ann = await actors("ann")
    async with app.kit[Database].write() as session:
        owner = UUID(ann.user["id"])
        session.add(Item(name="tea", status="", quantity=1, metadata_={}, owner_id=owner))
        id = await session.enqueue(hold)
        assert await session.scalar(select(Job.id)) == id
    assert await number(app) == 1
    assert (await ann.get("/api/v1/items")).json()["pagination"]["total"] == 1
