"""Logins: the pair of tokens that a sign-in gives, how it is renewed, and how it ends."""

import hmac
import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

from sqlalchemy import delete, select, update

from ferrule.actor import Actor
from ferrule.db import WriteSession, utcnow
from ferrule.kit import Kit
from ferrule.modules.auth.errors import RefreshReused
from ferrule.modules.auth.models import Login, User
from ferrule.modules.auth.principals import forget
from ferrule.modules.auth.schemas import TokenPair
from ferrule.modules.auth.settings import AuthSettings, registration
from ferrule.security.secrets import Secrets
from ferrule.security.tokens import Claims, InvalidToken, Tokens


def may_sign_in(kit: Kit, *, disabled: bool, verified: bool) -> bool:
    """Whether an account is let in, and stays in."""
    return not disabled and (verified or registration(kit) == "open")


async def start_login(session: WriteSession, user: User, user_agent: str) -> TokenPair:
    """A new login of this user."""
    now = utcnow()
    token_id = secrets.token_urlsafe(24)
    login = Login(
        user_id=user.id,
        refresh_hash=_hash(token_id),
        rotated_at=now,
        expires_at=_expiry(session.kit, now),
        user_agent="".join(filter(str.isprintable, user_agent))[:200],
    )
    session.add(login)
    await session.execute(delete(Login).where(Login.user_id == user.id, Login.expires_at < now))
    await session.flush()
    return _pair(session.kit, login, token_id)


async def refresh(session: WriteSession, refresh_token: str) -> TokenPair:
    """The next pair of tokens of a login.

    A refresh token is used once. Its successor is derived from it, so that asking again within the
    grace (the answer was lost, or two tabs asked at once) gives the same successor, as long as
    that one is unused. Any other used token was copied: the login ends, for the thief and for the
    owner (RFC 9700, section 4.14.2).
    """
    kit = session.kit
    claims = kit[Tokens].verify(refresh_token, "refresh")
    login = await _locked(session, claims)
    now, shown = utcnow(), _hash(claims.id)
    if hmac.compare_digest(shown, login.refresh_hash):
        successor = _successors(kit, login, claims.id)[0]
        login.previous_refresh_hash, login.refresh_hash = shown, _hash(successor)
        login.rotated_at, login.expires_at = now, _expiry(kit, now)
        await session.flush()
        return _pair(kit, login, successor)
    if shown == login.previous_refresh_hash and now - login.rotated_at <= _grace(kit):
        for successor in _successors(kit, login, claims.id):
            if _hash(successor) == login.refresh_hash:
                return _pair(kit, login, successor)
    login.revoked_at = now
    forget(session, login.user_id)
    raise RefreshReused


async def end_login(session: WriteSession, actor: Actor) -> None:
    """End the login that the actor came by, everywhere."""
    forget(session, actor.user_id)
    await session.execute(
        update(Login)
        .where(Login.id == actor.session_id, Login.revoked_at.is_(None))
        .values(revoked_at=utcnow())
    )


async def end_logins(session: WriteSession, user_id: UUID) -> None:
    """End all logins of a user."""
    forget(session, user_id)
    await session.execute(
        update(Login)
        .where(Login.user_id == user_id, Login.revoked_at.is_(None))
        .values(revoked_at=utcnow())
    )


def named_by(claims: Claims) -> tuple[UUID, UUID]:
    """The login and the user that a token names."""
    try:
        return UUID(claims.extra["sid"]), UUID(claims.subject)
    except (KeyError, ValueError, AttributeError):
        raise InvalidToken from None


async def _locked(session: WriteSession, claims: Claims) -> Login:
    """The live login of a refresh token, kept from changing until the transaction ends."""
    login_id, user_id = named_by(claims)
    statement = (
        select(Login, User.disabled, User.verified)
        .join(User, User.id == Login.user_id)
        .where(Login.id == login_id, User.id == user_id)
        .with_for_update(of=Login, key_share=True)
    )
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        raise InvalidToken
    login, disabled, verified = row
    dead = login.revoked_at is not None or login.expires_at <= utcnow()
    if dead or not may_sign_in(session.kit, disabled=disabled, verified=verified):
        raise InvalidToken
    return login


def _pair(kit: Kit, login: Login, token_id: str) -> TokenPair:
    tokens, ttl = kit[Tokens], kit[AuthSettings].access_ttl
    subject, claims = str(login.user_id), {"sid": str(login.id)}
    return TokenPair(
        access_token=tokens.issue("access", subject=subject, ttl=ttl, claims=claims),
        refresh_token=tokens.issue(
            "refresh",
            subject=subject,
            ttl=kit[AuthSettings].refresh_ttl,
            claims=claims,
            id=token_id,
            issued_at=login.rotated_at,
        ),
        expires_in=ttl,
    )


def _successors(kit: Kit, login: Login, token_id: str) -> list[str]:
    """The id of the token that follows this one, by each key: another process may use the older."""
    text = f"{login.id}:{token_id}".encode()
    keys = kit[Secrets].verifying_keys("refresh-successor")
    return [hmac.new(key, text, sha256).hexdigest() for key in keys]


def _hash(token_id: str) -> str:
    return sha256(token_id.encode()).hexdigest()


def _expiry(kit: Kit, now: datetime) -> datetime:
    return now + timedelta(seconds=kit[AuthSettings].refresh_ttl)


def _grace(kit: Kit) -> timedelta:
    return timedelta(seconds=kit[AuthSettings].refresh_grace)
