"""What comes in and goes out. Events carry the same: see `channels.py`."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from ferrule.db.listing import Window
from ferrule.resources.query import query_type
from ferrule.schemas import Schema, Stored, TextSchema, patch_of

SORT = ("name", "created_at", "updated_at", "last_message_at")
MAX_UNREAD = 1000
"""Of the messages of a room the last that are looked at to count those not read."""
MAX_SEQ = 2**53

# Control characters, and what turns or hides text around it (I4): others are shown it.
_CONTROL = r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
_LINE = rf"^[^{_CONTROL}]*$"
# What is seen as nothing, and may stand beside what is seen.
_BLANK = (
    r"\s\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u2800\u3164"
    r"\ufe00-\ufe0f\uffa0"
)
_NAMED = rf"^[^{_CONTROL}]*[^{_BLANK}{_CONTROL}][^{_CONTROL}]*$"
_WRITTEN = r"^[^\x00]*[^\s\x00][^\x00]*$"

Role = Literal["owner", "admin", "member"]
Kind = Literal["room", "direct"]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=_NAMED, examples=["Kitchen"])]
Text = Annotated[str, Field(min_length=1, max_length=4000, pattern=_WRITTEN, examples=["Hello"])]
Key = Annotated[str, Field(min_length=1, max_length=200, pattern=_LINE, examples=["7d1c0a2e-5"])]


class RoomFields(Schema):
    name: Name
    topic: Annotated[str, Field(max_length=500, pattern=_LINE)] | None = None
    private: bool = Field(
        default=True, description="Whether it is for its members alone; else all may read and join."
    )


class RoomCreate(RoomFields):
    """A room that is to be made; who makes it owns it."""


class RoomPatch(patch_of(RoomCreate)):
    """Changes of a room."""


class DirectCreate(Schema):
    """Whom one wants to write to."""

    user_id: UUID


class RoomTold(Stored):
    """A room as all who see it see it."""

    name: str | None = Field(description="Null for direct rooms, which are named by the other one.")
    topic: str | None
    kind: Kind
    private: bool
    members: int = Field(description="How many they are.")
    last_seq: int = Field(description="Number of the newest message.")
    last_message_at: datetime | None


class RoomResponse(RoomTold):
    """A room as the actor sees it; `role` is null for those who are no members."""

    role: Role | None
    peer_id: UUID | None = Field(
        description="The other one of a direct room; null once their account is deleted."
    )
    peer_name: str | None
    read_seq: int = Field(description="Number of the last message that you read.")
    unread: int = Field(
        description=f"How many of the last {MAX_UNREAD} messages are not yours, and not read."
    )

    def told(self) -> RoomTold:
        """The room without what concerns its reader alone."""
        return RoomTold(**self.model_dump(include=set(RoomTold.model_fields)))


class RoomsQuery(
    query_type("Rooms", response=RoomResponse, filters=(), search=("name",), sort=SORT)
):
    kind: Kind | None = Field(default=None, description="Only those of this kind.")
    joined: bool = Field(
        default=True, description="Rooms that you are in; or else public ones that you are not in."
    )


class MemberFields(Schema):
    role: Role


class MemberPatch(patch_of(MemberFields)):
    """Another role of a member."""


class MemberCreate(MemberFields):
    """Somebody who is to be a member."""

    user_id: UUID
    role: Role = "member"


class MemberResponse(Stored):
    """Somebody in a room; `read_seq` is the number of the last message that they read."""

    room_id: UUID
    user_id: UUID
    name: str
    role: Role
    read_seq: int


class MembersQuery(query_type("Members", response=MemberResponse, filters=(), search=(), sort=())):
    role: Role | None = Field(default=None, description="Only those in this role.")


class MemberLeft(Schema):
    """Who is no member any more, as events tell."""

    room_id: UUID
    user_id: UUID


class MessagesDeleted(Schema):
    """Whose messages have lost their text with their account, as events tell."""

    author_id: UUID


class Redaction(Schema):
    """Of whom nothing is to be read any more in the streams of rooms, and in those of others."""

    user_id: UUID
    room_ids: list[UUID]
    peer_ids: list[UUID] = Field(default=[], description="Who had a direct room with them.")


class MessageFields(Schema):
    text: Text


class MessagePatch(patch_of(MessageFields)):
    """Another text of a message."""


class MessageCreate(MessageFields):
    """A message that is to be posted."""

    key: Key | None = Field(
        default=None, description="Your own name for it: posting it again gives the first one."
    )


class MessageResponse(Stored):
    """A message; a deleted one has no text."""

    room_id: UUID
    seq: int = Field(description="Its number in the room, from 1.")
    author_id: UUID | None = Field(description="Null once their account is deleted.")
    author_name: str | None = Field(description="The author's name; in events that of then.")
    key: str | None
    text: str | None
    edited_at: datetime | None
    deleted: bool


class MessagesQuery(TextSchema):
    """Which messages: the newest first; with `after` the oldest first."""

    limit: int = Field(default=50, ge=1, le=100, description="Messages of a page.")
    before: int | None = Field(default=None, ge=0, le=MAX_SEQ, description="Those below a number.")
    after: int | None = Field(default=None, ge=0, le=MAX_SEQ, description="Those above a number.")
    cursor: str | None = Field(
        default=None, max_length=2000, description="`next` of the page before."
    )

    def window(self) -> Window:
        return Window(self.limit, 0, self.cursor, count=False)


class ReadMark(Schema):
    """Up to which message one has read."""

    seq: int = Field(ge=0, le=MAX_SEQ)


class MarkedRead(Schema):
    """How far a member has read, as events tell."""

    user_id: UUID
    seq: int


class ReadResponse(ReadMark):
    unread: int
