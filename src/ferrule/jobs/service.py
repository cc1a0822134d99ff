"""Looking at jobs, cancelling and retrying them."""

from uuid import UUID

from sqlalchemy import ColumnElement

from ferrule.actor import Actor, administrator
from ferrule.db.session import WriteSession
from ferrule.jobs import requests
from ferrule.jobs.models import Job
from ferrule.jobs.schemas import JobResponse, NoFields
from ferrule.resources import Resource


class Jobs(Resource[Job]):
    """An actor sees the jobs that they asked for, an administrator sees all."""

    def visible(self, actor: Actor) -> ColumnElement[bool] | None:
        return None if administrator.allows(actor) else Job.actor_id == actor.user_id


jobs = Jobs(
    Job,
    create=NoFields,
    response=JobResponse,
    filters=("kind", "status", "actor_id"),
    sort=("created_at", "updated_at", "run_after", "finished_at"),
)


async def cancel(session: WriteSession, actor: Actor, id: UUID) -> Job:
    """The job, which ends at once if it waits, and soon if it runs; `Conflict` if it has ended."""
    return await requests.cancel(session, await jobs.get(session, actor, id))


async def retry(session: WriteSession, actor: Actor, id: UUID) -> UUID:
    """The id of a new job like this one; `Conflict` if it has not failed."""
    return await requests.retry(session, await jobs.get(session, actor, id))
