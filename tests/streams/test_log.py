"""The log: an event is stored exactly if its transaction is, in the order of the commits."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from pydantic import BaseModel
from sqlalchemy import ForeignKey, String, func, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from ferrule import (
    Actor,
    ConfigurationError,
    Conflict,
    Ferrule,
    Forbidden,
    Invalid,
    Module,
    create_app,
)
from ferrule.db import Base, Database, WriteSession, prebuilt, utcnow, uuid7
from ferrule.db import sqlite as sqlite_room
from ferrule.jobs import Run, job
from ferrule.jobs.models import Job
from ferrule.jobs.worker import Worker
from ferrule.modules import auth
from ferrule.streams import Channel
from ferrule.streams.events import MAX_DATA, Event
from ferrule.streams.hub import Hub
from ferrule.streams.log import Announcer, Appended, read_page
from ferrule.streams.models import Stream, StreamEvent
from ferrule.streams.position import Position
from ferrule.streams.retention import Retention

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)


class Entry(Base):
    """A row that an event tells of. That its parent exists is looked at by the COMMIT."""

    __tablename__ = "test_log_entries"

    name: Mapped[str] = mapped_column(String(100), unique=True)
    parent_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("test_log_entries.id", deferrable=True, initially="DEFERRED")
    )


NEW = prebuilt(insert(Entry))
STREAM = "logs/1"


async def _anybody(session: Any, actor: Any, id: Any) -> None: ...


@job(backoff=0, max_attempts=2)
async def tell(run: Run, name: str) -> None:
    """Tells of itself with its end; `!` fails the first attempt, `?` loses its claim."""
    run.session.emit(STREAM, "told", name)
    if name.endswith("!") and run.attempt == 1:
        raise RuntimeError
    if name.endswith("?") and not run.again:
        async with run.kit[Database].write() as session:
            taken = update(Job.__table__).where(Job.id == run.id)
            await session.execute(taken.values(epoch=Job.epoch + 1, owner="another"))


@pytest.fixture
def application() -> Ferrule:
    channels = (
        Channel(kind="logs", authorize=_anybody),
        Channel(kind="short", authorize=_anybody, keep_events=10, keep_days=1),
        Channel(kind="mine", personal=True),
    )
    logs = Module(name="logs", requires=("auth",), channels=channels, jobs=(tell,))
    return create_app(modules=[auth.module, logs])


class Announced:
    """What was announced, and to whom it goes on."""

    def __init__(self, hub: Hub) -> None:
        self.events: list[tuple[str, int]] = []
        self.fails = False
        self._hub = hub

    def committed(self, appended: Any) -> None:
        if self.fails:
            raise RuntimeError("nobody is there")
        each: Appended
        for each in appended:
            self.events += [(each.stream, event.offset) for event in each.events]
        self._hub.committed(appended)


class Stored(NamedTuple):
    epoch: str
    top: int
    floor: int
    data: dict[int, Any]


class Ledger:
    """Looks at the log, past what reads it."""

    def __init__(self, app: Ferrule, announced: Announced) -> None:
        self.kit = app.kit
        self.announced = announced
        self.write: Callable[[], Any] = app.kit[Database].write

    async def stored(self, stream: str = STREAM) -> Stored | None:
        async with self.kit[Database].read() as session:
            head = await session.scalar(select(Stream).where(Stream.name == stream))
            if head is None:
                return None
            events = select(StreamEvent).where(StreamEvent.stream_id == head.id)
            rows = (await session.execute(events.order_by(StreamEvent.offset))).scalars()
            data = {row.offset: json.loads(row.data) for row in rows}
        return Stored(head.epoch, head.top, head.floor, data)

    async def data(self, stream: str = STREAM) -> list[Any]:
        """What is told, in order; the offsets must have no gap, and all must be announced."""
        stored = await self.stored(stream)
        if stored is None:
            return []
        assert list(stored.data) == list(range(stored.floor + 1, stored.top + 1))
        announced = [offset for name, offset in self.announced.events if name == stream]
        assert sorted(announced) == list(range(1, stored.top + 1))
        return list(stored.data.values())

    async def entries(self) -> set[str]:
        async with self.kit[Database].read() as session:
            return set((await session.execute(select(Entry.name))).scalars())

    async def emit(self, *data: Any, stream: str = STREAM) -> None:
        async with self.write() as session:
            for each in data:
                session.emit(stream, "told", each)


@pytest_asyncio.fixture
async def log(app: Ferrule) -> AsyncIterator[Ledger]:
    announced = Announced(app.kit[Hub])
    app.kit.provide(announced, kind=Announcer)  # type: ignore[type-abstract]
    engine = app.kit[Database].engines.write
    table: Any = Entry.__table__
    async with engine.begin() as connection:
        await connection.run_sync(table.create)
    yield Ledger(app, announced)
    async with engine.begin() as connection:
        await connection.run_sync(table.drop)


class Sink:
    """Reads everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.said: list[str] = []
        self.is_live = asyncio.Event()

    def deliver(self, event: Event, epoch: str) -> bool:
        self.events.append(event)
        return True

    replay = deliver

    def begun(self, epoch: str | None, top: int) -> None: ...

    def live(self, epoch: str | None, offset: int) -> None:
        self.is_live.set()

    def reset(self, epoch: str | None, offset: int) -> None:
        self.said.append(f"reset {offset}")

    async def drained(self) -> None: ...

    def broken(self) -> None:
        self.said.append("broken")

    async def got(self, number: int) -> list[Event]:
        async with asyncio.timeout(10):
            while len(self.events) < number:
                await asyncio.sleep(0.005)
        return self.events


@pytest.fixture
def read(log: Ledger) -> Callable[..., Awaitable[Sink]]:
    """Reads a stream in this process until the test ends."""

    async def read(since: Position | None, stream: str = STREAM) -> Sink:
        sink = Sink()
        log.kit[Hub].join(stream, sink, since)
        async with asyncio.timeout(10):
            await sink.is_live.wait()
        return sink

    return read


# Exactly if the transaction is.


async def test_what_is_committed_is_stored_and_announced(log: Ledger) -> None:
    await log.emit("one", "two")
    await log.emit("three")
    assert await log.data() == ["one", "two", "three"]


async def test_what_is_rolled_back_is_not(log: Ledger) -> None:
    await log.emit("one")
    for number in (1, 2):
        with pytest.raises(ZeroDivisionError):
            async with log.write() as session:
                for _ in range(number):
                    session.emit(STREAM, "told", "never")
                raise ZeroDivisionError
    async with log.write() as session:
        session.emit(STREAM, "told", "never")
        await session.rollback()
        session.emit(STREAM, "told", "two")
    assert await log.data() == ["one", "two"]


async def test_a_refusal_that_keeps_writes_keeps_events(log: Ledger) -> None:
    class Refused(Forbidden):
        keeps_writes = True

    with pytest.raises(Refused):
        async with log.write() as session:
            session.emit(STREAM, "told", "kept")
            raise Refused
    assert await log.data() == ["kept"]


async def test_savepoints_take_their_events_with_them(log: Ledger) -> None:
    async with log.write() as session:
        session.emit(STREAM, "told", "before")
        with pytest.raises(ZeroDivisionError):
            async with session.begin_nested():
                session.emit(STREAM, "told", "never")
                async with session.begin_nested():
                    session.emit(STREAM, "told", "never either")
                raise ZeroDivisionError
        async with session.begin_nested():
            session.emit(STREAM, "told", "in one")
            with pytest.raises(ZeroDivisionError):
                async with session.begin_nested():
                    session.emit(STREAM, "told", "never")
                    raise ZeroDivisionError
            session.emit(STREAM, "told", "in one, later")
        session.emit(STREAM, "told", "after")
    assert await log.data() == ["before", "in one", "in one, later", "after"]


@pytest.mark.parametrize("way", ["orm", "prebuilt", "statement"])
async def test_a_savepoint_in_which_a_statement_fails(log: Ledger, way: str) -> None:
    await _store(log, "orm", "taken")
    async with log.write() as session:
        session.emit(STREAM, "told", "before")
        with pytest.raises(Exception, match=r"(?i)unique"):
            async with session.begin_nested():
                session.emit(STREAM, "told", "never")
                await _insert(session, way, "taken")
                await session.flush()
        session.emit(STREAM, "told", "after")
    assert await log.data() == ["taken", "before", "after"]


async def test_a_savepoint_that_is_rolled_back_by_hand(log: Ledger) -> None:
    async with log.write() as session:
        session.emit(STREAM, "told", "before")
        savepoint = await session.begin_nested()
        session.emit(STREAM, "told", "never")
        await savepoint.rollback()
        session.emit(STREAM, "told", "after")
    assert await log.data() == ["before", "after"]


async def test_a_commit_that_is_refused_announces_nothing(log: Ledger) -> None:
    await log.emit("one")
    for ways in (["orm"], ["prebuilt"], ["prebuilt", "prebuilt"], ["orm", "prebuilt"]):
        with pytest.raises(Conflict):
            async with log.write() as session:
                for number, way in enumerate(ways):
                    await _insert(session, way, f"orphan {number}", parent_id=uuid7())
                session.emit(STREAM, "told", "never")
    assert await log.data() == ["one"]
    assert await log.entries() == set()


async def test_whatever_announcing_does_it_is_committed(log: Ledger) -> None:
    log.announced.fails = True
    await log.emit("one")
    log.announced.fails = False
    stored = await log.stored()
    assert stored is not None
    assert stored.data == {1: "one"}


async def test_where_nobody_listens_it_is_stored(log: Ledger) -> None:
    del log.kit._things[Announcer]
    await log.emit("one")
    stored = await log.stored()
    assert stored is not None
    assert stored.data == {1: "one"}


# Its ways: past the ORM where there is one event with one new row at most, else through it.


async def _insert(session: WriteSession, way: str, name: str, **values: Any) -> None:
    if way == "orm":
        session.add(Entry(name=name, **values))
    elif way == "prebuilt":
        session.insert(NEW, name=name, **values)
    else:
        row = {"id": uuid7(), "created_at": utcnow(), "updated_at": utcnow(), "revision": 1}
        known = {key: row[key] for key in row if key in Entry.__table__.columns}
        await session.execute(insert(Entry.__table__).values(name=name, **known, **values))


async def _store(log: Ledger, way: str, name: str, **values: Any) -> None:
    async with log.write() as session:
        await _insert(session, way, name, **values)
        session.emit(STREAM, "told", name)
        assert session.opened == (way != "prebuilt")


@pytest.mark.parametrize("way", ["prebuilt", "orm", "statement"])
async def test_all_ways_store_the_same(log: Ledger, way: str) -> None:
    names = [f"{way} {number}" for number in range(3)]
    for name in names:
        await _store(log, way, name)
    assert await log.data() == names
    assert await log.entries() == set(names)


async def test_ways_in_turns(log: Ledger) -> None:
    names = [f"entry {number}" for number in range(30)]
    for name in names:
        await _store(log, random.choice(["prebuilt", "orm", "statement"]), name)
    await log.emit("alone")
    assert await log.data() == [*names, "alone"]


async def test_several_rows_and_events(log: Ledger) -> None:
    async with log.write() as session:
        for number in range(3):
            session.insert(NEW, name=f"entry {number}")
            session.emit(STREAM, "told", number)
        assert not session.opened
    assert await log.data() == [0, 1, 2]
    assert len(await log.entries()) == 3


@pytest.mark.parametrize("way", ["prebuilt", "orm", "statement"])
async def test_a_row_that_is_refused_leaves_no_event(log: Ledger, way: str) -> None:
    await _store(log, way, "taken")
    with pytest.raises(Conflict):
        await _store(log, way, "taken")
    await _store(log, way, "free")
    assert await log.data() == ["taken", "free"]


async def test_who_emits_and_when_is_told(log: Ledger) -> None:
    actor = Actor(kind="user", id=uuid7())
    began = datetime.now(UTC)
    async with log.write() as session:
        session.emit(STREAM, "told", None, by=actor)
    async with log.kit[Database].read() as session:
        (row,) = (await session.execute(select(StreamEvent))).scalars()
    assert (row.type, row.by, row.data) == ("told", actor.id, "null")
    assert began <= row.at <= datetime.now(UTC)


# At the same time.


async def test_offsets_have_no_gap_whoever_gives_up(log: Ledger) -> None:
    """Fifty at once: a third gives up, a third gives a part of it up; ways are mixed."""
    kept: list[str] = []

    async def one(number: int) -> None:
        name = f"entry {number}"
        try:
            async with log.write() as session:
                await _insert(session, ["prebuilt", "orm"][number % 2], name)
                session.emit(STREAM, "told", name)
                if number % 3 == 1:
                    try:
                        async with session.begin_nested():
                            session.emit(STREAM, "told", "never")
                            await session.flush()
                            raise ZeroDivisionError
                    except ZeroDivisionError:
                        session.emit(STREAM, "told", f"{name}, again")
                elif number % 3 == 2:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            return
        kept.extend([name, f"{name}, again"] if number % 3 == 1 else [name])

    await asyncio.gather(*(one(number) for number in range(50)))
    data = await log.data()
    assert sorted(data) == sorted(kept)
    assert len(await log.entries()) == 34
    # Those of one transaction stand together.
    for number in range(1, 50, 3):
        assert data.index(f"entry {number}, again") == data.index(f"entry {number}") + 1


async def test_a_stream_begins_once(log: Ledger) -> None:
    await asyncio.gather(*(log.emit(number) for number in range(20)))
    assert sorted(await log.data()) == list(range(20))


async def test_several_streams_in_opposite_orders(log: Ledger) -> None:
    streams = [f"logs/{number}" for number in range(5)]

    async def one(number: int) -> None:
        async with log.write() as session:
            for stream in random.sample(streams, k=4):
                session.emit(stream, "told", number)
                session.emit(stream, "told", -number)

    async with asyncio.timeout(30):
        await asyncio.gather(*(one(number) for number in range(1, 41)))
    assert sum([len(await log.data(stream)) for stream in streams]) == 40 * 4 * 2


@on_postgresql
async def test_the_order_of_offsets_is_that_of_commits(log: Ledger) -> None:
    """Who has read an offset never finds a smaller one later."""
    done = asyncio.Event()
    seen: list[int] = []

    async def watch() -> None:
        while not done.is_set():
            async with log.kit[Database].read() as session:
                page = await read_page(session, STREAM, max(seen, default=0), 1000)
            seen.extend(offset for offset, _ in page.rows)

    async def write(number: int) -> None:
        async with log.write() as session:
            session.emit(STREAM, "told", number)
            if number % 2:
                session.emit(STREAM, "told", number)
            await session.flush()
            await asyncio.sleep(random.random() * 0.02)

    watching = [asyncio.create_task(watch()) for _ in range(1)]
    for _ in range(5):
        await asyncio.gather(*(write(number) for number in range(20)))
    done.set()
    await asyncio.gather(*watching)
    assert seen == sorted(set(seen))
    async with log.kit[Database].read() as session:
        rest = await read_page(session, STREAM, seen[-1], 1000)
    assert seen + [offset for offset, _ in rest.rows] == list(range(1, 151))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What SQLite's connections for prebuilt statements run; ask for it before the log."""
    statements: list[str] = []
    connecting = sqlite_room.connect

    def connect(url: Any, pragmas: Any) -> Any:
        connection = connecting(url, pragmas)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite_room, "connect", connect)
    return statements


@on_sqlite
async def test_events_are_committed_in_groups(ran: list[str], log: Ledger) -> None:
    await log.emit("first")
    ran.clear()
    results = await asyncio.gather(
        *(_store(log, "prebuilt", f"entry {number % 25}") for number in range(50)),
        return_exceptions=True,
    )
    assert [type(result) for result in results].count(Conflict) == 25
    assert len(await log.data()) == 26
    assert 1 <= ran.count("COMMIT") < 10


# What is told.


class Told(BaseModel):
    at: datetime
    price: Decimal
    id: UUID


@pytest.mark.parametrize(
    "data",
    [
        None,
        True,
        0,
        1.5,
        "",
        'grüße 🎈 \u2028 \n \x00 " \\',
        [1, [2, {"a": None}]],
        {"b": 1, "a": {"ä": [1.25, -3]}},
        {"at": datetime(2026, 1, 2, tzinfo=UTC), "id": UUID(int=7), "price": Decimal("1.20")},
        Told(at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC), price=Decimal("1.20"), id=UUID(int=7)),
    ],
    ids=range(10),
)
async def test_replay_and_live_are_the_same_bytes(
    log: Ledger, read: Callable[..., Awaitable[Sink]], data: Any
) -> None:
    await log.emit("first")
    live = await read(None)
    actor = Actor(kind="user", id=uuid7())
    async with log.write() as session:
        session.emit(STREAM, 'a "type" ü', data, by=actor)
    async with log.write() as session:
        session.emit(STREAM, "told", data)
        session.emit(STREAM, "told", data, by=actor)
    lively = [event.message.text for event in await live.got(3)]
    replayed = await read(Position(1))
    assert [event.message.text for event in await replayed.got(3)] == lively
    first = json.loads(lively[0])
    assert first | {"at": 0, "data": 0} == {
        "t": "ev",
        "ch": STREAM,
        "offset": 2,
        "type": 'a "type" ü',
        "at": 0,
        "by": str(actor.id),
        "data": 0,
    }
    assert b"\n" not in b"".join(lively)


async def test_personal_streams_are_called_by_their_channel(
    log: Ledger, read: Callable[..., Awaitable[Sink]]
) -> None:
    name = f"mine/{uuid4()}"
    live = await read(None, name)
    await log.emit("one", stream=name)
    (event,) = await live.got(1)
    assert json.loads(event.message.text)["ch"] == "mine"


async def test_a_kind_that_nobody_declares(log: Ledger) -> None:
    for name in ("halls/1", "halls", "", "/logs"):
        with pytest.raises(ConfigurationError):
            await log.emit("one", stream=name)


async def test_names_and_types_have_a_length(log: Ledger) -> None:
    async with log.write() as session:
        for stream, type in ((STREAM, ""), (STREAM, "x" * 101), ("logs/" + "x" * 196, "told")):
            with pytest.raises(ValueError, match="characters"):
                session.emit(stream, type, None)
        session.emit("logs/" + "x" * 195, "x" * 100, None)


@pytest.mark.parametrize(
    "data", [float("nan"), {"at": utcnow(), "ratio": float("inf")}, "\ud800", {"\udfff": 1}]
)
async def test_what_no_reader_could_read_is_refused(log: Ledger, data: Any) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogates|not allowed"):
        async with log.write() as session:
            session.emit(STREAM, "told", data)
    assert await log.data() == []


@pytest.mark.parametrize(("letter", "size"), [("x", 1), ("é", 2), ("🎈", 4)])
async def test_data_has_a_size(log: Ledger, letter: str, size: int) -> None:
    fits = letter * ((MAX_DATA - 2) // size)
    with pytest.raises(Invalid):
        await log.emit("never", fits + letter)
    assert await log.data() == []
    await log.emit(fits)
    assert await log.data() == [fits]


@pytest.mark.parametrize("data", [float("nan"), object(), {"a": [object()]}])
async def test_what_is_no_json_is_refused_where_it_is_emitted(log: Ledger, data: Any) -> None:
    async with log.write() as session:
        with pytest.raises((ValueError, TypeError, Invalid)):
            session.emit(STREAM, "told", data)
        session.emit(STREAM, "told", "one")
    assert await log.data() == ["one"]


# In jobs.


async def test_a_job_tells_with_its_end(log: Ledger, worker: Worker) -> None:
    async with log.write() as session:
        await session.enqueue(tell, "once")
        await session.enqueue(tell, "twice!")
    await worker.drain()
    assert sorted(await log.data()) == ["once", "twice!"]


async def test_a_job_that_lost_its_claim_tells_nothing(log: Ledger, worker: Worker) -> None:
    async with log.write() as session:
        id = await session.enqueue(tell, "lost?")
    await worker.drain()
    assert await log.data() == []
    async with log.kit[Database].read() as session:
        assert await session.scalar(select(Job.owner).where(Job.id == id)) == "another"


# What is kept.


SHORT = "short/1"


async def _fill(log: Ledger, number: int, *, first: int = 1) -> None:
    for offset in range(first, first + number, 5):
        last = min(offset + 5, first + number)
        await log.emit(*range(offset, last), stream=SHORT)


async def _age(log: Ledger, *, up_to: int, days: float) -> None:
    """Let events be older than they are."""
    async with log.write() as session:
        before = utcnow() - timedelta(days=days)
        old = StreamEvent.__table__.update().where(StreamEvent.offset <= up_to)
        await session.execute(old.values(at=before))
        await session.execute(update(Stream.__table__).values(oldest_at=before))


async def test_beyond_a_number_the_oldest_go(log: Ledger) -> None:
    retention = log.kit[Retention]
    await _fill(log, 10)
    assert await retention.trim() == 0
    await _fill(log, 25, first=11)
    assert await retention.trim() == 25
    stored = await log.stored(SHORT)
    assert stored is not None
    assert (stored.floor, stored.top) == (25, 35)
    assert await log.data(SHORT) == list(range(26, 36))
    await _fill(log, 1, first=36)
    assert await retention.trim() == 0


async def test_what_is_too_old_goes(log: Ledger) -> None:
    retention = log.kit[Retention]
    await _fill(log, 8)
    await _age(log, up_to=5, days=1.01)
    assert await retention.trim() == 5
    assert await log.data(SHORT) == [6, 7, 8]
    assert await retention.trim() == 0
    await _fill(log, 2, first=9)
    assert await log.data(SHORT) == [6, 7, 8, 9, 10]


async def _forget(log: Ledger) -> None:
    """Let the time pass after which an empty stream is removed."""
    async with log.kit[Database].write() as session:
        await session.execute(
            update(Stream)
            .where(Stream.name == SHORT)
            .values(oldest_at=utcnow() - timedelta(days=1.01))
        )
    await log.kit[Retention].trim()


async def test_a_clock_that_went_back_does_not_stop_retention(log: Ledger) -> None:
    await _fill(log, 8)
    await _age(log, up_to=8, days=1.01)
    async with log.write() as session:
        young = StreamEvent.__table__.update().where(StreamEvent.offset <= 4)
        await session.execute(young.values(at=utcnow()))
    assert await asyncio.wait_for(log.kit[Retention].trim(), 10) == 8


async def test_a_stream_that_nothing_is_left_of_is_begun_again(
    log: Ledger, read: Callable[..., Awaitable[Sink]]
) -> None:
    retention = log.kit[Retention]
    await _fill(log, 8)
    before = await log.stored(SHORT)
    assert before is not None
    await _age(log, up_to=8, days=1.01)
    assert await retention.trim() == 8
    # For as long again it is known what it was.
    left = await log.stored(SHORT)
    assert left is not None
    assert (left.epoch, left.top, left.floor) == (before.epoch, 8, 8)
    await _forget(log)
    assert await log.stored(SHORT) is None
    async with log.kit[Database].read() as session:
        assert await session.scalar(select(func.count()).select_from(StreamEvent)) == 0
    await _fill(log, 3)
    after = await log.stored(SHORT)
    assert after is not None
    assert after.epoch != before.epoch
    assert after.data == {1: 1, 2: 2, 3: 3}
    reader = await read(Position(2, before.epoch), SHORT)
    assert reader.said == ["reset 0"]
    assert [event.offset for event in reader.events] == [1, 2, 3]


async def test_a_stream_that_was_emptied_a_moment_ago_is_kept(
    log: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferrule.streams.retention.AT_ONCE", 4)
    await _fill(log, 8)
    await _age(log, up_to=8, days=1.01)
    assert await log.kit[Retention].trim() == 8
    left = await log.stored(SHORT)
    assert left is not None
    assert (left.top, left.floor) == (8, 8)


async def test_readers_behind_the_floor_are_told(
    log: Ledger, read: Callable[..., Awaitable[Sink]]
) -> None:
    await _fill(log, 25)
    live = await read(Position(0), SHORT)
    await log.kit[Retention].trim()
    places = {0: "reset 15", 3: "reset 15", 14: "reset 15", 15: None, 20: None, 25: None}
    for offset, told in places.items():
        reader = await read(Position(offset), SHORT)
        assert reader.said == ([told] if told else [])
        expected = list(range(max(offset, 15) + 1, 26))
        assert [event.offset for event in reader.events] == expected
    assert live.said == []
    await _fill(log, 1, first=26)
    assert [event.offset for event in await live.got(26)] == list(range(1, 27))


async def test_a_live_reader_of_a_stream_that_is_begun_again(
    log: Ledger, read: Callable[..., Awaitable[Sink]]
) -> None:
    await _fill(log, 8)
    live = await read(None, SHORT)
    await _age(log, up_to=8, days=1.01)
    await log.kit[Retention].trim()
    await _forget(log)
    await _fill(log, 12)
    await live.got(12)
    assert live.said == ["reset 0"]
    assert [event.offset for event in live.events] == list(range(1, 13))


async def test_trimming_amid_writes_loses_nothing_that_is_kept(
    log: Ledger, read: Callable[..., Awaitable[Sink]]
) -> None:
    retention, reader = log.kit[Retention], await read(Position(0), SHORT)
    done = asyncio.Event()

    async def trim() -> None:
        while not done.is_set():
            await retention.trim()
            await asyncio.sleep(0.005)

    trimming = asyncio.create_task(trim())
    for first in range(1, 200, 10):
        await asyncio.gather(*(log.emit(first + number, stream=SHORT) for number in range(10)))
    done.set()
    await trimming
    data = await log.data(SHORT)
    stored = await log.stored(SHORT)
    assert stored is not None
    assert stored.top == 200
    assert 10 <= len(data) <= 200 - stored.floor
    offsets = [event.offset for event in await reader.got(200 - 190)]
    async with asyncio.timeout(10):
        while not offsets or offsets[-1] < 200:
            await asyncio.sleep(0.01)
            offsets = [event.offset for event in reader.events]
    assert offsets == sorted(set(offsets))
    if not reader.said:
        assert offsets == list(range(1, 201))
