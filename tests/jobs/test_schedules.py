"""When schedules are due, and that each tick is one job."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from ferrule import Ferrule
from ferrule.db import Database, utcnow
from ferrule.jobs import ticks
from ferrule.jobs.functions import job
from ferrule.jobs.models import Job, JobSchedule
from ferrule.jobs.run import Run
from ferrule.jobs.schedules import Cron, Every, Schedule


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "ticks"),
    [
        (Cron("30 3 * * 1-5"), ["2026-03-27 03:30", "2026-03-30 03:30"]),
        # Clocks are set forward over 2:30 on March 29, and back over it on October 25.
        (Cron("30 2 * * *", "Europe/Berlin"), ["2026-03-27 01:30", "2026-03-28 01:30"]),
        (Every(timedelta(hours=6)), ["2026-03-27 06:00", "2026-03-27 12:00"]),
        (Every(timedelta(seconds=90)), ["2026-03-27 00:01:30", "2026-03-27 00:03"]),
    ],
)
def test_ticks(schedule: Schedule, ticks: list[str]) -> None:
    moment = utc("2026-03-27 00:00")
    for tick in ticks:
        moment = schedule.after(moment)
        assert moment == utc(tick)


def test_clocks_that_are_set_forward_and_back() -> None:
    berlin = Cron("30 2 * * *", "Europe/Berlin")
    spring = berlin.after(utc("2026-03-28 12:00"))
    assert spring == utc("2026-03-29 01:00"), "right after the hour that is left out"
    assert berlin.after(spring) == utc("2026-03-30 00:30")
    autumn = berlin.after(utc("2026-10-24 12:00"))
    assert berlin.after(autumn) - autumn == timedelta(hours=25), "once"


@job(every=timedelta(hours=1))
async def hourly(run: Run) -> None: ...


DECLARED = {"hourly": hourly}


async def number(app: Ferrule) -> int:
    async with app.kit[Database].read() as session:
        return await session.scalar(select(func.count()).select_from(Job))


async def set_next(app: Ferrule, moment: datetime) -> None:
    async with app.kit[Database].write() as session:
        await session.execute(update(JobSchedule.__table__).values(next_at=moment))


async def next_at(app: Ferrule) -> datetime:
    async with app.kit[Database].read() as session:
        return await session.scalar(select(JobSchedule.next_at))


async def test_each_tick_is_one_job(app: Ferrule) -> None:
    database, functions = app.kit[Database], app.jobs
    declared = {"hourly": functions["hourly"]}
    await asyncio.gather(*(ticks.tick(database, declared) for _ in range(4)))
    # It begins with the next tick.
    assert await number(app) == 0
    assert utcnow() < await next_at(app) <= utcnow() + timedelta(hours=1)
    for due in (1, 2):
        await set_next(app, utcnow() - timedelta(seconds=1))
        await asyncio.gather(*(ticks.tick(database, declared) for _ in range(4)))
        assert await number(app) == due
        assert await next_at(app) > utcnow()


async def test_of_the_ticks_that_were_missed_one_is_made_up_for(app: Ferrule) -> None:
    database, declared = app.kit[Database], {"hourly": app.jobs["hourly"]}
    await ticks.tick(database, declared)
    await set_next(app, utcnow() - timedelta(days=3))
    assert await ticks.tick(database, declared)
    assert not await ticks.tick(database, declared)
    assert await number(app) == 1


async def test_a_schedule_that_was_changed_begins_anew_beside_the_old_one(app: Ferrule) -> None:
    database, declared = app.kit[Database], {"hourly": app.jobs["hourly"]}
    await ticks.tick(database, declared)
    await set_next(app, utcnow() - timedelta(seconds=1))
    changed = {"hourly": job(name="hourly", every=timedelta(hours=2))(hourly.function)}
    assert not await ticks.tick(database, changed)
    assert await number(app) == 0
    # Workers of both versions run while one is rolled out; neither moves the other's ticks.
    app.jobs._functions["hourly"] = changed["hourly"]
    assert not await ticks.tick(database, changed)
    app.jobs._functions["hourly"] = declared["hourly"]
    assert await ticks.tick(database, declared)
    assert await number(app) == 1
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(JobSchedule)) == 2


async def test_what_a_change_left_behind_is_removed(app: Ferrule) -> None:
    database = app.kit[Database]
    await ticks.tick(database, {"hourly": app.jobs["hourly"]})
    await set_next(app, utcnow() - timedelta(days=2))
    changed = job(name="hourly", every=timedelta(hours=2))(hourly.function)
    await ticks.tick(database, {"hourly": changed})
    async with database.read() as session:
        specs = (await session.execute(select(JobSchedule.spec))).scalars().all()
    assert specs == ["every 7200 s"]


async def test_a_clock_that_is_behind_does_not_tick_twice(
    app: Ferrule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next tick is counted from the database's time."""
    database, declared = app.kit[Database], {"hourly": app.jobs["hourly"]}
    await ticks.tick(database, declared)
    seen = utcnow() - timedelta(seconds=1)
    await set_next(app, seen)
    monkeypatch.setattr("ferrule.jobs.requests.utcnow", lambda: seen - timedelta(hours=2))
    assert await ticks.tick(database, declared)
    assert not await ticks.tick(database, declared)
    assert await number(app) == 1
