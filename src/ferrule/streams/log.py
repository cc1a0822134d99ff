"""The log: how events get their offsets, in the transaction of what they tell of, and are read."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Insert,
    String,
    Text,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy import Uuid as UuidType

from ferrule.db.statements import Driver, Prebuilt, PrebuiltInsert, PrebuiltWrite, prebuilt
from ferrule.db.types import UtcDateTime, utcnow
from ferrule.streams.channels import CONTROL, Channels
from ferrule.streams.events import MAX_TYPE, Emitted, Event, Page, data_json
from ferrule.streams.models import Stream, StreamEvent, new_epoch, new_stream_id

if TYPE_CHECKING:
    from ferrule.actor import Actor
    from ferrule.db.session import ReadSession, WriteSession
    from ferrule.kit import Kit

STREAMS: Any = Stream.__table__
EVENTS: Any = StreamEvent.__table__
MAX_NAME = 200
MAX_PAGE = 131_072
"""Characters of data after which a page is full."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Events of a stream that were committed, with what their transaction found."""

    stream: str
    epoch: str
    floor: int
    events: Sequence[Event]


class Announcer(Protocol):
    """What is told of events once they are committed."""

    def committed(self, appended: Sequence[Appended]) -> None: ...


def emitted(
    kit: "Kit", stream: str, type: str, data: Any, by: "Actor | None", about: UUID | None
) -> Emitted:
    """See `WriteSession.emit`."""
    kit[Channels].of(stream)
    if len(stream) > MAX_NAME or not 1 <= len(type) <= MAX_TYPE:
        raise ValueError(
            f"A stream's name has up to {MAX_NAME} characters, an event's type up to {MAX_TYPE}."
        )
    by_id = None if by is None else by.id
    return Emitted(stream, type, data_json(data), by_id, utcnow(), about)


async def append(session: "WriteSession", emitted: Sequence[Emitted]) -> list[Appended]:
    """Give events their offsets, and store them in the session's transaction.

    It is the last thing that a transaction does, because the streams are locked until its end; in
    the order of their names, so that no two wait for each other. The control stream is everybody's:
    it comes after all that may have to be waited for.
    """
    by_stream: dict[str, list[Emitted]] = {}
    for each in emitted:
        by_stream.setdefault(each.stream, []).append(each)
    heads = [_head(name, by_stream[name]) for name in sorted(by_stream, key=_turn)]
    raised = (await session.execute(_raising(session.dialect), heads)).all()
    appended: list[Appended] = []
    rows: list[dict[str, Any]] = []
    for id, name, epoch, top, floor in raised:
        events: list[Event] = []
        first = top - len(by_stream[name]) + 1
        for offset, each in enumerate(by_stream[name], first):
            rows.append(_row(id, offset, each))
            events.append(_event(session.kit, offset, each))
        appended.append(Appended(name, epoch, floor, events))
    await session.execute(insert(EVENTS), rows)
    return appended


async def append_alone(
    driver: Driver,
    kit: "Kit",
    dialect: str,
    rows: Sequence[tuple[PrebuiltInsert, Mapping[str, Any]]],
    emitted: Emitted,
) -> list[Appended]:
    """The same for one event with at most one new row: on PostgreSQL a single statement."""
    head = {f"stream {name}": value for name, value in _head(emitted.stream, [emitted]).items()}
    values = head | {
        "event type": emitted.type,
        "event data": emitted.data,
        "event by": emitted.by,
        "event at": emitted.at,
        "event about": emitted.about,
    }
    if dialect == "postgresql":
        row = rows[0][0] if rows else None
        everything = {**rows[0][1], **values} if rows else values
        *_, heads = await driver.write([(_together(row), everything)])
    else:
        *_, heads, _ = await driver.write(
            [*rows, (_raise_sqlite(), values), (_add_sqlite(), values)]
        )
    _, _, epoch, top, floor = heads[0]
    return [Appended(emitted.stream, epoch, floor, [_event(kit, top, emitted)])]


def announce(kit: "Kit", appended: Sequence[Appended]) -> None:
    """Tell those who are live; a command beside the server has nobody to tell."""
    if Announcer in kit:
        kit[Announcer].committed(appended)


async def read_page(session: "ReadSession", stream: str, after: int, limit: int) -> Page:
    """Events after an offset, and the head of the stream, as of one moment.

    Up to `limit` of them, and up to `MAX_PAGE` of data, but one at least.
    """
    rows: Sequence[Any] = await session.fetch_all(_PAGE, stream=stream, after=after, limit=limit)
    if not rows:
        return Page(None, 0, 0, [])
    head: Any = rows[0]
    found: list[tuple[int, Emitted]] = []
    size = 0
    for row in rows:
        if row.offset is not None and (not found or size < MAX_PAGE):
            found.append((row.offset, Emitted(stream, row.type, row.data, row.by, row.at)))
            size += len(row.data)
    full = len(found) == limit or size >= MAX_PAGE
    return Page(head.epoch, head.top, head.floor, found, full)


async def redact(session: "WriteSession", stream: str, id: UUID) -> int:
    """Take the data out of the events of a stream that tell of this id; how many they were.

    For what must not be told any more: a message that was edited or deleted, an address. The events
    keep their places; what is left of their data is `{"id": …, "redacted": true}`. They are those
    that were emitted with `about=id`.
    """
    left = {"id": str(id), "redacted": True}
    return await _redact(session, stream, EVENTS.c.about == id, left)


async def redact_user(
    session: "WriteSession", stream: str, user_id: UUID, *, keep: Collection[str] = ()
) -> int:
    """The same for all events of a stream that a user has caused, or that have their id in them.

    For whoever is deleted. Events of the types `keep` stay as they are; of the others' data
    `{"redacted": true}` is left. It looks through the whole stream: do it in a job.
    """
    of_user = or_(EVENTS.c.by == user_id, EVENTS.c.data.contains(f'"{user_id}"'))
    others = and_(EVENTS.c.type.not_in(keep), of_user)
    return await _redact(session, stream, others, {"redacted": True})


async def _redact(session: "WriteSession", stream: str, which: Any, left: Any) -> int:
    # First what an append locks, too, so that nobody waits for each other.
    head = select(STREAMS.c.id).where(STREAMS.c.name == stream).with_for_update()
    stream_id = await session.scalar(head)
    told = and_(EVENTS.c.stream_id == stream_id, which, EVENTS.c.data.not_like('%"redacted":true}'))
    redacted = update(EVENTS).where(told).values(data=data_json(left))
    return (await session.execute(redacted)).rowcount


async def drop(session: "WriteSession", stream: str) -> None:
    """Remove a stream with all its events. Whoever emits to it again begins another one.

    Its readers get a `reset`, with the epoch of that one.
    """
    gone = delete(STREAMS).where(STREAMS.c.name == stream).returning(STREAMS.c.id)
    id = await session.scalar(gone)
    if id is not None:
        await session.execute(delete(EVENTS).where(EVENTS.c.stream_id == id))


async def drop_personal(session: "WriteSession", user_id: UUID) -> None:
    """Remove all streams that are a user's own; once their account is, so that none begins anew."""
    for kind in sorted(channel.kind for channel in session.kit[Channels] if channel.personal):
        await drop(session, f"{kind}/{user_id}")


_PAGE = prebuilt(
    select(
        Stream.epoch,
        Stream.top,
        Stream.floor,
        StreamEvent.offset,
        StreamEvent.type,
        StreamEvent.data,
        StreamEvent.by,
        StreamEvent.at,
    )
    .outerjoin(
        StreamEvent,
        and_(
            StreamEvent.stream_id == Stream.id,
            StreamEvent.offset > bindparam("after", type_=BigInteger()),
            StreamEvent.offset > Stream.floor,
        ),
    )
    .where(Stream.name == bindparam("stream"))
    .order_by(StreamEvent.offset)
    .limit(bindparam("limit", type_=BigInteger()))
)


def _turn(name: str) -> tuple[bool, str]:
    return name == CONTROL, name


def _head(name: str, events: Sequence[Emitted]) -> dict[str, Any]:
    """The row of a stream that is not there yet."""
    return {
        "id": new_stream_id(),
        "name": name,
        "kind": name.partition("/")[0],
        "epoch": new_epoch(),
        "top": len(events),
        "floor": 0,
        "oldest_at": events[0].at,
    }


def _row(stream_id: int, offset: int, event: Emitted) -> dict[str, Any]:
    return {
        "stream_id": stream_id,
        "offset": offset,
        "type": event.type,
        "data": event.data,
        "by": event.by,
        "at": event.at,
        "about": event.about,
    }


def _event(kit: "Kit", offset: int, emitted: Emitted) -> Event:
    return Event(offset, lambda: emitted.text(kit[Channels].name(emitted.stream), offset))


@lru_cache
def _raising(dialect: str, *, named: bool = False) -> Any:
    """Raise a stream's top, or begin the stream; the rows as they are then."""
    columns = list(STREAMS.columns)
    statement = _insert(dialect)
    if named:
        statement = statement.values(
            {column: bindparam(f"stream {column.name}", type_=column.type) for column in columns}
        )
    return statement.on_conflict_do_update(
        index_elements=[STREAMS.c.name], set_={"top": STREAMS.c.top + statement.excluded.top}
    ).returning(STREAMS.c.id, STREAMS.c.name, STREAMS.c.epoch, STREAMS.c.top, STREAMS.c.floor)


def _insert(dialect: str) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_or
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_or
    return insert_or(STREAMS)


_VALUES = {
    "type": bindparam("event type", type_=String()),
    "data": bindparam("event data", type_=Text()),
    "by": bindparam("event by", type_=UuidType()),
    "at": bindparam("event at", type_=UtcDateTime()),
    "about": bindparam("event about", type_=UuidType()),
}


def _event_of(head: Any, *which: Any) -> Insert:
    """Store an event as the last one of a stream."""
    chosen = select(head.c.id, head.c.top, *_VALUES.values()).where(*which)
    return insert(EVENTS).from_select(["stream_id", "offset", *_VALUES], chosen)


@lru_cache
def _together(row: PrebuiltInsert | None) -> Prebuilt:
    """A new row and its event in one statement, for PostgreSQL."""
    head = _raising("postgresql", named=True).cte("head")
    parts = [_event_of(head).cte("event")]
    if row is not None:
        parts.append(row.statement.cte("row"))
    return PrebuiltWrite(select(*head.c).add_cte(*parts))


@lru_cache
def _raise_sqlite() -> Prebuilt:
    return PrebuiltWrite(_raising("sqlite", named=True))


@lru_cache
def _add_sqlite() -> Prebuilt:
    return PrebuiltWrite(_event_of(STREAMS, STREAMS.c.name == bindparam("stream name")))
