"""What services ask of the queue: work, its end, another attempt."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import and_, case, func, insert, select, update

from ferrule.actor import Actor
from ferrule.db.clock import database_now
from ferrule.db.session import WriteSession
from ferrule.db.statements import prebuilt
from ferrule.db.types import utcnow
from ferrule.errors import Conflict, Invalid
from ferrule.jobs.functions import MAX_PRIORITY, JobFunction, JobFunctions
from ferrule.jobs.hint import Hint
from ferrule.jobs.models import CANCELLED, FAILED, FINISHED, QUEUED, WAITING, Job
from ferrule.jobs.progress import tell
from ferrule.jobs.queue import JOBS
from ferrule.observability.rendering import request_id

NEW = prebuilt(insert(Job))
MAX_KEY = 200
MAX_DELAY = 366 * 86_400.0
"""Seconds, about a year."""


async def enqueue(
    session: WriteSession,
    function: JobFunction[Any],
    data: Any = None,
    *,
    actor: Actor | None = None,
    delay: timedelta | float = 0,
    priority: int | None = None,
    key: str | None = None,
    concurrency_key: str | None = None,
) -> UUID:
    """See `WriteSession.enqueue`."""
    session.kit[JobFunctions].check(function)
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not 0 <= seconds <= MAX_DELAY:
        raise Invalid("The delay of a job is between 0 seconds and a year.")
    capped = function.concurrency is not None
    if concurrency_key is not None and not capped:
        raise TypeError(f"The job {function.name!r} has no cap: give it @job(concurrency=…).")
    for each in (key, concurrency_key):
        if each is not None and not 1 <= len(each) <= MAX_KEY:
            raise Invalid(f"The key of a job has 1 to {MAX_KEY} characters.")
    priority = function.priority if priority is None else priority
    if abs(priority) > MAX_PRIORITY:
        raise Invalid(f"The priority of a job is between -{MAX_PRIORITY} and {MAX_PRIORITY}.")
    values: dict[str, Any] = {
        "kind": function.name,
        "payload": function.dump(data),
        "priority": priority,
        "run_after": utcnow() + timedelta(seconds=seconds),
        "max_attempts": function.max_attempts,
        "concurrency_key": f"{function.name}/{concurrency_key or ''}" if capped else None,
        "idempotency_key": key,
        "actor_id": None if actor is None else actor.id,
        "request_id": request_id.get(),
    }
    if Hint in session.kit:
        session.after_commit(session.kit[Hint].give)
    if key is None:
        return cast(Any, session.insert(NEW, **values)).id
    return await _enqueue_once(session, values)


async def _enqueue_once(session: WriteSession, values: Mapping[str, Any]) -> UUID:
    """The id of the job with this key: a new one, or the one that is there."""
    if session.dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_or
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_or
    row = NEW.values(values)
    same = and_(JOBS.c.kind == row["kind"], JOBS.c.idempotency_key == row["idempotency_key"])
    statement = insert_or(JOBS).values(row).on_conflict_do_nothing().returning(JOBS.c.id)
    while True:
        # Between the two statements the job that is there may be removed, as old as it is.
        for wanted in (statement, select(JOBS.c.id).where(same)):
            found = await session.scalar(cast(Any, wanted))
            if found is not None:
                return found


async def cancel(session: WriteSession, job: Job) -> Job:
    """End a job that waits at once, ask a running one to end; `Conflict` for a finished one."""
    waits = JOBS.c.status.in_((QUEUED, WAITING))
    changed = await session.scalar(
        update(JOBS)
        .where(JOBS.c.id == job.id, JOBS.c.status.not_in(FINISHED))
        .values(
            status=case((waits, CANCELLED), else_=JOBS.c.status),
            finished_at=case((waits, database_now())),
            cancel_requested_at=func.coalesce(JOBS.c.cancel_requested_at, database_now()),
            revision=JOBS.c.revision + 1,
        )
        .returning(JOBS.c.id)
    )
    await session.refresh(job)
    if changed is None:
        raise Conflict(f"The job is {job.status}: it cannot be cancelled any more.")
    type = CANCELLED if job.status == CANCELLED else "cancelling"
    tell(session, job.id, job.actor_id, job.status, type=type)
    return job


async def retry(session: WriteSession, job: Job) -> UUID:
    """A new job like a failed one, whose record stays as it is; the same if it is asked twice."""
    if job.status not in (FAILED, CANCELLED):
        raise Conflict(f"The job is {job.status}: only a failed or cancelled one is tried again.")
    if Hint in session.kit:
        session.after_commit(session.kit[Hint].give)
    copied = ("kind", "payload", "priority", "max_attempts", "concurrency_key", "actor_id")
    values = {name: getattr(job, name) for name in copied}
    again = {"idempotency_key": f"retry of {job.id}", "request_id": request_id.get()}
    return await _enqueue_once(session, values | again)
