"""Notifying, reading what came, and saying what one wants."""

from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, func, select, update

from ferrule.actor import Actor, administrator
from ferrule.db import ReadSession, WriteSession, prebuilt, utcnow
from ferrule.db.listing import Listing, page
from ferrule.errors import Forbidden, NotFound
from ferrule.modules.auth import User
from ferrule.modules.notifications.channels import inbox_of
from ferrule.modules.notifications.jobs import mail_notification
from ferrule.modules.notifications.models import Notification, NotificationPreferences
from ferrule.modules.notifications.schemas import (
    SORT,
    InboxQuery,
    NotificationFields,
    NotificationResponse,
    Notified,
    Notify,
    Preferences,
    PreferencesPatch,
    Unread,
)
from ferrule.resources import Action, Resource
from ferrule.schemas import changes

UNREAD = prebuilt(
    select(func.count().label("unread"))
    .select_from(Notification)
    .where(Notification.user_id == bindparam("user_id"), Notification.read_at.is_(None))
)


class Notifications(Resource[Notification]):
    """Everybody, administrators too, sees their own alone."""

    def visible(self, actor: Actor) -> ColumnElement[bool]:
        return Notification.user_id == actor.user_id

    async def react(
        self, session: WriteSession, actor: Actor, action: Action, row: Notification
    ) -> None:
        # They are made and read by the functions below; here they are deleted.
        session.emit(inbox_of(row.user_id), "deleted", {"id": str(row.id)}, by=actor)


notifications = Notifications(
    Notification, create=NotificationFields, response=NotificationResponse, sort=SORT
)


async def notify(session: WriteSession, actor: Actor, data: Notify) -> Notified:
    """Notify somebody at the actor's wish: administrators anybody, others themselves.

    Raises `Forbidden`, before it looks whether there is such a user, and `NotFound`.
    """
    if not administrator.allows(actor) and data.user_id != actor.user_id:
        raise Forbidden("Only administrators notify others.")
    return await deliver(session, actor, data)


async def deliver(session: WriteSession, actor: Actor, data: Notify) -> Notified:
    """Notify anybody, as a module does that decided whom its actor may reach.

    The notification and the job of its mail are stored with the transaction. Raises `NotFound` if
    there is no such user.
    """
    await _lock_user(session, data.user_id, exclusive=False)
    notification = Notification(
        user_id=data.user_id, title=data.title, body=data.body, actor_id=actor.id
    )
    session.add(notification)
    await session.flush()
    told = NotificationResponse.model_validate(notification)
    session.emit(inbox_of(data.user_id), "created", told, by=actor)
    job_id = None
    if data.email:
        key = str(notification.id)
        job_id = await session.enqueue(mail_notification, notification.id, actor=actor, key=key)
    return Notified(notification_id=notification.id, job_id=job_id)


async def inbox(session: ReadSession, actor: Actor, query: InboxQuery) -> Listing[Notification]:
    """One page of the actor's notifications, the newest first."""
    statement = select(Notification).where(notifications.visible(actor))
    if query.unread is not None:
        unread = Notification.read_at.is_(None)
        statement = statement.where(unread if query.unread else ~unread)
    ordering = notifications.ordering(getattr(query, "sort", None))
    return await page(session, statement, ordering=ordering, window=query.window())


async def count_unread(session: ReadSession, actor: Actor) -> Unread:
    (row,) = await session.fetch_all(UNREAD, user_id=actor.user_id)
    return Unread(unread=row.unread)


async def mark_read(session: WriteSession, actor: Actor, id: UUID) -> Notification:
    """The notification, read since the first time that this was asked; `NotFound`."""
    if await _mark(session, actor, Notification.id == id):
        session.emit(inbox_of(actor.user_id), "read", {"id": str(id)}, by=actor)
    return await notifications.get(session, actor, id)


async def mark_all_read(session: WriteSession, actor: Actor) -> Unread:
    """How many are left: those that came meanwhile."""
    # Whoever is about to notify them waits, so that what they tell is told after this.
    await _lock_user(session, actor.user_id, exclusive=True)
    if await _mark(session, actor):
        session.emit(inbox_of(actor.user_id), "read", {"id": None}, by=actor)
    return await count_unread(session, actor)


async def preferences(session: ReadSession, actor: Actor) -> NotificationPreferences | Preferences:
    """What the actor wants, or the defaults."""
    return await _stored_preferences(session, actor) or Preferences()


async def change_preferences(
    session: WriteSession, actor: Actor, data: PreferencesPatch
) -> NotificationPreferences:
    """Set what the actor named."""
    # The row of preferences may not be there yet to be locked.
    await _lock_user(session, actor.user_id, exclusive=True)
    row = await _stored_preferences(session, actor)
    if row is None:
        row = NotificationPreferences(user_id=actor.user_id)
        session.add(row)
    for name, value in changes(data).items():
        setattr(row, name, value)
    await session.flush()
    return row


async def _mark(session: WriteSession, actor: Actor, *which: ColumnElement[bool]) -> bool:
    """Mark the actor's unread ones; whether there was any."""
    # In the order of their ids, so that two that mark the same rows do not wait for each other.
    unread = (
        select(Notification.id)
        .where(notifications.visible(actor), Notification.read_at.is_(None), *which)
        .order_by(Notification.id)
        .with_for_update()
    )
    marked = await session.execute(
        update(Notification)
        .where(Notification.id.in_(unread))
        .values(read_at=utcnow(), revision=Notification.revision + 1)
    )
    return marked.rowcount > 0


async def _lock_user(session: WriteSession, id: UUID, *, exclusive: bool) -> None:
    """Keep the user from being deleted meanwhile; exclusively from all others who lock it, too."""
    user = select(User.id).where(User.id == id)
    locked = user.with_for_update(read=not exclusive, key_share=not exclusive)
    if await session.scalar(locked) is None:
        raise NotFound("There is no such user.")


async def _stored_preferences(session: ReadSession, actor: Actor) -> NotificationPreferences | None:
    mine = NotificationPreferences.user_id == actor.user_id
    return await session.scalar(select(NotificationPreferences).where(mine))
