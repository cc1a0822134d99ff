"""The way in by access token: `Authorization: Bearer …`."""

from uuid import UUID

from sqlalchemy import bindparam, select
from starlette.requests import HTTPConnection

from ferrule.actor import Actor, Door
from ferrule.db import Database, prebuilt, utcnow
from ferrule.kit import Kit
from ferrule.modules.auth.logins import may_sign_in, named_by
from ferrule.modules.auth.models import Login, User
from ferrule.modules.auth.principals import Principals
from ferrule.security.tokens import InvalidToken, Tokens

LOGIN_AND_USER = prebuilt(
    select(Login.expires_at, Login.revoked_at, User.disabled, User.verified, User.roles)
    .join(User, User.id == Login.user_id)
    .where(Login.id == bindparam("login_id"), User.id == bindparam("user_id"))
)


async def enter(connection: HTTPConnection, kit: Kit) -> Actor | None:
    """The user of a valid access token whose login is alive; None if no bearer token is shown.

    The login and the user are looked up, so that ending a login, disabling a user and taking a role
    away act within a second in every process: see `Principals`.
    """
    shown = connection.headers.getlist("authorization")
    if not shown:
        return None
    scheme, _, token = shown[0].partition(" ")
    if scheme.lower() != "bearer":
        return None
    if len(shown) > 1:
        raise InvalidToken
    token = token.strip(" ")
    principals = kit[Principals]
    known = principals.find(token)
    if known is not None:
        return known
    mark = principals.mark()
    claims = kit[Tokens].verify(token, "access")
    login_id, user_id = named_by(claims)
    actor = await _signed_in(kit, login_id, user_id, claims.expires_at.timestamp())
    if actor is None:
        raise InvalidToken
    principals.remember(token, actor, claims.expires_at.timestamp(), mark)
    return actor


async def renew(actor: Actor, kit: Kit) -> Actor | None:
    """The same user as they are now; None once the login has ended, or the user is disabled."""
    if actor.session_id is None:
        return None
    return await _signed_in(kit, actor.session_id, actor.user_id, actor.expires_at)


async def _signed_in(
    kit: Kit, login_id: UUID, user_id: UUID, expires_at: float | None
) -> Actor | None:
    async with kit[Database].read() as session:
        row = await session.fetch_one(LOGIN_AND_USER, login_id=login_id, user_id=user_id)
    if row is None or row.revoked_at is not None or row.expires_at <= utcnow():
        return None
    if not may_sign_in(kit, disabled=row.disabled, verified=row.verified):
        return None
    return Actor(
        kind="user",
        id=user_id,
        roles=frozenset(row.roles),
        session_id=login_id,
        door=bearer.name,
        expires_at=expires_at,
    )


bearer = Door(
    name="bearer",
    enter=enter,
    renew=renew,
    # Relative, so that the docs find it behind any path prefix.
    scheme={
        "type": "oauth2",
        "flows": {"password": {"tokenUrl": "api/v1/auth/login", "scopes": {}}},
    },
)
