"""What workers ask of the queue, which is a table. Each statement keeps one of its promises.

- Claiming raises the epoch. Whatever a worker stores begins with a `Fence`, which finds the job
  only while it runs under that epoch, and keeps it so until the transaction ends.
- Leases and due times are compared with the database's clock.
- What is finished is never changed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    update,
)

from ferrule.db.clock import database_now
from ferrule.db.session import WriteSession
from ferrule.db.statements import Prebuilt, prebuilt
from ferrule.jobs.models import CANCELLED, FAILED, QUEUED, RUNNING, Job
from ferrule.jobs.progress import PROGRESS, tell

JOBS: Final = cast(Table, Job.__table__)
WORKER_DIED = "Its worker died, or did not answer for the time of its lease."
KEYS_AT_ONCE = 100
"""Concurrency keys that one claim looks at; the next goes on behind them."""
REAPED_AT_ONCE = 100
TIDIED_AT_ONCE = 1000

_QUEUED = JOBS.c.status == text("'queued'")
_RUNNING = JOBS.c.status == text("'running'")
"""Literals, so that PostgreSQL knows the partial indexes to fit a prepared statement."""


def _levels(same_key: ColumnElement[bool]) -> Prebuilt:
    """Priorities of the jobs with such a key that are due, the highest first.

    It skips from one to the next, for which neither planner looks by itself, so that thousands of
    jobs which wait for their time are not read each time.
    """
    highest = select(func.max(JOBS.c.priority).label("priority")).where(_QUEUED, same_key)
    levels = highest.cte("levels", recursive=True)
    lower = highest.where(JOBS.c.priority < levels.c.priority).scalar_subquery()
    levels = levels.union_all(select(lower).where(levels.c.priority.is_not(None)))
    due = JOBS.c.run_after <= database_now()
    some = exists().where(_QUEUED, same_key, JOBS.c.priority == levels.c.priority, due)
    return prebuilt(select(levels.c.priority).where(some))


def _keys() -> Prebuilt:
    """The next keys of jobs that wait, behind `after`; the last row may have none.

    Each with the number of those that run, its highest priority, and whether one of its jobs is
    due.
    """
    first = select(func.min(JOBS.c.concurrency_key).label("key"), literal(1).label("number"))
    keys = first.where(_QUEUED, JOBS.c.concurrency_key > bindparam("after")).cte(
        "keys", recursive=True
    )
    next_key = select(func.min(JOBS.c.concurrency_key)).where(
        _QUEUED, JOBS.c.concurrency_key > keys.c.key
    )
    more = select(next_key.scalar_subquery(), keys.c.number + 1).where(
        keys.c.key.is_not(None), keys.c.number < KEYS_AT_ONCE
    )
    keys = keys.union_all(more)
    same = JOBS.c.concurrency_key == keys.c.key
    running = select(func.count()).select_from(JOBS).where(_RUNNING, same).scalar_subquery()
    priority = select(func.max(JOBS.c.priority)).where(_QUEUED, same).scalar_subquery()
    due = select(exists().where(_QUEUED, same, JOBS.c.run_after <= database_now()))
    return prebuilt(
        select(
            keys.c.key,
            running.label("running"),
            priority.label("priority"),
            due.scalar_subquery().label("due"),
        )
    )


LEVELS = _levels(JOBS.c.concurrency_key.is_(None))
KEYS = _keys()
_LEVELS_OF_KEY = _levels(JOBS.c.concurrency_key == bindparam("key"))


@dataclass(frozen=True)
class Claimed:
    """A job that this worker holds."""

    id: UUID
    kind: str
    payload: Any
    epoch: int
    attempts: int
    max_attempts: int
    actor_id: UUID | None
    request_id: str | None
    run_after: datetime
    priority: int


_CLAIMED = [JOBS.c[name] for name in Claimed.__dataclass_fields__]


def _fence(dialect: str) -> Select[Any]:
    found = select(JOBS.c.id).where(
        JOBS.c.id == bindparam("id"), JOBS.c.epoch == bindparam("epoch"), _RUNNING
    )
    if dialect == "postgresql":
        name = "idle_in_transaction_session_timeout"
        found = found.add_columns(func.set_config(name, bindparam("lease", type_=Text()), True))
    return found.with_for_update(read=True, key_share=True)


_FENCES = {dialect: _fence(dialect) for dialect in ("sqlite", "postgresql")}


@dataclass(frozen=True)
class Fence:
    """The first statement of whatever a worker stores; it finds no row once the claim is over.

    It locks the row against the next claim until the transaction ends, and against nothing else:
    heartbeat, progress and cancellation go on. A worker that stands still in the transaction loses
    it after the time of the lease.
    """

    claimed: Claimed
    lease: float

    def holds(self, connection: Connection) -> bool:
        values: dict[str, Any] = {"id": self.claimed.id, "epoch": self.claimed.epoch}
        if connection.dialect.name == "postgresql":
            values["lease"] = str(int(self.lease * 1000))
        return connection.execute(_FENCES[connection.dialect.name], values).first() is not None


def _claims(same_key: ColumnElement[bool]) -> Any:
    picked = (
        select(JOBS.c.id)
        .where(_QUEUED, same_key, JOBS.c.priority == bindparam("level"))
        .where(JOBS.c.run_after <= database_now())
        .order_by(JOBS.c.run_after, JOBS.c.id)
        .limit(bindparam("most", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("picked")
    )
    return (
        update(JOBS)
        .where(JOBS.c.id.in_(select(picked.c.id)))
        .values(
            status=RUNNING,
            epoch=JOBS.c.epoch + 1,
            attempts=JOBS.c.attempts + 1,
            owner=bindparam("the_owner", type_=JOBS.c.owner.type),
            lease_until=database_now(bindparam("lease", type_=Float())),
            started_at=database_now(),
            revision=JOBS.c.revision + 1,
        )
        .returning(*_CLAIMED)
    )


_CLAIM = _claims(
    and_(JOBS.c.concurrency_key.is_(None), JOBS.c.kind.in_(bindparam("kinds", expanding=True)))
)
_CLAIM_OF_KEY = _claims(JOBS.c.concurrency_key == bindparam("key"))


async def claim(
    session: WriteSession,
    levels: Iterable[int],
    kinds: Sequence[str],
    *,
    owner: str,
    lease: float,
    limit: int,
) -> list[Claimed]:
    """Up to `limit` jobs of these kinds that have no cap, which `owner` holds from now on."""
    values = {"kinds": kinds, "the_owner": owner, "lease": lease}
    return await _claimed(session, _CLAIM, levels, values, limit)


async def claim_capped(
    session: WriteSession, key: str, cap: int, *, owner: str, lease: float, limit: int
) -> list[Claimed]:
    """Up to `limit` jobs of one key, of which never more than `cap` run."""
    # Who counts without the lock counts what others are about to change.
    await session.lock(f"jobs {key}")
    running = await session.scalar(
        select(func.count()).select_from(JOBS).where(_RUNNING, JOBS.c.concurrency_key == key)
    )
    levels = [row.priority for row in await session.fetch_all(_LEVELS_OF_KEY, key=key)]
    values = {"key": key, "the_owner": owner, "lease": lease}
    return await _claimed(session, _CLAIM_OF_KEY, levels, values, min(limit, cap - running))


async def _claimed(
    session: WriteSession,
    statement: Any,
    levels: Iterable[int],
    values: Mapping[str, Any],
    limit: int,
) -> list[Claimed]:
    claimed: list[Claimed] = []
    for level in levels:
        if len(claimed) >= limit:
            break
        more = {"level": level, "most": limit - len(claimed)}
        rows = await session.execute(statement, {**values, **more})
        claimed += [Claimed(**row) for row in rows.mappings()]
    for each in claimed:
        tell(session, each.id, each.actor_id, RUNNING, attempts=each.attempts)
    return claimed


async def adopt(session: WriteSession, kinds: Sequence[str]) -> int:
    """Give some queued jobs of these kinds the key that they would have now; how many."""
    uncounted = select(JOBS.c.id).where(
        _QUEUED, JOBS.c.concurrency_key.is_(None), JOBS.c.kind.in_(kinds)
    )
    some = uncounted.limit(TIDIED_AT_ONCE).with_for_update(skip_locked=True).cte("some_jobs")
    changed = await session.execute(
        update(JOBS)
        .where(JOBS.c.id.in_(select(some.c.id)))
        .values(concurrency_key=JOBS.c.kind + "/")
        .returning(JOBS.c.id)
    )
    return len(changed.all())


async def renew(session: WriteSession, owner: str, ids: Collection[UUID], lease: float) -> None:
    """Heartbeat: these jobs stay their owner's for another lease."""
    mine = select(JOBS.c.id).where(JOBS.c.id.in_(ids), JOBS.c.owner == owner, _RUNNING)
    await session.execute(
        update(JOBS)
        .where(JOBS.c.id.in_(mine.with_for_update(key_share=True, skip_locked=True)))
        .values(lease_until=database_now(lease))
    )


HELD = prebuilt(
    select(JOBS.c.id, JOBS.c.epoch, JOBS.c.cancel_requested_at.label("cancel")).where(
        JOBS.c.owner == bindparam("owner"), _RUNNING
    )
)
"""What a worker holds by the database's word, and whether somebody wants it to end."""

OVERDUE = prebuilt(
    select(func.count().label("number"))
    .select_from(JOBS)
    .where(_RUNNING, JOBS.c.lease_until < database_now())
)


async def reap(session: WriteSession) -> list[tuple[UUID, str, str]]:
    """Take the jobs of dead workers from them: id, kind and what became of each."""
    overdue = (
        select(JOBS.c.id)
        .where(_RUNNING, JOBS.c.lease_until < database_now())
        .limit(REAPED_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("overdue")
    )
    unwanted = JOBS.c.cancel_requested_at.is_not(None)
    exhausted = JOBS.c.attempts >= JOBS.c.max_attempts
    statement = (
        update(JOBS)
        .where(JOBS.c.id.in_(select(overdue.c.id)))
        .values(
            status=case((unwanted, CANCELLED), (exhausted, FAILED), else_=QUEUED),
            error=case((unwanted, JOBS.c.error), else_=literal(WORKER_DIED)),
            finished_at=case((or_(unwanted, exhausted), database_now())),
            owner=None,
            lease_until=None,
            revision=JOBS.c.revision + 1,
        )
        .returning(JOBS.c.id, JOBS.c.kind, JOBS.c.status, JOBS.c.actor_id)
    )
    reaped: list[tuple[UUID, str, str]] = []
    for id, kind, status, actor_id in await session.execute(statement):
        tell(session, id, actor_id, status, error=WORKER_DIED)
        reaped.append((id, kind, status))
    return reaped


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt. `delay` is that until the next one; `charged` if it counts."""

    claimed: Claimed
    status: str
    result: Any = None
    error: str | None = None
    delay: float = 0.0
    charged: bool = True
    progress: float | None = None
    note: str | None = None

    def parameters(self) -> dict[str, Any]:
        return {
            "the_id": self.claimed.id,
            "the_epoch": self.claimed.epoch,
            "the_status": self.status,
            "the_result": self.result,
            "the_error": self.error,
            "the_delay": self.delay,
            "uncharged": 0 if self.charged else 1,
            "the_progress": self.progress,
            "the_note": self.note,
        }


_the_status = bindparam("the_status", type_=JOBS.c.status.type)
_the_progress = bindparam("the_progress", type_=JOBS.c.progress.type)
_the_note = bindparam("the_note", type_=JOBS.c.note.type)
_OUTCOME = (
    update(JOBS)
    .where(
        JOBS.c.id == bindparam("the_id"),
        JOBS.c.epoch == bindparam("the_epoch"),
        _RUNNING,
    )
    .values(
        # A job that somebody wants to end is not begun again.
        status=case(
            (
                and_(_the_status == literal(QUEUED), JOBS.c.cancel_requested_at.is_not(None)),
                CANCELLED,
            ),
            else_=_the_status,
        ),
        result=bindparam("the_result", type_=JOBS.c.result.type),
        error=bindparam("the_error", type_=JOBS.c.error.type),
        progress=func.coalesce(_the_progress, JOBS.c.progress),
        note=func.coalesce(_the_note, JOBS.c.note),
        run_after=case(
            (
                _the_status == literal(QUEUED),
                database_now(bindparam("the_delay", type_=Float())),
            ),
            else_=JOBS.c.run_after,
        ),
        attempts=JOBS.c.attempts - bindparam("uncharged", type_=JOBS.c.attempts.type),
        finished_at=case(
            (
                or_(_the_status != literal(QUEUED), JOBS.c.cancel_requested_at.is_not(None)),
                database_now(),
            ),
        ),
        owner=None,
        lease_until=None,
        revision=JOBS.c.revision + 1,
    )
)


async def record(session: WriteSession, outcomes: Sequence[Outcome]) -> None:
    """Store what became of these attempts; of one whose claim is over, nothing."""
    # In one order, so that two who store several do not wait for each other in a circle.
    ordered = sorted(outcomes, key=lambda each: each.claimed.id)
    await _store(session, _OUTCOME, [(each.claimed, each.parameters()) for each in ordered])


_TOLD = (JOBS.c.status, JOBS.c.progress, JOBS.c.note, JOBS.c.error, JOBS.c.attempts)
_PROGRESS = (
    update(JOBS)
    .where(
        JOBS.c.id == bindparam("the_id"),
        JOBS.c.epoch == bindparam("the_epoch"),
        _RUNNING,
    )
    .values(
        progress=_the_progress,
        note=_the_note,
        revision=JOBS.c.revision + 1,
    )
)


async def record_progress(
    session: WriteSession, noted: Sequence[tuple[Claimed, float, str | None]]
) -> None:
    """Store how far these jobs are."""
    rows = [
        (c, {"the_id": c.id, "the_epoch": c.epoch, "the_progress": fraction, "the_note": note})
        for c, fraction, note in sorted(noted, key=lambda each: each[0].id)
    ]
    await _store(session, _PROGRESS, rows)


async def _store(
    session: WriteSession, statement: Any, rows: Sequence[tuple[Claimed, dict[str, Any]]]
) -> None:
    """Change these jobs, as far as their claims are not over, and tell those who asked for them."""
    connection = await session.connection()
    unasked = [values for claimed, values in rows if claimed.actor_id is None]
    if unasked:
        await connection.execute(statement, unasked)
    for claimed, values in rows:
        if claimed.actor_id is None:
            continue
        changed = (await connection.execute(statement.returning(*_TOLD), values)).mappings().first()
        if changed is not None:
            type = PROGRESS if changed["status"] == RUNNING else None
            tell(session, claimed.id, claimed.actor_id, type=type, **changed)


async def purge(session: WriteSession, statuses: Sequence[str], days: float) -> int:
    """Remove some of the jobs that ended longer than `days` ago; how many."""
    old = (
        select(JOBS.c.id)
        .where(JOBS.c.status.in_(statuses), JOBS.c.finished_at < database_now(-days * 86_400))
        .limit(TIDIED_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    statement = delete(JOBS).where(JOBS.c.id.in_(select(old.c.id))).returning(JOBS.c.id)
    return len((await session.execute(statement)).all())
