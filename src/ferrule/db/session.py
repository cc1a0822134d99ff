"""Read and Write: the two units of work that a request can have.

Services take one of them and never commit. A `Write` is committed once, before any byte of the
response is sent; a `Read` holds a connection only while a statement runs.
"""

import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Never, TypedDict, TypeVar, Unpack, cast, overload
from uuid import UUID
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import Connection, TextClause, event, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from ferrule.db.changes import JsonChanges
from ferrule.db.engines import Engines
from ferrule.db.failures import OutcomeUnknown
from ferrule.db.statements import Prebuilt, PrebuiltInsert, Row, Rows, Values
from ferrule.kit import Kit

if TYPE_CHECKING:
    from ferrule.actor import Actor
    from ferrule.jobs.functions import JobFunction
    from ferrule.streams.events import Emitted
    from ferrule.streams.log import Appended

D = TypeVar("D")

READ_ONLY = "A Read session cannot write: ask for `session: Write` instead."
_WRITES = re.compile(
    r"\s*(insert|update|delete|merge|replace|truncate|create|alter|drop)\b", re.IGNORECASE
)

_OF_SQLALCHEMY = frozenset({"sync_session", "_proxied", "_async_bind", "_async_binds"})
"""What `AsyncSession.__init__` sets."""

Fetch = Callable[[Prebuilt, Mapping[str, Any]], Awaitable[Rows]]

log = structlog.get_logger("ferrule.db")


class Enqueueing(TypedDict, total=False):
    """How a job is to be run; see `WriteSession.enqueue`."""

    actor: "Actor | None"
    delay: timedelta | float
    priority: int | None
    key: str | None
    concurrency_key: str | None


class ReadOnly(Session):
    """A session that refuses to write."""


def _refuse_flush(session: Session, *_: Any) -> None:
    raise RuntimeError(READ_ONLY)


def _refuse_writing(state: ORMExecuteState) -> None:
    # SQLite's reading connections refuse by themselves; PostgreSQL would commit at once.
    written = isinstance(state.statement, TextClause) and _WRITES.match(state.statement.text)
    if state.is_insert or state.is_update or state.is_delete or written:
        raise RuntimeError(READ_ONLY)


event.listen(ReadOnly, "before_flush", _refuse_flush)
event.listen(ReadOnly, "do_orm_execute", _refuse_writing)


class _Waiting(NamedTuple):
    """A row that is to be stored; `late` if instances wait, too, which were added before it."""

    statement: PrebuiltInsert
    values: Values
    late: bool


class Writing(JsonChanges):
    """A session that stores the rows of `WriteSession.insert` before whatever comes next.

    `emitted` are events that the commit will store, `following` is what runs after it, `marks` how
    many there were of both when a savepoint began.
    """

    waiting: list[_Waiting]
    emitted: "list[Emitted]"
    following: list[Callable[[], Awaitable[None]]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.marks: WeakKeyDictionary[SessionTransaction, tuple[int, int]] = WeakKeyDictionary()

    def flush(self, objects: Any = None) -> None:
        waiting = self.waiting[:]
        self.waiting.clear()
        self._store(each for each in waiting if not each.late)
        super().flush(objects)
        self._store(each for each in waiting if each.late)

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        if self.waiting:
            self.flush()
        return super().connection(*args, **kwargs)

    def _store(self, rows: Iterable[_Waiting]) -> None:
        for statement, values, _ in rows:
            super().connection().execute(statement.statement, statement.parameters(values))


def _flush_first(about: Any) -> None:
    session: Writing = getattr(about, "session", about)
    if session.waiting:
        session.flush()


def _mark(session: Writing, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.marks[transaction] = len(session.emitted), len(session.following)


def _forget(session: Writing, ended: SessionTransaction) -> None:
    # A savepoint begins with a flush: what waits at its end came up in it.
    session.waiting.clear()
    # A flush that fails ends the savepoint around it, or all.
    transaction: SessionTransaction | None = ended
    while transaction is not None and transaction not in session.marks:
        transaction = transaction.parent
    emitted, following = session.marks[transaction] if transaction else (0, 0)
    del session.emitted[emitted:], session.following[following:]


event.listen(Writing, "do_orm_execute", _flush_first)
event.listen(Writing, "before_commit", _flush_first)
event.listen(Writing, "after_transaction_create", _mark)
event.listen(Writing, "after_soft_rollback", _forget)


class ReadSession(AsyncSession):
    """Reads. `kit` offers settings and what modules provide.

    Each statement sees what is committed when it starts, and gives its connection back at its end.
    """

    sync_session_class = ReadOnly

    def __init__(self, engines: Engines, kit: Kit) -> None:
        self.kit = kit
        self._engines = engines
        self.fetch: Fetch = engines.driver.fetch

    def __getattr__(self, name: str) -> Any:
        # SQLAlchemy's session is made when something first needs it, because most requests run
        # nothing but prebuilt statements, and making it takes longer than those.
        if name not in _OF_SQLALCHEMY:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self._open()
        return getattr(self, name)

    @property
    def dialect(self) -> str:
        """The name of the database's dialect."""
        return self._engines.read.dialect.name

    @property
    def opened(self) -> bool:
        """Whether anything needed SQLAlchemy's session."""
        return "sync_session" in self.__dict__

    async def fetch_one(self, statement: Prebuilt, /, **values: Any) -> Row | None:
        """The first row of a prebuilt statement, None if there is none."""
        rows = await self.fetch(statement, values)
        return rows[0] if rows else None

    async def fetch_all(self, statement: Prebuilt, /, **values: Any) -> Rows:
        """The rows of a prebuilt statement."""
        return await self.fetch(statement, values)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute(*args, **kwargs)
        finally:
            await self._release()

    async def scalar(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().scalar(*args, **kwargs)
        finally:
            await self._release()

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().get(*args, **kwargs)
        finally:
            await self._release()

    async def get_one(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().get_one(*args, **kwargs)
        finally:
            await self._release()

    async def refresh(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().refresh(*args, **kwargs)
        finally:
            await self._release()

    async def commit(self) -> Never:
        """Services never commit: the unit of work does, once, when they are done."""
        raise RuntimeError(
            "Services never commit: the unit of work does when the endpoint returns."
        )

    async def close(self) -> None:
        if self.opened:
            await super().close()

    def _open(self) -> None:
        super().__init__(self._engines.read, expire_on_commit=False, autoflush=False)

    async def _release(self) -> None:
        try:
            await super().commit()
        except PendingRollbackError:
            # The connection was lost during the statement, whose own failure is the one to tell.
            await super().rollback()


class WriteSession(ReadSession):
    """Reads and writes in one transaction, which begins with the first statement.

    On SQLite that statement waits for the single writer: do what takes long before it.
    """

    sync_session_class = Writing

    def __init__(self, engines: Engines, kit: Kit) -> None:
        super().__init__(engines, kit)
        # Not the driver's, and no bound method: a session must not hold itself.
        del self.fetch
        self._waiting: list[_Waiting] = []
        self._emitted: list[Emitted] = []
        self._after_commit: list[Callable[[], Awaitable[None]]] = []

    def after_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Run `callback` once the transaction is committed, and not at all if it is not."""
        self._after_commit.append(callback)

    def insert(self, statement: PrebuiltInsert, /, **values: Any) -> Row:
        """The new row, which is stored before the next statement, or with the commit.

        Where nothing else is done, it is one statement without a transaction around it.
        """
        stored = statement.values(values)
        late = self.opened and bool(self.new or self.dirty or self.deleted)
        self._waiting.append(_Waiting(statement, stored, late))
        return statement.row(dict(stored))

    @overload
    async def enqueue(self, job: "JobFunction[None]", /, **options: Unpack[Enqueueing]) -> UUID: ...
    @overload
    async def enqueue(
        self, job: "JobFunction[D]", data: D, /, **options: Unpack[Enqueueing]
    ) -> UUID: ...
    async def enqueue(
        self, job: "JobFunction[Any]", data: Any = None, /, **options: Unpack[Enqueueing]
    ) -> UUID:
        """The id of new durable work, which exists exactly if this transaction is committed.

        - `actor`: who asks, and may look at the job
        - `delay`: seconds, or a timedelta, before it is due
        - `priority`: instead of the job's own; a higher one runs sooner
        - `key`: as long as a job of this name with this key is kept, no second one is made: the
          answer is the id of the first
        - `concurrency_key`: jobs with a cap are counted by it

        Raises `Invalid` for data that is not what the job takes, `ConfigurationError` for a job
        that no module declares.
        """
        # The queue stands on this file.
        from ferrule.jobs.requests import enqueue

        return await enqueue(self, job, data, **options)

    def emit(
        self,
        stream: str,
        type: str,
        data: Any,
        *,
        by: "Actor | None" = None,
        about: UUID | None = None,
    ) -> None:
        """Write an event into a stream, in this transaction: its readers get it once it commits.

        `stream` is named as its kind was declared by a module, `rooms/<id>`; of a personal kind,
        `notifications/<user id>`. `data` is a Pydantic model, or JSON; `by` is who did it; `about`
        is the id of what it tells of, if that may have to be redacted.

        Raises `Invalid` for data of more than 48 KiB, `ConfigurationError` for a kind that no
        module declares.
        """
        # The log stands on this file.
        from ferrule.streams.log import emitted

        self._emitted.append(emitted(self.kit, stream, type, data, by, about))

    async def rollback(self) -> None:
        self._waiting.clear()
        self._emitted.clear()
        self._after_commit.clear()
        if self.opened:
            await super().rollback()

    async def fetch(self, statement: Prebuilt, values: Mapping[str, Any]) -> Rows:  # type: ignore[override]
        """The rows of a prebuilt statement, in the transaction."""
        statement.check_reading()
        result = await self.execute(statement.statement, values)
        return Rows(result.all(), statement.row, statement.named, statement.naming)

    async def lock(self, key: str) -> None:
        """Wait until no other transaction holds `key`; it is held until this one ends."""
        if self.dialect == "postgresql":
            number = zlib.crc32(key.encode())
            await self.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": number})
        # On SQLite the transaction is the only one that writes.

    async def finish(self) -> None:
        """Commit, then run what was registered to follow; the unit of work calls it."""
        if len(self._emitted) > 1 or (self._emitted and len(self._waiting) > 1):
            self._open_once()
        if self.opened:
            await self.flush()
        try:
            appended = await self._commit()
        except DBAPIError as failure:
            if failure.connection_invalidated:
                raise OutcomeUnknown from failure
            raise
        if appended:
            self._announce(appended)
        for callback in self._after_commit:
            try:
                await callback()
            except Exception as error:
                # What was committed is not undone by it, so it is no failure of the request.
                log.error("after_commit failed", exc_info=error)

    async def _commit(self) -> "Sequence[Appended]":
        """Store what is left to be stored, and commit; the events with their offsets."""
        if not self._emitted and not self.opened:
            if self._waiting:
                await self._engines.driver.write(self._rows())
            return ()
        # The log stands on this file.
        from ferrule.streams import log as streams

        if not self.opened:
            return await streams.append_alone(
                self._engines.driver, self.kit, self.dialect, self._rows(), self._emitted[0]
            )
        appended = await streams.append(self, self._emitted) if self._emitted else ()
        await AsyncSession.commit(self)
        return appended

    def _rows(self) -> list[tuple[PrebuiltInsert, Values]]:
        return [(each.statement, each.values) for each in self._waiting]

    def _announce(self, appended: "Sequence[Appended]") -> None:
        from ferrule.streams.log import announce

        try:
            announce(self.kit, appended)
        except Exception as error:
            # Its readers find what they missed in the log.
            log.error("announcing events failed", exc_info=error)

    def _open_once(self) -> None:
        if not self.opened:
            self._open()

    def _open(self) -> None:
        AsyncSession.__init__(self, self._engines.write, expire_on_commit=False)
        session = cast(Writing, self.sync_session)
        session.waiting, session.emitted = self._waiting, self._emitted
        session.following = self._after_commit

    async def _release(self) -> None:
        """The connection is kept until the transaction ends."""
