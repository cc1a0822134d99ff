"""Schedules: each tick becomes one job, however many workers there are."""

from collections.abc import Mapping
from typing import Any, Final, cast

import structlog
from sqlalchemy import Table, delete, insert, select, update

from ferrule.db.clock import database_now
from ferrule.db.database import Database
from ferrule.db.statements import Row, prebuilt
from ferrule.errors import Conflict
from ferrule.jobs.functions import JobFunction
from ferrule.jobs.models import JobSchedule
from ferrule.jobs.requests import enqueue
from ferrule.jobs.schedules import Schedule

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
LEFT_BEHIND = 86_400.0
"""Seconds after which the schedule of a version before is nobody's any more."""

log = structlog.get_logger("ferrule.jobs")


async def tick(database: Database, functions: Mapping[str, JobFunction[Any]]) -> bool:
    """Enqueue what is due; whether something was.

    A schedule that is new begins with its next tick; so does one that was changed, while workers
    of the version before go on with theirs. Of the ticks that passed while no worker ran, one is
    made up for.
    """
    scheduled = [(each, each.schedule) for each in functions.values() if each.schedule is not None]
    if not scheduled:
        return False
    async with database.read() as session:
        known = {(row.kind, row.spec): row for row in await session.fetch_all(KNOWN)}
    due = False
    for function, schedule in scheduled:
        row = known.get((function.name, schedule.spec))
        if row is None:
            await _begin(database, function.name, schedule)
        elif row.next_at <= row.now:
            due |= await _advance(database, function, schedule, row)
    return due


async def _begin(database: Database, kind: str, schedule: Schedule) -> None:
    try:
        async with database.write() as session:
            now = await session.scalar(select(database_now()))
            # One that was left behind by a change, long ago, would have a tick to make up for.
            await session.execute(
                delete(SCHEDULES).where(
                    SCHEDULES.c.kind == kind, SCHEDULES.c.next_at < database_now(-LEFT_BEHIND)
                )
            )
            session.insert(NEW, kind=kind, spec=schedule.spec, next_at=schedule.after(now))
    except Conflict:
        log.debug("another worker began the schedule", job=kind)


async def _advance(
    database: Database, function: JobFunction[Any], schedule: Schedule, seen: Row
) -> bool:
    """Set the next tick, and enqueue the present one."""
    following = schedule.after(max(seen.now, seen.next_at))
    async with database.write() as session:
        moved = await session.scalar(
            update(SCHEDULES)
            .where(
                SCHEDULES.c.kind == function.name,
                SCHEDULES.c.spec == schedule.spec,
                SCHEDULES.c.next_at == seen.next_at,
            )
            .values(next_at=following, revision=SCHEDULES.c.revision + 1)
            .returning(SCHEDULES.c.id)
        )
        if moved is None:
            return False
        await enqueue(session, function)
    return True
