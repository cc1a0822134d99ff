"""Writing, reading, changing and deleting messages; how far one has read."""

from functools import lru_cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import BigInteger, String, Text, Uuid, bindparam, exists, literal, select, update
from sqlalchemy.orm import joinedload

from ferrule.actor import Actor
from ferrule.db import ReadSession, UtcDateTime, WriteSession, utcnow, uuid7
from ferrule.db.listing import Listing, Order, Ordering, page
from ferrule.errors import Forbidden, NotFound, Unavailable
from ferrule.http.etag import ANY_REVISION, IfMatch
from ferrule.modules.auth import User
from ferrule.modules.rooms.access import MEMBER, Standing, check_visible, enter
from ferrule.modules.rooms.errors import MessageDeleted, NotAMember
from ferrule.modules.rooms.models import Room, RoomMember, RoomMessage
from ferrule.modules.rooms.schemas import (
    MarkedRead,
    MessageCreate,
    MessagePatch,
    MessageResponse,
    MessagesQuery,
    ReadMark,
    ReadResponse,
    RoomResponse,
)
from ferrule.modules.rooms.views import view
from ferrule.schemas import changes
from ferrule.streams import redact

ROOMS: Any = Room.__table__
MESSAGES: Any = RoomMessage.__table__
_MESSAGES = select(RoomMessage).options(joinedload(RoomMessage.author))


async def list_messages(
    session: ReadSession, actor: Actor, id: UUID, query: MessagesQuery
) -> Listing[RoomMessage]:
    """One page of the history, the newest first; above a number the oldest first."""
    await check_visible(session, actor, id)
    statement = _MESSAGES.where(RoomMessage.room_id == id)
    if query.before is not None:
        statement = statement.where(RoomMessage.seq < query.before)
    if query.after is not None:
        statement = statement.where(RoomMessage.seq > query.after)
    order = Order("seq", RoomMessage.seq, descending=query.after is None)
    ordering = Ordering([order], f"messages of {id}")
    return await page(session, statement, ordering=ordering, window=query.window())


async def get_message(
    session: ReadSession, actor: Actor, id: UUID, message_id: UUID
) -> RoomMessage:
    """A message, or what is left of a deleted one; `NotFound`."""
    await check_visible(session, actor, id)
    message = await session.scalar(_message(id, message_id))
    return message or _no_message()


async def post(
    session: WriteSession, actor: Actor, id: UUID, data: MessageCreate
) -> MessageResponse:
    """Write into the room, as its members may; `NotFound`, `NotAMember`.

    What the actor posted with this key before is answered instead. A message's number is taken in
    its transaction, while no other has one: messages are numbered as they are committed.
    """
    message = await _write(session, actor, id, data)
    if message is None:
        # It was posted before, or the actor is no member, or became one a moment ago.
        posted = await _posted(session, actor, id, data.key)
        message = posted or await _write(session, actor, id, data)
        if message is None:
            raise Unavailable
        if posted is not None:
            return posted
    session.emit(f"rooms/{id}", "message", message, by=actor, about=message.id)
    return message


async def _write(
    session: WriteSession, actor: Actor, id: UUID, data: MessageCreate
) -> MessageResponse | None:
    """The new message; None if the actor is no member, or has posted with this key before."""
    now = utcnow()
    asked = {"room": id, "author": actor.user_id, "new key": data.key, "now": now}
    next = (await session.execute(_NEXT, asked)).one_or_none()
    if next is None:
        return None
    seq, name = next
    new = {"new id": uuid7(), "new seq": seq, "new text": data.text}
    new_id = await session.scalar(_insert(session.dialect), asked | new)
    if new_id is None:
        # While the lock was waited for it was posted, or the actor was removed.
        await session.execute(_GIVE_BACK, {"room": id})
        return None
    return MessageResponse(
        id=new_id,
        room_id=id,
        seq=seq,
        author_id=actor.user_id,
        author_name=name,
        key=data.key,
        text=data.text,
        edited_at=None,
        deleted=False,
        revision=1,
        created_at=now,
        updated_at=now,
    )


async def edit(
    session: WriteSession,
    actor: Actor,
    id: UUID,
    message_id: UUID,
    data: MessagePatch,
    if_match: IfMatch = ANY_REVISION,
) -> RoomMessage:
    """Give one's own message another text."""
    _, message = await _locked(session, actor, id, message_id)
    if message.author_id != actor.user_id:
        raise Forbidden("Its author alone changes a message.")
    if_match.check(message.revision)
    if message.deleted:
        raise MessageDeleted
    text = changes(data).get("text", message.text)
    if text != message.text:
        message.text, message.edited_at = text, utcnow()
        await _tell(session, actor, "message.edited", message)
    return message


async def delete(
    session: WriteSession,
    actor: Actor,
    id: UUID,
    message_id: UUID,
    if_match: IfMatch = ANY_REVISION,
) -> None:
    """Take the text out of one's own message; owners and admins out of any."""
    standing, message = await _locked(session, actor, id, message_id)
    if message.author_id != actor.user_id and standing.member.role == MEMBER:
        raise Forbidden("Its author deletes a message, or an admin of the room.")
    if_match.check(message.revision)
    if not message.deleted:
        message.text, message.deleted_at = None, utcnow()
        await _tell(session, actor, "message.deleted", message)


async def mark_read(session: WriteSession, actor: Actor, id: UUID, data: ReadMark) -> ReadResponse:
    """Move the actor's mark forward to a message; it never goes back."""
    room = await _as_member(session, actor, id)
    seq = min(data.seq, room.last_seq)
    if seq > room.read_seq:
        moved = update(RoomMember).where(
            RoomMember.room_id == id, RoomMember.user_id == actor.user_id, RoomMember.read_seq < seq
        )
        # It is no change of the membership.
        values = {"read_seq": seq, "updated_at": RoomMember.updated_at}
        moved = moved.values(values).execution_options(synchronize_session=False)
        if await session.scalar(moved.returning(RoomMember.id)) is not None:
            told = MarkedRead(user_id=actor.user_id, seq=seq)
            session.emit(f"rooms/{id}", "read", told, by=actor)
        room = await _as_member(session, actor, id)
    return ReadResponse(seq=room.read_seq, unread=room.unread)


async def _as_member(session: ReadSession, actor: Actor, id: UUID) -> RoomResponse:
    room = await view(session, actor.user_id, id)
    if room.role is None:
        raise NotAMember
    return room


async def _locked(
    session: WriteSession, actor: Actor, id: UUID, message_id: UUID
) -> tuple[Standing, RoomMessage]:
    """The actor's standing as a member, and a message that nobody else changes."""
    standing = await enter(session, actor, id)
    if standing.me is None:
        raise NotAMember
    message = await session.scalar(_message(id, message_id).with_for_update(of=RoomMessage))
    return standing, message or _no_message()


async def _posted(
    session: WriteSession, actor: Actor, id: UUID, key: str | None
) -> MessageResponse | None:
    """What the actor posted with this key; `NotAMember`. From here on the room is locked."""
    if (await enter(session, actor, id)).me is None:
        raise NotAMember
    if key is None:
        return None
    message = await session.scalar(
        _MESSAGES.where(
            RoomMessage.room_id == id,
            RoomMessage.author_id == actor.user_id,
            RoomMessage.key == key,
        )
    )
    return None if message is None else MessageResponse.model_validate(message)


async def _tell(session: WriteSession, actor: Actor, type: str, message: RoomMessage) -> None:
    await session.flush()
    told = MessageResponse.model_validate(message)
    stream = f"rooms/{message.room_id}"
    # What it said before is not to be read by those who come later.
    await redact(session, stream, message.id)
    session.emit(stream, type, told, by=actor, about=message.id)


def _message(id: UUID, message_id: UUID) -> Any:
    return _MESSAGES.where(RoomMessage.room_id == id, RoomMessage.id == message_id)


def _no_message() -> Any:
    raise NotFound("There is no such message.")


_room, _author = bindparam("room", type_=Uuid()), bindparam("author", type_=Uuid())
_key = bindparam("new key", type_=String())
_now = bindparam("now", type_=UtcDateTime())
_is_member = exists().where(RoomMember.room_id == _room, RoomMember.user_id == _author)
_is_posted = exists().where(
    MESSAGES.c.author_id == _author, MESSAGES.c.room_id == _room, MESSAGES.c.key == _key
)
_name = select(User.name).where(User.id == _author).scalar_subquery()
# Neither is a change of the room, whose times and revision stay.
_NEXT = cast(
    Any,
    update(ROOMS)
    .where(ROOMS.c.id == _room, _is_member, ~_is_posted)
    .values(last_seq=ROOMS.c.last_seq + 1, active_at=_now, updated_at=ROOMS.c.updated_at)
    .returning(ROOMS.c.last_seq, _name),
)
_GIVE_BACK = (
    update(ROOMS)
    .where(ROOMS.c.id == _room)
    .values(last_seq=ROOMS.c.last_seq - 1, updated_at=ROOMS.c.updated_at)
)


@lru_cache
def _insert(dialect: str) -> Any:
    """Store a message of somebody who still is a member; nothing if its key is there already."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_or
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_or
    values = {
        "id": bindparam("new id", type_=Uuid()),
        "room_id": _room,
        "seq": bindparam("new seq", type_=BigInteger()),
        "author_id": _author,
        "key": _key,
        "text": bindparam("new text", type_=Text()),
        "revision": literal(1, BigInteger()),
        "created_at": _now,
        "updated_at": _now,
    }
    return (
        insert_or(MESSAGES)
        .from_select(list(values), select(*values.values()).where(_is_member))
        .on_conflict_do_nothing(index_elements=["author_id", "room_id", "key"])
        .returning(MESSAGES.c.id)
    )
