"""Refreshing: each token once, a grace for lost answers, and the end of a copied login."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import select, update

from ferrule.app import Ferrule
from ferrule.db import Database, utcnow
from ferrule.modules.auth import Login
from ferrule.security.tokens import Tokens
from ferrule.testing import Actors

from . import login, me, refresh, refused, register


@pytest.fixture
async def pair(client: AsyncClient) -> dict[str, Any]:
    await register(client)
    return (await login(client)).json()


async def later(app: Ferrule, seconds: float) -> None:
    """Let the logins be as if their last rotation were this long ago."""
    async with app.kit[Database].write() as session:
        await session.execute(
            update(Login).values(rotated_at=utcnow() - timedelta(seconds=seconds))
        )


async def revoked(app: Ferrule) -> bool:
    async with app.kit[Database].read() as session:
        return await session.scalar(select(Login.revoked_at)) is not None


async def test_a_refresh_gives_the_next_pair(client: AsyncClient, pair: dict[str, Any]) -> None:
    answer = await refresh(client, pair["refresh_token"])
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    following = answer.json()
    assert following["refresh_token"] != pair["refresh_token"]
    assert (await me(client, following["access_token"])).status_code == 200
    assert (await refresh(client, following["refresh_token"])).status_code == 200


async def test_s3_parallel_refreshes_leave_one_live_chain(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    answers = await asyncio.gather(*(refresh(client, pair["refresh_token"]) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    successors = {answer.json()["refresh_token"] for answer in answers}
    assert len(successors) == 1
    assert (await refresh(client, successors.pop())).status_code == 200
    assert not await revoked(app)


async def test_s4_reuse_ends_the_login_durably(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    following = (await refresh(client, pair["refresh_token"])).json()
    await later(app, 11)
    refused(await refresh(client, pair["refresh_token"]), 401, "invalid_token")
    assert await revoked(app)
    refused(await refresh(client, following["refresh_token"]), 401, "invalid_token")
    refused(await me(client, following["access_token"]), 401, "invalid_token")


async def test_s4_the_grandparent_ends_the_login_within_the_grace_too(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    second = (await refresh(client, pair["refresh_token"])).json()
    third = (await refresh(client, second["refresh_token"])).json()
    refused(await refresh(client, pair["refresh_token"]), 401, "invalid_token")
    assert await revoked(app)
    refused(await refresh(client, third["refresh_token"]), 401, "invalid_token")


async def test_s4_other_logins_of_the_user_live_on(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    other = (await login(client)).json()
    await refresh(client, pair["refresh_token"])
    await later(app, 11)
    refused(await refresh(client, pair["refresh_token"]), 401, "invalid_token")
    assert (await refresh(client, other["refresh_token"])).status_code == 200


async def test_s5_a_lost_answer_is_asked_again(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    lost = (await refresh(client, pair["refresh_token"])).json()
    await later(app, 8)
    again = (await refresh(client, pair["refresh_token"])).json()
    third = await refresh(client, again["refresh_token"])
    assert third.status_code == 200
    # It was the same successor: whichever of the two answers arrived is good.
    assert app.kit[Tokens].verify(lost["refresh_token"], "refresh").id == (
        app.kit[Tokens].verify(again["refresh_token"], "refresh").id
    )


async def test_s5_asking_again_does_not_lengthen_the_grace(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    await refresh(client, pair["refresh_token"])
    await later(app, 9)
    assert (await refresh(client, pair["refresh_token"])).status_code == 200
    async with app.kit[Database].read() as session:
        rotated_at = await session.scalar(select(Login.rotated_at))
    assert rotated_at < utcnow() - timedelta(seconds=8)


async def test_no_token_stands_in_the_database(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    await refresh(client, pair["refresh_token"])
    async with app.kit[Database].read() as session:
        stored = await session.scalar(select(Login))
    row = " ".join(str(getattr(stored, column.key)) for column in Login.__table__.columns)
    shown = app.kit[Tokens].verify(pair["refresh_token"], "refresh")
    assert shown.id not in row
    assert pair["refresh_token"] not in row


async def test_an_expired_login_is_refused(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    async with app.kit[Database].write() as session:
        await session.execute(update(Login).values(expires_at=utcnow()))
    refused(await refresh(client, pair["refresh_token"]), 401, "invalid_token")
    refused(await me(client, pair["access_token"]), 401, "invalid_token")


async def test_a_refresh_lengthens_the_login(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    async with app.kit[Database].write() as session:
        await session.execute(update(Login).values(expires_at=utcnow() + timedelta(minutes=1)))
    await refresh(client, pair["refresh_token"])
    async with app.kit[Database].read() as session:
        expires_at = await session.scalar(select(Login.expires_at))
    assert expires_at > utcnow() + timedelta(days=29)


async def test_s6_a_disabled_user_does_not_refresh(
    client: AsyncClient, actors: Actors, pair: dict[str, Any], auth: Callable[..., None]
) -> None:
    root = await actors("root", admin=True)
    ann = (await me(client, pair["access_token"])).json()
    await root.patch(f"/api/v1/users/{ann['id']}", json={"disabled": True})
    refused(await refresh(client, pair["refresh_token"]), 401, "invalid_token")
    # Enabling does not bring old logins back.
    await root.patch(f"/api/v1/users/{ann['id']}", json={"disabled": False})
    refused(await refresh(client, pair["refresh_token"]), 401, "invalid_token")
    assert (await login(client)).status_code == 200


@pytest.mark.parametrize("token", ["", "x", "x" * 4097, "\x00", "é"])
async def test_s1_a_hostile_refresh_token_is_a_4xx(client: AsyncClient, token: str) -> None:
    assert (await refresh(client, token)).status_code in (401, 422)


async def test_s2_a_refresh_token_without_a_login_is_refused(
    app: Ferrule, client: AsyncClient, pair: dict[str, Any]
) -> None:
    for claims in ({}, {"sid": "x"}, {"sid": 1}):
        strange = app.kit[Tokens].issue("refresh", subject="x", ttl=60, claims=claims)
        refused(await refresh(client, strange), 401, "invalid_token")
