"""Notifications, and whether their users want mails of them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ferrule.db import Base


class Notification(Base):
    """A message in a user's inbox. `actor_id` is who sent it."""

    __tablename__ = "notifications"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)
    read_at: Mapped[datetime | None] = mapped_column(default=None)
    actor_id: Mapped[UUID | None] = mapped_column(default=None)


_unread = Notification.read_at.is_(None)
Index("ix_notifications_user_id_id", Notification.user_id, Notification.id)
Index(
    "ix_notifications_unread", Notification.user_id, postgresql_where=_unread, sqlite_where=_unread
)


class NotificationPreferences(Base):
    """What a user wants. Whoever never said so has no row, and the defaults."""

    __tablename__ = "notification_preferences"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), unique=True)
    email: Mapped[bool] = mapped_column(default=True)
