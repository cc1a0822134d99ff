"""What is answered about a job: never what it was given."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from ferrule.schemas import Schema, Stored

Status = Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]


class JobResponse(Stored):
    kind: str
    status: Status
    priority: int
    run_after: datetime = Field(description="When it is due, or was.")
    attempts: int = Field(description="How often it was begun.")
    max_attempts: int
    progress: float | None = Field(description="From 0 to 1; null where the job does not say.")
    note: str | None
    result: Any = None
    error: str | None = Field(description="Why the last attempt did not succeed.")
    cancel_requested_at: datetime | None
    started_at: datetime | None = Field(description="When the last attempt began.")
    finished_at: datetime | None
    actor_id: UUID | None = Field(description="Who asked for it.")
    request_id: str | None


class NoFields(Schema):
    """Jobs are enqueued by services, not created by clients."""


class Accepted(Schema):
    """The answer to a request whose work goes on as a job."""

    job_id: UUID
