"""The log: streams, and their events."""

import time
from datetime import datetime
from random import SystemRandom
from uuid import UUID

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ferrule.db.base import Base
from ferrule.db.types import utcnow

# Not that of `random`, which applications seed: two processes would choose the same.
_getrandbits = SystemRandom().getrandbits
_last_id = 0


def new_stream_id() -> int:
    """Larger than all before in this process, so that events of streams of one time lie together.

    The first of a second is that second and 30 random bits, the others follow it: two processes
    that make n streams a second each meet once in 2**29 / n seconds.
    """
    global _last_id
    start = int(time.time()) << 30
    _last_id = _last_id + 1 if _last_id >= start else start | _getrandbits(30)
    return _last_id


def new_epoch() -> str:
    """Tells a stream from those of the same name before it."""
    return f"{_getrandbits(32):08x}"


class Log(DeclarativeBase):
    """The base of the log's tables: no ids, no revisions, for nothing in them is ever changed."""

    metadata = Base.metadata
    type_annotation_map = Base.type_annotation_map


class Stream(Log):
    """A stream's head. Its events are those after `floor`, up to `top`.

    Who appends raises `top`, which locks the row until the commit: that makes the order of offsets
    the order of commits.
    """

    __tablename__ = "streams"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[str] = mapped_column(String(50))
    epoch: Mapped[str] = mapped_column(String(16))
    top: Mapped[int]
    floor: Mapped[int] = mapped_column(default=0)
    oldest_at: Mapped[datetime]


Index("ix_streams_kind_oldest_at", Stream.kind, Stream.oldest_at)


class StreamEvent(Log):
    """An event. `data` is JSON as it is sent, so that replay and live are the same bytes.

    No foreign key: who appends holds the stream's row, and looking it up again costs as much.
    """

    __tablename__ = "stream_events"

    stream_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(100))
    data: Mapped[str] = mapped_column(Text)
    by: Mapped[UUID | None]
    at: Mapped[datetime]
    about: Mapped[UUID | None]
    """What it tells of, where that may have to be redacted."""


Index(
    "ix_stream_events_about",
    StreamEvent.stream_id,
    StreamEvent.about,
    sqlite_where=StreamEvent.about.is_not(None),
    postgresql_where=StreamEvent.about.is_not(None),
)


class Ticket(Log):
    """Lets its bearer open one connection; `hash` is that of the secret that was handed out."""

    __tablename__ = "stream_tickets"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[UUID]
    session_id: Mapped[UUID | None]
    door: Mapped[str] = mapped_column(String(50))
    expires_at: Mapped[datetime] = mapped_column(index=True)
    actor_expires_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
