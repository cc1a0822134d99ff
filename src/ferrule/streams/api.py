"""The routes of streams."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response, WebSocket

from ferrule.actor import Actor, SignedIn
from ferrule.db.database import Database, Write
from ferrule.db.types import to_json
from ferrule.kit import Kit
from ferrule.streams import tickets
from ferrule.streams.channels import Channels
from ferrule.streams.connections import Connections
from ferrule.streams.hub import Hub
from ferrule.streams.position import Position
from ferrule.streams.schemas import EventPage, StreamQuery, TicketResponse
from ferrule.streams.session import Session
from ferrule.streams.settings import StreamsSettings
from ferrule.streams.sse import (
    SSE,
    EventStream,
    EventStreamResponse,
    Waiting,
    prefers_events,
)

router = APIRouter(tags=["streams"])


@router.websocket("/ws")
async def live(
    websocket: WebSocket,
    actor: SignedIn,
    manager: Connections,
    ch: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006  FastAPI copies it
    since: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006
) -> None:
    """Everything live over one connection: see the reference of the protocol."""
    async with manager.opened(websocket, actor) as connection:
        await Session(websocket.scope["ferrule.kit"], connection, websocket).run(ch, since)


@router.post("/ws/ticket", summary="Get a ticket for a live connection")
async def create_ticket(session: Write, actor: SignedIn) -> TicketResponse:
    """For browsers, whose WebSockets and event streams carry no header: `?ticket=…`, once."""
    ticket, ttl = await tickets.issue(session, actor)
    return TicketResponse(ticket=ticket, expires_in=ttl)


@router.get(
    "/streams/{channel:path}",
    response_model=EventPage,
    responses={200: {"content": {SSE: {"schema": {"type": "string"}}}}},
    summary="Read a stream",
)
async def read_stream(
    channel: str,
    query: Annotated[StreamQuery, Query()],
    request: Request,
    actor: SignedIn,
    manager: Connections,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Any:
    """A page of its events, waited for with `wait`; with Accept: text/event-stream, all of them."""
    kit: Kit = request.scope["ferrule.kit"]
    target = kit[Channels].target(channel, actor)

    async def authorize(who: Actor) -> None:
        async with kit[Database].read() as session:
            await kit[Channels].authorize(session, who, target)

    await authorize(actor)
    since = Position.parse(query.since) if query.since else None
    if prefers_events(",".join(request.headers.getlist("accept"))):
        if last_event_id:
            since = Position.parse(last_event_id, ("header", "last-event-id"))
        stream = EventStream(
            kit[Hub], request, actor, target, authorize, stalled=kit[StreamsSettings].stalled
        )
        return EventStreamResponse(manager, stream, since)
    waiting = Waiting(kit[Hub], request, actor, target, authorize)
    page, reset = await waiting.page(manager, since, query.limit, query.wait)
    head = {"epoch": page.epoch, "top": page.top, "reset": reset}
    items = b",".join(emitted.item(offset) for offset, emitted in page.rows)
    body = b'{"items":[' + items + b"]," + to_json(head).encode()[1:]
    return Response(body, media_type="application/json")
