"""Who is calling, by whatever door, and who may pass."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection

from ferrule.errors import Forbidden, Unauthenticated
from ferrule.kit import Kit

ADMIN = "admin"
"""The role of those who run the application."""

ActorKind = Literal["anonymous", "user", "job", "cli"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is calling. Services receive it and put `id` into their WHERE clauses.

    `session_id` is the login that a user's request came by; `door` names how the actor came in;
    `expires_at` is when what was shown there ends, in seconds since 1970.
    """

    kind: ActorKind = "anonymous"
    id: UUID | None = None
    roles: frozenset[str] = frozenset()
    session_id: UUID | None = None
    door: str | None = None
    expires_at: float | None = field(default=None, compare=False)
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Made once, because each line of the log has it.
        text = f"{self.kind}:{self.id}" if self.id else self.kind
        object.__setattr__(self, "_text", text)

    @property
    def user_id(self) -> UUID:
        """The id of the signed-in user; `Unauthenticated` if nobody is."""
        if self.id is None:
            raise Unauthenticated
        return self.id

    @property
    def expired(self) -> bool:
        """Whether what the actor showed has ended meanwhile."""
        return self.expires_at is not None and time.time() >= self.expires_at

    def has_role(self, role: str) -> bool:
        return role in self.roles

    def __str__(self) -> str:
        return self._text


ANONYMOUS = Actor()


@dataclass(frozen=True, slots=True)
class Door:
    """A way in that a module offers: `enter` answers who is calling, None if not by this door.

    A credential that is shown and not valid raises `Unauthenticated`. `renew` answers who an actor
    is now who came in by this door, None if nobody any more: live connections ask it when something
    has changed. `scheme` is the OpenAPI security scheme of the door; where it is for few routes,
    it has none, and those document it.
    """

    name: str
    enter: Callable[[HTTPConnection, Kit], Awaitable[Actor | None]]
    renew: Callable[[Actor, Kit], Awaitable[Actor | None]] | None = None
    scheme: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Doors(tuple[Door, ...]):
    """The ways in that an application has, in the order in which they are asked."""


async def identify(connection: HTTPConnection) -> Actor:
    """Who is calling: asked of each door in turn, once a connection."""
    known: Actor | None = connection.scope.get("ferrule.actor")
    if known is not None:
        return known
    actor = ANONYMOUS
    for door in connection.scope["ferrule.doors"]:
        entered = await door.enter(connection, connection.scope["ferrule.kit"])
        if entered is not None:
            actor = entered
            break
    connection.scope["ferrule.actor"] = actor
    return actor


@dataclass(frozen=True)
class Access:
    """A route's declared access: a dependency that lets an actor pass or refuses.

    Put it on a parameter (`actor: SignedIn`), on a router (`dependencies=[Depends(public)]`), or on
    a whole module (`Module(access=public)`). An application with a route that has none does not
    start.
    """

    name: str
    allows: Callable[[Actor], bool]
    anonymous: bool = False

    async def __call__(self, connection: HTTPConnection) -> Actor:
        try:
            actor = await identify(connection)
        except Unauthenticated:
            # Where anybody may pass, a credential that expired does not lock its bearer out.
            if not self.anonymous:
                raise
            actor = ANONYMOUS
        if not self.allows(actor):
            if actor.id is None:
                raise Unauthenticated
            raise Forbidden("Your roles do not allow this.")
        return actor


def role(name: str) -> Access:
    """Access for actors who have the role."""
    return Access(f"role:{name}", lambda actor: actor.has_role(name))


def _anybody(actor: Actor) -> bool:
    return True


def _somebody(actor: Actor) -> bool:
    return actor.id is not None


public = Access("public", _anybody, anonymous=True)
signed_in = Access("signed_in", _somebody)
administrator = role(ADMIN)

Anyone = Annotated[Actor, Depends(public)]
SignedIn = Annotated[Actor, Depends(signed_in)]
Administrator = Annotated[Actor, Depends(administrator)]
