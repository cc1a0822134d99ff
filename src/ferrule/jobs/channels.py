"""The channel of a job: whoever may look at it may follow it."""

from uuid import UUID

from ferrule.actor import Actor
from ferrule.db.session import ReadSession
from ferrule.jobs.progress import KIND
from ferrule.jobs.service import jobs
from ferrule.streams.channels import Channel


async def _authorize(session: ReadSession, actor: Actor, id: UUID) -> None:
    await jobs.get(session, actor, id)


channel = Channel(kind=KIND, authorize=_authorize, keep_days=7, keep_events=1000)
"""`jobs/<id>`. The types of its events are the states of a job, and `progress`."""
