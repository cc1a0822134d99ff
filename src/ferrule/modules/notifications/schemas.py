"""What comes in and goes out."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from ferrule.resources.query import query_type
from ferrule.schemas import Schema, Stored, patch_of

SORT = ("created_at", "updated_at")
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
# One line with something to see: it becomes the subject of a mail.
_LINE = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"

# Without what is six bytes in JSON: an event has room for the longest.
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"

Title = Annotated[
    str, Field(min_length=1, max_length=200, pattern=_LINE, examples=["Your export is ready"])
]


class NotificationFields(Schema):
    title: Title
    body: str = Field(max_length=10_000, pattern=_TEXT, examples=["It can be fetched for a week."])


class Notify(NotificationFields):
    """A notification that is to be made."""

    user_id: UUID = Field(description="Whose inbox it comes to.")
    email: bool = Field(
        default=False, description="Whether it is mailed, too, if its user wants mails."
    )


class Notified(Schema):
    """What became of it; `job_id` is the mail's, null where none was asked for."""

    notification_id: UUID
    job_id: UUID | None


class NotificationResponse(Stored, NotificationFields):
    user_id: UUID
    read_at: datetime | None
    actor_id: UUID | None = Field(description="Who sent it.")


class Unread(Schema):
    unread: int = Field(description="Notifications that were not read yet.")


class Preferences(Schema):
    email: bool = Field(default=True, description="Whether mails are wanted.")


class PreferencesPatch(patch_of(Preferences)):
    """Changes of what one wants."""


class Mailed(Schema):
    """The result of a mail's job: whether it was sent, or the reason why not."""

    sent: bool
    reason: str | None = None


class InboxQuery(
    query_type("Inbox", response=NotificationResponse, filters=(), search=(), sort=SORT)
):
    unread: bool | None = Field(default=None, description="Only those not read yet, or only read.")
