"""Making an account, signing in, the first administrator."""

from sqlalchemy import select, update

from ferrule.actor import Actor
from ferrule.db import ReadSession, WriteSession
from ferrule.kit import Kit
from ferrule.modules.auth.emails import normal
from ferrule.modules.auth.errors import (
    AlreadySetUp,
    EmailTaken,
    InvalidCredentials,
    RegistrationClosed,
)
from ferrule.modules.auth.logins import may_sign_in, start_login
from ferrule.modules.auth.models import User
from ferrule.modules.auth.schemas import LoginForm, Register, Setup, TokenPair
from ferrule.modules.auth.settings import AuthSettings, registration
from ferrule.modules.auth.users import (
    ADMIN,
    add_user,
    administrator_exists,
    hash_new,
    lock_administrators,
)
from ferrule.security.passwords import PasswordHasher
from ferrule.security.tokens import Tokens

__all__ = ["login", "register", "set_up", "setup_token"]


async def register(session: WriteSession, actor: Actor, data: Register) -> User | None:
    """A new account; None where an administrator has to let it in.

    With `verified` registration nobody learns whether there was an account already.
    """
    mode = registration(session.kit)
    if mode == "closed":
        raise RegistrationClosed
    password_hash = await hash_new(session.kit, data.password)
    user = User(email=data.email, name=data.name, password_hash=password_hash)
    if mode == "open":
        await add_user(session, user)
        return user
    try:
        await add_user(session, user)
    except EmailTaken:
        # A transaction that writes nothing would commit sooner, and tell by that.
        same = {"name": User.name, "updated_at": User.updated_at}
        await session.execute(
            update(User)
            .where(User.email == data.email)
            .values(same)
            .execution_options(synchronize_session=False)
        )
    return None


async def login(
    read: ReadSession, session: WriteSession, actor: Actor, data: LoginForm, user_agent: str
) -> TokenPair:
    """A new login; `InvalidCredentials`, after the same time, whatever the reason."""
    user = await _by_email(read, data.username)
    hasher = session.kit[PasswordHasher]
    if user is None or user.password_hash is None:
        await hasher.verify_nothing(data.password)
        raise InvalidCredentials
    known, better_hash = await hasher.verify(data.password, user.password_hash)
    if not known or not _let_in(session.kit, user):
        raise InvalidCredentials
    # Meanwhile the password may have been changed, which ends the logins by the old one.
    present = await session.scalar(
        select(User)
        .where(User.id == user.id, User.password_hash == user.password_hash)
        .with_for_update(key_share=True)
    )
    if present is None or not _let_in(session.kit, present):
        raise InvalidCredentials
    if better_hash is not None:
        present.password_hash = better_hash
    return await start_login(session, present, user_agent)


async def set_up(read: ReadSession, session: WriteSession, actor: Actor, data: Setup) -> User:
    """The first administrator, made by whoever has the link of the first start."""
    session.kit[Tokens].verify(data.token, "setup")
    if await administrator_exists(read):
        raise AlreadySetUp
    user = User(
        email=data.email,
        name=data.name,
        password_hash=await hash_new(session.kit, data.password),
        roles=[ADMIN],
        verified=True,
    )
    await lock_administrators(session)
    if await administrator_exists(session):
        raise AlreadySetUp
    await add_user(session, user)
    return user


def setup_token(kit: Kit) -> str:
    """What lets its bearer make the first administrator."""
    return kit[Tokens].issue("setup", subject="setup", ttl=kit[AuthSettings].setup_ttl)


def _let_in(kit: Kit, user: User) -> bool:
    return may_sign_in(kit, disabled=user.disabled, verified=user.verified)


async def _by_email(session: ReadSession, address: str) -> User | None:
    try:
        email = normal(address)
    except ValueError:
        return None
    return await session.scalar(select(User).where(User.email == email))
