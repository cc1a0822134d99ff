"""Signed-in users for tests; `ferrule.testing` makes its actors by it."""

from typing import Any

from sqlalchemy import select

from ferrule.actor import Actor
from ferrule.db import Database
from ferrule.kit import Kit
from ferrule.modules.auth.logins import start_login
from ferrule.modules.auth.models import User
from ferrule.modules.auth.schemas import UserCreate, UserResponse
from ferrule.modules.auth.users import ADMIN, create_user
from ferrule.testing.actors import PASSWORD


async def sign_in(kit: Kit, email: str, *, admin: bool = False) -> tuple[dict[str, Any], str]:
    """The user of this address (made if there is none) as the API answers it; an access token."""
    async with kit[Database].read() as read:
        user = await read.scalar(select(User).where(User.email == email))
    async with kit[Database].write() as session:
        if user is None:
            data = UserCreate(
                email=email,
                name=email.partition("@")[0],
                password=PASSWORD,
                roles=[ADMIN] if admin else [],
            )
            user = await create_user(session, Actor(kind="cli"), data)
        pair = await start_login(session, user, "tests")
    return UserResponse.model_validate(user).model_dump(mode="json"), pair.access_token
