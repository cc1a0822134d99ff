"""The routes of rooms, their members and their messages."""

from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from ferrule.actor import SignedIn
from ferrule.db import Read, Write
from ferrule.db.listing import Listing
from ferrule.http.etag import IfMatchHeader, etag
from ferrule.http.problems import MEDIA_TYPE
from ferrule.modules.rooms import members, messages, rooms
from ferrule.modules.rooms.models import RoomMember, RoomMessage
from ferrule.modules.rooms.schemas import (
    DirectCreate,
    MemberCreate,
    MemberPatch,
    MemberResponse,
    MembersQuery,
    MessageCreate,
    MessagePatch,
    MessageResponse,
    MessagesQuery,
    ReadMark,
    ReadResponse,
    RoomCreate,
    RoomPatch,
    RoomResponse,
    RoomsQuery,
)
from ferrule.resources.page import Page, Pagination
from ferrule.resources.router import ETAG, LOCATION

OK: dict[int | str, dict[str, Any]] = {200: {"headers": ETAG}}
CREATED: dict[int | str, dict[str, Any]] = {201: {"headers": {**ETAG, **LOCATION}}}
OPENED: dict[int | str, dict[str, Any]] = {
    **OK,
    404: {
        "description": "There is no such user",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    },
}

router = APIRouter(prefix="/rooms", tags=["rooms"])


@router.get("", response_model=Page[RoomResponse], summary="List rooms")
async def list_rooms(
    query: Annotated[RoomsQuery, Query()], session: Read, actor: SignedIn
) -> dict[str, Any]:
    """Yours, those written to last first; with `joined=false` public ones that you can join."""
    return _page(await rooms.list_rooms(session, actor, query))


@router.post("", status_code=201, responses=CREATED, summary="Make a room")
async def create_room(
    data: RoomCreate, session: Write, actor: SignedIn, request: Request, response: Response
) -> RoomResponse:
    """It is yours: you are its owner."""
    room = await rooms.create_room(session, actor, data)
    return _created(request, response, room.id, room)


@router.post("/direct", responses=OPENED, summary="Open the direct room with somebody")
async def open_direct_room(
    data: DirectCreate, session: Write, actor: SignedIn, response: Response
) -> RoomResponse:
    """The same one for both, whoever asks, as often as they ask."""
    return _tagged(response, await rooms.direct_room(session, actor, data))


@router.get("/{id:uuid}", responses=OK, summary="Get a room")
async def get_room(id: UUID, session: Read, actor: SignedIn, response: Response) -> RoomResponse:
    return _tagged(response, await rooms.get_room(session, actor, id))


@router.patch("/{id:uuid}", responses=OK, summary="Change a room")
async def update_room(
    id: UUID,
    data: RoomPatch,
    session: Write,
    actor: SignedIn,
    response: Response,
    if_match: IfMatchHeader,
) -> RoomResponse:
    """For its owners and admins."""
    return _tagged(response, await rooms.update_room(session, actor, id, data, if_match))


@router.delete("/{id:uuid}", status_code=204, summary="Delete a room")
async def delete_room(id: UUID, session: Write, actor: SignedIn, if_match: IfMatchHeader) -> None:
    """With all its messages; for its owners."""
    await rooms.delete_room(session, actor, id, if_match)


@router.post("/{id:uuid}/join", responses=OK, summary="Join a public room")
async def join_room(id: UUID, session: Write, actor: SignedIn, response: Response) -> RoomResponse:
    return _tagged(response, await members.join(session, actor, id))


@router.post("/{id:uuid}/read", summary="Mark messages read")
async def mark_read(id: UUID, data: ReadMark, session: Write, actor: SignedIn) -> ReadResponse:
    """Up to a number; a mark never goes back."""
    return await messages.mark_read(session, actor, id, data)


@router.get(
    "/{id:uuid}/members", response_model=Page[MemberResponse], summary="List members of a room"
)
async def list_members(
    id: UUID, query: Annotated[MembersQuery, Query()], session: Read, actor: SignedIn
) -> dict[str, Any]:
    return _page(await members.list_members(session, actor, id, query))


@router.post(
    "/{id:uuid}/members",
    response_model=MemberResponse,
    status_code=201,
    responses=CREATED,
    summary="Add a member to a room",
)
async def add_member(
    id: UUID,
    data: MemberCreate,
    session: Write,
    actor: SignedIn,
    request: Request,
    response: Response,
) -> RoomMember:
    """For its owners and admins; only owners give a higher role than `member`."""
    member = await members.add_member(session, actor, id, data)
    return _created(request, response, member.user_id, member)


@router.get(
    "/{id:uuid}/members/{user_id:uuid}",
    response_model=MemberResponse,
    responses=OK,
    summary="Get a member of a room",
)
async def get_member(
    id: UUID, user_id: UUID, session: Read, actor: SignedIn, response: Response
) -> RoomMember:
    return _tagged(response, await members.get_member(session, actor, id, user_id))


@router.patch(
    "/{id:uuid}/members/{user_id:uuid}",
    response_model=MemberResponse,
    responses=OK,
    summary="Change a member's role",
)
async def change_role(
    id: UUID,
    user_id: UUID,
    data: MemberPatch,
    session: Write,
    actor: SignedIn,
    response: Response,
    if_match: IfMatchHeader,
) -> RoomMember:
    """For owners; the last one hands the room over before they step down."""
    member = await members.change_role(session, actor, id, user_id, data, if_match)
    return _tagged(response, member)


@router.delete(
    "/{id:uuid}/members/{user_id:uuid}", status_code=204, summary="Leave a room, or remove a member"
)
async def remove_member(
    id: UUID, user_id: UUID, session: Write, actor: SignedIn, if_match: IfMatchHeader
) -> None:
    """With the last member the room is deleted."""
    await members.remove_member(session, actor, id, user_id, if_match)


@router.get(
    "/{id:uuid}/messages", response_model=Page[MessageResponse], summary="List messages of a room"
)
async def list_messages(
    id: UUID, query: Annotated[MessagesQuery, Query()], session: Read, actor: SignedIn
) -> dict[str, Any]:
    """The newest first; with `after` the oldest first, to catch up."""
    return _page(await messages.list_messages(session, actor, id, query))


@router.post(
    "/{id:uuid}/messages", status_code=201, responses=CREATED, summary="Post a message to a room"
)
async def post_message(
    id: UUID,
    data: MessageCreate,
    session: Write,
    actor: SignedIn,
    request: Request,
    response: Response,
) -> MessageResponse:
    """What you posted with the same `key` before is answered again."""
    message = await messages.post(session, actor, id, data)
    return _created(request, response, message.id, message)


@router.get(
    "/{id:uuid}/messages/{message_id:uuid}",
    response_model=MessageResponse,
    responses=OK,
    summary="Get a message",
)
async def get_message(
    id: UUID, message_id: UUID, session: Read, actor: SignedIn, response: Response
) -> RoomMessage:
    return _tagged(response, await messages.get_message(session, actor, id, message_id))


@router.patch(
    "/{id:uuid}/messages/{message_id:uuid}",
    response_model=MessageResponse,
    responses=OK,
    summary="Change a message",
)
async def edit_message(
    id: UUID,
    message_id: UUID,
    data: MessagePatch,
    session: Write,
    actor: SignedIn,
    response: Response,
    if_match: IfMatchHeader,
) -> RoomMessage:
    """For its author."""
    message = await messages.edit(session, actor, id, message_id, data, if_match)
    return _tagged(response, message)


@router.delete("/{id:uuid}/messages/{message_id:uuid}", status_code=204, summary="Delete a message")
async def delete_message(
    id: UUID, message_id: UUID, session: Write, actor: SignedIn, if_match: IfMatchHeader
) -> None:
    """For its author, and the room's owners and admins; its place stays, without its text."""
    await messages.delete(session, actor, id, message_id, if_match)


def _page(listing: Listing[Any]) -> dict[str, Any]:
    return {"items": listing.rows, "pagination": Pagination.of(listing)}


def _tagged(response: Response, row: Any) -> Any:
    response.headers["ETag"] = etag(row.revision)
    return row


def _created(request: Request, response: Response, id: UUID, row: Any) -> Any:
    response.headers["Location"] = f"{quote(request.scope['path'])}/{id}"
    return _tagged(response, row)
