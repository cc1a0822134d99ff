"""Notifications: an inbox for each user, and mails to those who want them."""

from pathlib import Path

from ferrule import Module
from ferrule.modules.notifications.api import router
from ferrule.modules.notifications.channels import channel
from ferrule.modules.notifications.jobs import mail_notification
from ferrule.modules.notifications.models import Notification, NotificationPreferences
from ferrule.modules.notifications.schemas import Notified, Notify
from ferrule.modules.notifications.service import deliver, notify

__all__ = ["Notification", "Notified", "Notify", "deliver", "module", "notify"]

module = Module(
    name="notifications",
    requires=("auth",),
    router=router,
    models=(Notification, NotificationPreferences),
    channels=(channel,),
    jobs=(mail_notification,),
    mails=Path(__file__).parent / "mails",
)
