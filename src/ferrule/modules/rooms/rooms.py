"""Making, finding, changing and deleting rooms."""

from dataclasses import replace
from uuid import UUID

from sqlalchemy import ColumnElement, and_, literal, select

from ferrule.actor import Actor
from ferrule.db import ReadSession, WriteSession
from ferrule.db.listing import (
    Listing,
    Order,
    Ordering,
    matching,
    page,
    search_pattern,
)
from ferrule.http.etag import ANY_REVISION, IfMatch
from ferrule.modules.rooms.access import ADMIN, MEMBER, OWNER, manage
from ferrule.modules.rooms.errors import Yourself
from ferrule.modules.rooms.members import admit, close, lock_users
from ferrule.modules.rooms.models import Room, RoomMember
from ferrule.modules.rooms.schemas import (
    DirectCreate,
    RoomCreate,
    RoomPatch,
    RoomResponse,
    RoomsQuery,
)
from ferrule.modules.rooms.views import view, views
from ferrule.schemas import changes
from ferrule.streams import recheck_channel

_COLUMNS = {
    "id": Room.id,
    "name": Room.name,
    "created_at": Room.created_at,
    "updated_at": Room.updated_at,
    "last_message_at": Room.active_at,
}


async def list_rooms(
    session: ReadSession, actor: Actor, query: RoomsQuery
) -> Listing[RoomResponse]:
    """One page of the actor's rooms, those written to last first; or of public ones, the newest."""
    statement = select(Room).where(_listed(actor, joined=query.joined))
    if query.kind is not None:
        statement = statement.where(Room.kind == query.kind)
    if (text := getattr(query, "search", None)) is not None:
        pattern = literal(search_pattern(text))
        statement = statement.where(matching([Room.name], pattern, session.dialect))
    sort = getattr(query, "sort", None) or ("-last_message_at" if query.joined else "-id")
    listing = await page(session, statement, ordering=_ordering(sort), window=query.window())
    seen = await views(session, actor.user_id, [room.id for room in listing.rows])
    return replace(listing, rows=[seen[room.id] for room in listing.rows if room.id in seen])


async def get_room(session: ReadSession, actor: Actor, id: UUID) -> RoomResponse:
    """The room, for its members and, if it is public, for all; `NotFound` for others."""
    return await view(session, actor.user_id, id)


async def create_room(session: WriteSession, actor: Actor, data: RoomCreate) -> RoomResponse:
    """A new room, which the actor owns; `TooManyRooms`."""
    (user,) = await lock_users(session, actor.user_id)
    room = Room(name=data.name, topic=data.topic, private=data.private)
    session.add(room)
    await session.flush()
    return await admit(session, actor, room, user, OWNER)


async def direct_room(session: WriteSession, actor: Actor, data: DirectCreate) -> RoomResponse:
    """The room of the actor and somebody else, which is made when it is first asked for."""
    if data.user_id == actor.user_id:
        raise Yourself
    low, high = sorted((actor.user_id, data.user_id))
    pair = select(Room.id).where(Room.low_id == low, Room.high_id == high)
    id = await session.scalar(pair)
    if id is None:
        # Of those who ask at the same time, one goes on; the others find what it made.
        users = await lock_users(session, low, high)
        id = await session.scalar(pair)
        if id is None:
            room = Room(name=None, kind="direct", low_id=low, high_id=high)
            session.add(room)
            await session.flush()
            for user in users:
                await admit(session, actor, room, user, MEMBER)
            id = room.id
    return await view(session, actor.user_id, id)


async def update_room(
    session: WriteSession, actor: Actor, id: UUID, data: RoomPatch, if_match: IfMatch = ANY_REVISION
) -> RoomResponse:
    """Set the fields that are named, as owners and admins may."""
    room = (await manage(session, actor, id, least=ADMIN)).room
    if_match.check(room.revision)
    revision, was_public = room.revision, not room.private
    for name, value in changes(data).items():
        setattr(room, name, value)
    await session.flush()
    seen = await view(session, actor.user_id, id)
    if room.private and was_public:
        # Those who read along are no members, and nobody knows them.
        recheck_channel(session, f"rooms/{id}")
    if room.revision != revision:
        session.emit(f"rooms/{id}", "room.updated", seen.told(), by=actor)
    return seen


async def delete_room(
    session: WriteSession, actor: Actor, id: UUID, if_match: IfMatch = ANY_REVISION
) -> None:
    """Delete the room and all that was written there, as its owners may."""
    room = (await manage(session, actor, id, least=OWNER)).room
    if_match.check(room.revision)
    await close(session, actor, room)


def _listed(actor: Actor, *, joined: bool) -> ColumnElement[bool]:
    mine = Room.id.in_(select(RoomMember.room_id).where(RoomMember.user_id == actor.user_id))
    return mine if joined else and_(Room.private.is_(False), ~mine)


def _ordering(sort: str) -> Ordering:
    order: dict[str, Order] = {}
    for part in (*sort.split(","), "-id" if sort.startswith("-") else "id"):
        name = part.removeprefix("-")
        order.setdefault(name, Order(name, _COLUMNS[name], part.startswith("-")))
    return Ordering(list(order.values()), "rooms")
