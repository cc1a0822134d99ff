"""The queue's own module: its tables, routes and commands. Applications with jobs have it."""

from ferrule.jobs.api import router
from ferrule.jobs.cli import commands
from ferrule.jobs.models import Job, JobSchedule
from ferrule.module import Module

engine = Module(name="jobs", router=router, models=(Job, JobSchedule), commands=commands)
