"""Which rooms exist for an actor, and what a member may do there."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, case, exists, or_, select
from sqlalchemy.orm import joinedload

from ferrule.actor import Actor
from ferrule.db import ReadSession, WriteSession, prebuilt
from ferrule.errors import Forbidden, NotFound
from ferrule.modules.rooms.errors import NotAMember
from ferrule.modules.rooms.models import Room, RoomMember
from ferrule.modules.rooms.schemas import MemberResponse

OWNER, ADMIN, MEMBER = "owner", "admin", "member"
RANK = {MEMBER: 0, ADMIN: 1, OWNER: 2}

_SEEN = prebuilt(
    select(Room.id).where(
        Room.id == bindparam("id"),
        or_(
            Room.private.is_(False),
            exists().where(
                RoomMember.room_id == Room.id, RoomMember.user_id == bindparam("user_id")
            ),
        ),
    )
)


@dataclass(frozen=True)
class Standing:
    """A room, and the actor's membership, if any."""

    room: Room
    me: RoomMember | None

    @property
    def member(self) -> RoomMember:
        """The membership; `NotAMember` for those who only see a public room."""
        if self.me is None:
            raise NotAMember
        return self.me

    def outranks(self, role: str) -> bool:
        """Whether the actor is above a role; owners are above each other, too."""
        mine = self.member.role
        return mine == OWNER or RANK[mine] > RANK[role]


async def check_visible(session: ReadSession, actor: Actor, id: UUID) -> None:
    """Raise `NotFound` unless the actor is a member, or the room is public."""
    if await session.fetch_one(_SEEN, id=id, user_id=actor.user_id) is None:
        raise no_room()


async def enter(
    session: WriteSession, actor: Actor, id: UUID, *, exclusive: bool = False
) -> Standing:
    """The room and the actor's membership, neither of which changes until the transaction ends.

    Exclusively, nobody else is in meanwhile; else others post, edit and read, too. Every change
    locks the room before anything else, so that no two wait for each other.
    """
    locked = select(Room.id).where(Room.id == id)
    await session.execute(locked.with_for_update(read=not exclusive, key_share=not exclusive))
    # In a statement of its own, which sees what was committed while the lock was waited for.
    mine = and_(RoomMember.room_id == Room.id, RoomMember.user_id == actor.user_id)
    statement = (
        select(Room, RoomMember)
        .outerjoin(RoomMember, mine)
        .where(Room.id == id, or_(Room.private.is_(False), RoomMember.id.is_not(None)))
        .options(joinedload(RoomMember.user))
        .execution_options(populate_existing=True)
    )
    found: Any = (await session.execute(statement)).one_or_none()
    if found is None:
        raise no_room()
    return Standing(*found)


async def manage(session: WriteSession, actor: Actor, id: UUID, *, least: str) -> Standing:
    """The room, exclusively, for members who have at least this role; `Forbidden` for others."""
    standing = await enter(session, actor, id, exclusive=True)
    if RANK[standing.member.role] < RANK[least]:
        await _succeed(session, standing)
    if RANK[standing.member.role] < RANK[least]:
        raise Forbidden("Your role in the room does not allow this.")
    return standing


async def _succeed(session: WriteSession, standing: Standing) -> None:
    """Make the actor the owner of a room whose owners' accounts are gone, if it is their turn.

    That is the turn of the member of longest standing among those of the highest rank.
    """
    if standing.room.kind == "direct":
        return
    rank = case(RANK, value=RoomMember.role)
    heir = (
        select(RoomMember)
        .where(RoomMember.room_id == standing.room.id)
        .order_by(rank.desc(), RoomMember.id)
        .limit(1)
    )
    first = await session.scalar(heir)
    if first is standing.member and first.role != OWNER:
        first.role = OWNER
        await session.flush()
        told = MemberResponse.model_validate(first)
        session.emit(f"rooms/{standing.room.id}", "member.updated", told)


def no_room() -> NotFound:
    return NotFound("There is no such room.")
