"""What is live: `rooms/<id>`, for all who may read the room, and `memberships`, one's own.

A room's events carry what the API answers: `message`, `message.edited` and `message.deleted` a
message, `room.updated` a room without what concerns its reader alone, `member.joined` and
`member.updated` a member, `member.left` ids, `read` how far somebody has read. With a room its
stream ends: who reads it is told that it is not there.
`memberships` tells somebody that they have `joined` a room, with the room as they see it, or
`left` it, on their own account or not.
"""

from typing import Any
from uuid import UUID

from pydantic import ValidationError

from ferrule.actor import Actor
from ferrule.db import WriteSession
from ferrule.errors import Invalid
from ferrule.modules.rooms import messages
from ferrule.modules.rooms.access import check_visible
from ferrule.modules.rooms.schemas import MessageCreate, MessageFields
from ferrule.streams import Channel


async def publish(
    session: WriteSession, actor: Actor, id: UUID, data: Any, key: str | None
) -> dict[str, Any]:
    """Post a message, as over HTTP; `data` is `{"text": …}`."""
    try:
        text = MessageFields.model_validate(data).text
    except ValidationError as error:
        raise Invalid('A message is {"text": …}, of up to 4000 characters.') from error
    try:
        message = MessageCreate(text=text, key=key)
    except ValidationError as error:
        raise Invalid("A key is plain text in one line.") from error
    posted = await messages.post(session, actor, id, message)
    return posted.model_dump(mode="json")


CHANNELS = (
    Channel(kind="rooms", authorize=check_visible, publish=publish, signals=True, presence=True),
    Channel(kind="memberships", personal=True),
)
