"""The queue's own module: its tables, routes and commands. Applications with jobs have it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ferrule.jobs.api import router
from ferrule.jobs.channels import channel
from ferrule.jobs.cli import commands
from ferrule.jobs.hint import Hint
from ferrule.jobs.models import Job, JobSchedule
from ferrule.kit import Kit
from ferrule.module import Module
from ferrule.streams.node import Node


@asynccontextmanager
async def lifespan(kit: Kit) -> AsyncGenerator[None]:
    """Let the workers of all processes hear of new work."""
    kit[Hint].connect(kit[Node])
    yield


engine = Module(
    name="jobs",
    requires=("streams",),
    router=router,
    models=(Job, JobSchedule),
    channels=(channel,),
    lifespan=lifespan,
    commands=commands,
)
