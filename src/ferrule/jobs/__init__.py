"""Durable work: jobs that were asked for in a unit of work, and run to a recorded end.

from ferrule.jobs import Run, job
"""

from ferrule.jobs.api import accepted
from ferrule.jobs.functions import JobFunction, job
from ferrule.jobs.run import JobFailed, Retry, Run
from ferrule.jobs.schemas import Accepted

__all__ = ["Accepted", "JobFailed", "JobFunction", "Retry", "Run", "accepted", "job"]
