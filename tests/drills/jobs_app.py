"""The application of the drills of jobs: what its jobs do is told by their data.

Its tables are made by `prepare`, and have no constraints: what is written twice shall be seen.
"""

import asyncio
import os
import signal
import time
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Column, Integer, MetaData, String, Table, Uuid, event, insert, select, text

from ferrule import Invalid, Module, Schema, create_app, public
from ferrule.db import Database, UtcDateTime, Write, WriteSession
from ferrule.db.clock import database_now
from ferrule.jobs import Accepted, Run, accepted, job
from ferrule.kit import Kit

OFTEN = 10_000
"""More attempts than any drill makes: a job that fails for good is a lost one."""

metadata = MetaData()


def _table(name: str, *columns: Column[Any]) -> Table:
    same: list[Column[Any]] = [
        Column("job_id", Uuid()),
        Column("epoch", Integer()),
        Column("at", UtcDateTime()),
    ]
    return Table(f"drill_{name}", metadata, *same, *columns)


ledger = _table("ledger")
steps = _table("steps", Column("step", Integer()))
claims = _table("claims", Column("owner", String(200)), Column("error", String(500)))
"""Each claim, noted by a trigger; `error` is that of the attempt before."""
ticks = Table(
    "drill_ticks",
    metadata,
    Column("tick", UtcDateTime()),
    Column("following", UtcDateTime()),
)
"""Each tick of a schedule, noted by a trigger."""
beats = Table("drill_beats", metadata, Column("number", Integer()))

TRIGGERS = {
    "postgresql": (
        "CREATE FUNCTION drill_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO "
        "drill_claims VALUES (NEW.id, NEW.epoch, clock_timestamp(), NEW.owner, OLD.error); "
        "RETURN NULL; END $$",
        "CREATE TRIGGER drill_claim AFTER UPDATE ON jobs FOR EACH ROW "
        "WHEN (NEW.epoch > OLD.epoch) EXECUTE FUNCTION drill_claim()",
        "CREATE FUNCTION drill_tick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO "
        "drill_ticks VALUES (OLD.next_at, NEW.next_at); RETURN NULL; END $$",
        "CREATE TRIGGER drill_tick AFTER UPDATE ON job_schedules FOR EACH ROW "
        "EXECUTE FUNCTION drill_tick()",
    ),
    "sqlite": (
        "CREATE TRIGGER drill_claim AFTER UPDATE ON jobs WHEN NEW.epoch > OLD.epoch BEGIN INSERT "
        "INTO drill_claims VALUES (NEW.id, NEW.epoch, strftime('%Y-%m-%d %H:%M:%f000', 'now'), "
        "NEW.owner, OLD.error); END",
    ),
}


async def prepare(session: WriteSession) -> None:
    """Make the tables of the drills."""
    connection = await session.connection()
    await connection.run_sync(metadata.create_all)
    for statement in TRIGGERS[session.dialect]:
        await session.execute(text(statement))


class Work(Schema):
    """What a job does: steps, then a pause, then its row in the ledger, then another pause."""

    steps: int = 0
    """Units of work of their own, each guarded by looking first; `seconds` pass after each."""
    seconds: float = 0
    inside: float = 0
    """Seconds that its transaction stays open."""
    apart: bool = False
    """Its row is written in a unit of its own, so that its end is recorded with those of others."""
    stops: bool = False
    """Its process is stopped before the first COMMIT (it stops itself)."""


async def note(session: WriteSession, run: Run, table: Table, **values: Any) -> None:
    """Write a row, with the claim under which it is written."""
    claim = {"job_id": run.id, "epoch": run.claimed.epoch, "at": database_now()}
    await session.execute(insert(table).values(**claim, **values))


async def note_once(run: Run, table: Table, **values: Any) -> None:
    """Write a row in a unit of its own, unless it is there."""
    same = [table.c.job_id == run.id, *(table.c[name] == each for name, each in values.items())]
    async with run.write() as session:
        if (await session.execute(select(table.c.epoch).where(*same))).first() is None:
            await note(session, run, table, **values)


@job(max_attempts=OFTEN)
async def work(run: Run, data: Work) -> None:
    for step in range(data.steps):
        await note_once(run, steps, step=step)
        await asyncio.sleep(data.seconds)
    if not data.steps:
        await asyncio.sleep(data.seconds)
    if data.apart:
        await note_once(run, ledger)
        return
    await note(run.session, run, ledger)
    await asyncio.sleep(data.inside)
    if data.stops and run.attempt == 1:
        event.listen(run.session.sync_session, "before_commit", _stop)


def _stop(session: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@job(max_attempts=OFTEN)
def block(run: Run, data: Work) -> None:
    """Works in a thread."""
    time.sleep(data.seconds)


@job(max_attempts=OFTEN, concurrency=4)
async def capped(run: Run, data: Work) -> None:
    """Writes when it began (step 0) and when it ended (step 1)."""
    await note_once(run, steps, step=0)
    await asyncio.sleep(data.seconds)
    await note_once(run, steps, step=1)


@job(every=timedelta(seconds=1), max_attempts=OFTEN)
async def each_second(run: Run) -> None:
    await note(run.session, run, ledger)


router = APIRouter(tags=["drill"])


@router.post("/drill", status_code=202)
async def enqueue(
    data: Work,
    session: Write,
    request: Request,
    response: Response,
    key: Annotated[str | None, Query()] = None,
    refuse: Annotated[bool, Query()] = False,
) -> Accepted:
    """Ask for work; with `refuse` the request fails after that."""
    id = await session.enqueue(work, data, key=key)
    if refuse:
        await session.flush()
        raise Invalid("told to refuse")
    return accepted(request, response, id)


module = Module(name="drill", router=router, access=public, jobs=(work, block, capped))
scheduled = Module(name="scheduled", jobs=(each_second,))
app = create_app(modules=[module])
with_schedule = create_app(modules=[module, scheduled])


async def ask(kit: Kit, *wanted: Any, function: Any = work) -> list[UUID]:
    """Enqueue jobs in one transaction."""
    async with kit[Database].write() as session:
        return [await session.enqueue(function, each) for each in wanted]
