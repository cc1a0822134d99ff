"""Jobs, and when the next one of a schedule is due."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Float, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ferrule.db.base import Base
from ferrule.db.types import Json, utcnow

QUEUED: Final = "queued"
RUNNING: Final = "running"
WAITING: Final = "waiting"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

UNFINISHED = (QUEUED, RUNNING, WAITING)
FINISHED = (COMPLETED, FAILED, CANCELLED)
"""States that never change."""


class Job(Base):
    """One piece of work. `epoch` counts how often it was claimed; the `owner` holds it until then.

    A worker may write only while its claim is the last one (`epoch`) and the job runs: see
    `ferrule.jobs.queue`.
    """

    __tablename__ = "jobs"

    kind: Mapped[str] = mapped_column(String(100))
    payload: Mapped[Any] = mapped_column(Json(), nullable=True)
    status: Mapped[str] = mapped_column(String(20), default=QUEUED)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    run_after: Mapped[datetime] = mapped_column(default=utcnow)
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(String(200), default=None)
    lease_until: Mapped[datetime | None] = mapped_column(default=None)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(default=None)
    concurrency_key: Mapped[str | None] = mapped_column(String(301), default=None)
    idempotency_key: Mapped[str | None] = mapped_column(String(200), default=None)
    progress: Mapped[float | None] = mapped_column(Float, default=None)
    note: Mapped[str | None] = mapped_column(String(200), default=None)
    result: Mapped[Any] = mapped_column(Json(), nullable=True, default=None)
    error: Mapped[str | None] = mapped_column(Text, default=None)
    actor_id: Mapped[UUID | None] = mapped_column(default=None)
    request_id: Mapped[str | None] = mapped_column(String(200), default=None)
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    finished_at: Mapped[datetime | None] = mapped_column(default=None)


def _index(name: str, *columns: Any, where: Any) -> None:
    Index(f"ix_jobs_{name}", *columns, postgresql_where=where, sqlite_where=where)


_queued = Job.status == QUEUED
_index("due", Job.priority, Job.run_after, Job.id, where=_queued & Job.concurrency_key.is_(None))
_index(
    "due_by_key",
    *(Job.concurrency_key, Job.priority, Job.run_after, Job.id),
    where=_queued & Job.concurrency_key.is_not(None),
)
_index("running_by_key", Job.concurrency_key, where=Job.status == RUNNING)
_index("lease", Job.lease_until, where=Job.status == RUNNING)
_index("owner", Job.owner, where=Job.status == RUNNING)
Index("ix_jobs_status_finished_at", Job.status, Job.finished_at)
Index("ix_jobs_actor_id_id", Job.actor_id, Job.id)
Index("uq_jobs_kind_idempotency_key", Job.kind, Job.idempotency_key, unique=True)


class JobSchedule(Base):
    """When the next job of a schedule is due. Who changes a schedule begins another one."""

    __tablename__ = "job_schedules"

    kind: Mapped[str] = mapped_column(String(100))
    spec: Mapped[str] = mapped_column(String(200))
    next_at: Mapped[datetime]


Index("uq_job_schedules_kind_spec", JobSchedule.kind, JobSchedule.spec, unique=True)
