"""What a job's function is given: who asked, units of work behind its fence, progress."""

import math
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import event

from ferrule.actor import Actor
from ferrule.db.database import Database
from ferrule.db.session import ReadSession, WriteSession, Writing
from ferrule.jobs.queue import Claimed, Fence
from ferrule.kit import Kit

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_NOTE = 200
MAX_TEXT = 2000
BUSY = (
    "run.session has begun its transaction, which holds the writer: end the job with it, or use "
    "run.write() for what is to be stored before."
)


def storable(text: str) -> str:
    """Text without what no database takes, for what people wrote into errors and notes."""
    return text.replace("\x00", "").encode(errors="replace").decode()[:MAX_TEXT]


class JobFailed(Exception):
    """Raise it to end a job as failed without another attempt. Its reader sees the reason."""


class Retry(Exception):
    """Raise it to be tried again later; `after` seconds, by default the job's own backoff."""

    def __init__(
        self,
        reason: str = "asked for another attempt",
        *,
        after: timedelta | float | None = None,
    ) -> None:
        super().__init__(reason)
        self.after = after.total_seconds() if isinstance(after, timedelta) else after
        if self.after is not None and math.isnan(self.after):
            raise ValueError("after is a number of seconds")


class Lost(BaseException):
    """The claim is over: another worker has the job, or it was ended. Nothing was written.

    It is no `Exception`, so that a function which catches those does not go on.
    """


class FencedWriting(Writing):
    """A session whose transactions begin with a fence."""

    fence: Fence


def _check(session: FencedWriting, transaction: Any, connection: "Connection") -> None:
    if not transaction.nested and not session.fence.holds(connection):
        # Else who swallows this would find a transaction that has begun, without a fence.
        connection.invalidate()
        raise Lost


event.listen(FencedWriting, "after_begin", _check)


class JobSession(WriteSession):
    """A unit of work behind the fence of its job."""

    sync_session_class = FencedWriting

    def __init__(self, database: Database, kit: Kit, fence: Fence) -> None:
        super().__init__(database.engines, kit)
        self._fence = fence

    @property
    def begun(self) -> bool:
        """Whether it holds a transaction, or has something to store."""
        stored = self._waiting or self._emitted
        return bool(stored) or (self.opened and self.in_transaction())

    async def finish(self) -> None:
        # A prebuilt row alone would be stored past the transaction that the fence begins.
        if self._waiting or self._emitted:
            self._open_once()
        await super().finish()

    def _open(self) -> None:
        super()._open()
        cast(FencedWriting, self.sync_session).fence = self._fence


class Run:
    """One attempt at a job.

    - `id`, `attempt` (1 at first), `actor` (who asked, without roles), `kit`
    - `again`: whether it was begun before, also by a worker that was stopped and handed it back,
      which counts as no attempt: what it did elsewhere may be done
    - `session`: a unit of work that is committed together with the job's end: what is written
      there is stored once, however often the job was begun. It begins with its first statement
    - `write()`: a unit of work of its own, for what is to be stored before the end; a second
      attempt finds it stored
    - `read()`: a unit of work that reads
    """

    def __init__(self, claimed: Claimed, database: Database, kit: Kit, lease: float) -> None:
        self.id: UUID = claimed.id
        self.attempt = claimed.attempts
        self.again = claimed.epoch > 1
        self.kit = kit
        self.actor = Actor(kind="job", id=claimed.actor_id)
        self.claimed = claimed
        self._noted: tuple[float, str | None] | None = None
        self._changed = False
        self._database = database
        self._fence = Fence(claimed, lease)
        self.session = self._unit()

    def read(self) -> AbstractAsyncContextManager[ReadSession]:
        """A unit of work that reads."""
        return self._database.read()

    def write(self) -> AbstractAsyncContextManager[WriteSession]:
        """A unit of work of its own, committed at the end of the block."""
        if self.session.begun and self._database.embedded:
            raise RuntimeError(BUSY)
        return self._database.write(self._unit())

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Say how far it is, 0 to 1. It is stored within a second, and may be called often."""
        if not 0 <= fraction <= 1:
            raise ValueError("progress is between 0 and 1")
        self._noted = (fraction, None if note is None else storable(note)[:MAX_NOTE])
        self._changed = True

    def take_progress(self) -> tuple[float, str | None] | None:
        """What `progress` said since this was last asked; for the worker."""
        if not self._changed:
            return None
        self._changed = False
        return self._noted

    def last_progress(self) -> dict[str, Any]:
        """What `progress` said last, for the job's outcome; for the worker."""
        fraction, note = self._noted or (None, None)
        return {"progress": fraction, "note": note}

    def _unit(self) -> JobSession:
        return JobSession(self._database, self.kit, self._fence)
