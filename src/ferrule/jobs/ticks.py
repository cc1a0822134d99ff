"""Schedules: each tick becomes one job, however many workers there are."""

from collections.abc import Mapping
from typing import Any, Final, cast

import structlog
from sqlalchemy import Table, insert, select, update

from ferrule.db.clock import database_now
from ferrule.db.database import Database
from ferrule.db.statements import Row, prebuilt
from ferrule.errors import Conflict
from ferrule.jobs.functions import JobFunction
from ferrule.jobs.models import JobSchedule
from ferrule.jobs.queue import enqueue

SCHEDULES: Final = cast(Table, JobSchedule.__table__)
KNOWN = prebuilt(
    select(
        SCHEDULES.c.kind,
        SCHEDULES.c.spec,
        SCHEDULES.c.next_at,
        database_now().label("now"),
    )
)
NEW = prebuilt(insert(JobSchedule))

log = structlog.get_logger("ferrule.jobs")


async def tick(database: Database, functions: Mapping[str, JobFunction[Any]]) -> bool:
    """Enqueue what is due; whether something was.

    A schedule that is new, or was changed, begins with its next tick. Of the ticks that passed
    while no worker ran, one is made up for.
    """
    scheduled = [each for each in functions.values() if each.schedule is not None]
    if not scheduled:
        return False
    async with database.read() as session:
        known = {row.kind: row for row in await session.fetch_all(KNOWN)}
    due = False
    for function in scheduled:
        row = known.get(function.name)
        if row is None:
            await _begin(database, function)
        elif row.spec != cast(Any, function.schedule).spec or row.next_at <= row.now:
            due |= await _advance(database, function, row)
    return due


async def _begin(database: Database, function: JobFunction[Any]) -> None:
    try:
        async with database.write() as session:
            now = await session.scalar(select(database_now()))
            following = cast(Any, function.schedule).after(now)
            spec = cast(Any, function.schedule).spec
            session.insert(NEW, kind=function.name, spec=spec, next_at=following)
    except Conflict:
        log.debug("another worker began the schedule", job=function.name)


async def _advance(database: Database, function: JobFunction[Any], seen: Row) -> bool:
    """Set the next tick, and enqueue the present one if the schedule is the same as before."""
    schedule = cast(Any, function.schedule)
    same = seen.spec == schedule.spec
    following = schedule.after(max(seen.now, seen.next_at) if same else seen.now)
    async with database.write() as session:
        moved = await session.scalar(
            update(SCHEDULES)
            .where(
                SCHEDULES.c.kind == function.name,
                SCHEDULES.c.spec == seen.spec,
                SCHEDULES.c.next_at == seen.next_at,
            )
            .values(spec=schedule.spec, next_at=following, revision=SCHEDULES.c.revision + 1)
            .returning(SCHEDULES.c.id)
        )
        if moved is None or not same:
            return False
        await enqueue(session, function)
    return True
