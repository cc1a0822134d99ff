"""Tickets: how a browser opens a connection that cannot carry a header. Each opens one, once."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import delete, insert, select
from starlette.requests import HTTPConnection

from ferrule.actor import Actor, Door
from ferrule.db.database import Database
from ferrule.db.session import WriteSession
from ferrule.db.types import utcnow
from ferrule.http.routes import API
from ferrule.kit import Kit
from ferrule.security.tokens import InvalidToken
from ferrule.streams.models import Ticket
from ferrule.streams.settings import StreamsSettings

TICKETS: Any = Ticket.__table__
PARAMETER = "ticket"
MAX_TICKET = 100


class InvalidTicket(InvalidToken):
    """A ticket was shown that is not ours, was used, is too old, or of a login that has ended."""

    def __init__(self) -> None:
        super().__init__("The ticket is not valid: it opens one connection, soon. Get another.")


async def issue(session: WriteSession, actor: Actor) -> tuple[str, int]:
    """A ticket for one connection of this actor, and the seconds that it is valid."""
    ttl = session.kit[StreamsSettings].ticket_ttl
    now = utcnow()
    ticket = secrets.token_urlsafe(32)
    expires = actor.expires_at
    await session.execute(delete(TICKETS).where(TICKETS.c.expires_at < now))
    await session.execute(
        insert(TICKETS).values(
            hash=_hash(ticket),
            user_id=actor.user_id,
            session_id=actor.session_id,
            door=actor.door or "",
            expires_at=now + timedelta(seconds=ttl),
            actor_expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
            created_at=now,
        )
    )
    return ticket, ttl


async def enter(connection: HTTPConnection, kit: Kit) -> Actor | None:
    """The actor whom a ticket in the address was given to; None if there is none.

    It opens live connections alone: what stands in an address is written into logs on the way.
    """
    scope = connection.scope
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    live = scope["type"] == "websocket" or path.startswith(f"{API}/streams/")
    shown = connection.query_params.getlist(PARAMETER) if live else []
    if not shown:
        return None
    if len(shown) > 1 or len(shown[0]) > MAX_TICKET:
        raise InvalidTicket
    valid = (TICKETS.c.hash == _hash(shown[0]), TICKETS.c.expires_at > utcnow())
    async with kit[Database].read() as session:
        # Nobody writes who only guesses.
        known = await session.scalar(select(TICKETS.c.hash).where(*valid))
    if known is None:
        raise InvalidTicket
    taken = delete(TICKETS).where(*valid).returning(TICKETS)
    async with kit[Database].write() as session:
        # Whoever deletes the row has the ticket: of two, one.
        row = (await session.execute(taken)).one_or_none()
    if row is None:
        raise InvalidTicket
    expires = row.actor_expires_at
    actor = Actor(
        kind="user",
        id=row.user_id,
        session_id=row.session_id,
        door=row.door,
        expires_at=None if expires is None else expires.timestamp(),
    )
    now = await renewed(actor, scope["ferrule.doors"], kit)
    if now is None or now.expired:
        raise InvalidTicket
    return now


async def renewed(actor: Actor, doors: Sequence[Door], kit: Kit) -> Actor | None:
    """Who an actor is now, by the door that they came in by; None if nobody any more."""
    renew = next((door.renew for door in doors if door.name == actor.door), None)
    return None if renew is None else await renew(actor, kit)


def _hash(ticket: str) -> str:
    return sha256(ticket.encode()).hexdigest()


ticket_door = Door(name="ticket", enter=enter)
