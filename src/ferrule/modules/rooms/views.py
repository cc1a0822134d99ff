"""Rooms as those who see them see them: with their role, and what they did not read."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Uuid, and_, bindparam, case, func, or_, select
from sqlalchemy.orm import aliased

from ferrule.db import ReadSession
from ferrule.modules.auth import User
from ferrule.modules.rooms.access import no_room
from ferrule.modules.rooms.models import Room, RoomMember, RoomMessage
from ferrule.modules.rooms.schemas import MAX_UNREAD, RoomResponse

_viewer = bindparam("viewer", type_=Uuid())
_mine = aliased(RoomMember)
_peer_id = case((Room.low_id == _viewer, Room.high_id), else_=Room.low_id)
_peer = aliased(User)
_members = select(func.count()).where(RoomMember.room_id == Room.id).scalar_subquery()
# For those who are no members nothing is above the mark, which is null.
_unread = (
    select(func.count())
    .where(
        RoomMessage.room_id == Room.id,
        RoomMessage.seq > _mine.read_seq,
        RoomMessage.seq > Room.last_seq - MAX_UNREAD,
        RoomMessage.author_id != _viewer,
        RoomMessage.deleted_at.is_(None),
    )
    .scalar_subquery()
)
_VIEWS = (
    select(
        Room.id,
        Room.name,
        Room.topic,
        Room.kind,
        Room.private,
        Room.last_seq,
        case((Room.last_seq > 0, Room.active_at)).label("last_message_at"),
        Room.revision,
        Room.created_at,
        Room.updated_at,
        _mine.role,
        _peer_id.label("peer_id"),
        _peer.name.label("peer_name"),
        func.coalesce(_mine.read_seq, 0).label("read_seq"),
        _members.label("members"),
        _unread.label("unread"),
    )
    .outerjoin(_mine, and_(_mine.room_id == Room.id, _mine.user_id == _viewer))
    .outerjoin(_peer, _peer.id == _peer_id)
    .where(or_(Room.private.is_(False), _mine.id.is_not(None)))
)


async def views(
    session: ReadSession, user_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, RoomResponse]:
    """These rooms, as far as the user sees them, in one statement."""
    rows = await session.execute(_VIEWS.where(Room.id.in_(ids)), {"viewer": user_id})
    return {row.id: RoomResponse.model_validate(row) for row in rows}


async def view(session: ReadSession, user_id: UUID, id: UUID) -> RoomResponse:
    """The room as the user sees it; `NotFound` if it does not exist for them."""
    seen = await views(session, user_id, [id])
    if id not in seen:
        raise no_room()
    return seen[id]
