"""The mail of a notification."""

from uuid import UUID

from sqlalchemy import select

from ferrule import Settings
from ferrule.jobs import JobFailed, Run, job
from ferrule.mail import Mailer, MailRefused, Templates
from ferrule.modules.auth import User
from ferrule.modules.notifications.models import Notification, NotificationPreferences
from ferrule.modules.notifications.schemas import Mailed


# A server that says "later" means minutes or hours: ten attempts take about three hours.
@job(max_attempts=10, backoff=30)
async def mail_notification(run: Run, notification_id: UUID) -> Mailed:
    """Mail it to its user, if they want that when it runs; fails if their address is refused."""
    statement = (
        select(
            Notification.title,
            Notification.body,
            User.email.label("address"),
            User.disabled,
            User.verified,
            NotificationPreferences.email.label("wanted"),
        )
        .join(User, User.id == Notification.user_id)
        .outerjoin(NotificationPreferences, NotificationPreferences.user_id == User.id)
        .where(Notification.id == notification_id)
    )
    async with run.read() as session:
        found = (await session.execute(statement)).one_or_none()
    if found is None:
        return Mailed(sent=False, reason="gone")
    if found.disabled:
        return Mailed(sent=False, reason="disabled")
    if not found.verified and run.kit[Settings].production:
        # Anybody can register the address of somebody else where registration is open.
        return Mailed(sent=False, reason="not verified")
    if found.wanted is False:
        return Mailed(sent=False, reason="not wanted")
    mail = run.kit[Templates].write(
        "notifications/notification",
        {"title": found.title, "body": found.body},
        to=found.address,
        key=f"notification/{notification_id}",
    )
    try:
        await run.kit[Mailer].send(mail)
    except MailRefused as error:
        raise JobFailed(str(error)) from error
    return Mailed(sent=True)
