"""What becomes of somebody's rooms and messages when their account is deleted."""

from uuid import UUID

from sqlalchemy import func, select, update

from ferrule.actor import Actor
from ferrule.db import WriteSession, utcnow
from ferrule.errors import Unavailable
from ferrule.jobs import Run, job
from ferrule.modules.auth import User
from ferrule.modules.rooms.members import erase, others, take_out
from ferrule.modules.rooms.models import Room, RoomMember, RoomMessage
from ferrule.modules.rooms.schemas import MessagesDeleted, Redaction
from ferrule.streams import redact, redact_user

IDS = ("member.left", "messages.deleted")
"""Events that have nothing but ids."""
AT_ONCE = 500
"""Rooms of one job, whose data is bounded: others may have added somebody to any number."""


async def leave_all(session: WriteSession, actor: Actor, user_id: UUID) -> None:
    """Take a user out of all rooms, and the text out of their messages, which keep their places.

    Rooms in which they were alone are deleted. A direct room stays to the other one, with what
    that one wrote. What the streams of the rooms have of the user is redacted soon.
    """
    mine = select(RoomMember.room_id).where(RoomMember.user_id == user_id)
    # In the order of their ids, as all who lock several.
    rooms = select(Room).where(Room.id.in_(mine)).order_by(Room.id).with_for_update()
    joined = (await session.execute(rooms)).scalars().all()
    peers = {room.id: _peer(room, user_id) for room in joined if room.kind == "direct"}
    for room in joined:
        await _leave(session, actor, room, user_id)
    theirs = RoomMessage.author_id == user_id
    written = select(RoomMessage.room_id).where(theirs).distinct()
    room_ids = (await session.execute(written)).scalars().all()
    now = utcnow()
    erased = {
        "author_id": None,
        "text": None,
        "key": None,
        "deleted_at": func.coalesce(RoomMessage.deleted_at, now),
        "revision": RoomMessage.revision + 1,
        "updated_at": now,
    }
    emptied = update(RoomMessage).where(theirs).values(erased)
    await session.execute(emptied.execution_options(synchronize_session=False))
    told = MessagesDeleted(author_id=user_id)
    for id in room_ids:
        session.emit(f"rooms/{id}", "messages.deleted", told, by=actor)
    told_of = sorted({*room_ids, *(room.id for room in joined)})
    for first in range(0, len(told_of), AT_ONCE):
        some = told_of[first : first + AT_ONCE]
        with_whom = [peer for id in some if (peer := peers.get(id)) is not None]
        redaction = Redaction(user_id=user_id, room_ids=some, peer_ids=with_whom)
        await session.enqueue(redact_rooms, redaction)
    await _check_gone(session, user_id)


async def _check_gone(session: WriteSession, user_id: UUID) -> None:
    """Raise `Unavailable` if they joined or wrote while they were taken out.

    It locks the account, which joining and writing do after the room: from here on nobody can.
    """
    await session.execute(select(User.id).where(User.id == user_id).with_for_update())
    joined = select(RoomMember.id).where(RoomMember.user_id == user_id)
    written = select(RoomMessage.id).where(RoomMessage.author_id == user_id)
    if await session.scalar(joined.union_all(written).limit(1)) is not None:
        raise Unavailable("They were active at the same moment. Try again shortly.")


async def _leave(session: WriteSession, actor: Actor, room: Room, user_id: UUID) -> None:
    member = await session.scalar(
        select(RoomMember).where(RoomMember.room_id == room.id, RoomMember.user_id == user_id)
    )
    if member is None:
        # They left while the room was locked by somebody else.
        return
    if await others(session, member):
        await take_out(session, actor, member)
    else:
        await erase(session, room)


def _peer(room: Room, user_id: UUID) -> UUID | None:
    """The other one of a direct room, if they are still there."""
    return room.high_id if room.low_id == user_id else room.low_id


@job()
async def redact_rooms(run: Run, data: Redaction) -> None:
    """Take what streams of rooms, and of those who had a direct room, tell of a user out of them.

    One by one, because an append to a stream waits as long as it is looked through.
    """
    for id in data.room_ids:
        async with run.write() as session:
            await redact_user(session, f"rooms/{id}", data.user_id, keep=IDS)
    for id in data.peer_ids:
        async with run.write() as session:
            await redact(session, f"memberships/{id}", data.user_id)
