"""Rooms, who is in them, and what was written there."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ferrule.db import Base, utcnow
from ferrule.modules.auth import User


class Room(Base):
    """A room; of kind `direct` the only one of two people, `low_id` being the smaller id.

    Who has no account any more is null there.

    `last_seq` is the number of its newest message, `active_at` when that was written, or else when
    the room was made. Neither raises the revision.
    """

    __tablename__ = "rooms"
    __table_args__ = (UniqueConstraint("low_id", "high_id"),)

    name: Mapped[str | None] = mapped_column(String(100))
    topic: Mapped[str | None] = mapped_column(String(500), default=None)
    kind: Mapped[str] = mapped_column(String(10), default="room")
    private: Mapped[bool] = mapped_column(default=True)
    low_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL"), default=None
    )
    high_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL"), default=None, index=True
    )
    # Not indexed, so that PostgreSQL need not touch an index for each message.
    last_seq: Mapped[int] = mapped_column(default=0)
    active_at: Mapped[datetime] = mapped_column(default=utcnow)


class RoomMember(Base):
    """Somebody in a room, who read its messages up to `read_seq`."""

    __tablename__ = "room_members"
    __table_args__ = (UniqueConstraint("user_id", "room_id"),)

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(String(10))
    added: Mapped[bool]
    """By somebody else: nobody's own number of rooms is used up by others."""
    read_seq: Mapped[int] = mapped_column(default=0)

    user: Mapped[User] = relationship(User, lazy="raise")

    @property
    def name(self) -> str:
        """The member's name; `user` must be loaded."""
        return self.user.name


Index("ix_room_members_room_id_id", RoomMember.room_id, RoomMember.id)


class RoomMessage(Base):
    """A message, numbered within its room. A deleted one keeps its place, without its text.

    `key` is the author's own name for it: what is posted twice with the same key is one message.
    The author is null once their account is deleted.
    """

    __tablename__ = "room_messages"
    __table_args__ = (
        UniqueConstraint("room_id", "seq"),
        UniqueConstraint("author_id", "room_id", "key"),
    )

    room_id: Mapped[UUID] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"))
    seq: Mapped[int]
    author_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    key: Mapped[str | None] = mapped_column(String(200), default=None)
    text: Mapped[str | None] = mapped_column(Text)
    edited_at: Mapped[datetime | None] = mapped_column(default=None)
    deleted_at: Mapped[datetime | None] = mapped_column(default=None)

    author: Mapped[User | None] = relationship(User, lazy="raise")

    @property
    def author_name(self) -> str | None:
        """The author's name; `author` must be loaded."""
        return None if self.author is None else self.author.name

    @property
    def deleted(self) -> bool:
        return self.deleted_at is not None
