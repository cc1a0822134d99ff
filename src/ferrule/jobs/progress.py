"""The stream of a job: its progress, and what became of it, in the transaction that stores that."""

from typing import Any
from uuid import UUID

from ferrule.db.session import WriteSession
from ferrule.streams.channels import Channels

KIND = "jobs"
PROGRESS = "progress"


def tell(
    session: WriteSession,
    id: UUID,
    actor_id: UUID | None,
    status: str,
    *,
    type: str | None = None,
    **more: Any,
) -> None:
    """Tell the readers of a job's stream. A job that nobody asked for has none."""
    if actor_id is not None and KIND in session.kit[Channels]:
        session.emit(f"{KIND}/{id}", type or status, {"status": status, **more})
