"""Who is in a room: joining, adding, roles, leaving."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import joinedload

from ferrule.actor import Actor
from ferrule.db import ReadSession, WriteSession
from ferrule.db.listing import Listing, Order, Ordering, page
from ferrule.errors import Forbidden, NotFound
from ferrule.http.etag import ANY_REVISION, IfMatch
from ferrule.modules.auth import User
from ferrule.modules.rooms.access import (
    ADMIN,
    MEMBER,
    OWNER,
    RANK,
    Standing,
    check_visible,
    enter,
    manage,
)
from ferrule.modules.rooms.errors import (
    AlreadyAMember,
    DirectRoom,
    LastOwner,
    RoomFull,
    TooManyRooms,
)
from ferrule.modules.rooms.models import Room, RoomMember
from ferrule.modules.rooms.schemas import (
    MemberCreate,
    MemberLeft,
    MemberPatch,
    MemberResponse,
    MembersQuery,
    RoomResponse,
)
from ferrule.modules.rooms.settings import RoomsSettings
from ferrule.modules.rooms.views import view
from ferrule.schemas import changes
from ferrule.streams import drop, recheck, recheck_channel


async def list_members(
    session: ReadSession, actor: Actor, id: UUID, query: MembersQuery
) -> Listing[RoomMember]:
    """One page of the members, in the order in which they came."""
    await check_visible(session, actor, id)
    statement = select(RoomMember).where(RoomMember.room_id == id)
    if query.role is not None:
        statement = statement.where(RoomMember.role == query.role)
    ordering = Ordering([Order("id", RoomMember.id, descending=False)], f"members of {id}")
    statement = statement.options(joinedload(RoomMember.user))
    return await page(session, statement, ordering=ordering, window=query.window())


async def get_member(session: ReadSession, actor: Actor, id: UUID, user_id: UUID) -> RoomMember:
    """A member; `NotFound` if the actor does not see the room, or they are none."""
    await check_visible(session, actor, id)
    return await _find(session, id, user_id)


async def add_member(
    session: WriteSession, actor: Actor, id: UUID, data: MemberCreate
) -> RoomMember:
    """Somebody else as a member, as owners and admins may; in a higher role, as owners may."""
    standing = await manage(session, actor, id, least=ADMIN)
    if not standing.outranks(data.role) and data.role != MEMBER:
        raise Forbidden("Only owners give higher roles.")
    if await session.scalar(select(RoomMember.id).where(*_is(id, data.user_id))) is not None:
        raise AlreadyAMember
    (user,) = await lock_users(session, data.user_id)
    await admit(session, actor, standing.room, user, data.role)
    return await _find(session, id, data.user_id)


async def join(session: WriteSession, actor: Actor, id: UUID) -> RoomResponse:
    """Become a member of a public room; who is one stays what they are."""
    standing = await enter(session, actor, id, exclusive=True)
    if standing.me is not None:
        return await view(session, actor.user_id, id)
    (user,) = await lock_users(session, actor.user_id)
    return await admit(session, actor, standing.room, user, MEMBER)


async def change_role(
    session: WriteSession,
    actor: Actor,
    id: UUID,
    user_id: UUID,
    data: MemberPatch,
    if_match: IfMatch = ANY_REVISION,
) -> RoomMember:
    """Give a member another role, as owners may; `LastOwner`."""
    await manage(session, actor, id, least=OWNER)
    member = await _find(session, id, user_id)
    if_match.check(member.revision)
    before, role = member.role, changes(data).get("role", member.role)
    if role == before:
        return member
    if before == OWNER and not await others(session, member, RoomMember.role == OWNER):
        raise LastOwner
    member.role = role
    await session.flush()
    told = MemberResponse.model_validate(member)
    session.emit(f"rooms/{id}", "member.updated", told, by=actor)
    if RANK[role] < RANK[before]:
        recheck(session, user_id)
    return member


async def remove_member(
    session: WriteSession,
    actor: Actor,
    id: UUID,
    user_id: UUID,
    if_match: IfMatch = ANY_REVISION,
) -> None:
    """Leave, or remove somebody of a lower role; owners remove anybody.

    The last owner stays as long as there are others: `LastOwner`. With the last member the room is
    deleted.
    """
    standing, member = await _to_remove(session, actor, id, user_id)
    if_match.check(member.revision)
    if not await others(session, member):
        await close(session, actor, standing.room)
        return
    if standing.room.kind == "direct":
        raise DirectRoom
    if member.role == OWNER and not await others(session, member, RoomMember.role == OWNER):
        raise LastOwner
    _tell_left(session, actor, await take_out(session, actor, member))


async def admit(
    session: WriteSession, actor: Actor, room: Room, user: User, role: str
) -> RoomResponse:
    """Make a user a member, and tell them and the room; the room as they see it.

    Both must be locked. Raises `RoomFull`, and `TooManyRooms` for who comes by themselves.
    """
    settings = session.kit[RoomsSettings]
    added = user.id != actor.id
    if await _count(session, RoomMember.room_id == room.id) >= settings.max_members:
        raise RoomFull
    if not added:
        own = (RoomMember.user_id == user.id, RoomMember.added.is_(False))
        if await _count(session, *own) >= settings.max_rooms:
            raise TooManyRooms
    member = RoomMember(
        room_id=room.id,
        user_id=user.id,
        user=user,
        role=role,
        added=added,
        # What was written before they came is not unread.
        read_seq=room.last_seq,
    )
    session.add(member)
    await session.flush()
    seen = await view(session, user.id, room.id)
    told = MemberResponse.model_validate(member)
    session.emit(f"rooms/{room.id}", "member.joined", told, by=actor)
    # Of a direct room it names the other one, whose name must go when they do.
    session.emit(f"memberships/{user.id}", "joined", seen, by=actor, about=seen.peer_id)
    return seen


async def close(session: WriteSession, actor: Actor, room: Room) -> None:
    """Delete a locked room, and tell all who were in it."""
    members = select(RoomMember.user_id).where(RoomMember.room_id == room.id)
    left = (await session.execute(members)).scalars().all()
    await erase(session, room)
    for user_id in left:
        _tell_left(session, actor, MemberLeft(room_id=room.id, user_id=user_id))


async def erase(session: WriteSession, room: Room) -> None:
    """Delete a locked room with all that was said there; whoever reads it is sent out."""
    stream = f"rooms/{room.id}"
    await session.delete(room)
    await session.flush()
    await drop(session, stream)
    recheck_channel(session, stream)


async def take_out(session: WriteSession, actor: Actor, member: RoomMember) -> MemberLeft:
    """End a membership of a locked room, and tell the room."""
    left = MemberLeft(room_id=member.room_id, user_id=member.user_id)
    await session.delete(member)
    await session.flush()
    session.emit(f"rooms/{left.room_id}", "member.left", left, by=actor)
    return left


async def lock_users(session: WriteSession, *ids: UUID) -> Sequence[User]:
    """These users, in the order of their ids, who join no other room until the transaction ends.

    Raises `NotFound` if there is one that does not exist.
    """
    statement = select(User).where(User.id.in_(ids)).order_by(User.id)
    locked = await session.execute(statement.with_for_update(key_share=True))
    users = locked.scalars().all()
    if len(users) < len(ids):
        raise NotFound("There is no such user.")
    return users


def _tell_left(session: WriteSession, actor: Actor, left: MemberLeft) -> None:
    session.emit(f"memberships/{left.user_id}", "left", left, by=actor)
    recheck(session, left.user_id)


async def _to_remove(
    session: WriteSession, actor: Actor, id: UUID, user_id: UUID
) -> tuple[Standing, RoomMember]:
    """The room, and whom of it the actor may remove."""
    if user_id == actor.user_id:
        standing = await enter(session, actor, id, exclusive=True)
        return standing, standing.me or await _find(session, id, user_id)
    standing = await manage(session, actor, id, least=ADMIN)
    member = await _find(session, id, user_id)
    if not standing.outranks(member.role):
        raise Forbidden("Your role in the room does not allow this.")
    return standing, member


async def _find(session: ReadSession, id: UUID, user_id: UUID) -> RoomMember:
    statement = select(RoomMember).where(*_is(id, user_id)).options(joinedload(RoomMember.user))
    member = await session.scalar(statement)
    if member is None:
        raise NotFound("There is no such member.")
    return member


async def others(session: ReadSession, member: RoomMember, *which: ColumnElement[bool]) -> bool:
    """Whether the room has other members."""
    others = (RoomMember.room_id == member.room_id, RoomMember.id != member.id, *which)
    return await session.scalar(select(RoomMember.id).where(*others).limit(1)) is not None


async def _count(session: ReadSession, *which: ColumnElement[bool]) -> int:
    return await session.scalar(select(func.count()).select_from(RoomMember).where(*which))


def _is(id: UUID, user_id: UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return RoomMember.room_id == id, RoomMember.user_id == user_id
