"""Accounts: their resource, their administrators, their passwords."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Text, and_, cast, select
from sqlalchemy.exc import IntegrityError

from ferrule.actor import Actor, administrator
from ferrule.db import ReadSession, WriteSession
from ferrule.errors import Invalid
from ferrule.http.etag import ANY_REVISION, IfMatch
from ferrule.kit import Kit
from ferrule.module import Departures
from ferrule.modules.auth.errors import EmailTaken, LastAdministrator
from ferrule.modules.auth.logins import end_logins, may_sign_in
from ferrule.modules.auth.models import User
from ferrule.modules.auth.principals import forget
from ferrule.modules.auth.schemas import (
    UserCreate,
    UserReplace,
    UserResponse,
    UserValues,
    UserValuesPatch,
)
from ferrule.modules.auth.settings import AuthSettings, registration
from ferrule.resources import Action, Resource
from ferrule.schemas import changes
from ferrule.security.passwords import PasswordHasher
from ferrule.streams.log import drop_personal

ADMIN = "admin"


class Users(Resource[User]):
    """Users as administrators see them. The last administrator stays one."""

    async def authorize(
        self, session: ReadSession, actor: Actor, action: Action, row: User | None
    ) -> None:
        if action == "delete" and row is not None and isinstance(session, WriteSession):
            await _keep_an_administrator(session, row, {"disabled": True})

    async def validate(
        self, session: WriteSession, actor: Actor, data: BaseModel, row: User | None
    ) -> None:
        after = changes(data)
        email = after.get("email")
        changed = email is not None and (row is None or row.email != email)
        if changed and await session.scalar(select(User.id).where(User.email == email)):
            raise EmailTaken
        if row is not None:
            await _keep_an_administrator(session, row, after)

    async def delete(
        self, session: WriteSession, actor: Actor, id: UUID, if_match: IfMatch = ANY_REVISION
    ) -> None:
        """Delete the account, and what modules have of it."""
        # Before the account is locked: who changes what it has locks that before the account.
        await session.kit[Departures].run(session, actor, id)
        await super().delete(session, actor, id, if_match)
        # After it, because streams are what everybody locks last.
        await drop_personal(session, id)

    async def react(self, session: WriteSession, actor: Actor, action: Action, row: User) -> None:
        forget(session, row.id)


users = Users(
    User,
    create=UserValues,
    update=UserValuesPatch,
    response=UserResponse,
    filters=("email", "disabled", "verified"),
    search=("email", "name"),
    sort=("created_at", "updated_at", "email", "name"),
    access=administrator,
)


async def create_user(session: WriteSession, actor: Actor, data: UserCreate) -> User:
    """A new account, made by an administrator."""
    password_hash = await hash_new(session.kit, data.password)
    fields = data.model_dump(exclude={"password"})
    return await users.create(session, actor, UserValues(**fields, password_hash=password_hash))


async def replace_user(
    session: WriteSession, actor: Actor, id: UUID, data: UserReplace, if_match: IfMatch
) -> User:
    """Set every field; the password only if one is given."""
    return await _change(session, actor, id, data.model_dump(), if_match)


async def update_user(
    session: WriteSession,
    actor: Actor,
    id: UUID,
    data: BaseModel,
    if_match: IfMatch = ANY_REVISION,
) -> User:
    """Set the fields that are named."""
    return await _change(session, actor, id, data.model_dump(exclude_unset=True), if_match)


async def _change(
    session: WriteSession, actor: Actor, id: UUID, values: dict[str, Any], if_match: IfMatch
) -> User:
    password = values.pop("password", None)
    if password is not None:
        values["password_hash"] = await hash_new(session.kit, password)
    user = await users.update(session, actor, id, UserValuesPatch(**values), if_match)
    if user.disabled or password is not None:
        await end_logins(session, id)
    return user


async def add_user(session: WriteSession, user: User) -> None:
    """Store a new account; `EmailTaken` leaves the rest of the transaction as it was."""
    try:
        async with session.begin_nested():
            session.add(user)
    except IntegrityError:
        raise EmailTaken from None


async def hash_new(kit: Kit, password: str) -> str:
    """The hash of a new password, if it is long enough. Call it before the first statement."""
    settings = kit[AuthSettings]
    if len(password) < settings.password_min:
        raise Invalid.field(
            "body",
            "password",
            code="password_too_short",
            detail=f"Use at least {settings.password_min} characters; a few words are easiest.",
        )
    if len(password) > settings.password_max:
        raise Invalid.field(
            "body",
            "password",
            code="password_too_long",
            detail=f"Use at most {settings.password_max} characters.",
        )
    return await kit[PasswordHasher].hash(password)


async def administrator_exists(session: ReadSession) -> bool:
    """Whether anybody is an administrator, though they may be disabled."""
    return await session.scalar(select(User.id).where(_is_administrator()).limit(1)) is not None


async def lock_administrators(session: WriteSession) -> None:
    """Let changes of who is an administrator follow each other, until the transaction ends."""
    await session.lock("auth.administrators")


async def _keep_an_administrator(
    session: WriteSession, user: User, after: Mapping[str, Any]
) -> None:
    """Raise `LastAdministrator` if the change would leave nobody who can administer."""
    now = {name: getattr(user, name) for name in ("roles", "disabled", "verified")}
    if not _administers(session.kit, now) or _administers(session.kit, {**now, **after}):
        return
    await lock_administrators(session)
    others = and_(_is_administrator(), User.id != user.id, User.disabled.is_(False))
    if registration(session.kit) != "open":
        others = and_(others, User.verified.is_(True))
    if await session.scalar(select(User.id).where(others).limit(1)) is None:
        raise LastAdministrator


def _administers(kit: Kit, user: Mapping[str, Any]) -> bool:
    let_in = may_sign_in(kit, disabled=user["disabled"], verified=user["verified"])
    return ADMIN in user["roles"] and let_in


def _is_administrator() -> ColumnElement[bool]:
    # Names of roles hold no quotes, so that the JSON text on both databases has it exactly so.
    return cast(User.roles, Text).contains(f'"{ADMIN}"')
